"""A training that is killed outright goes on, and ends as one that was never disturbed."""

import multiprocessing
import os
import signal

import pytest
from test_tune import curve_of, same_folder

from uncouple.tuning import trainer
from uncouple.tuning.methods import METHODS
from uncouple.tuning.options import Tuning
from uncouple.tuning.tune import tune_model

# Nine steps. What is dropped out and in which order samples come is drawn.
SETTINGS = {"epochs": 3, "batch_size": 3, "rate": 3e-3}


@pytest.fixture(autouse=True)
def _each_step_is_kept(monkeypatch):
    monkeypatch.setattr(trainer, "KEEP_EVERY", 0)
    monkeypatch.setattr(trainer, "KEEP_TIMES", 0)


def kill_at(place, number, *arguments, **options):
    """Tune, and be killed when a method of the trainer is called for so many times."""
    plain, calls = getattr(trainer._Trainer, place), []

    def killed(self, *others, **named):
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, *others, **named)

    setattr(trainer._Trainer, place, killed)
    tune_model(*arguments, **options)


def tune_and_die(place, number, *arguments):
    """The same in a process of its own."""
    process = multiprocessing.get_context("fork").Process(
        target=kill_at, args=(place, number, *arguments), kwargs={"device": "cpu"}
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.fixture
def count_steps(monkeypatch):
    """A list that grows by one with each step of training."""
    steps, plain = [], trainer._Trainer.compute_loss
    monkeypatch.setattr(
        trainer._Trainer,
        "compute_loss",
        lambda self, *others, **named: steps.append(1) or plain(self, *others, **named),
    )
    return steps


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("place", "number", "kept"),
    [("compute_loss", 6, 5), ("_save_rng_state", 4, 3), ("_save_checkpoint", 1, 0)],
    ids=["in a step", "while it is kept", "before anything is kept"],
)
def test_a_killed_training_ends_as_an_unbroken_one(
    model_folder, tables, tmp_path, count_steps, method, place, number, kept
):
    options = Tuning(method=method, **SETTINGS)
    tune_and_die(place, number, model_folder, tables, tmp_path / "killed", options)
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".killed.training-")]
    assert not (tmp_path / "killed").exists()
    for name, steps in (("killed", 9 - kept), ("whole", 9)):
        count_steps.clear()
        tune_model(model_folder, tables, tmp_path / name, options, device="cpu")
        assert len(count_steps) == steps
    found, truth = curve_of(tmp_path / "killed"), curve_of(tmp_path / "whole")
    assert found[1] == truth[1]
    assert found[0] == pytest.approx(truth[0], abs=1e-4)
    assert len(set(truth[0])) == 9
    if METHODS[method].product != "adapter.safetensors":
        assert same_folder(tmp_path / "killed", tmp_path / "whole")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_what_another_training_kept_is_never_read(model_folder, tables, tmp_path, count_steps):
    output = tmp_path / "o"
    tune_and_die("compute_loss", 6, model_folder, tables, output, Tuning(method="fft", **SETTINGS))
    for changed in ({"tune_seed": 1}, {"rate": 1e-3}, {"epochs": 4}):
        count_steps.clear()
        options = Tuning(**{"method": "fft"} | SETTINGS | changed)
        tune_model(model_folder, tables, output, options, device="cpu")
        assert len(count_steps) == 3 * options.epochs
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    "spoilt", [trainer.LEARNT, "optimizer.pt", "trainer_state.json", trainer.HASHES, "rng_state.pth"]
)
@pytest.mark.parametrize("how", ["a flipped bit", "cut off", "lost"])
def test_what_is_kept_and_spoilt_is_not_gone_on_from(model_folder, tables, tmp_path, count_steps, spoilt, how):
    options = Tuning(method="reft", **SETTINGS)
    tune_and_die("compute_loss", 6, model_folder, tables, tmp_path / "o", options)
    (path,) = tmp_path.rglob(spoilt)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content if how == "a flipped bit" else content[: len(content) // 2])
    if how == "lost":
        path.unlink()
    count_steps.clear()
    tune_model(model_folder, tables, tmp_path / "o", options, device="cpu")
    assert len(count_steps) == 9
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
