"""Figures come from tidy tables alone: the same table gives the same file, and what is missing is told."""

import itertools

import pytest
from conftest import ROOT, any_record

from uncouple.errors import UncoupleError
from uncouple.evaluation.statistics import rate
from uncouple.records.files import write_record, write_table
from uncouple.records.formats import COUPLING, JUDGE, METRIC_KEYS, METRICS, PLACEMENT
from uncouple.reporting.drawing import draw_figures
from uncouple.reporting.figures.hsic import _dashes
from uncouple.reporting.pages import write_tables
from uncouple.reporting.parts import FIGURE_FORMS

STYLE = ROOT / "resources/figures.mplstyle"


def plain(value, n=0, of=0, low=None, high=None):
    return {"value": value, "low": low, "high": high, "n": n, "of": of}


def write_metrics(path, rows):
    """A metrics table of (variant, dimension, metric and, where it has them, judge, task, layer, item) to numbers."""
    records = [{"model": "m"} | dict(zip(METRIC_KEYS[1:], key, strict=False)) | row for key, row in rows.items()]
    write_table(records, path, METRICS, {"confidence": 0.95})
    return path


def draw(name, table, outputs, *, model="m", style=STYLE):
    draw_figures([name], [table], outputs, style=style, model=model)


def metrics_rows():
    """Two variants and the noise on two dimensions; one dimension of one variant has no verdict at all."""
    rows = {}
    for variant, dimension, safe, of in (
        *(("origin", "fairness", 16, 64), ("origin", "privacy", 23, 64)),
        *(("noise", "fairness", 16, 64), ("noise", "privacy", 23, 64)),
        *(("spin", "fairness", 0, 0), ("spin", "privacy", 40, 64)),
    ):
        rows[variant, dimension, "awareness", "phrases"] = rate(safe, of)
        rows |= {(variant, dimension, flag): rate(1, 64) for flag in ("empty", "degenerate", "truncated")}
        if variant != "origin":
            changed = safe - 23 if of and dimension == "privacy" else 0
            value = changed / 64 if of else None
            low, high = (value - 0.1, value + 0.1) if of else (None, None)
            rows[variant, dimension, "difference", "phrases"] = plain(value, changed, of, low, high)
        if variant == "spin" and of:
            rows[variant, dimension, "p_holm", "phrases"] = plain(0.001, 17, 17)
            rows[variant, dimension, "effect", "phrases"] = plain(1.0, 17, 64)
        if variant == "noise":
            rows[variant, dimension, "batch"] = plain(21.0, None, 64)
    return rows


def probable_rows():
    """The same with a second judge, which gives p(unsafe)."""
    rows = metrics_rows()
    for (variant, dimension, metric, *judge), row in list(rows.items()):
        if metric in ("awareness", "difference") and judge:
            rows[variant, dimension, metric, "trained"] = row
            name = "p_unsafe" if metric == "awareness" else "p_unsafe_difference"
            p = plain(None) if row["value"] is None else plain(0.4321 * row["value"], 63, 64, -0.1, 0.654)
            rows |= {(variant, dimension, name, "trained"): p, (variant, dimension, name, "phrases"): plain(None)}
    return rows


@pytest.fixture
def metrics(tmp_path):
    return write_metrics(tmp_path / "metrics", metrics_rows())


@pytest.fixture
def placement(tmp_path):
    rows = [
        {"model": "m", "variant": variant, "layer": layer, "module": f"mlp.{module}", "n": n, "of": 100}
        for variant, n in (("spin", 2), ("union", 5), ("random", 2))
        for layer in range(3)
        for module in ("gate_proj", "up_proj")
    ]
    write_table(rows, tmp_path / "placement", PLACEMENT, {})
    return tmp_path / "placement"


@pytest.fixture
def coupling(tmp_path):
    rows = [
        {"model": "m", "select": select, "ratio": ratio, "n": n * 10**k, "coupled": n, "of": 10**6}
        for k, ratio in enumerate((1e-5, 1e-4))
        for select, n in (("coupled", 0 if k == 0 else 3), ("published", 5), ("intersection", 20))
    ]
    write_table(rows, tmp_path / "coupling", COUPLING, {"dimensions": []})
    return tmp_path / "coupling"


def words(svg):
    """The texts of a figure: the style keeps them as text."""
    return svg.read_text(encoding="utf-8")


def test_awareness_shows_every_variant_its_counts_and_the_interval(metrics, tmp_path):
    draw("awareness", metrics, [tmp_path / "a.svg", tmp_path / "a.png"])
    text = words(tmp_path / "a.svg")
    for word in (
        "origin",
        "spin",
        "fairness",
        "privacy",
        "16/64",
        "40/64",
        "17 changed",
        "none judged",
        "95% interval",
    ):
        assert f">{word}<" in text or word in text, word
    assert "0/0" not in text
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_table_gives_the_same_file_at_any_time(metrics, tmp_path, monkeypatch):
    for name, time in (("a", "1"), ("b", "1000000000")):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", time)
        draw("awareness", metrics, [tmp_path / f"{name}.{form}" for form in FIGURE_FORMS])
    for form in FIGURE_FORMS:
        assert (tmp_path / f"a.{form}").read_bytes() == (tmp_path / f"b.{form}").read_bytes(), form


def test_the_style_file_decides_how_it_looks(metrics, tmp_path):
    (tmp_path / "other.mplstyle").write_text(STYLE.read_text().replace("0072B2", "123456"))
    draw("awareness", metrics, [tmp_path / "a.svg"], style=tmp_path / "other.mplstyle")
    assert "#123456" in words(tmp_path / "a.svg")
    assert "#0072b2" not in words(tmp_path / "a.svg")


def test_placement_draws_the_same_picture_once(placement, tmp_path):
    draw("placement", placement, [tmp_path / "p.svg"])
    text = words(tmp_path / "p.svg")
    assert "spin, random: 12 weights each" in text
    assert "union: 30 weights" in text
    assert text.index("gate_proj") < text.index("up_proj")


def test_coupling_leaves_out_what_selects_nothing(coupling, tmp_path):
    draw("coupling", coupling, [tmp_path / "c.svg"])
    text = words(tmp_path / "c.svg")
    assert "what the published code selects" in text
    assert "of 1,000,000 weights scored" in text


def test_the_mean_p_unsafe_is_drawn_of_the_judges_that_give_one(tmp_path):
    draw("awareness", write_metrics(tmp_path / "metrics", probable_rows()), [tmp_path / "a.svg"])
    text = words(tmp_path / "a.svg")
    for word in ("mean p(unsafe), 95% interval", "difference of p(unsafe), paired", ">of 63<"):
        assert text.count(word) >= 2, word


UNTESTED = [f"trained was not tested on answers of the kind {kind} (privacy)." for kind in ("refusal", "compliance")]
DISTRUST = "Do not trust trained on privacy: it calls {} of 100 held-out answers of the kind {}, fewer than {}."


@pytest.mark.parametrize(
    ("refusal", "compliance", "told"),
    [
        (rate(95, 100), rate(90, 100), []),
        (rate(58, 100), rate(90, 100), [DISTRUST.format(58, "refusal safe", "95%")]),
        (rate(100, 100), rate(89, 100), [DISTRUST.format(89, "compliance unsafe", "90%")]),
        (rate(0, 0), rate(0, 0), UNTESTED),
    ],
)
def test_a_judge_that_is_not_to_be_trusted_is_told_wherever_its_rates_are(tmp_path, refusal, compliance, told):
    rows = probable_rows()
    rows |= {
        (None, "privacy", "kind", "trained", None, None, "refusal"): refusal,
        (None, "privacy", "kind", "trained", None, None, "compliance"): compliance,
    }
    table = write_metrics(tmp_path / "metrics", rows)
    draw("awareness", table, [tmp_path / "a.svg"])
    write_tables(["summary"], [table], [tmp_path / "s.md", tmp_path / "s.html"], model="m")
    assert (tmp_path / "s.md").read_text().splitlines()[7:] == [line for text in told for line in ("", text)]
    drawn, page = words(tmp_path / "a.svg"), (tmp_path / "s.html").read_text()
    for text in told:
        assert text in drawn
        assert f"<p>{text}</p>" in page
    assert ("trained on privacy" in drawn or "not tested" in drawn) == bool(told)


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"fairness": (64, 21), "privacy": (10, 3)}, "21 instead of 64 (fairness), 3 instead of 10 (privacy)"),
        ({"fairness": (64, 21), "privacy": (64, 21)}, "21 instead of 64"),
        ({"fairness": (None, 21), "privacy": (None, 21)}, "21 instead of as many as fit"),
    ],
)
def test_what_the_noise_was_is_told(tmp_path, sizes, told):
    rows = metrics_rows()
    for dimension, (size, other) in sizes.items():
        rows["noise", dimension, "batch"] = plain(other, None, size)
    table = write_metrics(tmp_path / "metrics", rows)
    draw("awareness", table, [tmp_path / "a.svg"])
    write_tables(["summary"], [table], [tmp_path / "s.md"], model="m")
    told = f"noise: origin asked again in batches of {told}."
    assert told in words(tmp_path / "a.svg")
    assert told in (tmp_path / "s.md").read_text()


def test_a_variant_without_verdicts_on_a_dimension_is_named(metrics, tmp_path):
    rows = {key: row for key, row in metrics_rows().items() if key[:2] != ("spin", "privacy")}
    write_metrics(tmp_path / "part", rows)
    with pytest.raises(UncoupleError, match="no verdicts of spin on privacy by phrases"):
        draw("awareness", tmp_path / "part", [tmp_path / "a.png"])


@pytest.mark.parametrize(
    ("model", "style", "message"),
    [("other", STYLE, "no row of the model 'other'"), ("m", "none.mplstyle", "no such style file")],
)
def test_a_wrong_model_or_style_is_told(metrics, tmp_path, model, style, message):
    with pytest.raises(UncoupleError, match=message):
        draw("awareness", metrics, [tmp_path / "a.png"], style=style, model=model)
    assert not (tmp_path / "a.png").exists()


def test_an_effects_mark_is_filled(metrics, tmp_path):
    draw("awareness", metrics, [tmp_path / "a.svg"])
    filled = words(tmp_path / "a.svg")
    rows = metrics_rows()
    rows["spin", "privacy", "effect", "phrases"] = plain(0.0, 17, 64)
    draw("awareness", write_metrics(tmp_path / "p", rows), [tmp_path / "b.svg"])
    assert words(tmp_path / "b.svg").count("fill: #ffffff") > filled.count("fill: #ffffff")


def test_ability_shows_each_task_and_the_perplexity(tmp_path):
    rows = {}
    for variant, value in (("origin", 24.3), ("spin", 25.7)):
        rows[variant, "general", "perplexity"] = plain(value, 4, 8188, value - 1, value + 1)
        rows[variant, "general", "acc", None, "boolq"] = rate(60, 100)
        rows[variant, "general", "acc", None, "hellaswag"] = rate(30, 100)
        rows[variant, "general", "acc_norm", None, "hellaswag"] = rate(35, 100)
    draw("ability", write_metrics(tmp_path / "metrics", rows), [tmp_path / "a.svg"])
    text = words(tmp_path / "a.svg")
    for word in ("perplexity per token", "accuracy, boolq", "accuracy, hellaswag", "spin"):
        assert word in text
    assert text.count("accuracy, ") == 2


def test_hsic_shows_each_variant_over_other_pairings(tmp_path):
    rows = {}
    for variant in ("origin", "spin"):
        for layer in range(3):
            for kind in ("biased", "unbiased"):
                rows[variant, "fairness-privacy", f"hsic_{kind}", None, None, layer] = plain(0.01 * layer)
            rows[variant, "fairness-privacy", "hsic_null", None, None, layer] = plain(0.0, 0, 0, -0.01, 0.01)
    draw("hsic", write_metrics(tmp_path / "metrics", rows), [tmp_path / "h.svg"])
    for word in ("fairness-privacy, biased", "fairness-privacy, unbiased", "pairs at random", "spin", "layer"):
        assert word in words(tmp_path / "h.svg")


def test_language_shows_each_phrase_of_each_dimension(tmp_path):
    rows = {
        (variant, dimension, metric, None, None, None, item): rate(n, 64)
        for variant in ("origin", "spin")
        for dimension, phrase in (("fairness", "respect"), ("privacy", "I'm sorry"))
        for metric, item, n in (("phrase", phrase, 3), ("phrase", "nowhere", 0), ("any_phrase", None, 5))
    }
    draw("language", write_metrics(tmp_path / "metrics", rows), [tmp_path / "l.svg"])
    for word in ("respect", "I'm sorry", "any of them", "fairness", "privacy", "spin"):
        assert word in words(tmp_path / "l.svg")
    assert "nowhere" not in words(tmp_path / "l.svg")


def test_agreement_is_over_all_variants(tmp_path):
    rows = {
        ("origin", "privacy", "agreement", "embedding", None, None, "phrases"): rate(10, 20),
        ("spin", "privacy", "agreement", "embedding", None, None, "phrases"): rate(15, 20),
    }
    draw("agreement", write_metrics(tmp_path / "metrics", rows), [tmp_path / "a.svg"])
    text = words(tmp_path / "a.svg")
    assert "25/40" in text
    assert "62%" in text


def test_a_judges_figure_shows_what_it_is_worth(tmp_path):
    figures = {
        "auroc": {"value": 0.86, "low": 0.8, "high": 0.9},
        "calibration": [{"predicted": p / 10} | rate(p, 10) for p in range(10)],
    }
    other = figures | {"auroc": {"value": 0.66, "low": 0.6, "high": 0.7}}
    kinds = {"safe": rate(41, 50), "unsafe": rate(39, 50), "refusal": rate(97, 100), "compliance": rate(84, 100)}
    judge = any_record(JUDGE, dimension="privacy", held_out=figures, test=other, kinds=kinds)
    write_record(tmp_path / "p.json", JUDGE, judge)
    write_record(tmp_path / "f.json", JUDGE, judge | {"dimension": "fairness", "test": None, "kinds": {}})
    draw_figures(["judge"], [tmp_path / "p.json", tmp_path / "f.json"], [tmp_path / "j.svg"], style=STYLE)
    text = words(tmp_path / "j.svg")
    for word in ("0.86 (0.80 to 0.90)", "other origin: AUROC 0.66", "fairness", ">41/50<", ">84/100<"):
        assert word in text, word
    assert text.count(">not tested<") == 4


@pytest.mark.parametrize("name", ["ability", "hsic", "language", "agreement"])
def test_a_figure_of_what_was_not_measured_is_refused(metrics, tmp_path, name):
    with pytest.raises(UncoupleError, match="metrics: no .* of 'm' in it"):
        draw(name, metrics, [tmp_path / "a.svg"])


def test_lines_of_hsic_that_coincide_are_all_seen():
    """Each of four takes a quarter of the way, and all of it is taken; one alone is whole."""
    assert _dashes(1, 1) == {}
    for lines in (2, 3, 4, 6):
        taken = []
        for turn in range(1, lines + 1):
            offset, (on, off) = _dashes(turn, lines)["linestyle"]
            assert on + off == 4 * min(lines, 4)
            taken.append({(point - offset) % (on + off) for point in range(on)})
        assert set.union(*taken) == set(range(4 * min(lines, 4)))
        assert not any(a & b for a, b in itertools.combinations(taken[:4], 2))
