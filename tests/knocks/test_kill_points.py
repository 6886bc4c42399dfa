"""Whatever is killed at whatever point, the next run makes what is missing, and ends with the same files."""

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from uncouple.models.fingerprints import HASHES_NAME

KILLER = Path(__file__).parent / "killer"


@dataclass(frozen=True)
class Point:
    """Where a process is ended: at the n-th call of a function that has `path` in an argument.

    Attributes:
        name: what a person calls it.
        verb, job: whose process: that of the verb whose command line has `job` in it.
        at: `MODULE:FUNCTION`.
        when: `before` the call, `after` it, or `half`: after it, with the file that is being written cut in half.
        signal: that it is sent.
        driver: whether Snakemake is sent it, in the place of the job.
    """

    name: str
    verb: str
    job: str
    at: str
    when: str = "before"
    signal: str = "SIGKILL"
    path: str = ""
    n: int = 1
    driver: bool = False


SEAL, REPLACE, FSYNC = "uncouple.records.files:seal", "os:replace", "os:fsync"
ANSWER = "uncouple.evaluation.engines:Transformers.answer"
FAIR, PRIVATE, GENERAL = (f"/{name}-safe-n3-seed0" for name in ("fairness", "privacy", "general"))
FIRST, SECOND = (f".parquet --model results/models/tiny --layers {n}:{n}" for n in ("000", "001"))
POINTS = (
    Point("a model half linked", "fetch", "models/tiny", "os:symlink", signal="SIGTERM", n=3),
    Point("a model before it has its name", "fetch", "models/tiny", "os:rename"),
    Point("an encoder half linked", "fetch", "judges/embedding", "os:symlink", "after", "SIGINT"),
    Point("samples not on the disk", "samples", f"{FAIR}.parquet", FSYNC, signal="SIGINT"),
    Point("questions with their name", "samples", "questions/privacy", REPLACE, "after"),
    Point("half a shard", "score", FAIR + FIRST, SEAL, "half"),
    Point("a shard before its rename", "score", FAIR + SECOND, REPLACE),
    Point("a shard after its rename", "score", PRIVATE + FIRST, REPLACE, "after"),
    Point(
        "sums of a shard",
        "score",
        PRIVATE + SECOND,
        "uncouple.scoring.gradients:accumulate_gradients",
        "after",
        "SIGTERM",
    ),
    Point(
        "half a store entry",
        "score",
        GENERAL + FIRST,
        SEAL,
        "half",
        path="/store/",
    ),
    Point(
        "a store entry",
        "score",
        GENERAL + SECOND,
        REPLACE,
        "after",
        path="/store/",
    ),
    Point("half a mask", "mask", "--variant spin", SEAL, "half", "SIGTERM"),
    Point("a mask with its name", "mask", "--variant random", REPLACE, "after"),
    Point("half of a checkpoint's weights", "apply", "", "uncouple.variants.checkpoints:copy_file", "half", n=2),
    Point("weights half suppressed", "apply", "", "os:pwrite", signal="SIGINT", n=5),
    Point("a checkpoint's folder being swapped", "apply", "", "os:rename", "after"),
    Point("a judge being trained", "train-judge", "", "uncouple.evaluation.judges.training:fit", signal="SIGINT", n=2),
    Point("one of three judges", "train-judge", "", REPLACE, "after"),
    Point("answers of the second variant", "ask", "", ANSWER, n=7),
    Point("between two answers", "ask", "", REPLACE, "after", "SIGTERM", path="answers/tiny", n=6),
    Point("Snakemake itself", "ability", "", REPLACE, path="metrics/tiny", driver=True),
    Point("between two verdicts", "judge", "--name embedding", REPLACE, "after", path="verdicts/tiny", n=3),
    Point("half a verdict's store entry", "judge", "--name refusal", SEAL, "half", path="/store/"),
    Point("a second perplexity", "perplexity", "", SEAL, "half", path="metrics/tiny", n=2),
    Point("a divergence", "divergence", "", REPLACE, signal="SIGTERM", path="metrics/tiny", n=2),
    Point("coupling", "measure", "coupling", REPLACE, "after"),
    Point("Snakemake, asked to end", "measure", "awareness", REPLACE, signal="SIGTERM", driver=True),
    Point("the one table", "measure", "collect", FSYNC),
    Point("half a figure", "figures", "figures awareness", "matplotlib.figure:Figure.savefig", "half", n=2),
    Point("a table of each form", "tables", "--model tiny", REPLACE, "after", "SIGINT", n=3),
)


def content(results):
    """What a run made, by path: all bytes but logs, times, the store, and what says when a file was hashed."""
    found = {}
    for path in sorted(path for path in results.rglob("*") if path.is_file()):
        name = path.relative_to(results)
        if name.parts[0] not in ("logs", "benchmarks", "store") and path.name != HASHES_NAME and path.stem != "times":
            found[str(name)] = path.read_bytes()
    return found


@pytest.mark.knocks
def test_a_run_that_is_killed_at_every_point_ends_as_one_that_is_not(clone, tmp_path, monkeypatch):
    results = clone.folder / "results"
    expected = content(results)
    shutil.rmtree(results)
    shutil.rmtree(clone.folder / ".snakemake")
    points = [asdict(point) | {"reached": str(tmp_path / point.name)} for point in POINTS]
    (tmp_path / "points.json").write_text(json.dumps(points))
    monkeypatch.setenv("PYTHONPATH", str(KILLER))
    monkeypatch.setenv("UNCOUPLE_KNOCKS", str(tmp_path / "points.json"))
    before, runs = set(), []
    while True:
        output = clone.snakemake(check=False)
        reached = {point.name for point in POINTS if (tmp_path / point.name).exists()}
        runs.append(reached - before)
        print(len(runs), sorted(runs[-1]), flush=True)
        if "--unlock" in output:
            # What a Snakemake that was killed leaves, by its own rule a person takes away.
            clone.snakemake("--unlock")
        elif reached == before:
            break
        before = reached
        assert len(runs) < len(POINTS)
    assert before == {point.name for point in POINTS}
    assert re.search(r"\(100%\) done|Nothing to be done", output), output
    assert clone.stale() == {}
    found = content(results)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert not [path for path in results.rglob("*") if ".partial-" in path.name or ".old-" in path.name]
