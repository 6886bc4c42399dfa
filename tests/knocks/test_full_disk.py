"""A disk that fills up in the middle of a stage: a clear error, the old files as they were, nothing left half-written;
and with room the same command works. That of one file and one folder is tested in records/test_files.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, skip_without_small_disks
from records.whole import PHRASES

HERE = Path(__file__).parent
MOUNT = 'mount -t tmpfs -o size=8m tmpfs "$1" && exec "$2" "$3" "$1" "$4"'
SAMPLES = [f"R/samples/{name}-seed0.parquet" for name in ("fairness-safe-n3", "privacy-safe-n4", "general-safe-n5")]
RAW, MODEL = "--path RAW", "--model R/models/m"
SHARDS = " ".join(
    f"{path.replace('samples', 'scores/m/origin').removesuffix('.parquet')}/layers-00{layer}-00{layer}.parquet"
    for path in SAMPLES
    for layer in (0, 1)
)
ANSWERS = "R/answers/m/origin/privacy.parquet R/answers/m/spin/privacy.parquet"
VERDICTS = "R/verdicts/m/origin/privacy.phrases.parquet R/verdicts/m/spin/privacy.phrases.parquet"
MASKED = f"{MODEL} --mask R/masks/m/spin.parquet"
STAGES = {
    "samples": f"samples {RAW} --dimension privacy --output DISK/samples.parquet",
    "questions": f"samples {RAW} --questions --dimension privacy --output DISK/questions.parquet",
    "fetch": "fetch --path BASE --output DISK/model",
    "score": f"score {SAMPLES[1]} {MODEL} --batch-tokens 300 --output DISK/shard.parquet",
    "mask": f"mask {MODEL} --scores {SHARDS} --dimensions fairness privacy --ratio 0.01 --output DISK/mask.parquet",
    "apply": f"apply {MASKED} --output DISK/checkpoint",
    "ask": f"ask R/samples/questions/privacy.parquet {MASKED} --max-new-tokens 4 --output DISK/answers.parquet",
    "judge": f"judge {ANSWERS} --phrases {PHRASES} --output DISK/verdicts-{{variant}}.parquet",
    "perplexity": f"perplexity --path {PHRASES} {MASKED} --window 32 --output DISK/perplexity.parquet",
    "divergence": f"divergence {SAMPLES[2]} {MASKED} --output DISK/divergence.parquet",
    "hsic": f"hsic R/samples/four-fairness.parquet {SAMPLES[1]} {MASKED} --permutations 20 --output DISK/hsic.parquet",
    "awareness": f"measure awareness {VERDICTS} --output DISK/awareness.parquet",
    "collect": "measure collect R/metrics/m/awareness.parquet --output DISK/metrics.parquet",
    "placement": "measure placement R/masks/m/spin.parquet --output DISK/placement.parquet",
    "coupling": f"measure coupling {MODEL} --scores {SHARDS} --dimensions fairness privacy --ratios 0.01"
    " --output DISK/coupling.parquet",
    "figures": f"figures placement --from R/metrics/m/placement.parquet --model m"
    f" --style {ROOT}/resources/figures.mplstyle --output DISK/figure.png DISK/figure.pdf",
    "tables": f"tables examples --from {ANSWERS} {VERDICTS} --model m --output DISK/table.md DISK/table.tex",
    "train-judge": "train-judge R/judged/safe.parquet R/judged/unsafe.parquet --encoder ENCODER --output DISK/j.json",
    "tune, a model": f"tune {SAMPLES[1]} {MODEL} --method fft --epochs 1 --output DISK/tuned",
    "tune, an adapter": f"tune {SAMPLES[1]} {MODEL} --method reft --epochs 1 --output DISK/adapted",
}


@pytest.fixture(scope="module")
def told(whole, model_folder, encoder, tmp_path_factory):
    """dict of each stage to what came of it."""
    from uncouple.data.samples import make_samples
    from uncouple.data.sources import Source

    folder = tmp_path_factory.mktemp("disk")
    disk, stages = folder / "disk", folder / "stages.json"
    disk.mkdir()
    skip_without_small_disks(disk)
    rows = [{"prompt": f"Why {i}?", "response": f"Sure, {i}." * (1 + i % 3)} for i in range(12)]
    (folder / "judged.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Source(path=str(folder / "judged.jsonl"))
    made = {"judged/safe": "safe", "judged/unsafe": "unsafe", "samples/four-fairness": "safe"}
    for name, label in made.items():
        dimension, n = ("fairness", 4) if "fairness" in name else ("privacy", None)
        make_samples(source, dimension, label, n, 0, folder / f"{name}.parquet")
    named = {f"R/{name}.parquet": str(folder / f"{name}.parquet") for name in made}
    named |= {"R/": f"{whole}/", "DISK": str(disk), "BASE": str(model_folder), "ENCODER": str(encoder)}
    named |= {"RAW": str(whole.with_name("raw.jsonl"))}
    commands = {}
    for stage, command in STAGES.items():
        for name, path in named.items():
            command = command.replace(name, path)
        commands[stage] = command.split()
    stages.write_text(json.dumps(commands))
    words = ["unshare", "-rm", "sh", "-c", MOUNT, "sh", disk, sys.executable, HERE / "small_disk.py", stages]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environment)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["')]
    assert len(lines) == len(STAGES), done.stderr
    return dict(lines)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_on_a_disk_that_fills_up(told, stage):
    assert isinstance(told[stage], list), told[stage]
    (first, _), (full, said), (again, _), same, left = told[stage]
    assert (first, full, again) == (0, 1, 0), told[stage]
    assert "the disk is full. Nothing was left half-written: free some space and run again." in said
    assert same
    assert left == []
