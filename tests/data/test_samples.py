"""Raw rows to tables: what is drawn."""

import datasets
import pytest
from data.raw import make, numbered, pairs, refused
from hypothesis import given, settings
from hypothesis import strategies as st

from uncouple.data.samples import draw, make_questions, make_samples
from uncouple.data.sources import Source
from uncouple.errors import UncoupleError
from uncouple.records.files import read_table
from uncouple.records.formats import QUESTIONS, SAMPLES


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_draw_is_what_datasets_draws(data):
    total = data.draw(st.integers(1, 400), "total")
    n = data.draw(st.integers(1, total), "n")
    seed = data.draw(st.integers(0, 2**32 - 1), "seed")
    theirs = datasets.Dataset.from_dict({"row": list(range(total))}).shuffle(seed=seed).select(range(n))
    assert draw(total, n, seed).tolist() == list(theirs["row"])


@pytest.mark.parametrize(("n", "seed"), [(1, 0), (20, 0), (20, 7), (50, 123456789)])
def test_samples_of_a_file_are_what_datasets_draws(write_jsonl, tmp_path, n, seed):
    rows = numbered(50)
    made, metadata = make(write_jsonl("raw.jsonl", rows), tmp_path, n, seed)
    assert pairs(made) == pairs(datasets.Dataset.from_list(rows).shuffle(seed=seed).select(range(n)))
    assert (metadata["n"], metadata["seed"], metadata["available"]) == (n, seed, 50)


def test_every_row_says_its_dimension_label_and_source(write_jsonl, tmp_path):
    path = write_jsonl("raw.jsonl", numbered(5))
    made, metadata = make(path, tmp_path)
    assert {(row["dimension"], row["label"], row["source"]) for row in made} == {("fairness", "safe", str(path))}
    assert (metadata["kind"], metadata["dimension"], metadata["label"]) == ("samples", "fairness", "safe")


def test_questions_are_taken_in_order_without_a_count_and_drawn_with_one(write_jsonl, tmp_path):
    rows = [{"question": f"question {i}?"} for i in range(30)]
    source = Source(path=str(write_jsonl("raw.jsonl", rows)))
    make_questions(source, "privacy", None, 3, tmp_path / "all.parquet")
    make_questions(source, "privacy", 10, 3, tmp_path / "ten.parquet")
    theirs = datasets.Dataset.from_list(rows).shuffle(seed=3).select(range(10))
    assert [row["question"] for row in read_table(tmp_path / "all.parquet", QUESTIONS)[0].to_pylist()] == [
        r["question"] for r in rows
    ]
    assert [row["question"] for row in read_table(tmp_path / "ten.parquet", QUESTIONS)[0].to_pylist()] == theirs[
        "question"
    ][:]


def test_a_draw_of_less_than_one_row_is_refused(write_jsonl, tmp_path):
    path = write_jsonl("raw.jsonl", numbered(5))
    for n in (0, -1):
        refused(path, tmp_path, "n is", str(n), n=n)


def test_a_negative_seed_is_refused(write_jsonl, tmp_path):
    refused(write_jsonl("raw.jsonl", numbered(5)), tmp_path, "seed", "-1", seed=-1)


def test_the_same_content_has_the_same_id_in_another_draw(write_jsonl, tmp_path):
    path = write_jsonl("raw.jsonl", numbered(40))
    one = {row["prompt"]: row["id"] for row in make(path, tmp_path, n=30, seed=1)[0]}
    other = {row["prompt"]: row["id"] for row in make(path, tmp_path, n=30, seed=2)[0]}
    shared = one.keys() & other.keys()
    assert len(shared) >= 20
    assert {one[prompt] for prompt in shared} == {other[prompt] for prompt in shared}
    assert all(one[prompt] == other[prompt] for prompt in shared)
    assert len(set(one.values())) == 30


def test_the_fingerprint_follows_what_is_drawn(write_jsonl, tmp_path):
    path = write_jsonl("raw.jsonl", numbered(40))
    prints = [make(path, tmp_path, n, seed)[1]["fingerprint"] for n, seed in [(30, 1), (30, 1), (29, 1), (30, 2)]]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_repeats_get_a_number_after_their_id(write_jsonl, tmp_path):
    row = {"prompt": "p", "response": "r"}
    path = write_jsonl("raw.jsonl", [row, row, {"prompt": "q", "response": "r"}, row])
    made, _ = make(path, tmp_path, n=4, duplicates="keep")
    ids = [r["id"] for r in made if r["prompt"] == "p"]
    assert ids == [ids[0], f"{ids[0]}-2", f"{ids[0]}-3"]
    assert len({r["id"] for r in made}) == 4


def test_dropped_duplicates_leave_each_row_once(write_jsonl, tmp_path):
    rows = numbered(10)
    path = write_jsonl("raw.jsonl", [row for row in rows for _ in range(2)])
    made, metadata = make(path, tmp_path, n=10, duplicates="drop")
    assert metadata["available"] == 10
    assert pairs(made) == pairs(datasets.Dataset.from_list(rows).shuffle(seed=0).select(range(10)))


def test_kept_duplicates_are_drawn_among(write_jsonl, tmp_path):
    rows = [row for row in numbered(10) for _ in range(2)]
    made, metadata = make(write_jsonl("raw.jsonl", rows), tmp_path, n=15, seed=2, duplicates="keep")
    assert metadata["available"] == 20
    assert pairs(made) == pairs(datasets.Dataset.from_list(rows).shuffle(seed=2).select(range(15)))


def test_rows_that_are_the_same(write_jsonl, tmp_path):
    rows = numbered(6)
    path = write_jsonl("raw.jsonl", [*rows, rows[2], rows[2]])
    refused(path, tmp_path, "rows 3 and 7", "2 such repeats", "duplicates: drop", "duplicates: keep")


def test_more_wanted_than_there_is(write_jsonl, tmp_path):
    refused(write_jsonl("raw.jsonl", numbered(5)), tmp_path, "n is 6", "only 5 rows", "Set n to 5 or less", n=6)


def test_more_wanted_than_passes_the_filter_or_is_left_of_repeats(write_jsonl, tmp_path):
    filtered = write_jsonl("filtered.jsonl", [row | {"keep": i < 2} for i, row in enumerate(numbered(5))])
    refused(filtered, tmp_path, "only 2 rows", n=3, where={"keep": True})
    repeated = write_jsonl("repeated.jsonl", numbered(2) * 3)
    refused(repeated, tmp_path, "only 2 rows", n=3, duplicates="drop")


def test_a_label_that_is_not_known(write_jsonl, tmp_path):
    with pytest.raises(UncoupleError, match="'harmless'.*safe, unsafe"):
        make_samples(
            Source(path=str(write_jsonl("raw.jsonl", numbered(2)))), "fairness", "harmless", 1, 0, tmp_path / "x"
        )


def test_a_set_has_the_name_of_its_file_and_that_one_is_a_name(write_jsonl, tmp_path):
    raw = write_jsonl("raw.jsonl", numbered(2))
    make_samples(Source(path=str(raw)), "fairness", "safe", None, 0, tmp_path / "fairness-test0.parquet")
    assert read_table(tmp_path / "fairness-test0.parquet", SAMPLES)[1]["set"] == "fairness-test0"
    with pytest.raises(UncoupleError, match="output '-x': a name"):
        make_samples(Source(path=str(raw)), "fairness", "safe", None, 0, tmp_path / "-x.parquet")
    assert not (tmp_path / "-x.parquet").exists()


# The data that the published code draws from


def test_real_data_with_repeats_is_refused_until_told_what_to_do(real_data, tmp_path):
    path = real_data / "seed/beaver_train330k_privacy_safe_1k.csv"
    refused(path, tmp_path, "614 such repeats", n=128)
    assert make(path, tmp_path, n=128, duplicates="drop")[1]["available"] == 386


@pytest.mark.parametrize("name", ["beaver_train330k_privacy_safe_1k", "alpaca_cleaned_no_safety_train_1k"])
def test_real_data_gives_what_datasets_reads_and_draws(real_data, tmp_path, name):
    path = real_data / f"seed/{name}.csv"
    read = datasets.load_dataset("csv", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    for seed in (0, 42):
        made, metadata = make(path, tmp_path, n=128, seed=seed, duplicates="keep")
        assert metadata["available"] == 1000
        assert pairs(made) == pairs(read.shuffle(seed=seed).select(range(128)))


def test_real_questions_are_all_read(real_data, tmp_path):
    for dimension, count in (("fairness", 2165), ("privacy", 657)):
        source = Source(path=str(real_data / f"seed/salad_{dimension}.csv"), columns={"question": ["questions"]})
        make_questions(source, dimension, None, 0, tmp_path / "made.parquet")
        assert len(read_table(tmp_path / "made.parquet", QUESTIONS)[0].to_pylist()) == count
