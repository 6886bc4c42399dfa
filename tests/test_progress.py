import datetime
import json
import os
import pty
import re
import subprocess
import sys
import termios

import pytest
from conftest import ROOT

from uncouple import commands, progress
from uncouple.progress import Progress


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(capsys):
    with Progress(30, "tokens", "score", every=0) as progress:
        progress.add(10)
        progress.add(20)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"score: 10 of 30 tokens \(33%\), \S+ tokens/s, \d+ s left, \d+ s so far", lines[0])
    assert lines[1].startswith("score: 30 of 30 tokens (100%)")


def test_a_log_is_not_flooded(capsys):
    with Progress(1000, "tokens", "score", every=60) as progress:
        for _ in range(1000):
            progress.add(1)
    assert len(capsys.readouterr().err.splitlines()) == 1


def seen_in_a_terminal(columns):
    """What five units of progress put on a terminal of that width."""
    script = "from uncouple.progress import Progress\nwith Progress(5, 'questions', 'ask') as p:\n    p.add(5)\n"
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, columns))
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, stderr=slave)
    os.close(slave)
    return os.read(master, 10_000).decode()


def test_a_terminal_gets_a_live_bar():
    shown = seen_in_a_terminal(100)
    assert "ask: 100%" in shown
    assert "questions/s" in shown


def test_a_terminal_without_a_width_gets_lines():
    assert "ask: 5 of 5 questions (100%)" in seen_in_a_terminal(0)


# For programs


@pytest.fixture
def json_log(tmp_path, monkeypatch):
    """A file that events are logged to, with an older line in it."""
    path = tmp_path / "progress.jsonl"
    path.write_text("{}\n")
    monkeypatch.setattr(progress, "_json_log", None)
    progress.log_to(str(path), verb="score", output="o.parquet")
    return path


def test_a_program_gets_the_same_as_json(json_log, capsys):
    with Progress(30, "tokens", "score: a \\ set", every=0) as counted:
        counted.add(0)
        counted.add(10)
        counted.add(20)
    assert len(capsys.readouterr().err.splitlines()) == 3
    older, *events = map(json.loads, json_log.read_text().splitlines())
    assert older == {}
    assert [event["done"] for event in events] == [0, 10, 30]
    known = {"verb": "score", "output": "o.parquet", "pid": os.getpid(), "total": 30, "unit": "tokens"}
    for event in events:
        assert known.items() <= event.items()
        assert event["label"] == "score: a \\ set"
        assert abs(datetime.datetime.fromisoformat(event["time"]) - datetime.datetime.now(datetime.UTC)).days == 0
    assert events[0]["left"] is None
    assert events[1]["left"] == pytest.approx(20 / events[1]["rate"])
    assert events[2]["left"] == 0


def test_a_program_is_told_beside_a_bar_too(json_log):
    class Bar:
        def update(self, count):
            pass

        def close(self):
            pass

    with Progress(5, "questions", "ask", every=60) as counted:
        counted.bar = Bar()
        counted.add(5)
    assert [json.loads(line).get("done") for line in json_log.read_text().splitlines()] == [None, 5]


def test_a_full_disk_ends_no_step(json_log, monkeypatch):
    def fail(path, line):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(progress, "_append", fail)
    with Progress(5, "questions", "ask", every=0) as counted:
        counted.add(5)


def test_the_environment_names_the_file_for_every_verb(tmp_path, monkeypatch, capsys):
    path = tmp_path / "progress.jsonl"

    def work(parsed):
        with Progress(2, "tokens", "restore") as counted:
            counted.add(2)

    monkeypatch.setattr(commands.command("restore"), "run", work)
    for value in (str(path), ""):
        monkeypatch.setenv("UNCOUPLE_JSON_LOG", value)
        assert commands.main(["restore", "folder", "--output", "made"]) == 0
    (event,) = map(json.loads, path.read_text().splitlines())
    assert (event["verb"], event["output"], event["done"]) == ("restore", "made", 2)
    monkeypatch.setenv("UNCOUPLE_JSON_LOG", str(tmp_path / "none/progress.jsonl"))
    assert commands.main(["restore", "folder", "--output", "made"]) == 1
    assert f"{tmp_path}/none/progress.jsonl: this JSON log" in capsys.readouterr().err
    assert commands.main(["restore", "folder", "--output", "made", "--json-log", str(tmp_path / "by-flag.jsonl")]) == 0
    assert json.loads((tmp_path / "by-flag.jsonl").read_text())["done"] == 2
