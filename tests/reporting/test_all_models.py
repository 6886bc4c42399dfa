"""The table and the figure of all models: each fact at its model's place, and nothing where it was not measured."""

import pytest
from reporting.test_figures import STYLE, metrics_rows, plain

from uncouple.records.files import write_table
from uncouple.records.formats import METRIC_KEYS, METRICS
from uncouple.reporting.drawing import draw_figures
from uncouple.reporting.figures import models
from uncouple.reporting.pages import write_tables
from uncouple.reporting.rows import Sources


def write(path, model, rows):
    records = [{"model": model} | dict(zip(METRIC_KEYS[1:], key, strict=False)) | row for key, row in rows.items()]
    write_table(records, path, METRICS, {"confidence": 0.95})
    return path


def table(tmp_path, **models):
    paths = [write(tmp_path / f"{name}.parquet", name, rows) for name, rows in models.items()]
    write_tables(["models"], paths, [tmp_path / "models.md"], model=None)
    return (tmp_path / "models.md").read_text()


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_each_model_has_its_columns_and_each_variant_its_row(tmp_path):
    other = metrics_rows() | {("origin", "general", "perplexity"): plain(24.31, 4, 64, 20, 30)}
    other |= {("spin", "general", "acc", None, "boolq"): plain(0.5, 32, 64, 0.4, 0.6)}
    del other["spin", "privacy", "effect", "phrases"]
    text = table(tmp_path, one=metrics_rows(), other=other)
    awareness, prices = text.split("### prices")
    head, _, origin, noise, spin = cells(awareness)
    assert head == ["variant", "one: fairness", "one: privacy", "other: fairness", "other: privacy"]
    assert origin == ["origin", "25.0%", "35.9%", "25.0%", "35.9%"]
    assert spin == ["spin", "none judged", "62.5% (+26.6)*", "none judged", "62.5% (+26.6)"]
    assert noise[1] == "25.0% (+0.0)"
    head, _, origin, _, spin = cells(prices)
    assert head == ["variant", "other: perplexity", "other: boolq"]
    assert (origin, spin) == (["origin", "24.3", ""], ["spin", "", "50.0%"])


def test_a_variant_that_one_model_has_not_is_left_empty(tmp_path):
    fewer = {key: row for key, row in metrics_rows().items() if key[0] != "spin"}
    text = table(tmp_path, one=metrics_rows(), other=fewer)
    assert "prices" not in text
    assert cells(text)[-1] == ["spin", "none judged", "62.5% (+26.6)*", "", ""]


def test_the_figure_has_a_mark_of_each_model_at_each_variant_that_it_has(tmp_path):
    fewer = {key: row for key, row in metrics_rows().items() if key[0] != "spin"}
    rows = {"one": metrics_rows(), "other": fewer}
    paths = [write(tmp_path / f"{name}.parquet", name, found) for name, found in rows.items()]
    figure = models.draw(Sources(paths, None).by_model("metrics"))
    fairness, privacy = figure.axes
    assert [label.get_text() for label in fairness.get_yticklabels()] == ["spin"]
    # On fairness there is no verdict on it.
    assert not fairness.containers
    (mark,) = privacy.containers
    assert mark.get_label() == "one"
    assert mark.lines[0].get_xdata()[0] == pytest.approx(0.2656, abs=1e-4)
    assert mark.lines[0].get_markerfacecolor() != "white"
    draw_figures(["models"], paths, [str(tmp_path / "models.svg")], style=STYLE)
    assert (tmp_path / "models.svg").read_text().count("<svg") == 1
