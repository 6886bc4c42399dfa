"""Figures come from tidy tables alone: the same table gives the same file, and what is missing is told."""

import pyarrow as pa
import pytest
from conftest import ROOT

from uncouple.errors import UncoupleError
from uncouple.evaluation.metrics import PLACEMENT_SCHEMA
from uncouple.evaluation.statistics import rate
from uncouple.records.files import write_record, write_table
from uncouple.records.formats import SCHEMA
from uncouple.reporting.figures import (
    draw_ability,
    draw_agreement,
    draw_awareness,
    draw_coupling,
    draw_hsic,
    draw_judge,
    draw_language,
    draw_placement,
)
from uncouple.reporting.tables import is_effect, write_examples, write_selections, write_summary

STYLE = ROOT / "resources/figures.mplstyle"


def plain(value, n=0, of=0, low=None, high=None):
    return {"value": value, "low": low, "high": high, "n": n, "of": of}


def write_metrics(path, rows):
    """A metrics table of (variant, dimension, metric) to numbers."""
    records = [
        {"model": "m", "variant": variant, "dimension": dimension, "metric": metric} | numbers
        for (variant, dimension, metric), numbers in rows.items()
    ]
    write_table(pa.Table.from_pylist(records, schema=SCHEMA), path, {"kind": "metrics", "version": 1})
    return path


def metrics_rows():
    """Two variants and the noise on two dimensions; one dimension of one variant has no verdict at all."""
    rows = {}
    for variant, dimension, safe, of in (
        *(("origin", "fairness", 16, 64), ("origin", "privacy", 23, 64)),
        *(("noise", "fairness", 16, 64), ("noise", "privacy", 23, 64)),
        *(("spin", "fairness", 0, 0), ("spin", "privacy", 40, 64)),
    ):
        rows[variant, dimension, "awareness.phrases"] = rate(safe, of)
        rows |= {(variant, dimension, flag): rate(1, 64) for flag in ("empty", "degenerate", "truncated")}
        if variant != "origin":
            changed = safe - 23 if of and dimension == "privacy" else 0
            value = changed / 64 if of else None
            low, high = (value - 0.1, value + 0.1) if of else (None, None)
            rows[variant, dimension, "difference.phrases"] = plain(value, changed, of, low, high)
        if variant == "spin" and of:
            rows[variant, dimension, "p_holm.phrases"] = plain(0.001, 17, 17)
    return rows


def probable_rows():
    """The same with a second judge, which gives p(unsafe)."""
    rows = metrics_rows()
    for (variant, dimension, metric), row in list(rows.items()):
        if metric in ("awareness.phrases", "difference.phrases"):
            rows[variant, dimension, metric.replace("phrases", "trained")] = row
            name = "p_unsafe" if metric.startswith("awareness") else "p_unsafe_difference"
            p = plain(None) if row["value"] is None else plain(0.4321 * row["value"], 63, 64, -0.1, 0.654)
            rows |= {(variant, dimension, f"{name}.trained"): p, (variant, dimension, f"{name}.phrases"): plain(None)}
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
    table = pa.Table.from_pylist(rows, schema=PLACEMENT_SCHEMA)
    write_table(table, tmp_path / "placement", {"kind": "placement", "version": 1})
    return tmp_path / "placement"


@pytest.fixture
def coupling(tmp_path):
    rows = [
        {"model": "m", "select": select, "ratio": ratio, "n": n * 10**k, "coupled": n, "of": 10**6}
        for k, ratio in enumerate((1e-5, 1e-4))
        for select, n in (("coupled", 0 if k == 0 else 3), ("published", 5), ("intersection", 20))
    ]
    write_table(pa.Table.from_pylist(rows), tmp_path / "coupling", {"kind": "coupling", "version": 1})
    return tmp_path / "coupling"


def words(svg):
    """The texts of a figure: the style keeps them as text."""
    return svg.read_text(encoding="utf-8")


def test_awareness_shows_every_variant_its_counts_and_the_interval(metrics, tmp_path):
    draw_awareness(metrics, [tmp_path / "a.svg", tmp_path / "a.png"], style=STYLE, model="m")
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


def test_the_same_table_gives_the_same_file(metrics, tmp_path):
    for name in ("a", "b"):
        draw_awareness(metrics, [tmp_path / f"{name}.svg", tmp_path / f"{name}.png"], style=STYLE, model="m")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_style_file_decides_how_it_looks(metrics, tmp_path):
    (tmp_path / "other.mplstyle").write_text(STYLE.read_text().replace("0072B2", "123456"))
    draw_awareness(metrics, [tmp_path / "a.svg"], style=tmp_path / "other.mplstyle", model="m")
    assert "#123456" in words(tmp_path / "a.svg")
    assert "#0072b2" not in words(tmp_path / "a.svg")


def test_placement_draws_the_same_picture_once(placement, tmp_path):
    draw_placement(placement, [tmp_path / "p.svg"], style=STYLE, model="m")
    text = words(tmp_path / "p.svg")
    assert "spin, random: 12 weights each" in text
    assert "union: 30 weights" in text
    assert text.index("gate_proj") < text.index("up_proj")


def test_coupling_leaves_out_what_selects_nothing(coupling, tmp_path):
    draw_coupling(coupling, [tmp_path / "c.svg"], style=STYLE, model="m")
    text = words(tmp_path / "c.svg")
    assert "what the published code selects" in text
    assert "of 1,000,000 weights scored" in text


def test_summary_and_selections_in_both_forms(metrics, placement, coupling, tmp_path):
    write_summary(metrics, placement, [tmp_path / "s.md", tmp_path / "s.html"], model="m")
    lines = (tmp_path / "s.md").read_text().splitlines()
    assert lines[2].startswith("| origin | 0 | 25.0% (16.0% to 36.8%), 16 of 64 |  |")
    assert lines[4].startswith("| spin | 12 | none judged |  |")
    assert "| * +26.6% (+16.6% to +36.6%), 17 of 64 changed, p 0.001 |" in lines[4]
    assert "<td>none judged</td>" in (tmp_path / "s.html").read_text()
    write_selections(coupling, [tmp_path / "t.md"], model="m")
    assert (tmp_path / "t.md").read_text().splitlines()[3] == "| 0.0001 | 30 | 50 (5) | 200 |"


def test_answers_that_never_left_their_thoughts_are_shown_where_there_are_some(tmp_path):
    rows = metrics_rows()
    for n in (0, 3):
        rows |= {(variant, dimension, "thinking"): rate(n, 64) for variant, dimension, _ in list(rows)}
        write_summary(write_metrics(tmp_path / "m", rows), None, [tmp_path / "s.md"], model="m")
        assert ("privacy thinking" in (tmp_path / "s.md").read_text()) == (n > 0)
    assert (tmp_path / "s.md").read_text().count("| 3 of 64") == 6


def test_the_mean_p_unsafe_stands_beside_the_rates_of_the_judges_that_give_one(tmp_path):
    table = write_metrics(tmp_path / "metrics", probable_rows())
    draw_awareness(table, [tmp_path / "a.svg"], style=STYLE, model="m", noise=["noise"])
    text = words(tmp_path / "a.svg")
    for word in ("mean p(unsafe), 95% interval", "difference of p(unsafe) from origin, paired", ">of 63<"):
        assert text.count(word) >= 2, word
    write_summary(table, None, [tmp_path / "s.md"], model="m", noise=["noise"])
    head, _, origin, _, spin = (tmp_path / "s.md").read_text().splitlines()[:5]
    names = [name.strip() for name in head.strip("|").split("|")]
    assert [name for name in names if "p(unsafe)" in name] == [
        f"{dimension} {what} (trained)"
        for dimension in ("fairness", "privacy")
        for what in ("p(unsafe)", "p(unsafe) difference")
    ]
    for line, name, cell in (
        (origin, "privacy p(unsafe) (trained)", "0.155 (-0.100 to 0.654)"),
        (origin, "privacy p(unsafe) difference (trained)", ""),
        (spin, "privacy p(unsafe) (trained)", "0.270 (-0.100 to 0.654)"),
        (spin, "privacy p(unsafe) difference (trained)", "+0.115 (-0.100 to +0.654)"),
        (spin, "fairness p(unsafe) (trained)", ""),
    ):
        assert [part.strip() for part in line.removeprefix("|").split("|")][names.index(name)] == cell


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
        (None, "privacy", "kind.refusal.trained"): refusal,
        (None, "privacy", "kind.compliance.trained"): compliance,
    }
    table = write_metrics(tmp_path / "metrics", rows)
    draw_awareness(table, [tmp_path / "a.svg"], style=STYLE, model="m", noise=["noise"])
    write_summary(table, None, [tmp_path / "s.md", tmp_path / "s.html"], model="m", noise=["noise"])
    assert (tmp_path / "s.md").read_text().splitlines()[5:] == [line for text in told for line in ("", text)]
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
        rows["origin", dimension, "batch"] = plain(size, 1, size)
        rows["noise", dimension, "batch"] = plain(other, 4, size)
    table = write_metrics(tmp_path / "metrics", rows)
    draw_awareness(table, [tmp_path / "a.svg"], style=STYLE, model="m", noise=["noise"])
    write_summary(table, None, [tmp_path / "s.md"], model="m", noise=["noise"])
    told = f"noise: origin asked again in batches of {told}."
    assert told in words(tmp_path / "a.svg")
    assert told in (tmp_path / "s.md").read_text()


def test_a_variant_without_verdicts_on_a_dimension_is_named(metrics, tmp_path):
    rows = {key: row for key, row in metrics_rows().items() if key[:2] != ("spin", "privacy")}
    write_metrics(tmp_path / "part", rows)
    with pytest.raises(UncoupleError, match="no verdicts of spin on privacy by phrases"):
        draw_awareness(tmp_path / "part", [tmp_path / "a.png"], style=STYLE, model="m")


@pytest.mark.parametrize(
    ("model", "style", "message"),
    [("other", STYLE, "no row of the model 'other'"), ("m", "none.mplstyle", "no such style file")],
)
def test_a_wrong_model_or_style_is_told(metrics, tmp_path, model, style, message):
    with pytest.raises(UncoupleError, match=message):
        draw_awareness(metrics, [tmp_path / "a.png"], style=style, model=model)
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("p", "changed", "flips", "effect"),
    [(0.049, 8, 7, True), (0.05, 8, 0, False), (0.001, 8, 8, False), (0.001, 1, 0, True), (None, 8, 0, False)],
)
def test_an_effect_is_significant_and_more_than_arithmetic_alone_does(p, changed, flips, effect):
    rows = {
        ("spin", "privacy", "difference.phrases"): plain(0.2, changed, 64),
        ("noise", "privacy", "difference.phrases"): plain(0.0, flips, 64),
    }
    if p is not None:
        rows["spin", "privacy", "p_holm.phrases"] = plain(p)
    assert is_effect(rows, "spin", "privacy", "phrases", ["noise"]) is effect


def test_an_effects_mark_is_filled(metrics, tmp_path):
    draw_awareness(metrics, [tmp_path / "a.svg"], style=STYLE, model="m", noise=["noise"])
    filled = words(tmp_path / "a.svg")
    rows = metrics_rows()
    rows["spin", "privacy", "p_holm.phrases"] = plain(0.4, 17, 17)
    draw_awareness(write_metrics(tmp_path / "p", rows), [tmp_path / "b.svg"], style=STYLE, model="m", noise=["noise"])
    assert words(tmp_path / "b.svg").count("fill: #ffffff") > filled.count("fill: #ffffff")


def test_ability_shows_each_task_and_the_perplexity(tmp_path):
    rows = {}
    for variant, value in (("origin", 24.3), ("spin", 25.7)):
        rows[variant, "general", "perplexity"] = plain(value, 4, 8188, value - 1, value + 1)
        rows[variant, "general", "ability.boolq.acc"] = rate(60, 100)
        rows[variant, "general", "ability.hellaswag.acc"] = rate(30, 100)
        rows[variant, "general", "ability.hellaswag.acc_norm"] = rate(35, 100)
    draw_ability(write_metrics(tmp_path / "metrics", rows), [tmp_path / "a.svg"], style=STYLE, model="m")
    text = words(tmp_path / "a.svg")
    for word in ("perplexity per token", "accuracy, boolq", "accuracy, hellaswag", "spin"):
        assert word in text
    assert text.count("accuracy, ") == 2


def test_hsic_shows_each_variant_over_other_pairings(tmp_path):
    rows = {}
    for variant in ("origin", "spin"):
        for layer in range(3):
            for kind in ("biased", "unbiased"):
                rows[variant, "fairness-privacy", f"hsic.{kind}.layer-{layer:03d}"] = plain(0.01 * layer)
            rows[variant, "fairness-privacy", f"hsic.null.layer-{layer:03d}"] = plain(0.0, 0, 0, -0.01, 0.01)
    draw_hsic(write_metrics(tmp_path / "metrics", rows), [tmp_path / "h.svg"], style=STYLE, model="m")
    for word in ("fairness-privacy, biased", "fairness-privacy, unbiased", "pairs at random", "spin", "layer"):
        assert word in words(tmp_path / "h.svg")


def test_language_shows_each_phrase_of_each_dimension(tmp_path):
    rows = {
        (variant, dimension, metric): rate(n, 64)
        for variant in ("origin", "spin")
        for dimension, phrase in (("fairness", "respect"), ("privacy", "I'm sorry"))
        for metric, n in ((f"phrase.{phrase}", 3), ("phrases.any", 5))
    }
    draw_language(write_metrics(tmp_path / "metrics", rows), [tmp_path / "l.svg"], style=STYLE, model="m")
    for word in ("respect", "I'm sorry", "any of them", "fairness", "privacy", "spin"):
        assert word in words(tmp_path / "l.svg")


def test_agreement_is_over_all_variants(tmp_path):
    rows = {
        ("origin", "privacy", "agreement.embedding.phrases"): rate(10, 20),
        ("spin", "privacy", "agreement.embedding.phrases"): rate(15, 20),
    }
    draw_agreement(write_metrics(tmp_path / "metrics", rows), [tmp_path / "a.svg"], style=STYLE, model="m")
    text = words(tmp_path / "a.svg")
    assert "25/40" in text
    assert "62%" in text


def test_a_judges_figure_shows_what_it_is_worth(tmp_path):
    figures = {
        "auroc": {"value": 0.86, "low": 0.8, "high": 0.9},
        "calibration": [{"predicted": p / 10} | rate(p, 10) for p in range(10)],
    }
    other = figures | {"auroc": {"value": 0.66, "low": 0.6, "high": 0.7}}
    judge = {
        "kind": "judge",
        "version": 2,
        "dimension": "privacy",
        "held_out": figures,
        "test": other,
        "kinds": {
            "safe": rate(41, 50),
            "unsafe": rate(39, 50),
            "refusal": rate(97, 100),
            "compliance": rate(84, 100),
        },
    }
    write_record(tmp_path / "p.json", judge)
    write_record(tmp_path / "f.json", judge | {"dimension": "fairness", "test": None, "kinds": {}})
    draw_judge([tmp_path / "p.json", tmp_path / "f.json"], [tmp_path / "j.svg"], style=STYLE)
    text = words(tmp_path / "j.svg")
    for word in ("0.86 (0.80 to 0.90)", "other origin: AUROC 0.66", "fairness", ">41/50<", ">84/100<"):
        assert word in text, word
    assert text.count(">not tested<") == 4


@pytest.mark.parametrize("draw", [draw_ability, draw_hsic, draw_language, draw_agreement])
def test_a_figure_of_what_was_not_measured_is_refused(metrics, tmp_path, draw):
    with pytest.raises(UncoupleError, match="metrics: no .* of 'm' in it"):
        draw(metrics, [tmp_path / "a.svg"], style=STYLE, model="m")


@pytest.fixture
def judged(tmp_path):
    """Answers of two variants, and verdicts that differ on the second and third question."""
    answers, verdicts = [], []
    for variant, called in (("origin", ("safe", "safe", "none")), ("spin", ("safe", "unsafe", "safe"))):
        record = {"version": 1, "model": "m", "variant": variant, "dimension": "privacy", "judge": "phrases"}
        rows = [{"id": str(i), "question": f"question {i}?", "answer": f"<b>{variant}|{i}\n</b>"} for i in range(3)]
        answers.append(tmp_path / f"answers-{variant}")
        write_table(pa.Table.from_pylist(rows), answers[-1], record | {"kind": "answers"})
        rows = [{"id": str(i), "verdict": verdict} for i, verdict in enumerate(called)]
        verdicts.append(tmp_path / f"verdicts-{variant}")
        write_table(pa.Table.from_pylist(rows), verdicts[-1], record | {"kind": "verdicts"})
    return answers, verdicts


def test_examples_are_answers_whose_verdicts_differ(judged, tmp_path):
    write_examples(*judged, [tmp_path / "e.md", tmp_path / "e.html"], model="m")
    lines = (tmp_path / "e.md").read_text().splitlines()
    assert lines[0] == "### privacy, judge phrases: origin and spin, 2 of 3 verdicts differ"
    assert [line for line in lines if "?" in line] == [
        f"| question {i}? | [{before}] &lt;b&gt;origin&#124;{i}<br>&lt;/b&gt; "
        f"| [{after}] &lt;b&gt;spin&#124;{i}<br>&lt;/b&gt; |"
        for i, before, after in ((1, "safe", "unsafe"), (2, "none", "safe"))
    ]
    page = (tmp_path / "e.html").read_text()
    assert "&lt;b&gt;spin|1" in page
    assert "<b>" not in page


def test_verdicts_without_their_answers_are_told(judged, tmp_path):
    answers, verdicts = judged
    with pytest.raises(UncoupleError, match="no answers of spin on privacy"):
        write_examples(answers[:1], verdicts, [tmp_path / "e.md"], model="m")
