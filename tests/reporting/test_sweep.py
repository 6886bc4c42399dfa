"""The figure of a sweep: every key by the same code, from the rows that are there."""

import pytest
from reporting.test_figures import STYLE, plain, write_metrics

from uncouple.errors import UncoupleError
from uncouple.evaluation.statistics import rate
from uncouple.experiment.sweeps import Sweep, write_sweeps
from uncouple.reporting.drawing import draw_figures
from uncouple.reporting.parts import find_figure, parts

RATIOS = {f"s{k}": 10.0**-k for k in (6, 5, 4)}
RULES = {"s5": "coupled", "random": "random", "union": "union"}


def rows(variants=(*RATIOS, "random", "union")):
    found = {("origin", d, "awareness", "phrases"): rate(20, 64) for d in ("fairness", "privacy")}
    found[("origin", "general", "perplexity")] = plain(20.0, 4, 64, 15, 25)
    for number, variant in enumerate(variants):
        for dimension in ("fairness", "privacy"):
            found[variant, dimension, "awareness", "phrases"] = rate(20 + number, 64)
            found[variant, dimension, "difference", "phrases"] = plain(number / 64, number, 64, -0.1, 0.2)
            found[variant, dimension, "effect", "phrases"] = plain(float(number == 2), number, 64)
        found[variant, "general", "perplexity"] = plain(20.0 + number, 4, 64, 15, 26)
    return found


@pytest.fixture
def files(tmp_path):
    sweeps = [Sweep("ratio", "", RATIOS), Sweep("select", "", RULES)]
    write_sweeps(sweeps, tmp_path / "sweeps.parquet")
    return [write_metrics(tmp_path / "m.parquet", rows()), tmp_path / "sweeps.parquet"]


def draw(name, files, tmp_path):
    draw_figures([name], files, [str(tmp_path / "{figure}.svg")], style=STYLE, model="m")
    return (tmp_path / f"{name}.svg").read_text()


@pytest.mark.parametrize("name", ["sweep-ratio", "sweep-select"])
def test_each_key_has_a_figure_of_its_own_and_the_same_tables_give_the_same_file(files, tmp_path, name):
    assert draw(name, files, tmp_path) == draw(name, files, tmp_path)


def drawn(files):
    from matplotlib import pyplot as plt

    from uncouple.reporting.rows import Sources

    sources = Sources(files, "m")
    with plt.style.context(str(STYLE)):
        for key in ("ratio", "select"):
            swept = [row for row in sources.all_rows("sweeps") if row["key"] == key]
            yield find_figure(f"sweep-{key}").draw(sources.rows("metrics"), swept)


def test_values_stand_at_their_places_and_effects_are_filled(files):
    ratio, select = drawn(files)
    assert [ax.get_title("left") for ax in ratio.axes] == [
        "awareness of fairness, less the origin's",
        "awareness of privacy, less the origin's",
        "perplexity",
    ]
    line, filled = [one for one in ratio.axes[0].lines if one.get_marker() == "o"]
    assert line.get_xdata().tolist() == sorted(RATIOS.values())
    assert line.get_ydata().tolist() == [0, 1 / 64, 2 / 64]
    assert (filled.get_xdata().tolist(), filled.get_ydata().tolist()) == ([1e-4], [2 / 64])
    assert ratio.axes[0].get_xscale() == "log"
    assert [text.get_text() for text in select.axes[-1].get_xticklabels()] == list(RULES.values())
    # The origin's perplexity.
    assert any(one.get_ydata()[0] == 20.0 for one in ratio.axes[2].lines if one.get_linestyle() == ":")


def test_a_key_that_is_not_swept_is_refused(files, tmp_path):
    for name, told in (("sweep-n", "is 'n'"), ("sweep", "is ''"), ("awareness-n", "drawn once")):
        with pytest.raises(UncoupleError, match=told):
            draw(name, files, tmp_path)


def test_an_experiment_has_one_for_each_of_its_keys():
    names = parts("figures", ["sweeps"], {"sweeps": ["ratio", "n"]})
    assert list(names) == ["sweep-ratio", "sweep-n"]
    assert "sweep" not in " ".join(parts("figures", ["awareness"], {"sweeps": []}))
