"""Runs verbs of Uncouple on a small disk that fills up in the middle of each. A script: small_disk.py DISK STAGES."""

import contextlib
import io
import json
import os
import sys
from pathlib import Path

from uncouple.commands import main
from uncouple.tuning import trainer

PAGE = 4096
# The marker of a folder that may be made again.
OURS = "by-uncouple"


def fill(disk, left):
    """Leave so many pages of a disk."""
    with contextlib.suppress(OSError), open(disk / "filler", "wb") as file:
        while True:
            file.write(bytes(PAGE))
            file.flush()
    os.truncate(disk / "filler", max(0, os.path.getsize(disk / "filler") // PAGE - left) * PAGE)


def content(disk):
    """What lies on the disk, by path, and which file it is, for a new one may have the same bytes.

    What a tuning goes on from is there to stay until it ends, and whole by its own tests.
    """
    found = {}
    for path in disk.rglob("*"):
        if path.name != "filler" and ".training-" not in str(path) and not (path.is_dir() and not path.is_symlink()):
            found[str(path)] = path.lstat().st_ino, str(path.readlink()) if path.is_symlink() else path.read_bytes()
    return found


def run(words):
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
        status = main(words)
    return [status, told.getvalue()]


def attempt(disk, words):
    """What a verb says where there is room, where there is half of it, and where there is room again."""
    before = content(disk)
    found = [run(words)]
    kept = content(disk)
    # No more than half of the largest file that it writes.
    fill(disk, max(len(what) for path, (_, what) in kept.items() if path not in before) // PAGE // 2)
    found.append(run(words))
    same = content(disk) == kept
    (disk / "filler").unlink()
    return [
        *found,
        run(words),
        same,
        [str(path) for path in disk.rglob("*") if path.name.startswith(".") and OURS not in path.name],
    ]


if __name__ == "__main__":
    # Each step of a tuning is kept, as it is every few minutes of a long one.
    trainer.KEEP_EVERY = trainer.KEEP_TIMES = 0
    disk = Path(sys.argv[1])
    for name, words in json.loads(Path(sys.argv[2]).read_text()).items():
        try:
            print(json.dumps([name, attempt(disk, words)]), flush=True)
        except BaseException as error:
            print(json.dumps([name, f"{type(error).__name__}: {error}"]), flush=True)
            (disk / "filler").unlink(missing_ok=True)
