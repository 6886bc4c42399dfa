"""The pinned environments agree with each other and hold what the code imports."""

import ast
import re
import sys

import pytest
import yaml
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
