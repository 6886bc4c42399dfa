"""Files: whole or not there, and clear words where one is broken."""

import dataclasses
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT

from uncouple.errors import UncoupleError
from uncouple.records import files
from uncouple.records.checks import within
from uncouple.records.files import (
    FOLDER_MARKER,
    atomic_folder,
    atomic_path,
    check_apart,
    digest,
    file_sha256,
    read_any,
    read_json,
    read_record,
    read_table,
    write_json,
    write_record,
    write_table,
)
from uncouple.records.fingerprint import fingerprint
from uncouple.records.formats import FORMATS, Format

METADATA = {"kind": "mask", "version": 1, "code": "0" * 16, "über": ["a", {"b": None}], "ratio": 1e-5}
# A format of each test's own columns, under the names of two that there are.
MASK = Format("mask", version=1, columns={"index": "int64"})
SAMPLES = Format("samples", version=1, columns={"index": "int64"})


@pytest.fixture
def table_file(tmp_path):
    """A mask file of a thousand rows, alone in its folder."""
    path = tmp_path / "tables/mask.parquet"
    write_table(pa.table({"index": list(range(1000))}), path, MASK, METADATA)
    return path


def names(folder):
    return sorted(os.listdir(folder))


def fill(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def fill_folder(path, **files):
    """Make a folder as a step does that may make it again."""
    with atomic_folder(path, replace=True) as folder:
        fill(folder, **files)


def write_and_fail(path, fault):
    with atomic_path(path) as partial:
        partial.write_text("half")
        raise fault


# Whole or not there


def test_a_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "new/folder/file.txt"
    with atomic_path(target) as partial:
        partial.write_text("whole")
        assert not target.exists()
        assert partial.parent == target.parent
    assert target.read_text() == "whole"
    assert names(target.parent) == ["file.txt"]


def test_a_file_is_replaced(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with atomic_path(target) as partial:
        partial.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    target = tmp_path / "folder"
    fill_folder(target, kept="old", gone="old")
    with atomic_folder(target, replace=True) as partial:
        fill(partial, kept="new", added="new")
        assert names(target) == [FOLDER_MARKER, "gone", "kept"]
    assert names(target) == [FOLDER_MARKER, "added", "kept"]
    assert (target / "kept").read_text() == "new"
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_fault_leaves_the_old_file_and_no_partial_one(tmp_path, fault):
    (tmp_path / "file.txt").write_text("old")
    with pytest.raises(fault):
        write_and_fail(tmp_path / "file.txt", fault)
    assert (tmp_path / "file.txt").read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_fault_leaves_the_old_folder_and_no_partial_one(tmp_path):
    fill_folder(tmp_path / "folder", a="old")

    def fill_and_fail():
        with atomic_folder(tmp_path / "folder", replace=True) as partial:
            fill(partial / "deep", b="half")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fill_and_fail()
    assert (tmp_path / "folder/a").read_text() == "old"
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_that_a_step_did_not_make_is_never_lost(tmp_path, replace):
    fill(tmp_path / "thesis", chapter="years of work")
    with pytest.raises(UncoupleError, match=r"thesis: this folder has files in it.*Name another"):
        atomic_folder(tmp_path / "thesis", replace=replace).__enter__()
    with pytest.raises(UncoupleError, match=r"thesis: this is a folder, and a file is to be written"):
        atomic_path(tmp_path / "thesis").__enter__()
    assert names(tmp_path / "thesis") == ["chapter"]


def test_a_folder_is_not_made_over_a_file_and_not_twice_unasked(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(UncoupleError, match="file: this is a file, and a folder"):
        atomic_folder(tmp_path / "file", replace=True).__enter__()
    fill_folder(tmp_path / "made", a="old")
    with pytest.raises(UncoupleError, match="this folder has files in it"):
        atomic_folder(tmp_path / "made").__enter__()


@pytest.mark.parametrize("output", ["base", "base/inside", ".", "link"])
def test_nothing_is_written_where_it_is_made_from(tmp_path, output):
    fill(tmp_path / "base", a="weights")
    (tmp_path / "link").symlink_to(tmp_path / "base")
    with pytest.raises(UncoupleError, match="which it is made from. Name another folder"):
        check_apart(tmp_path / "base", tmp_path / output)
    check_apart(tmp_path / "base", tmp_path / "base-suppressed")


def test_a_fault_before_anything_is_written_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="broken"), atomic_path(tmp_path / "file.txt"):
        raise ValueError("broken")
    assert names(tmp_path) == []


def test_a_folder_comes_back_where_the_new_one_cannot_take_its_name(tmp_path, monkeypatch):
    fill_folder(tmp_path / "folder", a="old")
    rename = os.rename

    def refuse_the_new(old, new):
        if ".partial-" in str(old):
            raise OSError(errno.EIO, "input/output")
        rename(old, new)

    monkeypatch.setattr(os, "rename", refuse_the_new)
    with pytest.raises(OSError, match="input/output"):
        fill_folder(tmp_path / "folder", a="new")
    assert names(tmp_path) == ["folder"]
    assert (tmp_path / "folder/a").read_text() == "old"


def run_to_death(script, target):
    """Run a script that ends itself as `kill -9` would."""
    head = "import os, signal, sys\nfrom pathlib import Path\n"
    head += "from uncouple.records.files import atomic_folder, atomic_path\n"
    done = subprocess.run([sys.executable, "-c", head + script, target], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL


def test_a_killed_run_leaves_the_old_file_and_the_next_clears_up(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    script = "with atomic_path(sys.argv[1]) as partial:\n    partial.write_text('half')\n    os.kill(os.getpid(), 9)\n"
    run_to_death(script, target)
    assert target.read_text() == "old"
    with atomic_path(target) as partial:
        partial.write_text("new")
    assert target.read_text() == "new"
    assert names(tmp_path) == ["file.txt"]


def test_a_run_killed_while_it_replaces_a_folder_leaves_no_litter_to_the_next(tmp_path):
    target = tmp_path / "folder"
    fill_folder(target, a="old")
    script = (
        "rename = os.rename\n"
        "os.rename = lambda *paths: (rename(*paths), os.kill(os.getpid(), 9))\n"
        "with atomic_folder(sys.argv[1], replace=True):\n    pass\n"
    )
    run_to_death(script, target)
    fill_folder(target, a="new")
    assert (target / "a").read_text() == "new"
    assert names(tmp_path) == ["folder"]


def test_what_a_killed_run_left_does_not_stop_one_with_the_same_process_number(tmp_path):
    """In a container process numbers are small and come again."""
    with atomic_folder(tmp_path / "folder", replace=True) as partial:
        fill(partial, a="old")
    fill(partial, a="half", stale="half")
    with atomic_folder(tmp_path / "folder", replace=True) as again:
        assert again == partial
        fill(again, a="new")
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == [FOLDER_MARKER, "a"]


@pytest.fixture
def events(monkeypatch):
    """What is written to the disk and renamed, in order, by name."""
    found, fsync, replace, rename = [], os.fsync, os.replace, os.rename

    def record_fsync(number):
        found.append(("sync", os.path.basename(os.readlink(f"/proc/self/fd/{number}"))))
        fsync(number)

    def record(act):
        def call(old, new):
            found.append(("rename", os.path.basename(new)))
            act(old, new)

        return call

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record(replace))
    monkeypatch.setattr(os, "rename", record(rename))
    return found


def kinds(events):
    """Events with what stands beside a name called by the name."""
    return [(act, name.removeprefix(".").partition(".partial-")[0].partition(".old-")[0]) for act, name in events]


def test_a_file_is_on_the_disk_before_it_takes_its_name_and_the_name_after(tmp_path, events):
    with atomic_path(tmp_path / "file.txt") as partial:
        partial.write_text("whole")
    assert kinds(events) == [("sync", "file.txt"), ("rename", "file.txt"), ("sync", tmp_path.name)]
    assert ".partial-" in events[0][1]


@pytest.mark.parametrize("again", [False, True])
def test_each_file_of_a_folder_is_on_the_disk_once_before_the_folder_takes_its_name(tmp_path, events, again):
    (tmp_path / "elsewhere").write_text("the user's")
    if again:
        fill_folder(tmp_path / "folder", a="old")
        del events[:]
    with atomic_folder(tmp_path / "folder", replace=True) as partial:
        fill(partial / "deep", a="1", b="2")
        (partial / "link").symlink_to(tmp_path / "elsewhere")
    first = kinds(events).index(("rename", "folder"))
    on_disk = [("sync", name) for name in ("a", "b", "deep", "folder", FOLDER_MARKER[1:])]
    assert sorted(kinds(events)[:first]) == on_disk
    assert kinds(events)[first:] == [("rename", "folder")] * (1 + again) + [("sync", tmp_path.name)]


def test_a_file_system_that_refuses_to_sync_folders_is_put_up_with(tmp_path, monkeypatch):
    fsync = os.fsync

    def refuse(number):
        if os.path.isdir(f"/proc/self/fd/{number}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(number)

    monkeypatch.setattr(os, "fsync", refuse)
    write_json(tmp_path / "x.json", {})
    fill_folder(tmp_path / "folder", a="new")
    assert names(tmp_path) == ["folder", "x.json"]


def test_content_that_does_not_reach_the_disk_takes_no_name(tmp_path, monkeypatch):
    """A file system may say only now that it is full."""
    write_json(tmp_path / "x.json", {"old": 1})

    def refuse(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(UncoupleError, match=r"x\.json: the disk is full"):
        write_json(tmp_path / "x.json", {"new": 1})
    assert read_json(tmp_path / "x.json") == {"old": 1}
    assert names(tmp_path) == ["x.json"]


# Disks that cannot be written


def in_small_disk(folder, script):
    """Run a script with a disk of 256 KiB at `folder`, which only that script sees; give what it prints as JSON."""
    mount = 'mount -t tmpfs -o size=256k tmpfs "$1" && exec "$2" -c "$3" "$1"'
    can = subprocess.run(["unshare", "-rm", "sh", "-c", 'mount -t tmpfs tmpfs "$1"', "sh", folder], capture_output=True)
    if can.returncode:
        pytest.skip("a small disk cannot be mounted here")
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, "sh", folder, sys.executable, script],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


HEAD = """
import json, os, subprocess, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from uncouple.errors import UncoupleError
from uncouple.records.files import atomic_folder, atomic_path, read_table, write_json, write_table
from uncouple.records.formats import Format
disk = Path(sys.argv[1])
"""
FULL = (
    HEAD
    + """
def attempt(step):
    try:
        step()
    except UncoupleError as error:
        return str(error)
    return "no error"
def write_folder():
    with atomic_folder(disk / "folder", replace=True) as partial:
        (partial / "a").write_text("new")
        (partial / "b").write_bytes(bytes(400_000))
path, form = disk / "t.parquet", Format("mask", version=1, columns={"a": "int64"})
write_table(pa.table({"a": [1]}), path, form, {})
with atomic_folder(disk / "folder", replace=True) as partial:
    (partial / "a").write_text("old")
large = pa.table({"a": np.random.default_rng(0).integers(0, 2**62, 200_000)})
said = [attempt(lambda: write_table(large, path, form, {})), attempt(write_folder)]
said.append(attempt(lambda: write_table(large, disk / "new.parquet", form, {})))
old = [read_table(path, form)[0].to_pylist(), (disk / "folder/a").read_text()]
print(json.dumps([said, sorted(os.listdir(disk)), *old]))
"""
)
READ_ONLY = (
    HEAD
    + """
subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
try:
    write_json(disk / "x.json", {})
except UncoupleError as error:
    print(json.dumps(str(error)))
"""
)


def test_a_full_disk_leaves_the_old_files_and_no_partial_ones(tmp_path):
    said, left, rows, text = in_small_disk(tmp_path, FULL)
    assert all("the disk is full" in line and "free some space" in line for line in said)
    assert ["t.parquet" in said[0], "folder" in said[1], "new.parquet" in said[2]] == [True] * 3
    assert left == ["folder", "t.parquet"]
    assert (rows, text) == ([{"a": 1}], "old")


def test_a_read_only_disk_is_told_in_one_line(tmp_path):
    said = in_small_disk(tmp_path, READ_ONLY)
    assert "x.json" in said
    assert "\n" not in said


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_within_a_table(table_file, monkeypatch, number):
    before = table_file.read_bytes()

    def write_half(table, where, **options):
        where.write_bytes(before[:100])
        raise OSError(number, "no space")

    monkeypatch.setattr(pq, "write_table", write_half)
    with pytest.raises(UncoupleError, match=r"mask\.parquet: the disk is full.*free some space"):
        write_table(pa.table({"index": [1]}), table_file, MASK, METADATA)
    assert table_file.read_bytes() == before
    assert names(table_file.parent) == ["mask.parquet"]


def test_a_folder_that_may_not_be_written(tmp_path):
    with pytest.raises(UncoupleError, match="file.txt: no permission"), atomic_path(tmp_path / "file.txt"):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_another_fault_of_the_system_is_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(OSError, match="input/output") as caught, atomic_path(tmp_path / "file.txt"):
        raise OSError(errno.EIO, "input/output")
    assert not isinstance(caught.value, UncoupleError)


# Tables


def test_a_table_comes_back_with_its_metadata(tmp_path):
    form = Format("mask", version=1, columns={"name": "string?", "value": "float32?", "flag": "bool?"})
    rows = [{"name": "Zoë\n", "value": 0.5, "flag": True}, {"name": None, "value": None, "flag": None}]
    for number, table in enumerate((rows, pa.Table.from_pylist(rows, schema=form.schema({})))):
        write_table(table, tmp_path / f"{number}.parquet", form, METADATA)
        read, metadata = read_table(tmp_path / f"{number}.parquet", form)
        assert read.to_pylist() == rows
        assert read.schema.equals(form.schema({}))
        assert metadata == METADATA


TABLES = [known for known in FORMATS.values() if known.columns]


@pytest.mark.parametrize("known", TABLES, ids=lambda known: known.kind)
def test_every_kind_of_table_says_what_code_made_it(tmp_path, known):
    form = Format(known.kind, known.version, columns={"index": "int64"}, made_by=known.made_by)
    write_table([{"index": 1}], tmp_path / "t.parquet", form, {})
    assert read_table(tmp_path / "t.parquet", form)[1]["code"] == fingerprint(known.made_by)


def test_the_same_table_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_table(pa.table({"index": [1, 2]}), tmp_path / name, MASK, METADATA)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_folder_name_with_an_equals_sign_adds_no_column(tmp_path):
    write_table(pa.table({"index": [1]}), tmp_path / "n=3/t.parquet", MASK, METADATA)
    assert read_table(tmp_path / "n=3/t.parquet", MASK)[0].column_names == ["index"]


WRONG = {
    "a column less": ({"value": [1.0]}, r"there is no column index; a column value, which this kind"),
    "a column more": ({"index": [1], "value": [1.0]}, r"a column value, which this kind of file does not have"),
    "another type": ({"index": [1.0]}, r"the column index is of type double, and should be int64"),
    "a null": ({"index": pa.array([1, None], pa.int64())}, r"the column index has 1 rows without a value"),
    "a row": ({"index": [1, 2, -1]}, r"row 2: index is not within 0 and 9 \(it is -1\)"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_table_that_is_not_as_its_format_says_is_not_written(table_file, what):
    columns, told = WRONG[what]
    form, before = Format("mask", version=1, columns={"index": "int64"}, checks=(within("index", 0, 9),)), [table_file]
    content = table_file.read_bytes()
    with pytest.raises(UncoupleError, match=rf"mask\.parquet: this mask is not as it should be: {told}.*a fault of Un"):
        write_table(pa.table(columns), table_file, form, METADATA)
    assert [*table_file.parent.iterdir()] == before
    assert table_file.read_bytes() == content


@pytest.mark.parametrize("what", [what for what in WRONG if what != "a row"])
def test_nor_read(tmp_path, what):
    """What another version of the code wrote under the same number."""
    columns, told = WRONG[what]
    files._write_sealed_table(pa.table(columns), tmp_path / "t.parquet", METADATA)
    with pytest.raises(
        UncoupleError, match=rf"t\.parquet: this mask is not as it should be: {told}.*Delete it and run"
    ):
        read_table(tmp_path / "t.parquet", MASK)


def test_a_record_that_says_too_little(tmp_path):
    form = Format("mask", version=1, keys=("ratio", "model.name", "model.size", "seed"), columns={"index": "int64"})
    record, told = {"model": {"name": "m"}, "ratio": 1}, r"its record does not say model\.size, seed"
    with pytest.raises(UncoupleError, match=told):
        write_table([{"index": 1}], tmp_path / "t.parquet", form, record)
    with pytest.raises(UncoupleError, match=told):
        write_record(tmp_path / "t.json", form, record)
    assert not list(tmp_path.iterdir())
    write_table([{"index": 1}], tmp_path / "t.parquet", MASK, record)
    write_record(tmp_path / "t.json", Format("mask", version=1), record)
    for read, name in ((read_table, "t.parquet"), (read_record, "t.json")):
        with pytest.raises(UncoupleError, match=rf"{name}: .*{told}\. Delete it"):
            read(tmp_path / name, form)


def test_a_file_of_any_kind_is_known_by_what_it_says(tmp_path):
    write_record(tmp_path / "x.json", FORMATS["hashes"], {"files": {}})
    table = [{"model": "m", "select": "coupled", "ratio": 0.1, "n": 1, "coupled": 1, "of": 2}]
    write_table(table, tmp_path / "t.parquet", FORMATS["coupling"], {"dimensions": []})
    assert read_any(tmp_path / "x.json") == (None, {"kind": "hashes", "version": 1, "files": {}})
    found, record = read_any(tmp_path / "t.parquet")
    assert (found.to_pylist(), record["kind"]) == (table, "coupling")
    for name, kind in (("x.json", "coupling"), ("x.json", "riddle"), ("t.parquet", "hashes")):
        path = tmp_path / f"other-{name}"
        form = Format(kind, version=1, columns={"index": "int64"} if "t." in name else None)
        write_table([{"index": 1}], path, form, {}) if "t." in name else write_record(path, form, {})
        with pytest.raises(UncoupleError, match=rf"other-{name}: of the kind `{kind}`, which this code does not know"):
            read_any(path)
    with pytest.raises(UncoupleError, match=r"none\.json: no such file"):
        read_any(tmp_path / "none.json")


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(UncoupleError, match=r"none\.parquet: no such file.*mask"):
        read_table(tmp_path / "none.parquet", MASK)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_table(table_file, share):
    whole = table_file.read_bytes()
    table_file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UncoupleError, match=r"mask\.parquet: not a readable.*Delete it and run"):
        read_table(table_file, MASK)


def test_a_table_that_is_not_parquet(table_file):
    table_file.write_text("prompt,response\na,b\n" * 50)
    with pytest.raises(UncoupleError, match=r"mask\.parquet: not a readable Parquet file.*Delete it and run"):
        read_table(table_file, MASK)


def test_a_table_with_spoilt_data(table_file):
    whole = bytearray(table_file.read_bytes())
    whole[4:400] = bytes(396)
    table_file.write_bytes(whole)
    with pytest.raises(UncoupleError, match=r"mask\.parquet: its bytes are not those that were written.*Delete it and"):
        read_table(table_file, MASK)


def test_a_table_of_another_kind(table_file):
    with pytest.raises(
        UncoupleError, match=r"mask\.parquet: a file of kind `samples` was expected, and this is one of kind `mask`"
    ):
        read_table(table_file, SAMPLES)


def test_a_table_that_is_not_ours(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "theirs.parquet")
    with pytest.raises(
        UncoupleError,
        match=r"theirs\.parquet: a file of kind `mask` was expected, and this is none that Uncouple wrote",
    ):
        read_table(tmp_path / "theirs.parquet", MASK)


def test_a_table_of_another_version(tmp_path):
    write_table([{"index": 1}], tmp_path / "t.parquet", MASK, METADATA | {"version": 2})
    with pytest.raises(UncoupleError, match=r"t\.parquet: mask of format version 2.*reads version 1.*Delete it"):
        read_table(tmp_path / "t.parquet", MASK)
    assert read_table(tmp_path / "t.parquet", dataclasses.replace(MASK, version=2))[1]["version"] == 2


# JSON and hashes


def test_json_comes_back(tmp_path):
    value = {"b": [1, None, "é"], "a": {"x": 1e-5}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value


def test_json_that_is_missing_or_broken(tmp_path):
    with pytest.raises(UncoupleError, match=r"none\.json: no such record"):
        read_json(tmp_path / "none.json", "record")
    for content in (b'{"a": ', b"\xff\xfe", b""):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(UncoupleError, match=r"x\.json: this record is not valid JSON"):
            read_json(tmp_path / "x.json", "record")


MODEL = Format("model", version=3, keys=("a",))
RECORD = {"kind": "model", "version": 3, "über": [1e-5, None], "a": "uncouple-sha256:"}


def test_a_record_comes_back_and_can_be_read_by_a_person(tmp_path):
    write_record(tmp_path / "x.json", MODEL, RECORD)
    assert read_record(tmp_path / "x.json", MODEL) == RECORD
    assert '"kind": "model",\n' in (tmp_path / "x.json").read_text()


def test_a_record_that_was_edited_is_refused(tmp_path):
    write_record(tmp_path / "x.json", MODEL, RECORD)
    text = (tmp_path / "x.json").read_text()
    (tmp_path / "x.json").write_text(text.replace("1e-05", "2e-05"))
    with pytest.raises(UncoupleError, match=r"x\.json: its bytes are not those that were written.*edited.*Delete it"):
        read_record(tmp_path / "x.json", MODEL)


def test_records_and_tables_are_not_taken_for_each_other(table_file, tmp_path):
    write_record(tmp_path / "x.json", MODEL, RECORD)
    with pytest.raises(UncoupleError, match=r"x\.json: not a readable Parquet file"):
        read_table(tmp_path / "x.json", MODEL)
    with pytest.raises(UncoupleError, match=r"mask\.parquet: this mask is not valid JSON"):
        read_record(table_file, MASK)
    with pytest.raises(UncoupleError, match="tables: this mask cannot be read"):
        read_table(table_file.parent, MASK)


def test_other_readers_can_verify_the_pages_of_a_table(table_file):
    """And read it, seal or not."""
    assert pq.read_table(table_file, page_checksum_verification=True).num_rows == 1000
    content = bytearray(table_file.read_bytes())
    start = pq.ParquetFile(table_file).metadata.row_group(0).column(0).total_compressed_size
    content[start // 2] ^= 1
    table_file.write_bytes(content)
    with pytest.raises(OSError, match="(?i)crc|checksum"):
        pq.read_table(table_file, page_checksum_verification=True)


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_the_hash_of_a_file(tmp_path, size):
    data = bytes(i % 251 for i in range(size))
    (tmp_path / "x").write_bytes(data)
    assert file_sha256(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_a_digest_keeps_its_parts_apart():
    prints = [digest(*parts) for parts in (("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("", "abc"), ())]
    assert len(set(prints)) == len(prints)
    assert all(len(text) == 16 and int(text, 16) >= 0 for text in prints)
    assert digest("é") == digest("é".encode())
