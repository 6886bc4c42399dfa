"""`pip install .` gives the command `uncouple`, with all that it needs at run time."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from conftest import ROOT
from test_environment import normalized, pins

import uncouple

# Of the workflow, not of the package.
WORKFLOW = {"snakemake", "snakemake-executor-plugin-slurm"}


def run(*command, cwd, **environment):
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"} | environment
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built without a network."""
    folder = tmp_path_factory.mktemp("build")
    shutil.copytree(ROOT / "uncouple", folder / "uncouple", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", "wheels")
    run(sys.executable, "-m", "pip", "wheel", ".", *options, cwd=folder)
    (path,) = (folder / "wheels").glob("*.whl")
    return path


def test_the_wheel_has_every_file_of_the_package_the_licence_and_the_version(wheel):
    assert wheel.name == f"uncouple-{uncouple.__version__}-py3-none-any.whl"
    package = {p.relative_to(ROOT).as_posix() for p in (ROOT / "uncouple").rglob("*.*") if p.suffix != ".pyc"}
    with zipfile.ZipFile(wheel) as archive:
        found = set(archive.namelist())
    assert {name for name in found if name.startswith("uncouple/")} == package
    assert f"uncouple-{uncouple.__version__}.dist-info/licenses/LICENSE" in found


def test_the_installed_command_runs_where_there_is_no_clone(wheel, tmp_path):
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", target, wheel, cwd=elsewhere)
    assert "score" in run(target / "bin/uncouple", "--help", cwd=elsewhere, PYTHONPATH=str(target))
    code = (
        "from uncouple.evaluation.task_files import TASK_KINDS as found; print(*(t.definition for t in found.values()))"
    )
    told = run(sys.executable, "-c", code, cwd=elsewhere, PYTHONPATH=str(target)).split()
    own = [path for path in told if path.startswith(str(target))]
    assert len(own) == 2
    assert all(map(os.path.isfile, own))


def test_the_package_depends_on_what_the_environment_pins():
    with open(ROOT / "pyproject.toml", "rb") as file:
        declared = tomllib.load(file)["project"]["dependencies"]
    pinned = normalized(pins(ROOT / "envs/requirements.txt"))
    assert set(normalized(dict.fromkeys(declared))) == set(pinned) - WORKFLOW
