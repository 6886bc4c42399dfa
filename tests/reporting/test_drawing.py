"""What figures share: ticks that say what they stand at, and marks that can be told apart."""

import matplotlib.pyplot as plt
import pytest
from test_figures import STYLE, plain, write_metrics

from uncouple.reporting.drawing import in_percent, looks, write_legend
from uncouple.reporting.figures import hsic, language
from uncouple.reporting.rows import Sources


@pytest.fixture(autouse=True)
def styled():
    with plt.style.context(STYLE):
        yield
    plt.close("all")


@pytest.mark.parametrize("ends", [(-0.11, 0.08), (0, 1), (-0.004, 0.011), (0.1, 0.2), (-1, 1), (0, 0.06)])
def test_a_percent_stands_where_it_says(ends):
    _, ax = plt.subplots()
    ax.set_xlim(*ends)
    in_percent(ax.xaxis)
    shown = [(place, label.get_text()) for place, label in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)]
    assert 2 <= len(shown) <= 7
    for place, told in shown:
        assert told.endswith("%")
        assert float(told[:-1].replace("\N{MINUS SIGN}", "-")) == pytest.approx(100 * place, abs=1e-9)


def test_no_two_of_many_look_alike():
    names = [f"v{i}" for i in range(56)]
    found = looks(names)
    assert [name for name, *_ in found] == names
    assert len({tuple(look) for _, *look in found}) == len(names)
    # Squares and diamonds mean something.
    assert not {marker for *_, marker in found} & set("sD")


def test_of_more_variants_than_colours_language_has_a_row_each(tmp_path):
    variants = [f"v{i}" for i in range(9)]
    rows = {(v, d, "any_phrase"): plain(i / 10, i, 10, 0, 1) for d in ("a", "b") for i, v in enumerate(variants)}
    rows |= {(v, d, "phrase", None, None, None, "sorry"): plain(0.1, 1, 10, 0, 1) for v, d, _ in list(rows)}

    def draw(wanted):
        return language.draw(Sources([write_metrics(tmp_path / "m", wanted)], "m").rows("metrics"))

    axes = draw(rows).axes
    assert [label.get_text() for label in axes[0].get_yticklabels()] == variants
    marks = [value for mark in axes[1].containers for value in mark.lines[0].get_xdata()]
    assert marks == pytest.approx([i / 10 for i in range(9)])
    few = {key: row for key, row in rows.items() if key[0] in variants[:7]}
    assert [label.get_text() for label in draw(few).axes[0].get_yticklabels()] == ["sorry", "any of them"]


def test_of_more_variants_than_colours_lines_of_hsic_have_marks(tmp_path):
    variants = ["origin", *(f"v{i}" for i in range(9))]
    rows = {
        (v, "a-b", metric, None, None, layer): plain(0.1, 4, 4)
        for v in variants
        for metric in ("hsic_biased", "hsic_unbiased")
        for layer in range(12)
    }
    figure = hsic.draw(Sources([write_metrics(tmp_path / "m", rows)], "m").rows("metrics"))
    lines = {line.get_label(): (line.get_color(), line.get_marker()) for line in figure.axes[0].lines}
    assert list(lines) == variants
    assert len(set(lines.values())) == len(variants)
    assert hsic.WIDE.keys() == {"linewidth", "alpha"}


def test_a_legend_has_the_first_mark_of_each_name_and_makes_room_for_itself():
    figure, (above, below) = plt.subplots(2)
    above.plot([1], label="one", marker="o")
    below.plot([1], label="one", marker="s")
    below.plot([1], label="other", marker="s")
    height = figure.get_figheight()
    write_legend(figure, 1)
    (legend,) = figure.legends
    shown = zip(legend.get_texts(), legend.legend_handles, strict=True)
    assert [(text.get_text(), mark.get_marker()) for text, mark in shown] == [("one", "o"), ("other", "s")]
    assert figure.get_figheight() > height + 0.3
