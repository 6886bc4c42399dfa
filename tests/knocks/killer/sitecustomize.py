"""Ends a verb of Uncouple, or the Snakemake that runs it, at a named point.

Python imports this first where its folder is on PYTHONPATH. UNCOUPLE_KNOCKS names a JSON file of the points, see
`Point` in `test_kill_points.py`. Each is reached once, and leaves a file of its name.
"""

import importlib
import json
import os
import signal
import sys
from pathlib import Path


def snakemake():
    """The number of the Snakemake that this process descends from, the outermost."""
    number, found = os.getppid(), None
    while number > 1:
        if b"snakemake" in Path(f"/proc/{number}/cmdline").read_bytes():
            found = number
        number = int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def end(point, paths):
    Path(point["reached"]).touch()
    if point["when"] == "half":
        (path,) = (path for path in paths if ".partial-" in path)
        os.truncate(path, os.path.getsize(path) // 2)
    os.kill(snakemake() if point["driver"] else os.getpid(), getattr(signal, point["signal"]))


def patch(point):
    name, _, attribute = point["at"].partition(":")
    owner = importlib.import_module(name)
    *inner, last = attribute.split(".")
    for part in inner:
        owner = getattr(owner, part)
    original, count = getattr(owner, last), 0

    def call(*arguments, **options):
        nonlocal count
        paths = [str(each) for each in arguments if isinstance(each, str | os.PathLike)]
        count += not point["path"] or any(point["path"] in path for path in paths)
        is_now = count == point["n"] and not os.path.exists(point["reached"])
        if is_now and point["when"] == "before":
            end(point, paths)
        result = original(*arguments, **options)
        if is_now and point["when"] != "before":
            end(point, paths)
        return result

    setattr(owner, last, call)


if "UNCOUPLE_KNOCKS" in os.environ and sys.orig_argv[1:3] == ["-m", "uncouple"]:
    for each in json.loads(Path(os.environ["UNCOUPLE_KNOCKS"]).read_text()):
        is_ours = each["verb"] == sys.orig_argv[3] and each["job"] in " ".join(sys.orig_argv)
        if is_ours and not os.path.exists(each["reached"]):
            patch(each)
