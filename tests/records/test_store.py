"""The store gives back what was put in, and nothing else, whatever happens to its files."""

import json
import os
import subprocess
import sys

import pyarrow as pa
import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from uncouple.commands import main
from uncouple.errors import UncoupleError
from uncouple.records import store as module
from uncouple.records.files import read_table, write_table
from uncouple.records.formats import ANSWERS, METRICS, REPLIES
from uncouple.records.store import Store, describe_store, list_entries, prune_store, verify_store

KEY = {"model": {"weights": "a"}, "options": [1, 2.5, None], "code": "c", "versions": {"torch": "2"}, "device": "cpu"}


def write(path, value=1, **record):
    rows = [
        {"model": "m", "variant": "v", "dimension": "d", "metric": m, "value": v} for m, v in (("a", value), ("b", 2))
    ]
    write_table(rows, path, METRICS, {"confidence": 0.95, "model": "m", "variant": "v"} | record)
    return path


@pytest.fixture
def kept(tmp_path):
    """A store with one entry: (store, the entry's file)."""
    store = Store(tmp_path / "store")
    store.put(METRICS, KEY, write(tmp_path / "table.parquet"))
    return store, next((tmp_path / "store").rglob("*.parquet"))


def test_what_is_put_is_given_back(kept, tmp_path):
    store, entry = kept
    table, record = store.get(METRICS, dict(reversed(KEY.items())))
    assert (table.column("value").to_pylist(), record["variant"]) == ([1, 2], "v")
    assert table == read_table(tmp_path / "table.parquet", METRICS)[0]
    assert "entry" not in record
    assert store.get(ANSWERS, KEY) is None
    assert Store(tmp_path / "other").get(METRICS, KEY) is None
    assert not (tmp_path / "other").exists()


def leaves(value, path=()):
    for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(inner, dict | list):
            yield from leaves(inner, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", list(leaves(KEY)))
def test_an_entry_of_another_code_version_device_or_option_is_not_taken(kept, path):
    other = inner = json.loads(json.dumps(KEY))
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = "another"
    assert kept[0].get(METRICS, other) is None
    assert kept[0].get(METRICS, KEY)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_broken_entry_is_not_used_but_removed_and_made_again(kept, tmp_path, data):
    store, entry = kept
    whole = (tmp_path / "table.parquet").read_bytes()
    if data.draw(st.booleans()):
        broken = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        place = data.draw(st.integers(0, len(whole) - 1))
        broken = whole[:place] + bytes([whole[place] ^ (1 << data.draw(st.integers(0, 7)))]) + whole[place + 1 :]
    entry.write_bytes(broken)
    assert store.get(METRICS, KEY) is None
    assert not entry.exists()
    store.put(METRICS, KEY, tmp_path / "table.parquet")
    assert store.get(METRICS, KEY)


def test_a_broken_entry_is_named_by_verify(kept, capsys):
    store, entry = kept
    assert verify_store(store.folder) == 1
    entry.write_bytes(entry.read_bytes()[:-9])
    with pytest.raises(UncoupleError, match=f"1 of 1 entries are broken: {entry}"):
        verify_store(store.folder)
    assert main(["store", "verify", "--store", str(store.folder)]) == 1
    assert "broken" in capsys.readouterr().err
    assert entry.exists()


def test_an_entry_may_be_deleted_at_any_time(kept, monkeypatch):
    """Also between the look and the reading."""
    store, entry = kept
    read = module.read_table
    monkeypatch.setattr(module, "read_table", lambda *arguments: (entry.unlink(), read(*arguments)))
    assert store.get(METRICS, KEY) is None


def test_what_cannot_be_read_for_now_or_is_of_an_earlier_version_is_left(kept, monkeypatch, capsys):
    store, entry = kept
    table, record = read_table(entry, METRICS)
    with monkeypatch.context() as patched:
        patched.setattr(module, "read_table", lambda *_: (_ for _ in ()).throw(UncoupleError("a stale handle.")))
        assert store.get(METRICS, KEY) is None
    assert store.get(METRICS, KEY) is not None
    write_table(table, entry, METRICS, {key: value for key, value in record.items() if key != module.ENTRY})
    assert store.get(METRICS, KEY) is None
    assert entry.exists()
    assert "earlier versions" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_used_and_not_written(kept, tmp_path, capsys):
    store, entry = kept
    for folder in (entry.parent, store.folder):
        folder.chmod(0o555)
    check_not_written(store, tmp_path, capsys)
    for folder in (store.folder, entry.parent):
        folder.chmod(0o755)


def test_a_store_that_is_not_written_is_used_and_it_is_said_once(kept, tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "utime", refuse)
    check_not_written(kept[0], tmp_path, capsys)


def check_not_written(store, tmp_path, capsys):
    for number in (1, 2):
        store.put(METRICS, KEY | {"n": number}, tmp_path / "table.parquet")
        replies = pa.table({"tokens": [[1]], "sure": [[True]]}, schema=REPLIES.schema({}))
        store.put_table(REPLIES, KEY | {"n": number}, replies, {})
    assert store.get(METRICS, KEY)
    said = capsys.readouterr().err
    assert said.count(f"{store.folder} is not written to") == 1
    assert len(list_entries(store.folder)) == 1


def test_no_store_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store(None)
    store.put(METRICS, KEY, write(tmp_path / "table.parquet"))
    assert store.get(METRICS, KEY) is None
    # Nor does any store what it has no whole key of.
    store = Store(tmp_path / "store")
    store.put(METRICS, None, tmp_path / "table.parquet")
    assert store.get(METRICS, None) is None
    assert [path.name for path in tmp_path.iterdir()] == ["table.parquet"]


def test_what_is_taken_has_this_experiments_names(kept, tmp_path):
    store, _ = kept
    names = {"model": "other", "variant": "mine", "mask": {"ratio": 0.1}}
    assert store.take(METRICS, KEY, tmp_path / "mine.parquet", names)
    table, record = read_table(tmp_path / "mine.parquet", METRICS)
    columns = table.select(["model", "variant", "value"]).to_pydict()
    assert columns == {"model": ["other"] * 2, "variant": ["mine"] * 2, "value": [1, 2]}
    assert names.items() <= record.items()
    # And what was kept has those that it had.
    assert store.get(METRICS, KEY)[1]["variant"] == "v"
    assert not store.take(METRICS, {}, tmp_path / "none.parquet", names)
    assert not (tmp_path / "none.parquet").exists()


PUT = """
import sys, time
from pathlib import Path
from uncouple.records.formats import METRICS
from uncouple.records.store import Store
folder, table, go = sys.argv[1:]
while not Path(go).exists(): time.sleep(0.001)
for number in range(60):
    Store(folder).put(METRICS, {"n": number % 3}, table)
    assert Store(folder).get(METRICS, {"n": number % 3})
"""


def test_two_processes_may_put_the_same_at_once(tmp_path):
    table = write(tmp_path / "table.parquet")
    command = [sys.executable, "-c", PUT, tmp_path / "store", table, tmp_path / "go"]
    both = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    (tmp_path / "go").touch()
    assert [(process.communicate()[1], process.returncode) for process in both] == [("", 0)] * 2
    assert verify_store(tmp_path / "store") == 3
    assert not [path for path in (tmp_path / "store").rglob("*") if "partial" in path.name]


def fill(folder, ages):
    """A store with an entry for each age in days; their paths, in the order given."""
    paths = []
    for number, age in enumerate(ages):
        Store(folder).put(METRICS, {"n": number}, write(folder.parent / "table.parquet", number))
        (new,) = {entry.path for entry in list_entries(folder)} - set(paths)
        os.utime(new, (0, new.stat().st_mtime - age * module.DAY))
        paths.append(new)
    return paths


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ages=st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True), data=st.data())
def test_prune_removes_the_old_and_then_what_was_not_used_for_longest(tmp_path_factory, ages, data):
    folder = tmp_path_factory.mktemp("prune") / "store"
    paths = fill(folder, ages)
    sizes = [path.stat().st_size for path in paths]
    days = data.draw(st.none() | st.floats(0.5, 9.5).filter(lambda days: days % 1))
    size = data.draw(st.none() | st.integers(0, sum(sizes)))
    left = sorted(range(len(ages)), key=lambda i: ages[i])
    left = [i for i in left if days is None or ages[i] < days]
    while size is not None and sum(sizes[i] for i in left) > size:
        left.pop()
    removed, freed = prune_store(folder, days, size)
    assert {entry.path for entry in list_entries(folder)} == {paths[i] for i in left}
    assert (removed, freed) == (len(ages) - len(left), sum(sizes) - sum(sizes[i] for i in left))


def test_what_is_used_counts_as_new(tmp_path):
    paths = fill(tmp_path / "store", [8, 9])
    assert Store(tmp_path / "store").get(METRICS, {"n": 1})
    assert prune_store(tmp_path / "store", days=5)[0] == 1
    assert (paths[0].exists(), paths[1].exists()) == (False, True)


def test_the_command_lists_and_prunes(kept, capsys):
    store, entry = kept
    assert main(["store", "list", "--store", str(store.folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert entry.stem in lines[0]
    assert lines[0].endswith("m, v")
    assert lines[1].startswith("1 entries")
    assert main(["store", "prune", "--store", str(store.folder), "--size", "1B"]) == 0
    assert describe_store(store.folder) == ["0 entries, 0.0 MB"]
    assert main(["store", "list", "--store", str(store.folder / "no")]) == 1
