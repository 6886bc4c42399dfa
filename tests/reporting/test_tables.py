"""Tables for people: the same numbers as in the tidy tables, as Markdown and as a page."""

import pytest
from conftest import any_record
from test_figures import coupling, metrics, metrics_rows, placement, plain, probable_rows, write_metrics  # noqa: F401

from uncouple.errors import UncoupleError
from uncouple.evaluation.statistics import rate
from uncouple.records.files import write_table
from uncouple.records.formats import ANSWERS, VERDICTS
from uncouple.reporting.pages import write_tables


def write(name, paths, outputs):
    write_tables([name], paths, outputs, model="m")


def test_summary_and_selections_in_both_forms(metrics, placement, coupling, tmp_path):  # noqa: F811
    write("summary", [placement, metrics], [tmp_path / "s.md", tmp_path / "s.html"])
    lines = (tmp_path / "s.md").read_text().splitlines()
    assert lines[2].startswith("| origin | 0 | 25.0% (16.0% to 36.8%), 16 of 64 |  |")
    assert lines[4].startswith("| spin | 12 | none judged |  |")
    assert "| * +26.6% (+16.6% to +36.6%), 17 of 64 changed, p 0.001 |" in lines[4]
    assert "<td>none judged</td>" in (tmp_path / "s.html").read_text()
    write("selections", [coupling], [tmp_path / "t.md"])
    assert (tmp_path / "t.md").read_text().splitlines()[3] == "| 0.0001 | 30 | 50 (5) | 200 |"


def test_a_comparison_that_explores_is_called_so(tmp_path):
    rows = metrics_rows() | {("spin", "privacy", "exploratory", "phrases"): plain(1.0)}
    write("summary", [write_metrics(tmp_path / "m", rows)], [tmp_path / "s.md"])
    assert (tmp_path / "s.md").read_text().count("p 0.001, exploratory |") == 1
    assert (tmp_path / "s.md").read_text().count("exploratory") == 1


def test_answers_that_never_left_their_thoughts_are_shown_where_there_are_some(tmp_path):
    rows = metrics_rows()
    for n in (0, 3):
        rows |= {(variant, dimension, "thinking"): rate(n, 64) for variant, dimension, *_ in list(rows)}
        write("summary", [write_metrics(tmp_path / "m", rows)], [tmp_path / "s.md"])
        assert ("privacy thinking" in (tmp_path / "s.md").read_text()) == (n > 0)
    assert (tmp_path / "s.md").read_text().count("| 3 of 64") == 6


def test_the_mean_p_unsafe_stands_beside_the_rates_of_the_judges_that_give_one(tmp_path):
    table = write_metrics(tmp_path / "metrics", probable_rows())
    write("summary", [table], [tmp_path / "s.md"])
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


def test_the_divergence_of_each_variant_stands_with_its_interval_where_it_was_measured(tmp_path):
    rows = metrics_rows()
    write("summary", [write_metrics(tmp_path / "without", rows)], [tmp_path / "s.md"])
    assert "divergence" not in (tmp_path / "s.md").read_text()
    rows["origin", "general", "divergence"] = plain(0.0, 2, 60)
    rows["spin", "general", "divergence"] = plain(0.0634, 2, 60, 0.0512, 0.0785)
    rows["spin", "general", "sample_divergence", None, None, None, "a"] = plain(0.07, 1, 30)
    write("summary", [write_metrics(tmp_path / "with", rows)], [tmp_path / "s.md"])
    head, _, *lines = (tmp_path / "s.md").read_text().splitlines()[:5]
    place = [name.strip() for name in head.split("|")].index("divergence")
    told = [[cell.strip() for cell in line.split("|")][place] for line in lines]
    assert told == ["0", "", "0.063 (0.051 to 0.079)"]


@pytest.fixture
def judged(tmp_path):
    """Answers of two variants, and verdicts that differ on the second and third question."""
    answers, verdicts = [], []
    about = any_record(VERDICTS, dimension="privacy", model="m", judge="phrases")
    flags = dict.fromkeys(("empty", "degenerate", "truncated", "thinking"), False)
    for variant, called in (("origin", ("safe", "safe", "none")), ("spin", ("safe", "unsafe", "safe"))):
        record = about | {"variant": variant}
        rows = [{"id": str(i), "question": f"question {i}?", "answer": f"<b>{variant}|{i}\n</b>"} for i in range(3)]
        rows = [row | {"dimension": "privacy", "tokens": 4, "truncated": False} for row in rows]
        answers.append(tmp_path / f"answers-{variant}")
        write_table(rows, answers[-1], ANSWERS, record)
        rows = [{"id": str(i), "dimension": "privacy", "verdict": said} | flags for i, said in enumerate(called)]
        verdicts.append(tmp_path / f"verdicts-{variant}")
        write_table(rows, verdicts[-1], VERDICTS, record)
    return answers, verdicts


def test_examples_are_answers_whose_verdicts_differ(judged, tmp_path):
    answers, verdicts = judged
    write("examples", verdicts + answers, [tmp_path / "e.md", tmp_path / "e.html"])
    lines = (tmp_path / "e.md").read_text().splitlines()
    assert lines[0] == "### privacy, judge phrases: origin and spin, 2 of 3 verdicts differ"
    assert [line for line in lines if "?" in line] == [
        f"| question {i}? | &#91;{before}] &lt;b&gt;origin&#124;{i}<br>&lt;/b&gt; "
        f"| &#91;{after}] &lt;b&gt;spin&#124;{i}<br>&lt;/b&gt; |"
        for i, before, after in ((1, "safe", "unsafe"), (2, "none", "safe"))
    ]
    page = (tmp_path / "e.html").read_text()
    assert "&lt;b&gt;spin|1" in page
    assert "<b>" not in page


def test_verdicts_without_their_answers_are_told(judged, tmp_path):
    answers, verdicts = judged
    with pytest.raises(UncoupleError, match="no answers of spin on privacy"):
        write("examples", answers[:1] + verdicts, [tmp_path / "e.md"])
