"""A Hub that cannot be reached, or has no such thing, is told in one line with what to do instead."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from uncouple.errors import UncoupleError
from uncouple.hub import from_hub

COMMIT = "1" * 40
# The libraries wait between their tries for half a minute.
IMPATIENT = "import sys, time; time.sleep = lambda _: None; from uncouple.commands import main; "
IMPATIENT += "sys.exit(main(sys.argv[1:]))"
NO_SERVER = {"HF_ENDPOINT": "http://127.0.0.1:9"}
OFFLINE = {"HF_HUB_OFFLINE": "1"}
DATA = ["--hub", "some/data", "--revision", COMMIT, "--split", "train"]


def run(tmp_path, arguments, environment):
    """What a verb says on a machine without a network and without a cache."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=clean | {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "hub")} | environment,
    )
    return done.returncode, done.stderr


MODEL = f"the model some/model@{COMMIT}"
ROWS = f"the data set some/data@{COMMIT}:train"


@pytest.mark.parametrize(
    ("environment", "arguments", "what", "instead"),
    [
        (NO_SERVER, ["fetch", "--hub", "some/model", "--revision", COMMIT], MODEL, "--path"),
        (OFFLINE, ["fetch", "--hub", "some/model", "--revision", COMMIT], MODEL, "--path"),
        (NO_SERVER, ["fetch", "--encoder", "--hub", "some/model", "--revision", COMMIT], MODEL, "--path"),
        (NO_SERVER, ["samples", *DATA, "--dimension", "d"], ROWS, "--path"),
        (OFFLINE, ["samples", *DATA, "--dimension", "d"], ROWS, "--path"),
        (OFFLINE, ["perplexity", *DATA, "--model", "MODEL", "--window", "32"], ROWS, "--path"),
        (OFFLINE, ["ability", "boolq", "--model", "MODEL"], "the data of the task boolq", "boolq=FILE"),
        (NO_SERVER, ["memory", "--model", "some/model"], "the model some/model", "give its folder"),
    ],
)
def test_a_hub_that_cannot_be_reached(tmp_path, model_folder, environment, arguments, what, instead):
    arguments = [model_folder if a == "MODEL" else a for a in arguments]
    arguments += [] if arguments[0] == "memory" else ["--output", tmp_path / "made"]
    status, said = run(tmp_path, arguments, environment)
    *_, line = said.splitlines()
    assert status == 1
    assert "Traceback" not in said
    assert line.startswith(f"uncouple {arguments[0]}: error: {what}: it is not here, and the Hub cannot be reached")
    assert instead in line.rpartition("Fetch it where there is a network, or ")[2]
    assert not (tmp_path / "made").exists()


def test_what_the_hub_has_not_is_no_fault_of_the_network():
    with pytest.raises(UncoupleError) as caught, from_hub("the data set a/b", "give a file"):
        raise ValueError("BuilderConfig 'x' not found. Available: ['y']\nmore")
    assert str(caught.value) == (
        "the data set a/b: cannot be had from the Hub: BuilderConfig 'x' not found. Available: ['y']. Or give a file."
    )


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a bug"), UncoupleError("x: broken. Mend it."), KeyboardInterrupt()]
)
def test_another_fault_stays_what_it_is(error):
    with pytest.raises(type(error)) as caught, from_hub("the data set a/b", "give a file"):
        raise error
    assert caught.value is error
