"""Files and folders: whole or not there, also on disks that cannot be written."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, skip_without_small_disks

from uncouple.errors import UncoupleError
from uncouple.records.files import FOLDER_MARKER, atomic_folder, atomic_path, check_apart, read_json, write_json


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


def test_empty_folders_of_it_which_a_workflow_makes_are_no_loss(tmp_path):
    (tmp_path / "made/own/deeper").mkdir(parents=True)
    with atomic_folder(tmp_path / "made") as folder:
        (folder / "file").touch()
    assert [path.name for path in (tmp_path / "made").rglob("*")] == ["file"]
    (tmp_path / "other/own").mkdir(parents=True)
    (tmp_path / "other/own/file").touch()
    with pytest.raises(UncoupleError, match="not to be lost"), atomic_folder(tmp_path / "other", replace=True):
        pass


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
    skip_without_small_disks(folder)
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


def test_a_folder_that_may_not_be_written(tmp_path):
    with pytest.raises(UncoupleError, match="file.txt: no permission"), atomic_path(tmp_path / "file.txt"):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_another_fault_of_the_system_is_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(OSError, match="input/output") as caught, atomic_path(tmp_path / "file.txt"):
        raise OSError(errno.EIO, "input/output")
    assert not isinstance(caught.value, UncoupleError)
