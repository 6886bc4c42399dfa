"""The one table of metrics, and what may stand in it together."""

import pytest
from evaluation.verdicts import MASK, RECORD, UNLIKE

from uncouple.errors import UncoupleError
from uncouple.evaluation import ability, divergence, hsic, perplexity
from uncouple.evaluation.awareness import measure_awareness
from uncouple.evaluation.collect import collect_metrics, write_metrics
from uncouple.records.files import read_table
from uncouple.records.formats import MACHINE_KEYS, METRICS

MEASURED = {
    "perplexity": {"text": {"source": "a", "sha256": "b"}, "window": 32, "windows": 4},
    "divergence": {"origin": "a", "samples": {"fingerprint": "b"}, "prompt": "chat"},
    "ability": {"tasks": {"boolq": {"file": "a", "fingerprint": "b"}}, "limit": 10, "harness": "0.4.9"},
    "hsic": {"samples": [{"fingerprint": "a"}, {"fingerprint": "b"}], "prompt": "chat", "permutations": 9, "seed": 0},
}
ALIKE = {part.__name__.rpartition(".")[2]: part.ALIKE for part in (perplexity, divergence, ability, hsic)}


def write_part(path, measured, **record):
    """A metrics table of one value of a variant, with a record of how it was measured."""
    known = {key: RECORD[key] for key in ("model", "mask", "fingerprints", *MACHINE_KEYS)} | MEASURED[measured]
    record = known | {"variant": "origin", "measured": measured, "alike": ALIKE[measured]} | record
    row = {"model": "base", "variant": record["variant"], "dimension": "general", "metric": path.stem, "value": 1.0}
    write_metrics([row], path, **record)
    return path


def test_a_measurement_that_does_not_say_how_it_was_made_is_refused(tmp_path):
    path = write_part(tmp_path / "one.parquet", "perplexity", alike=["text", "depth"])
    with pytest.raises(UncoupleError, match=r"one\.parquet: its record does not say depth; another version"):
        collect_metrics([path], tmp_path / "all.parquet")


# A device is told in half precision alone, as of verdicts.
UNLIKE_PARTS = [(measured, key) for measured, keys in ALIKE.items() for key in keys if key != "device"]


@pytest.mark.parametrize(("measured", "key"), UNLIKE_PARTS)
def test_parts_that_were_measured_otherwise_are_refused_by_name(tmp_path, measured, key):
    other = {"text": {"source": "a", "sha256": "c"}, "tasks": {"boolq": {"file": "a", "fingerprint": "c"}}}
    change = UNLIKE[key] if key in UNLIKE and key != "prompt" else {key: other.get(key, "other")}
    name = {"tasks": "task boolq", "limit": "limit of boolq"}.get(key, key)
    one = write_part(tmp_path / "one.parquet", measured)
    two = write_part(tmp_path / "two.parquet", measured, **{"variant": "spin"} | MASK | change)
    with pytest.raises(
        UncoupleError, match=rf"two\.parquet and .*one\.parquet cannot be compared: their {name} differ"
    ):
        collect_metrics([one, two], tmp_path / "all.parquet")


@pytest.mark.parametrize("measured", MEASURED)
def test_parts_that_were_measured_alike_are_collected_wherever_their_files_lay(tmp_path, measured):
    one = write_part(tmp_path / "one.parquet", measured)
    moved = {
        "text": {"source": "elsewhere", "sha256": "b"},
        "tasks": {"boolq": {"file": "elsewhere", "fingerprint": "b"}},
    }
    moved = {key: value for key, value in moved.items() if key in MEASURED[measured]}
    two = write_part(tmp_path / "two.parquet", measured, **{"variant": "spin"} | MASK | moved)
    three = write_part(
        tmp_path / "three.parquet", measured, **{"model": "other", "variant": "spin"} | UNLIKE["tokenizer"]
    )
    collect_metrics([one, two, three], tmp_path / "all.parquet")


def test_tasks_may_be_measured_one_by_one(tmp_path):
    one = write_part(tmp_path / "one.parquet", "ability")
    two = write_part(tmp_path / "two.parquet", "ability", tasks={"race": {"fingerprint": "c"}}, limit=0)
    collect_metrics([one, two], tmp_path / "all.parquet")


def test_tables_are_collected_and_a_row_comes_once(write_verdicts, tmp_path):
    for name in ("origin", "spin"):
        measure_awareness([write_verdicts("v", ["safe"], variant=name)], tmp_path / f"{name}.parquet")
    collect_metrics([tmp_path / "origin.parquet", tmp_path / "spin.parquet"], tmp_path / "all.parquet")
    table, _ = read_table(tmp_path / "all.parquet", METRICS)
    assert table.column("variant").to_pylist() == ["origin"] * 6 + ["spin"] * 6
    with pytest.raises(UncoupleError, match=r"spin\.parquet: base, spin, privacy, awareness.* is in .*all\.parquet"):
        collect_metrics([tmp_path / "all.parquet", tmp_path / "spin.parquet"], tmp_path / "twice.parquet")
