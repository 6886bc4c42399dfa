"""Scores of a tiny model through the SLURM profile, on a real cluster of one node: `make test-slurm`."""

import re
import subprocess
import sys

import pytest
import yaml
from clone import Clone
from cluster import slurm

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    try:
        slurm.start(folder)
        yield folder
    finally:
        slurm.stop(folder)


def jobs():
    """What SLURM says of each job: dicts of key to value."""
    told = subprocess.run(["scontrol", "--oneliner", "show", "job"], capture_output=True, text=True, check=True).stdout
    return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in told.splitlines() if line.startswith("JobId")]


def test_scores_are_jobs_that_see_a_gpu_each_and_what_is_small_is_none(cluster, tmp_path, model_folder, encoder):
    (tmp_path / "clone").mkdir()
    clone = Clone.make(tmp_path / "clone", model_folder, encoder)
    (clone.folder / "experiment.yaml").write_text(yaml.safe_dump(clone.config, sort_keys=False))
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", "workflow/profiles/slurm", "masks"]
    command += [
        "--configfile",
        "experiment.yaml",
        "--slurm-init-seconds-before-status-checks",
        "1",
        "--latency-wait",
        "5",
    ]
    done = subprocess.run(command, cwd=clone.folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (clone.folder / "results/masks/tiny/spin.parquet").exists()
    found = jobs()
    # The plugin writes the rule into the comment. Samples, masks and the model were made where Snakemake ran.
    assert all(job["Comment"].startswith("rule_score_shard") for job in found), found
    assert len(found) == len(list((clone.folder / "results/scores/tiny").glob("*/*/*.parquet"))) > 3
    devices = dict(line.split(" ", 1) for line in (cluster / "devices").read_text().splitlines())
    for job in found:
        assert (job["JobState"], job["TresPerJob"]) == ("COMPLETED", "gres:gpu:1")
        assert devices[job["JobId"]] in ("0", "1")
    # At some time two ran side by side, each on a GPU of its own.
    assert len(set(devices.values())) == 2
    spans = sorted((job["StartTime"], job["EndTime"]) for job in found)
    assert any(after[0] < before[1] for before, after in zip(spans, spans[1:], strict=False))
