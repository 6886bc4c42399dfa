"""The workflow of a tiny model through the SLURM profile, on a real cluster of one node: `make test-slurm`."""

import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from clone import Clone, told
from cluster import slurm

from uncouple.records.files import read_table
from uncouple.records.formats import SCORE_SHARD

pytestmark = pytest.mark.slurm
# All that runs a model, and the copying of checkpoints. What else there is runs where Snakemake does.
WITH_GPU = {"score_shard", "train_judge", "judge_answers", "tell_refusals"} | {
    f"{stage}_{number}" for stage in ("ask_variants", "measure_divergence", "measure_hsic") for number in (1, 2)
}
# One core, for two jobs share two. Real jobs take longer than the 40 s after which they are first looked for.
QUICKLY = ["--cores", "1", "--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5"]
DRIVERS = []


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    try:
        slurm.start(folder)
        yield folder
    finally:
        slurm.stop(folder)


@pytest.fixture(scope="module")
def tiny(cluster, tmp_path_factory, model_folder, encoder):
    """A clone with what the default experiment measures, whose variants are asked and measured in two groups."""
    folder = tmp_path_factory.mktemp("clone")
    clone = Clone.make(folder, model_folder, encoder)
    clone.config["evaluation"] |= {"variants_per_job": 2, "perplexity": None, "ability": None}
    clone.config["scoring"]["layers_per_shard"] = 2
    (folder / "orders").mkdir()
    # A judge learns of fewer replies: here it need not be good.
    for path in (folder / "resources/replies").iterdir():
        path.write_text("".join(path.read_text().splitlines(keepends=True)[::9]))
    yield clone
    for driver in DRIVERS:
        driver.kill()
        driver.wait()


def start(clone, *targets):
    """Snakemake with the SLURM profile, whose log is the file `run`."""
    clone.write()
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", "workflow/profiles/slurm", *QUICKLY]
    command += [*targets, "--configfile", "experiment.yaml"]
    # A cluster gives a job's threads their cores; here two jobs would take them from each other.
    environment = os.environ | told(clone.folder / "orders") | {"OMP_NUM_THREADS": "1"}
    with open(clone.folder / "run", "w") as file:
        DRIVERS.append(subprocess.Popen(command, cwd=clone.folder, env=environment, stdout=file, stderr=file))
    return DRIVERS[-1]


def end(clone, driver):
    """The status and the log of a run."""
    return driver.wait(timeout=600), (clone.folder / "run").read_text()


def until(happened, seconds=240):
    for _ in range(4 * seconds):
        if found := happened():
            return found
        time.sleep(0.25)
    raise AssertionError(f"not within {seconds} s")


def jobs(first=1):
    """What SLURM says of each job from a number on: dicts of key to value, `rule` among them, of which the plugin tells
    in the comment."""
    told = subprocess.run(["scontrol", "--oneliner", "show", "job"], capture_output=True, text=True, check=True).stdout
    found = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in told.splitlines() if line.startswith("JobId")]
    for job in found:
        job["rule"] = re.match(r"rule_(\w+)_wildcards_", job["Comment"])[1]
    return [job for job in found if int(job["JobId"]) >= first]


@pytest.fixture(scope="module")
def ran(cluster, tiny):
    """A whole run, in which one job runs out of time, one out of memory, and one is cancelled."""
    orders = tiny.folder / "orders"
    doings = {"wait-1": "apply", "hold": "score privacy", "wait-2": "--noise"}
    # The divergences of two groups of variants, of which each waits for the other.
    doings |= {"wait-3": "divergence random=", "wait-4": "divergence spin="}
    for name, words in doings.items():
        (orders / name).write_text(words)
    # SLURM counts whole minutes.
    tiny.edit("rules/masks.smk", "runtime=growing(60)", "runtime=growing(1)")
    driver = start(tiny)
    until((orders / ".wait-2").exists)
    (asking,) = [job for job in jobs() if job["rule"].startswith("ask_variants") and job["JobState"] == "RUNNING"]
    subprocess.run(["scancel", asking["JobId"]], check=True)
    # Whoever writes the next experiment while this one runs changes nothing of it.
    (tiny.folder / "experiment.yaml").write_text("scoring: {keep: 0.04}")
    until((orders / ".wait-3").exists)
    until((orders / ".wait-4").exists)
    (orders / ".wait-3").unlink()
    (orders / ".wait-4").unlink()
    status, log = end(tiny, driver)
    assert status == 0, log
    assert {path.name for path in orders.iterdir()} == {".wait-1", ".wait-2", ".hold"}
    devices = dict(line.split(" ", 1) for line in (cluster / "devices").read_text().splitlines())
    return SimpleNamespace(jobs=jobs(), devices=devices, log=log, cancelled=asking["rule"])


def test_it_makes_all_that_it_promises_and_then_has_nothing_to_do(tiny, ran):
    assert tiny.stale() == {}
    assert (tiny.folder / "results/figures/tiny/awareness.png").stat().st_size > 5000
    assert (tiny.folder / "results/checkpoints/tiny/spin/model.safetensors").exists()


def test_what_runs_a_model_is_a_job_that_sees_a_gpu_and_what_is_small_is_none(tiny, ran):
    assert {job["rule"] for job in ran.jobs} == {*WITH_GPU, "write_checkpoint"}
    done = [job for job in ran.jobs if job["JobState"] == "COMPLETED"]
    for job in done:
        if job["rule"] == "write_checkpoint":
            assert "gpu" not in job.get("TresPerJob", "")
        else:
            assert job["TresPerJob"] == "gres:gpu:1"
            assert ran.devices[job["JobId"]] in ("0", "1")
    assert len([job for job in done if job["rule"] == "score_shard"]) == 3
    # The steps that wrote these ran where Snakemake did.
    local = ("draw_samples", "fetch_model", "make_mask", "judge_without_model", "draw_figure_awareness", "write_tables")
    assert all(f"localrule {name}:" in ran.log for name in local)


def test_jobs_take_the_config_that_the_run_was_planned_with(tiny, ran):
    shards = list((tiny.folder / "results/scores/tiny").glob("*/*/*.parquet"))
    assert {read_table(path, SCORE_SHARD)[1]["keep"] for path in shards} == {0.05}


def test_two_groups_of_variants_ran_side_by_side_on_two_gpus(ran):
    def overlap(one, other):
        return one["StartTime"] < other["EndTime"] and other["StartTime"] < one["EndTime"]

    done = [job for job in ran.jobs if job["JobState"] == "COMPLETED"]
    beside = [
        (one["rule"], other["rule"])
        for one in done
        for other in done
        if (one["rule"][-2:], other["rule"][-2:]) == ("_1", "_2")
        and overlap(one, other)
        and ran.devices[one["JobId"]] != ran.devices[other["JobId"]]
    ]
    assert beside


def test_what_ran_out_or_was_cancelled_is_submitted_again_with_more_and_nothing_else_is(tiny, ran):
    ended = {job["rule"]: job for job in ran.jobs if job["JobState"] != "COMPLETED"}
    assert ended.keys() == {"write_checkpoint", "score_shard", ran.cancelled}
    assert ended["write_checkpoint"]["JobState"] == "TIMEOUT"
    assert ended[ran.cancelled]["JobState"] == "CANCELLED"
    # What SLURM says of a job that it ended for its memory depends on how it watches: here it is in the job's own log.
    (log,) = (tiny.folder / "results/logs/slurm").rglob(f"{ended['score_shard']['JobId']}.log")
    assert "exceeded memory limit" in log.read_text() or ended["score_shard"]["JobState"] == "OUT_OF_MEMORY"
    by_step = {}
    for job in ran.jobs:
        by_step.setdefault(job["Comment"], []).append(job)
    for first, *further in by_step.values():
        assert (len(further) == 1) == (first in ended.values())
        for again in further:
            assert again["JobState"] == "COMPLETED"
            assert seconds(again["TimeLimit"]) == 2 * seconds(first["TimeLimit"])
            assert megabytes(again["MinMemoryNode"]) == 2 * megabytes(first["MinMemoryNode"])


def seconds(limit):
    *days, clock = limit.split("-")
    hours, minutes, rest = map(int, clock.split(":"))
    return 86400 * int(days[0] if days else 0) + 3600 * hours + 60 * minutes + rest


def megabytes(memory):
    return float(memory[:-1]) * {"M": 1, "G": 1024}[memory[-1]]


def test_after_a_killed_driver_only_what_is_missing_is_made(tiny, ran):
    """The steps are those of docs/cluster.md."""
    tiny.config["scoring"]["keep"] = 0.06
    (tiny.folder / "orders/wait-5").write_text("score privacy-safe")
    before = len(ran.jobs)
    driver = start(tiny, "masks")
    log = tiny.folder / "run"
    until(lambda: len(re.findall(r"Finished jobid: \d+ \(Rule: score_shard\)", log.read_text())) == 2)
    until((tiny.folder / "orders/.wait-5").exists)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    (running,) = [job for job in jobs(before + 1) if job["JobState"] == "RUNNING"]
    run_id = re.search(r"SLURM run ID: (\S+)", log.read_text())[1]
    # Two at once would write the same files.
    status, log = end(tiny, start(tiny, "masks"))
    assert status == 1
    assert "cannot be locked" in log
    subprocess.run(["scancel", "--name", run_id], check=True)
    until(lambda: any(job["JobState"] == "CANCELLED" for job in jobs(before + 1)))
    assert end(tiny, start(tiny, "--unlock"))[0] == 0
    status, log = end(tiny, start(tiny, "masks"))
    assert status == 0, log
    (again,) = jobs(before + 3 + 1)
    assert again["Comment"] == running["Comment"]
    assert set(re.findall(r"(?m)^(?:local)?rule (\w+):$", log)) == {"score_shard", "make_mask", "masks"}
