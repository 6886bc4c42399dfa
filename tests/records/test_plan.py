"""What a run was planned with, and jobs that start after an edit."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from uncouple.records import plan
from uncouple.records.fingerprint import fingerprint

SAMPLES = "commands.samples:run"
MEASURE = "commands.measure:run_collect"


@pytest.fixture
def package(tmp_path):
    """A copy of the package, whose dates are those of the original."""
    shutil.copytree(ROOT / "uncouple", tmp_path / "uncouple", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "uncouple"


@pytest.fixture
def draw(package, monkeypatch, tmp_path):
    """A function that draws samples with that copy, as a job of a run that was planned with the package here."""
    monkeypatch.setenv(plan.VARIABLE, "")
    plan.tell_plan(
        code={f"{root} {root.split(':')[0]}:add_flags": planned(root) for root in (SAMPLES, MEASURE)}, stamp=""
    )
    (tmp_path / "raw.jsonl").write_text(json.dumps({"prompt": "p", "response": "r"}) + "\n")

    def run():
        command = [sys.executable, "-m", "uncouple", "samples", "--path", "raw.jsonl", "--dimension", "d"]
        command += ["--label", "safe", "--output", "made.parquet"]
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


def planned(root):
    return fingerprint(root, f"{root.split(':')[0]}:add_flags")


def test_jobs_are_told_what_was_planned(monkeypatch):
    monkeypatch.setenv(plan.VARIABLE, "")
    assert plan.told_plan() == {}
    plan.tell_plan(config={"models": {"é": None}}, code={}, stamp="")
    assert plan.told_plan()["config"] == {"models": {"é": None}}


def test_a_large_plan_fits_where_a_system_takes_128_kb(monkeypatch):
    monkeypatch.setenv(plan.VARIABLE, "")
    variants = {f"spin.{i}": {"kind": "suppress", "ratio": i / 10**6, "seed": i} for i in range(1000)}
    plan.tell_plan(config={"variants": variants}, code={}, stamp="")
    assert len(os.environ[plan.VARIABLE]) < 2**17 / 4
    assert subprocess.run(["true"]).returncode == 0


def test_the_same_code_runs_wherever_it_lies(draw, tmp_path):
    assert (tmp_path / "uncouple") != ROOT
    done = draw()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made.parquet").exists()


EDITS = {
    "a touched file": ("data/samples.py", "", ""),
    "a comment": ("data/samples.py", "\nimport ", "\n# a comment\nimport "),
    "code of another step": ("evaluation/hsic.py", "return ", "return 0 or "),
}


@pytest.mark.parametrize("what", EDITS)
def test_an_edit_that_changes_nothing_of_the_step_stops_it_not(draw, package, what):
    name, old, new = EDITS[what]
    path = package / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1) if old else text)
    os.utime(path)
    done = draw()
    assert done.returncode == 0, done.stderr


def test_a_step_whose_code_was_edited_after_the_plan_says_so_and_makes_nothing(draw, package, tmp_path):
    path = package / "data/samples.py"
    path.write_text(path.read_text().replace("return ", "return 0 or ", 1))
    done = draw()
    assert done.returncode == 1
    assert "uncouple samples: error: " in done.stderr
    assert "is not that which the run was planned with" in done.stderr
    assert not (tmp_path / "made.parquet").exists()
    # By hand there is no plan.
    os.environ[plan.VARIABLE] = ""
    assert draw().returncode == 0
