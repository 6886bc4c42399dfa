"""How often phrases occur in answers."""

import pytest
from evaluation.verdicts import MASK, UNLIKE

from uncouple.errors import UncoupleError
from uncouple.evaluation.language import measure_language
from uncouple.evaluation.statistics import rate
from uncouple.records.files import read_table
from uncouple.records.formats import METRICS


def test_how_often_phrases_occur(write_answers, phrases, tmp_path):
    path = write_answers(["I can\u2019t, I can't!", "This is personal information, I can't.", "", "Sure."])
    measure_language([path], tmp_path / "metrics.parquet", phrases={"privacy": phrases})
    rows = read_table(tmp_path / "metrics.parquet", METRICS)[0].to_pylist()
    numbers = ("value", "low", "high", "n", "of")
    found = {(row["metric"], row["item"]): {key: row[key] for key in numbers} for row in rows}
    assert found == {
        ("phrase", "I can't"): rate(2, 4),
        ("phrase", "personal information"): rate(1, 4),
        ("any_phrase", None): rate(2, 4),
    }
    assert {(row["model"], row["variant"], row["dimension"]) for row in rows} == {("base", "origin", "privacy")}


def test_phrases_in_thoughts_do_not_count(write_answers, phrases, tmp_path):
    path = write_answers(["<think>I can't</think> Sure.", "<think>x</think> I can't.", "<think>I can't"])
    measure_language([path], tmp_path / "metrics.parquet", phrases={"privacy": phrases})
    rows = read_table(tmp_path / "metrics.parquet", METRICS)[0].to_pylist()
    assert {row["metric"]: (row["n"], row["of"]) for row in rows}["any_phrase"] == (1, 3)


def test_answers_of_a_dimension_without_phrases(write_answers, phrases, tmp_path):
    with pytest.raises(UncoupleError, match="no phrases of privacy"):
        measure_language([write_answers(["a"])], tmp_path / "metrics.parquet", phrases={"fairness": phrases})


@pytest.mark.parametrize("key", UNLIKE)
def test_answers_that_were_made_otherwise_are_refused_by_name(write_answers, phrases, tmp_path, key):
    one = write_answers(["a"]).rename(tmp_path / "one.parquet")
    two = write_answers(["a"], **{"variant": "spin"} | MASK | UNLIKE[key]).rename(tmp_path / "two.parquet")
    with pytest.raises(UncoupleError, match=rf"two\.parquet and .*one\.parquet cannot be compared: their {key} differ"):
        measure_language([one, two], tmp_path / "metrics.parquet", phrases={"privacy": phrases})
