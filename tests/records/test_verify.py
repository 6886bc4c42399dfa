"""Verification: a whole results folder is right, and each kind of damage is found and named."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import TEXTS
from records.whole import write_answers

from uncouple.commands import main
from uncouple.models.folders import model_record
from uncouple.records import files
from uncouple.records.files import read_any
from uncouple.records.formats import FORMATS, SCORE_SHARD
from uncouple.records.store import Store
from uncouple.records.verify import verify_paths


@pytest.fixture
def results(whole, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(whole, tmp_path / "results", symlinks=True)


def verify(*paths):
    return verify_paths(paths, model_record)


def faults(results):
    """The faults of a results folder, each without the folder's own path."""
    return [fault.replace(f"{results}/", "") for fault in verify(results)[1]]


def rewrite(path, target=None, change=lambda rows: rows, **record):
    """Write a file's rows again, changed, and its record, with a seal that is right."""
    table, old = read_any(path)
    table = pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema)
    files._write_sealed_table(table, target or path, old | record)


def test_a_whole_results_folder_is_right(whole, capsys):
    checked, found = verify(whole)
    assert found == []
    kinds = {read_any(path)[1]["kind"] for path in checked}
    # A trained judge and what made a tuned model are records like others, an adapter is neither table nor record, and
    # hashes are kept where a folder is not new. Times are of a workflow.
    assert FORMATS.keys() - kinds <= {"judge", "hashes", "replies", "tuning", "adapter", "times"}
    assert main(["verify", str(whole)]) == 0
    # What says when a model's files were hashed may be there since.
    assert capsys.readouterr().out == f"{len(verify(whole)[0])} files are right.\n"


def test_so_is_each_part_of_it(whole):
    for path in [*whole.iterdir(), *whole.rglob("*.parquet")]:
        assert verify(path)[1] == [], path


def test_files_by_hand_are_checked_wherever_they_lie(whole, tmp_path):
    for path in (
        "masks/m/spin.parquet",
        "answers/m/spin/privacy.parquet",
        "scores/m/origin/privacy-safe-n4-seed0/layers-001-001.parquet",
    ):
        shutil.copy(whole / path, tmp_path / path.replace("/", "-"))
    checked, found = verify(tmp_path)
    assert len(checked) == 3
    assert found == []
    assert verify(*checked[:2], tmp_path / "none")[1] == [f"{tmp_path}/none: no such file or folder. Check the path."]


def test_the_command_tells_each_fault_in_a_line_and_ends_with_status_1(results, capsys):
    (results / "masks/m/spin.parquet").write_bytes(b"PAR1")
    (results / "samples/general-safe-n5-seed0.parquet").unlink()
    assert main(["verify", str(results)]) == 1
    told = capsys.readouterr()
    assert told.out.startswith(f"{results}/masks/m/spin.parquet: ")
    assert told.out.count("\n") == 1
    assert told.err.startswith("uncouple verify: error: 1 faults in ")


TABLES = ("samples/privacy-safe-n4-seed0.parquet", "answers/m/spin/privacy.parquet", "masks/m/union.parquet")
JSON = ("models/m/uncouple.json", "checkpoints/m/union/uncouple/config.json")


@pytest.mark.parametrize("name", [*TABLES, *JSON])
def test_a_truncated_file(results, name):
    content = (results / name).read_bytes()
    (results / name).write_bytes(content[: len(content) // 2])
    (fault,) = [fault for fault in faults(results) if fault.startswith(name)]
    assert "elete it and run the step that makes it again." in fault


@pytest.mark.parametrize("name", [*TABLES, *JSON])
def test_a_flipped_bit(results, name):
    content = bytearray((results / name).read_bytes())
    content[len(content) // 3] ^= 4
    (results / name).write_bytes(content)
    (fault,) = [fault for fault in faults(results) if fault.startswith(name)]
    assert "its bytes are not those that were written" in fault


def test_a_flipped_bit_of_a_models_weights(results):
    path = results / "checkpoints/m/union/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    (fault,) = faults(results)
    assert fault.startswith("checkpoints/m/union/model.safetensors: not the file that uncouple.json records")


SWAPS = {
    "answers": ("answers/m/origin/privacy.parquet", "answers/m/spin/privacy.parquet"),
    "verdicts": ("verdicts/m/origin/privacy.phrases.parquet", "verdicts/m/spin/privacy.phrases.parquet"),
    "masks": ("masks/m/spin.parquet", "masks/m/union.parquet"),
    "samples": ("samples/privacy-safe-n4-seed0.parquet", "samples/fairness-safe-n3-seed0.parquet"),
    "samples to train a judge on and to test it on": (
        "samples/fairness-safe-all.parquet",
        "samples/fairness-test0.parquet",
    ),
    "samples and replies": ("samples/fairness-safe-all.parquet", "samples/fairness-refusals-all.parquet"),
    "samples to score with and ordinary ones": (
        "samples/general-safe-n5-seed0.parquet",
        "samples/general-ordinary.parquet",
    ),
    "shards": [f"scores/m/origin/privacy-safe-n4-seed0/layers-00{i}-00{i}.parquet" for i in (0, 1)],
    "shards of two sets": [
        f"scores/m/origin/{name}/layers-000-000.parquet" for name in ("privacy-safe-n4-seed0", "general-safe-n5-seed0")
    ],
}


@pytest.mark.parametrize("what", SWAPS)
def test_two_of_a_kind_that_changed_places(results, what):
    one, other = (results / name for name in SWAPS[what])
    one.rename(results / "aside")
    other.rename(one)
    (results / "aside").rename(other)
    told = faults(results)
    for name, belongs in (SWAPS[what], SWAPS[what][::-1]):
        assert [f for f in told if f.startswith(f"{name}: by its record it belongs at ") and belongs in f], told


def test_a_file_of_another_kind(results):
    shutil.copy(results / "answers/m/spin/privacy.parquet", results / "masks/m/spin.parquet")
    (fault,) = faults(results)
    assert fault.startswith("masks/m/spin.parquet: a file of kind `answers`, and what lies here is of kind mask.")


def test_a_file_of_another_version(results):
    rewrite(results / "masks/m/spin.parquet", version=0)
    (fault,) = faults(results)
    assert fault.startswith("masks/m/spin.parquet: mask of format version 0, but this code reads version 2.")


@pytest.mark.parametrize("name", ["samples/stranger.parquet", "masks/m/stranger.json"])
def test_a_strangers_file(results, name):
    if name.endswith("json"):
        (results / name).write_text("{}")
    else:
        pyarrow.parquet.write_table(pa.table({"a": [1]}), results / name)
    (fault,) = faults(results)
    assert fault.startswith(f"{name}: this is no file that Uncouple wrote")


def test_a_file_that_was_added_to_a_model(results):
    (results / "models/m/special_tokens_map.json").write_text("{}")
    (fault,) = faults(results)
    assert fault.startswith("models/m/special_tokens_map.json: uncouple.json does not list this file")


def swap_rows(rows):
    return [rows[1], rows[0], *rows[2:]]


def set_first(**values):
    return lambda rows: [rows[0] | values, *rows[1:]]


SHARD, MASK = "scores/m/origin/privacy-safe-n4-seed0/layers-000-000.parquet", "masks/m/spin.parquet"
SAMPLES, ANSWERED = "samples/privacy-safe-n4-seed0.parquet", "answers/m/spin/privacy.parquet"
JUDGED, METRICS = "verdicts/m/spin/privacy.phrases.parquet", "metrics/m/awareness.parquet"
DAMAGE = {
    "scores out of order": (SHARD, swap_rows, "row 1, .*: out of order (by score descending, then index ascending)"),
    "a tie out of order": (
        SHARD,
        lambda rows: [rows[0] | {"index": 7}, rows[0] | {"index": 5}, *rows[2:]],
        "row 1, .*: out of order (by score descending, then index ascending)",
    ),
    "a score that is not finite": (SHARD, set_first(score=np.inf), "row 0, .*: the score is not finite, or negative"),
    "a negative score": (SHARD, lambda r: [*r[:-1], r[-1] | {"score": -1.0}], "the score is not finite, or negative"),
    "an index outside": (SHARD, set_first(index=10**9), "row 0, .*: the index is not within its 6,144 weights"),
    "too many rows": (SHARD, lambda rows: [rows[0], *rows], "308 rows, and a share of 0.05 of its weights is 307"),
    "a module of another": (SHARD, lambda r: [*r, r[0] | {"module": "x"}], "x is not among the record's matrices"),
    "a module in two parts": (SHARD, lambda rows: [*rows[1:], rows[0]], "or its rows do not stand together"),
    "weights out of order": (MASK, swap_rows, "row 1, .*: out of order (by index ascending)"),
    "a weight twice": (MASK, lambda rows: [rows[0], *rows], "row 1, .*: out of order (by index ascending)"),
    "no weight": (MASK, lambda rows: [], "no weight is in it"),
    "a value that is not finite": (MASK, set_first(value=np.nan), "row 0, .*: the value is not finite"),
    "an id twice": (SAMPLES, lambda rows: [*rows, rows[0]], "row 4 has the same id as row 0"),
    "no id": (SAMPLES, set_first(id=""), "row 0: id is empty"),
    "another label": (SAMPLES, set_first(label="unsure"), "row 0: label is none of safe, unsafe"),
    "another dimension": (SAMPLES, set_first(dimension="x"), "row 0: dimension is not that of the record, 'privacy'"),
    "an answer's length": (ANSWERED, set_first(tokens=-1), "row 0: tokens is not within 0 and inf"),
    "a verdict": (JUDGED, set_first(verdict="maybe"), "row 0: verdict is none of safe, unsafe, refusal, answer, none"),
    "a probability": (JUDGED, set_first(p_unsafe=1.5), "row 0: p_unsafe is not within 0 and 1 (it is 1.5)"),
    "a verdict on nothing": (JUDGED, set_first(empty=True), "on an answer that is marked empty"),
    "an interval": (METRICS, set_first(low=0.9, value=0.5, high=1.0), "low <= value <= high does not hold"),
    "a count": (METRICS, set_first(n=9, of=3), "n <= of does not hold (9, 3)"),
    "a row of metrics twice": (METRICS, lambda rows: [*rows, rows[0]], "has the same model, variant, dimension"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_row_that_is_not_as_it_should_be(results, what):
    """Under a seal that is right: as a fault of the code would write it, not the disk."""
    name, change, told = DAMAGE[what]
    rewrite(results / name, change=change)
    found = [fault for fault in faults(results) if fault.startswith(f"{name}: ")]
    head, _, tail = told.partition(".*")
    assert [fault for fault in found if head in fault and tail in fault and "Delete it and run" in fault], found


@pytest.mark.parametrize("name", [SHARD, MASK, SAMPLES, ANSWERED, JUDGED, METRICS])
def test_a_column_that_is_missing(results, name):
    table, record = read_any(results / name)
    column = table.column_names[1]
    files._write_sealed_table(table.drop_columns([column]), results / name, record)
    assert [f for f in faults(results) if f.startswith(f"{name}: ") and f"there is no column {column}" in f]


def test_a_record_that_makes_no_sense(results):
    rewrite(results / SHARD, matrices={"model.layers.0.mlp.up_proj": {"shape": []}})
    assert [f for f in faults(results) if f.startswith(f"{SHARD}: ") and "not an object with a shape for each" in f]


def test_verdicts_on_other_answers(results):
    """The answers were made anew, and not judged again."""
    write_answers(
        results / ANSWERED,
        results / "models/m",
        results / "samples/questions/privacy.parquet",
        "spin",
        [f"other {i}." for i in range(len(TEXTS))],
    )
    assert faults(results) == []
    rewrite(results / ANSWERED, max_new_tokens=9)
    (fault,) = faults(results)
    assert fault.startswith(f"{JUDGED}: does not belong to {ANSWERED}: the answers judged differ.")
    rewrite(results / ANSWERED, change=lambda rows: rows[:-1], max_new_tokens=8)
    assert [fault.split(": ")[0] for fault in faults(results)] == [JUDGED]


@pytest.mark.parametrize(
    ("name", "record", "other", "what"),
    [
        (ANSWERED, {"questions": "x"}, "samples/questions/privacy.parquet", "the questions"),
        (
            MASK,
            {"model": {"name": "m", "fingerprint": "x"}},
            "models/m/uncouple.json",
            "the model that it was made from",
        ),
        (SAMPLES, {"fingerprint": "x"}, None, "the samples scored"),
    ],
)
def test_what_was_made_of_another(results, name, record, other, what):
    rewrite(results / name, **record)
    found = [fault for fault in faults(results) if f"{what} differ." in fault]
    if other:
        assert [fault for fault in found if fault.startswith(f"{name}: does not belong to {other}: ")], found
    else:
        assert [fault for fault in found if fault.startswith(f"{SHARD}: does not belong to {name}: ")], found


def test_a_store_may_keep_what_other_code_made(results):
    """Two entries of the same layers, and none of the others."""
    store = Store(results / "store")
    for number in (1, 2):
        store.put(SCORE_SHARD, {"code": number}, results / SHARD)
    assert not list(faults(results))
    (entry, _) = (results / "store").rglob("*.parquet")
    entry.write_bytes(entry.read_bytes()[:-9])
    assert str(entry.relative_to(results)) in str(list(faults(results)))


def test_a_shard_that_is_lost_or_there_twice(results):
    other = results / SHARD.replace("layers-000-000", "layers-001-001")
    kept = other.read_bytes()
    other.unlink()
    (fault,) = faults(results)
    assert fault == f"{SHARD}: layers 1 to 1 are in no shard of this set. Score them."
    other.write_bytes(kept)
    rewrite(results / SHARD, target=results / SHARD.replace("layers-000-000", "layers-000-001"), layers=[0, 1])
    assert [fault for fault in faults(results) if "are in another shard of this set too. Delete one." in fault]
