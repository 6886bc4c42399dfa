"""What an edit costs, as figures and the summary show it."""

import pytest
from test_figures import draw, metrics_rows, plain, words, write_metrics

from uncouple.errors import UncoupleError
from uncouple.evaluation.statistics import rate
from uncouple.reporting.pages import write_tables


def priced_rows(**divergence):
    """The rows of two variants and a noise, with refusals of all sets: spin refuses more and does no more."""
    rows = metrics_rows()
    for name, of in {"privacy": 64, "general": 32, "alarming": 64, "ordinary": 96}.items():
        for variant in ("origin", "noise", "spin"):
            n = of // 2 if variant == "spin" else 2
            rows[variant, name, "refusal", "refusal"] = rate(n, of)
            if variant != "origin":
                value = (n - 2) / of
                rows[variant, name, "refusal_difference", "refusal"] = plain(value, n - 2, of, value - 0.1, value + 0.1)
        rows["spin", name, "refusal_effect", "refusal"] = plain(float(name != "general"), 9, of)
    rows[None, "privacy", "refusal_kind", "refusal", None, None, "refusal"] = rate(80, 100)
    rows[None, "privacy", "refusal_kind", "refusal", None, None, "answer"] = rate(100, 100)
    rows["spin", "privacy", "net_gain", "phrases"] = plain(-0.2, None, None, -0.35, -0.05)
    rows["spin", "privacy", "only_refuses", "phrases"] = plain(1.0, None, None)
    return rows | {(variant, "general", "divergence"): row for variant, row in divergence.items()}


TOLD = (
    "spin refuses more, and is not shown to be more aware of privacy (phrases): awareness +26.6%, refusals of ordinary "
    "questions +47.9%, the one less the other -20.0% (-35.0% to -5.0%)."
)


def test_the_figure_of_refusals_shows_every_set_its_counts_and_what_is_to_be_known(tmp_path):
    draw("refusal", write_metrics(tmp_path / "metrics", priced_rows()), [tmp_path / "r.svg", tmp_path / "r.png"])
    text = words(tmp_path / "r.svg")
    for word in ("privacy", "general", "alarming", "ordinary", "2/64", "32/64", "48/96", "46 changed"):
        assert f">{word}<" in text, word
    assert "Do not trust refusal: it calls 80 of 100 held-out answers of the kind refusal refusal" in text
    assert "spin refuses more, and is not shown to be more aware of privacy" in text
    assert (tmp_path / "r.png").stat().st_size > 5000


def test_the_price_shows_divergence_where_it_was_measured(tmp_path):
    for rows, there in ((priced_rows(), False), (priced_rows(spin=plain(0.02, 32, 900, 0.01, 0.03)), True)):
        draw("price", write_metrics(tmp_path / "metrics", rows), [tmp_path / "p.svg"])
        text = words(tmp_path / "p.svg")
        assert "rise of refusals of ordinary questions" in text
        assert ("nats a token" in text) == there
        assert ">spin<" in text
        # Neither the origin nor a noise has a price.
        assert ">origin<" not in text
        assert ">noise<" not in text


@pytest.mark.parametrize("figure", ["refusal", "price"])
def test_without_refusals_there_is_nothing_to_draw(tmp_path, figure):
    with pytest.raises(UncoupleError, match="no refusals of 'm' in it. Judge the answers with"):
        draw(figure, write_metrics(tmp_path / "metrics", metrics_rows()), [tmp_path / "f.png"])


def test_the_summary_has_refusals_of_both_sets_and_says_who_only_refuses(tmp_path):
    write_tables(["summary"], [write_metrics(tmp_path / "metrics", priced_rows())], [tmp_path / "s.md"], model="m")
    text = (tmp_path / "s.md").read_text()
    head, _, origin, _, spin = text.splitlines()[:5]
    names, cells, before = ([part.strip() for part in line.strip("|").split("|")] for line in (head, spin, origin))
    assert [name for name in names if "(refusal)" in name] == [
        f"{name} {what} (refusal)" for name in ("general", "alarming") for what in ("refusals", "rise")
    ]
    shown, of_origin = dict(zip(names, cells, strict=True)), dict(zip(names, before, strict=True))
    assert shown["alarming refusals (refusal)"].endswith("32 of 64")
    assert shown["alarming rise (refusal)"].startswith("* +46.9% (+36.9% to +56.9%), 30 of 64 changed")
    assert shown["general rise (refusal)"].startswith("+43.8%")
    assert of_origin["alarming rise (refusal)"] == ""
    assert TOLD in text.splitlines()
