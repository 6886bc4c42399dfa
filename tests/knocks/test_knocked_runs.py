"""The real workflow: spoilt results are made again, two runs in one folder, results that may not be written, clocks."""

import os
import shutil
import subprocess
import sys
import time

import pytest
import yaml
from test_kill_points import content

from uncouple.records import files
from uncouple.records.files import read_any

pytestmark = pytest.mark.knocks
METRICS = "results/metrics/tiny"


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def make_old(path):
    table, record = read_any(path)
    files._write_sealed_table(table, path, record | {"version": 0})


def swap(path, other):
    aside = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(aside)


def spoil_store(results):
    """Two of its verdicts are each other's, a third is not as it was written. None is named: they are judged again."""
    one, two, three = sorted((results / "store/verdicts").iterdir())[:3]
    swap(one, two)
    flip(three)


TRAINED, TRAINING = "judges/embedding/privacy.json", [f"samples/privacy-{n}.parquet" for n in ("safe-all", "test0")]
HSIC, VERDICTS = "metrics/tiny/hsic/spin/fairness-privacy.parquet", "verdicts/tiny/random/privacy.embedding.parquet"
ANSWERS = [f"answers/tiny/{name}/fairness.parquet" for name in ("random", "spin")]
PARTS = [f"metrics/tiny/{name}/spin.parquet" for name in ("perplexity", "divergence")]


@pytest.mark.parametrize(
    ("spoil", "names", "reader"),
    [
        (flip, ["scores/tiny/origin/privacy-safe-n3-seed0/layers-000-000.parquet"], "masks/tiny/random.parquet"),
        (make_old, ["samples/fairness-safe-n4-seed0.parquet"], HSIC),
        (swap, TRAINING, TRAINED),
        (cut, [TRAINED], VERDICTS),
        (swap, ANSWERS, "metrics/tiny/language.parquet"),
        (swap, PARTS, "metrics/tiny/metrics.parquet"),
    ],
    ids=["shard", "samples", "samples for another use", "judge", "answers", "metrics"],
)
def test_what_is_spoilt_is_told_by_what_reads_it_and_made_again_by_the_next_run(clone, spoil, names, reader):
    results = clone.folder / "results"
    expected = content(results)
    spoil(*map(results.joinpath, names))
    if reader == VERDICTS:
        spoil_store(results)
    (results / reader).unlink()
    told = clone.snakemake("--", f"results/{reader}", check=False)
    for path in map(results.joinpath, names):
        name = path.relative_to(clone.folder)
        assert f"{name} is .{path.name}.spoilt now, and the next run makes it again." in told
        assert not path.exists()
    clone.snakemake("--", f"results/{reader}")
    found = {name: made for name, made in content(results).items() if not name.endswith(".spoilt")}
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert clone.stale() == {}


def test_a_second_run_in_a_folder_is_refused_and_harms_nothing(clone):
    results = clone.folder / "results"
    expected = content(results)
    shutil.rmtree(results / "scores/tiny/origin/general-safe-n3-seed0")
    shutil.rmtree(results / "store/score-shard")
    (clone.folder / "experiment.yaml").write_text(yaml.safe_dump(clone.config, sort_keys=False))
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--cores",
        "2",
        "--configfile",
        "experiment.yaml",
        "--quiet",
        "progress",
        "--",
        "scores",
    ]
    with open(clone.folder / "first.log", "w") as log:
        first = subprocess.Popen(command, cwd=clone.folder, stdout=log, stderr=log)
        while not list((clone.folder / ".snakemake/locks").glob("*")):
            assert first.poll() is None, (clone.folder / "first.log").read_text()
            time.sleep(0.05)
        told = clone.snakemake("--printshellcmds", "scores", check=False)
        assert "LockException" in told
        assert "rule score_shard" not in told
        assert first.wait() == 0
    assert content(results) == expected
    assert clone.stale() == {}


def as_nobody(command, folder):
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *map(str, command)]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, env=os.environ | {"HOME": "/nonexistent"})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_results_that_may_not_be_written_are_read_and_told_and_not_harmed(clone, tmp_path):
    for part in (clone.folder / "base", clone.folder / "encoder", *clone.folder.parents[:3], *tmp_path.parents[:1]):
        part.chmod(0o755)
    # As libraries write them, their owner alone reads weights.
    weights = [clone.folder / name / "model.safetensors" for name in ("base", "encoder")]
    for path in weights:
        path.chmod(0o600)
    expected, uncouple = content(clone.folder / "results"), [sys.executable, "-m", "uncouple"]
    tmp_path.chmod(0o755)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    figure = ["figures", "placement", "--from", f"{METRICS}/placement.parquet", "--model", "tiny"]
    figure += ["--style", "resources/figures.mplstyle", "--output"]
    judge = ["judge", "results/answers/tiny/spin/privacy.parquet", "--judge", "embedding", "--output"]
    judge += [tmp_path / "open/v", "--classifier", "results/judges/embedding/privacy.json"]
    for words in (["verify", "results"], [*judge, "--model", "results/judges/embedding/model"]):
        done = as_nobody([*uncouple, *words], clone.folder)
        assert done.returncode == 1
        told = done.stdout + done.stderr
        assert "Permission denied: 'results/judges/embedding/model/model.safetensors'" in told
        assert "Traceback" not in told
    for path in weights:
        path.chmod(0o644)
    for words in (
        [*figure, tmp_path / "open/placement.png"],
        ["verify", "results"],
        ["store", "list", "--store", "results/store"],
        ["measure", "placement", "results/masks/tiny/spin.parquet", "--output", tmp_path / "open/p.parquet"],
    ):
        done = as_nobody([*uncouple, *words], clone.folder)
        assert done.returncode == 0, done.stderr
    for words in (
        [*figure, "results/figures/tiny/placement.png"],
        ["measure", "placement", "results/masks/tiny/spin.parquet", "--output", f"{METRICS}/placement.parquet"],
        [
            "apply",
            "--model",
            "results/models/tiny",
            "--mask",
            "results/masks/tiny/spin.parquet",
            "--output",
            "results/new",
        ],
    ):
        done = as_nobody([*uncouple, *words], clone.folder)
        assert done.returncode == 1
        assert f"{words[-1]}: no permission to write here" in done.stderr
        assert "Traceback" not in done.stderr
    assert content(clone.folder / "results") == expected


def test_clocks_that_differ_make_nothing_run_and_nothing_stale_be_taken(clone):
    """A node's clock is an hour ahead, another's a year behind.

    Snakemake looks at dates first. Where they say that an input is newer than what was made of it, it compares its
    content with that of then, and only news makes a step run.
    """
    results, hour = clone.folder / "results", 3600
    shifts = {
        "scores": hour,
        "masks": -8760 * hour,
        "answers": hour,
        "verdicts": -hour,
        "samples": hour,
        "models": hour,
    }
    for name, seconds in shifts.items():
        for path in (path for path in (results / name).rglob("*") if path.is_file() and not path.is_symlink()):
            os.utime(path, (time.time() + seconds,) * 2)
    assert clone.stale() == {}
    # What is edited counts, whatever the clock of the node said that did it: what was made of it is older or newer.
    raw = clone.folder / "raw/fairness.jsonl"
    raw.write_text(raw.read_text().replace("older workers", "old workers", 1))
    for seconds in (-8760 * hour, hour):
        os.utime(raw, (time.time() + seconds,) * 2)
        assert {"draw_samples", "score_shard", "make_mask"} <= set(clone.stale()), seconds
