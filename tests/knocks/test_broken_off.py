"""Jobs that are broken off: by a signal, by a GPU that fails, and what is left of a judge's work."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from uncouple.commands import main
from uncouple.evaluation.judges.embedding import Embedding
from uncouple.evaluation.judges.judge import judge_answers
from uncouple.models import devices
from uncouple.models.devices import failed_device
from uncouple.records.files import read_any
from uncouple.records.store import Store, list_entries


class Batched:
    """Calls answers by how many it is asked of at once, as rounding does in the last digit."""

    kinds, dtype = {}, "float32"

    def __call__(self, questions, answers):
        return [("safe", 1 / len(answers))] * len(answers)


def test_a_judge_that_is_broken_off_ends_as_one_that_is_not(whole, tmp_path, monkeypatch):
    """What the store gave is known: the answers that are left are judged in the batches of an unbroken run."""
    monkeypatch.setattr(Embedding, "open", lambda *_: Batched())
    monkeypatch.setattr(Embedding, "identity", lambda *_: {})
    answers, store = [whole / f"answers/m/{name}/privacy.parquet" for name in ("origin", "spin")], tmp_path / "store"
    table, record = read_any(answers[1])
    mixed = table.slice(0, 3).to_pylist() + read_any(answers[0])[0].to_pylist()[3:]
    from uncouple.records.files import write_table
    from uncouple.records.formats import ANSWERS

    write_table(mixed, tmp_path / "mixed.parquet", ANSWERS, record)

    def judge(name):
        output = tmp_path / name / "{variant}.parquet"
        judge_answers([answers[0], tmp_path / "mixed.parquet"], output, Embedding(), {}, store=Store(store))
        return [(tmp_path / name / f"{variant}.parquet").read_bytes() for variant in ("origin", "spin")]

    whole_run = judge("whole")
    first, last = sorted(list_entries(store), key=lambda entry: entry.path.stat().st_mtime_ns)
    last.path.unlink()
    assert judge("broken") == whole_run
    assert first.path.exists()


# Signals

ENDLESS = """
import sys
import uncouple.scoring.score as module
from uncouple.__main__ import run
plain = module.accumulate_gradients
def endless(*arguments):
    while True:
        plain(*arguments)
        print("round", file=sys.stderr, flush=True)
module.accumulate_gradients = endless
run()
"""
WRITING = """
import time
import uncouple.records.files as module
from uncouple.__main__ import run
plain = module.seal
def slow(path):
    print("round", file=__import__("sys").stderr, flush=True)
    time.sleep(60)
module.seal = slow
run()
"""


@pytest.mark.parametrize("script", [ENDLESS, WRITING], ids=["while it scores", "while it writes"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_scoring_that_is_asked_to_end_does_and_leaves_nothing(whole, tmp_path, script, number):
    """SLURM kills what has not ended half a minute after it was asked to."""
    output = tmp_path / "out/shard.parquet"
    output.parent.mkdir()
    output.write_bytes(b"old")
    command = [sys.executable, "-c", script, "score", whole / "samples/privacy-safe-n4-seed0.parquet"]
    command += [
        "--model",
        whole / "models/m",
        "--batch-tokens",
        "300",
        "--store",
        tmp_path / "store",
        "--output",
        output,
    ]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while "round" not in (line := process.stderr.readline()):
            assert line, process.wait()
        asked = time.monotonic()
        process.send_signal(number)
        try:
            process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.wait() in (143, -signal.SIGINT, 130, 1)
        assert time.monotonic() - asked < 10
    assert output.read_bytes() == b"old"
    assert os.listdir(output.parent) == ["shard.parquet"]
    assert not list(tmp_path.rglob("*.partial-*"))


# A GPU that fails

AcceleratorError = type("AcceleratorError", (RuntimeError,), {})
FAILURES = (
    RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported"),
    AcceleratorError("CUDA error: the device is no longer available\nSearch for `cudaErrorDevicesUnavailable'"),
    AcceleratorError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("CUDA error: no CUDA-capable device is detected"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("HIP error: the operation cannot be performed in the present state"),
)
OTHERS = (
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("shape '[2]' is invalid for input of size 3"),
    ValueError("CUDA error: unspecified launch failure"),
)


@pytest.mark.parametrize("error", FAILURES, ids=str)
@pytest.mark.parametrize("verb", ["score", "perplexity"])
def test_a_gpu_that_fails_in_the_middle_is_told_in_one_line(whole, tmp_path, monkeypatch, capsys, error, verb):
    def fail(*_, **__):
        raise error

    monkeypatch.setitem(devices._LEASES, "GPU-1f2e", None)
    monkeypatch.setattr("uncouple.scoring.score.accumulate_gradients", fail)
    monkeypatch.setattr("uncouple.evaluation.perplexity.edited", fail)
    words = (
        [str(whole / "samples/privacy-safe-n4-seed0.parquet")]
        if verb == "score"
        else ["--path", __file__, "--window", "32"]
    )
    words += ["--variant", "one", "--variant", "two"] if verb == "perplexity" else []
    output = ["--output", str(tmp_path / "{variant}.parquet")]
    assert main([verb, *words, "--model", str(whole / "models/m"), "--device", "cpu", *output]) == 1
    told = capsys.readouterr().err
    assert "Traceback" not in told
    last = told.splitlines()[-1]
    assert last.startswith(f"uncouple {verb}: error: the GPU GPU-1f2e of {socket.gethostname()} failed (")
    assert str(error).partition("\n")[0] in last
    assert "nvidia-smi" in last
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_what_is_no_failed_gpu_is_none(error):
    assert failed_device(error) is None
