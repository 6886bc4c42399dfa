"""The pinned environments agree with each other and hold what the code imports."""

import ast
import re
import runpy
import subprocess
import sys
import tomllib

import pytest
import yaml
from clone import COPIED
from conftest import ROOT

from uncouple.records.fingerprint import own_package
from uncouple.reporting.parts import part_names

# What a package is called on the index, where it is imported under another name.
PACKAGE_OF = {
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "huggingface_hub": "transformers",
    "triton": "torch",
    "pydantic_core": "pydantic",
}
# Each environment runs these verbs.
VERBS_OF = {
    "tables": ("samples", "mask", "apply", "restore", "measure"),
    "torch": ("fetch", "score", "tune", "ask", "train-judge", "judge", "perplexity", "divergence", "ability", "hsic"),
    "figures": ("figures", "tables"),
}
PARTS_OF = {kind: [f"reporting.{kind}.{name}" for name in part_names(kind)] for kind in ("figures", "tables")}


def pins(path):
    return dict(re.findall(r"^\s*(?:- )?([A-Za-z0-9_.-]+)==(\S+)$", path.read_text(), re.M))


def normalized(pinned):
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pinned.items()}


def packages_of(verb):
    """Third-party packages that come with the modules that a verb loads, whatever the depth."""
    found, root = set(), f"commands.{verb.replace('-', '_')}"
    for place in own_package().reached(f"{root}:run", f"{root}:add_flags", *PARTS_OF.get(verb, ())):
        module, _, definition = place.partition(":")
        # A module that a verb loads may have functions for other verbs: only what is imported with it counts here.
        for node in ast.parse(own_package().module(module).path.read_text()).body if not definition else ():
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.split(".")[0])
    return {PACKAGE_OF.get(name, name) for name in found - set(sys.stdlib_module_names) - {"uncouple"}}


@pytest.mark.parametrize("name", VERBS_OF)
def test_a_stages_environment_pins_what_its_verbs_import_as_requirements_do(name):
    environment, whole = pins(ROOT / f"envs/{name}.yaml"), pins(ROOT / "envs/requirements.txt")
    assert environment.items() <= whole.items()
    for verb in VERBS_OF[name]:
        assert packages_of(verb) <= set(environment), verb


def test_every_rule_names_an_environment_that_is_there():
    for path in (ROOT / "rules").glob("*.smk"):
        for name in re.findall(r'conda:\s+"\.\./envs/(\w+)\.yaml"', path.read_text()):
            assert yaml.safe_load((ROOT / f"envs/{name}.yaml").read_text())["dependencies"]


def test_constraints_agree_with_the_pins_and_leave_torch_out():
    constraints = normalized(pins(ROOT / "envs/constraints.txt"))
    assert not {"torch", "triton"} & set(constraints)
    assert not [name for name in constraints if name.startswith(("nvidia", "cuda"))]
    for name in ("requirements.txt", "requirements-test.txt"):
        for package, version in normalized(pins(ROOT / f"envs/{name}")).items():
            assert package == "torch" or constraints[package] == version, package


def test_every_experiment_and_profile_is_yaml():
    for path in [*(ROOT / "experiments").glob("*.yaml"), *(ROOT / "workflow/profiles").glob("*/config.yaml")]:
        assert isinstance(yaml.safe_load(path.read_text()), dict), path


def test_python_is_of_one_version_everywhere():
    """The oldest that the package takes is what conda and the container have, and what the lints read the code as."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    oldest = project["project"]["requires-python"].removeprefix(">=")
    tools = project["tool"]
    assert (tools["ruff"]["target-version"], tools["mypy"]["python_version"]) == (
        f"py{oldest.replace('.', '')}",
        oldest,
    )
    for name in VERBS_OF:
        assert yaml.safe_load((ROOT / f"envs/{name}.yaml").read_text())["dependencies"][0] == f"python={oldest}"
    assert f"python:{oldest}-slim" in (ROOT / "envs/Dockerfile").read_text()
    makefile = (ROOT / "Makefile").read_text()
    assert f"sys.version_info >= ({oldest.replace('.', ', ')})" in makefile
    assert f"Python {oldest} or newer" in makefile
    assert f"Python {oldest} or newer" in (ROOT / "README.md").read_text()


def test_the_container_takes_its_pins_from_the_files_and_runs_as_nobody_special():
    lines = (ROOT / "envs/Dockerfile").read_text().splitlines()
    steps = [line.split(" ", 1) for line in lines if line and not line.startswith("#")]
    copied = [source for word, rest in steps if word == "COPY" for source in rest.split()[:-1] if source[0] != "-"]
    assert {*COPIED, "experiments", "envs/requirements.txt", "envs/constraints.txt"} == set(copied)
    assert all((ROOT / source).exists() for source in copied)
    # A version stands in no second list.
    assert not [line for line in lines if "==" in line]
    assert [rest for word, rest in steps if "pip install" in rest] == [
        "/opt/venv/bin/pip install --no-cache-dir"
        " --requirement /opt/envs/requirements.txt --constraint /opt/envs/constraints.txt"
    ]
    words = [word for word, _ in steps]
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert dict(steps)["USER"] == "uncouple"


@pytest.mark.slow
@pytest.mark.parametrize("name", VERBS_OF)
def test_pip_finds_the_pins_of_a_stage_to_go_together_as_tested(name):
    """What conda would hand to pip: here it is all there, in these versions, and nothing contradicts them."""
    given = [f"{package}=={version}" for package, version in pins(ROOT / f"envs/{name}.yaml").items()]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--constraint", str(ROOT / "envs/constraints.txt")]
    done = subprocess.run([*command, *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Would install" not in done.stdout


FOUND = {"name": "a", "version": "1.0", "vulns": []}
HOLED = {"name": "b", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}
SKIPPED = {"name": "c", "skip_reason": "Dependency not found on PyPI and could not be audited: c (3.0)"}


@pytest.mark.parametrize(
    ("found", "fault", "status", "told"),
    [
        ([FOUND], "", 0, "1 packages are pinned, and none has a known vulnerability."),
        ([FOUND, HOLED], "", 1, "b 2.0: PYSEC-1, mended in 2.1"),
        # pip-audit itself calls these well.
        ([FOUND, SKIPPED], "", 2, "NOT AUDITED: 1 packages, of which nothing could be learnt (Dependency not found"),
        ([HOLED, SKIPPED], "", 1, "NOT AUDITED: 1 packages"),
        ([], "no such host", 2, "NOT AUDITED: all packages, of which nothing could be learnt (no such host)."),
    ],
)
def test_what_could_not_be_audited_is_not_called_safe(found, fault, status, told):
    given, lines = runpy.run_path(str(ROOT / "envs/audit.py"))["tell"](found, fault)
    assert given == status
    assert any(line.startswith(told) for line in lines), lines
