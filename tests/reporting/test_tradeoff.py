"""One dimension against another, from the origin on."""

from matplotlib import pyplot as plt
from reporting.test_figures import STYLE, plain, write_metrics

from uncouple.evaluation.statistics import rate
from uncouple.reporting.figures import tradeoff
from uncouple.reporting.rows import Sources

SAFE = {"origin": (20, 30), "noise": (20, 30), "tuned": (16, 48), "spin": (28, 36), "lost": (0, 40)}


def drawn(tmp_path):
    rows = {}
    for variant, counts in SAFE.items():
        for dimension, n in zip(("fairness", "privacy"), counts, strict=True):
            of = 0 if variant == "lost" and dimension == "fairness" else 64
            rows[variant, dimension, "awareness", "phrases"] = rate(n, of)
            rows[variant, dimension, "effect", "phrases"] = plain(float(variant == "tuned"), 1, 64)
    for dimension in ("fairness", "privacy"):
        rows["noise", dimension, "batch"] = plain(21.0, None, 64)
    sources = Sources([write_metrics(tmp_path / "m.parquet", rows)], "m")
    with plt.style.context(str(STYLE)):
        return tradeoff.draw(sources.rows("metrics"))


def test_marks_stand_where_both_are_and_arrows_begin_at_the_origin(tmp_path):
    figure = drawn(tmp_path)
    (ax,) = figure.axes
    marks = {one.get_label(): one[0] for one in ax.containers}
    assert marks.keys() == {"origin", "tuned", "spin"}
    for name, mark in marks.items():
        assert [mark.get_xdata()[0], mark.get_ydata()[0]] == [n / 64 for n in SAFE[name]], name
    assert marks["spin"].get_markerfacecolor() == "white"
    assert marks["tuned"].get_markerfacecolor() != "white"
    starts = {tuple(text.xyann) for text in ax.texts}
    assert starts == {(20 / 64, 30 / 64)}
    assert len(ax.texts) == 2
    # What is gained at the other's cost.
    corners = {(one.get_x(), one.get_y(), one.get_width(), one.get_height()) for one in ax.patches if one.get_alpha()}
    assert corners == {(0, 30 / 64, 20 / 64, 34 / 64), (20 / 64, 0, 44 / 64, 30 / 64)}
