"""The package keeps its shape: short files and functions, few modules at its top, arrows between rooms one way."""

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

FILES = sorted((ROOT / "uncouple").rglob("*.py"))


def lint_imports(folder):
    """import-linter on a folder with a package and its pyproject.toml."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--config", folder / "pyproject.toml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_no_file_is_over_400_lines():
    folders = [ROOT / name for name in ("uncouple", "tests", "benchmarks", "rules")]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".smk")]
    lengths = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in files}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_is_over_60_lines(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {n.name: n.end_lineno - n.lineno + 1 for n in functions}
    assert {name: length for name, length in lengths.items() if length > 60} == {}


def test_at_most_ten_modules_lie_directly_in_the_package():
    assert len([path for path in FILES if path.parent == ROOT / "uncouple"]) <= 10


# With a dot in them, in backquotes, but no names of the package: examples, and names of files and of matrices.
OTHERWISE = r"NAME\.jsonl|a\.b\.c|attention_backward\.cu|files\.write|mlp\.up_proj|model\.layers\..*"


def names_bound(body, before):
    """Dotted names of what statements bind, and classes in turn."""
    for node in body:
        if isinstance(node, ast.If):
            yield from names_bound(node.body, before)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield (*before, node.name)
            if isinstance(node, ast.ClassDef):
                yield from names_bound(node.body, (*before, node.name))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield from ((*before, name.id) for name in ast.walk(target) if isinstance(name, ast.Name))


def package_names():
    """Each dotted name of the package, from any of its parts on; a room may stand for the module in it."""
    for path in FILES:
        module = tuple(part for part in path.relative_to(ROOT).with_suffix("").parts if part != "__init__")
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for name in (module, *names_bound(body, module), *names_bound(body, module[:-1])):
            yield from (".".join(name[start:]) for start in range(len(name)))


def lost_names(text, known):
    """The dotted names in backquotes that lead nowhere, in the package or outside."""
    found = set(re.findall(r"`(\w+(?:\.\w+)+)`", text)) - known
    found = {name for name in found if not re.fullmatch(OTHERWISE, name)}
    return {name for name in found if (first := name.split(".")[0]) in known or not importlib.util.find_spec(first)}


def test_a_name_in_backquotes_leads_to_what_it_names():
    known = set(package_names())
    told = "`gone.thing` `load.gone` `Store.gone` `load.load_model` `Store.get` `ast.dump` `a.b.c`"
    assert lost_names(told, known) == {"gone.thing", "load.gone", "Store.gone"}
    found = {str(path.relative_to(ROOT)): lost_names(path.read_text(encoding="utf-8"), known) for path in FILES}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.fixture
def copy(tmp_path):
    """A copy of the package that a test may break."""
    shutil.copytree(ROOT / "uncouple", tmp_path / "uncouple", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_arrows_between_rooms_point_one_way(copy):
    done = lint_imports(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("records/files.py", "uncouple.models.weights"),
        ("models/load.py", "uncouple.variants.masks"),
        ("selection/rules.py", "uncouple.evaluation.statistics"),
    ],
)
def test_an_arrow_the_other_way_is_found_also_inside_a_function(copy, module, imported):
    with open(copy / "uncouple" / module, "a") as file:
        file.write(f"\n\ndef _upward():\n    import {imported}\n")
    done = lint_imports(copy)
    assert done.returncode == 1
    assert imported in done.stdout
