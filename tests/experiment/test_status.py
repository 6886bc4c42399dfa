"""What the state of an experiment is told to be, on the tiny one: each state as it comes about, and its reason."""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter

import pytest
import yaml
from conftest import ROOT

from uncouple.errors import UncoupleError, shown
from uncouple.experiment import status
from uncouple.experiment.config import read_experiment

TARGETS = {"all", "scores", "masks", "checkpoints", "metrics", "figures"}


def tell(clone, *arguments):
    """What the verb prints in a clone."""
    command = [sys.executable, "-m", "uncouple", "status", "--experiment", "experiment.yaml", *arguments]
    environment = os.environ | {"PYTHONPATH": str(clone.folder)}
    done = subprocess.run(command, cwd=clone.folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def jobs_of(clone):
    """(jobs, whether a run goes on) as the verb tells programs."""
    clone.write()
    told = json.loads(tell(clone, "--json"))
    return told["jobs"], told["running"]


def unmade(jobs):
    return {(job["rule"], job["state"]) for job in jobs if job["state"] != "done"}


def line_of(told, model, stage):
    """The line of a stage of a model."""
    return re.search(rf"(?ms)^{model}$.*?^  {stage} +(.*?)$", told)[1]


def test_every_rule_has_a_stage_and_no_stage_a_rule_that_is_not_there():
    text = "".join(path.read_text() for path in [*(ROOT / "rules").glob("*.smk"), ROOT / "workflow/Snakefile"])
    names = re.findall(r"^ *(?:use )?rule (?:\w+ as )?(\w+)(?::| with:)$", text, re.M)
    names += re.findall(r'f"(\w+)(?:\{group\.suffix\}|_\{name\b.*\})"', text)
    assert {name for name in names if name not in TARGETS} == set(status.STAGE_OF)
    assert status.stage_of("ask_variants_12") == "answers"


def test_of_what_is_made_each_job_is_done(finished):
    jobs, is_running = jobs_of(finished)
    assert not is_running
    assert unmade(jobs) == set()
    table = re.search(r"^job +count\n[- ]+\n(.*?)^total", finished.snakemake("--dry-run", "--forceall"), re.S | re.M)[1]
    forced = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.M) if rule != "all"}
    assert Counter(job["rule"] for job in jobs) == forced


def test_what_is_stale_says_why(clone):
    clone.edit("uncouple/evaluation/awareness.py", "min_judged: float", "min_judged: float | int")
    clone.edit(
        "uncouple/commands/perplexity.py",
        "options = from_flags(Perplexity, a)",
        "options = from_flags(Perplexity, a, **{})",
    )
    clone.config["evaluation"]["hsic"]["permutations"] = 30
    clone.edit("raw/alarming.jsonl", "kill process 1", "end process 1")
    clone.write()
    jobs, _ = jobs_of(clone)
    why = {job["rule"]: set(job["why"]) for job in jobs if job["state"] == "stale"}
    assert why["measure_perplexity"] == {"its code has changed"}
    assert why["measure_hsic"] == {"its options have changed"}
    assert why["draw_questions"] == {"an input has changed"}
    assert why["ask_variants"] == why["draw_figure_awareness"] == {"an input is made again"}
    assert "make_mask" not in why
    told = tell(clone)
    assert line_of(told, "all models", "samples").endswith("1 stale (an input has changed)")
    assert line_of(told, "tiny", "scores") == "6 done"
    assert "1: its code has changed" in line_of(told, "tiny", "metrics")


def test_what_is_lost_is_missing_and_what_was_killed_failed(clone):
    """A checkpoint and its mask are lost. One shard's step was killed, and one SLURM ended before it wrote a log."""
    results = clone.folder / "results"
    for lost in ("masks/tiny/spin.parquet", "checkpoints/tiny/spin/uncouple.json"):
        (results / lost).unlink()
    killed, ended = sorted((results / "scores/tiny").glob("*/*/*.parquet"))[:2]
    logs = [results / "logs" / path.relative_to(results).with_suffix(".log") for path in (killed, ended)]
    logs[0].write_text("score: 10 of 30 tokens (33%)\nscore: 20 of\x1b[2J 30 tokens (66%)\n\n")
    logs[1].unlink()
    (results / "benchmarks" / killed.relative_to(results).with_suffix(".tsv")).unlink()
    names = ["tiny", ended.parts[-3], ended.parts[-2], *ended.stem.split("-")[1:]]
    slurm = results / "logs/slurm/rule_score_shard" / "_".join(names) / "7.log"
    slurm.parent.mkdir(parents=True)
    slurm.write_text("host: node\nslurmstepd: error: *** JOB 7 CANCELLED DUE TO TIME LIMIT ***\n")
    for path in (killed, ended):
        path.unlink()
    jobs, _ = jobs_of(clone)
    assert {(rule, state) for rule, state in unmade(jobs) if state != "stale"} == {
        ("make_mask", "missing"),
        ("write_checkpoint", "missing"),
        ("score_shard", "failed"),
    }
    said = {job["log"]: job["said"] for job in jobs if job["state"] == "failed"}
    assert said == {
        str(logs[0].relative_to(clone.folder)): "score: 20 of\x1b[2J 30 tokens (66%)",
        str(slurm.relative_to(clone.folder)): "slurmstepd: error: *** JOB 7 CANCELLED DUE TO TIME LIMIT ***",
    }
    told = tell(clone)
    assert line_of(told, "tiny", "scores") == "4 done, 2 failed"
    assert line_of(told, "tiny", "masks") == "1 stale (an input is made again), 1 missing"
    assert all(f"  {log}\n    {shown(line)}\n" in told for log, line in said.items())


def test_what_failed_says_its_fault_and_what_runs_what_it_does(clone):
    """A run whose samples are too few fails; in the next one a step waits, and ends."""
    clone.config["evaluation"]["hsic"]["n"] = 6
    clone.snakemake(check=False)
    jobs, _ = jobs_of(clone)
    failed = {job["said"] for job in jobs if job["state"] == "failed"}
    assert len(failed) == 2
    for said in failed:
        assert said.startswith("uncouple samples: error: ")
        assert said.endswith("n is 6, but there are only 5 rows. Set n to 5 or less.")
    clone.config["evaluation"]["hsic"]["n"] = 4
    clone.edit(
        "rules/masks.smk",
        '"python -m uncouple mask"',
        '"echo half way > {log:q}; touch begun; while [ ! -e go ]; do sleep 0.1; done; python -m uncouple mask"',
    )
    (clone.folder / "results/masks/tiny/spin.parquet").unlink()
    clone.write()
    command = [sys.executable, "-m", "snakemake", "--configfile", "experiment.yaml", "--cores", "1"]
    command += ["results/masks/tiny/spin.parquet"]
    output = clone.folder / "output"
    with open(output, "w") as file, subprocess.Popen(command, cwd=clone.folder, stdout=file, stderr=file) as run:
        try:
            while not (clone.folder / "begun").exists() and run.poll() is None:
                time.sleep(0.1)
            told = tell(clone)
        finally:
            (clone.folder / "go").touch()
    assert run.returncode == 0, output.read_text()
    assert re.fullmatch("1 stale .*, 1 running", line_of(told, "tiny", "masks"))
    assert "running:\n  results/logs/masks/tiny/spin.log\n    half way\n" in told
    assert "A run holds the lock." in told


def test_what_snakemake_is_told_besides_it_goes_by(clone):
    clone.write()
    assert "stale" not in line_of(tell(clone), "tiny", "masks")
    assert line_of(tell(clone, "--", "--forcerun", "make_mask"), "tiny", "masks").endswith("2 stale")


def test_without_snakemake_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(status.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UncoupleError, match=r"Snakemake says what is stale.*requirements\.txt"):
        status.find_status(read_experiment(), None)


def test_what_snakemake_cannot_plan_is_told(clone):
    """A file that an input is gone of."""
    clone.edit("rules/masks.smk", "        mask=PATHS.mask(),", '        mask=PATHS.mask(),\n        more="none.txt",')
    (clone.folder / "results/checkpoints/tiny/spin/uncouple.json").unlink()
    clone.write()
    with pytest.raises(AssertionError, match=r"uncouple status: error: Snakemake cannot plan it:\n(.*\n)*.*none\.txt"):
        tell(clone)


@pytest.mark.parametrize(
    ("log", "fault"),
    [
        ("uncouple score: error: a.csv: broken:\n  row 3\n", "uncouple score: error: a.csv: broken:"),
        ("score: 3 of 4\nTraceback (most recent call last):\n  File x\nValueError: no\n\n", "ValueError: no"),
        ("bash: line 1: python: command not found\n", "bash: line 1: python: command not found"),
        ("no error: all is well\n", ""),
    ],
)
def test_the_line_of_a_log_that_says_why(tmp_path, log, fault):
    (tmp_path / "log").write_text("said before\n" * 3000 + log)
    assert status._fault(tmp_path / "log") == fault


def test_code_and_options_that_change_together_are_both_told():
    before = "before: '0123456789abcdef','--ratio 0.1' now: 'fedcba9876543210','--ratio 0.2' "
    reason = f"{status.PARAMS}: Union of exclusive params before and now across all output: {before}"
    assert list(status._told(reason)) == ["its code has changed", "its options have changed"]
    assert list(status._told(f"Updated input files: a, b; {reason}"))[0] == "an input has changed"


def test_the_logs_of_slurm_are_where_the_profile_has_them():
    profile = yaml.safe_load((ROOT / "workflow/profiles/slurm/config.yaml").read_text())
    assert profile["slurm-logdir"] == status.SLURM_LOGS
