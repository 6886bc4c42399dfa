"""Kinds: nobody asks for the name of one, and to add one is one file and its line in the union.

The edits are real ones, on a copy of the package, which is then used as a person would.
"""

import ast
import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from uncouple.evaluation.judges.registry import JUDGES
from uncouple.experiment.options import VARIANTS
from uncouple.selection.rules import RULES

# Where a name is another thing than the kind: a prompt format, a key of a record, what a library calls its models.
OTHERWISE = {
    ("published", "models/prompts.py"),
    ("causal", "evaluation/ability.py"),
    # Verbs.
    ("tune", "commands/__init__.py"),
    ("tune", "experiment/paths.py"),
    ("tune", "tuning/trainer.py"),
    # The model that variants are compared with.
    ("origin", "commands/divergence.py"),
    ("origin", "evaluation/divergence.py"),
    ("noise", "evaluation/answers.py"),
    ("noise", "evaluation/awareness.py"),
    ("noise", "evaluation/collect.py"),
    ("noise", "commands/flags.py"),
    ("noise", "records/formats.py"),
    ("noise", "records/verify.py"),
    ("coupled", "records/formats.py"),
    ("noise", "evaluation/judges/judge.py"),
    ("coupled", "selection/select.py"),
    ("coupled", "reporting/tables/selections.py"),
}


def strings(tree):
    """Every text of a file that is no docstring, with its line; an f-string's parts as well."""
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [(node.value, node.lineno) for node in texts if id(node) not in told]


def homes():
    """The file of each kind's name."""
    found = {name: kind.__module__ for name, kind in [*JUDGES.items(), *VARIANTS.items()]}
    return found | dict.fromkeys(RULES, "uncouple.selection.rules")


def test_the_name_of_a_kind_stands_in_its_own_file_alone():
    found = []
    for path in sorted((ROOT / "uncouple").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for text, line in strings(ast.parse(path.read_text(encoding="utf-8"))):
            name = str(path.relative_to(ROOT / "uncouple"))
            if text in homes() and homes()[text] != module and (text, name) not in OTHERWISE:
                found.append(f"{name}:{line}: {text!r}")
    written = [*(ROOT / "rules").glob("*.smk"), *(ROOT / "workflow").rglob("*.rst"), ROOT / "workflow/Snakefile"]
    for path in sorted(written):
        text = path.read_text(encoding="utf-8")
        # A verb may be called as a kind is.
        text = re.sub(r'code_of\("[a-z-]+"', "", text)
        found += [f"{path.name}: {name!r}" for name in homes() if f'"{name}"' in text or f"'{name}'" in text]
    assert found == []


def test_a_name_that_stands_elsewhere_would_be_seen():
    tree = ast.parse('"""embedding"""\nif kind == "embedding":\n    pass\n')
    assert strings(tree) == [("embedding", 2)]


# What is added


@pytest.fixture
def copy(tmp_path):
    """A copy of the project; `changed` tells which of its files are not as they were, those that are written apart."""
    for name in ("uncouple", "workflow", "resources", "config.yaml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    return tmp_path


def edit(folder, path, old, new):
    text = (folder / path).read_text(encoding="utf-8")
    assert text.count(old) == 1, (path, old)
    (folder / path).write_text(text.replace(old, new), encoding="utf-8")


def changed(folder):
    """The files of the package that are new or edited."""
    return {
        str(path.relative_to(folder))
        for path in (folder / "uncouple").rglob("*.py")
        if not (before := ROOT / path.relative_to(folder)).exists() or before.read_bytes() != path.read_bytes()
    }


def python(folder, code):
    """What a program prints that sees the copy."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


LOAD = """
import yaml
from uncouple.experiment.config import load
config = yaml.safe_load(open("config.yaml"))
"""
WRITE = """
from uncouple.experiment import document
assert document.main(["--check"]) == 1 and document.main([]) == 0 and document.main(["--check"]) == 0
"""


def test_a_selection_rule_is_one_file(copy):
    rule = '''class Rest(Coupled):
    """Weights in the top of no dimension, nor of the general set."""

    name = "rest"
    about = "of none"

    def select(self, tops, general, size, seed):
        import numpy as np

        return np.setdiff1d(np.arange(size), reduce(np.union1d, tops, general))


COUPLED = Coupled()
'''
    edit(copy, "uncouple/selection/rules.py", "COUPLED = Coupled()\n", rule)
    edit(copy, "uncouple/selection/rules.py", "        Random(),\n", "        Random(),\n        Rest(),\n")
    assert changed(copy) == {"uncouple/selection/rules.py"}
    python(copy, WRITE)
    assert "random, as many as coupled, drawn; rest, of none." in " ".join(
        (copy / "config.yaml").read_text().replace("#", "").split()
    )
    assert "- rest\n" in (copy / "workflow/schemas/config.schema.yaml").read_text()
    code = """
config["variants"]["spin"]["select"] = "rest"
experiment = load(config, ".")
import numpy as np
tops = [np.array([0, 1]), np.array([1, 2])]
print(experiment.variants["spin"].rule.select(tops, np.array([5]), 7, [0]).tolist())
from uncouple.options import from_flags, to_flags
from uncouple.commands import build_parser
from uncouple.selection.options import Selection
flags = ["mask", "--model", "m", "--scores", "s", "--output", "o", "--dimensions", "a", "b"]
flags += ["--ratio", "0.1", "--select", "rest"]
print(from_flags(Selection, build_parser("mask").parse_args(flags)).select)
"""
    assert python(copy, LOAD + code) == "[3, 4, 6]\nrest\n"


def test_a_kind_of_judge_is_one_file_and_its_line_in_the_union(copy):
    kind = '''"""A judge by length."""

from typing import ClassVar, Literal

from pydantic import Field

from uncouple.evaluation.judges.kinds import JudgeKind, Judging


class Length(JudgeKind):
    """A judge that takes a short answer for a safe one."""

    about: ClassVar = "counts words"
    inputs: ClassVar = {}

    kind: Literal["length"] = Field("length", description="What kind of judge it is.")
    most_words: int = Field(9, description="Words of a safe answer.")

    def files(self, places):
        return {}

    def identity(self, files):
        return {"kind": self.kind, "most_words": self.most_words}

    def open(self, files, device):
        return Judging(self.judge)

    def judge(self, questions, answers):
        return [("safe" if len(answer.split()) <= self.most_words else "unsafe", None) for answer in answers]
'''
    (copy / "uncouple/evaluation/judges/length.py").write_text(kind)
    registry = "uncouple/evaluation/judges/registry.py"
    edit(copy, registry, "Judge = Phrases | Embedding | Causal", "Judge = Phrases | Embedding | Causal | Length")
    line = "from uncouple.evaluation.judges.phrases import Phrases\n"
    edit(copy, registry, line, "from uncouple.evaluation.judges.length import Length\n" + line)
    assert changed(copy) == {registry, "uncouple/evaluation/judges/length.py"}
    python(copy, WRITE)
    assert "; length counts words." in " ".join((copy / "config.yaml").read_text().replace("#", "").split())
    assert "# Words of a safe answer.\n    # most_words: 9\n" in (copy / "config.yaml").read_text()
    code = """
config["judges"]["short"] = {"kind": "length", "most_words": 2}
config["evaluation"]["judges"] = ["short"]
experiment = load(config, ".")
from uncouple.experiment.paths import Paths
print(Paths(experiment).judge_files("short"), Paths(experiment).records()[1:])
import json, pyarrow as pa
from uncouple.records.files import read_table, write_table
from uncouple.records.formats import ANSWERS, ASKING_KEYS, MACHINE_KEYS, VERDICTS
from uncouple.commands import main
rows = [{"id": str(i), "dimension": "d", "question": "q", "answer": a, "tokens": 1, "truncated": False}
        for i, a in enumerate(["one two", "one two three"])]
keys = ["model", "variant", "base", *MACHINE_KEYS, *ASKING_KEYS, "noise"]
prints = dict.fromkeys(("weights", "tokenizer", "generation"), "x")
record = dict.fromkeys(keys, "x") | {"dimension": "d", "fingerprints": prints}
record |= {"mask": None, "adapter": None, "max_new_tokens": 9}
write_table(rows, "answers.parquet", ANSWERS, record)
flags = ["answers.parquet", "--judge", "length", "--most-words", "2", "--output", "v.parquet"]
assert main(["judge", *flags]) == 0
table, record = read_table("v.parquet", VERDICTS)
print(table.column("verdict").to_pylist(), json.dumps(record["identity"]))
"""
    files, verdicts = python(copy, LOAD + code).splitlines()
    assert files == (
        "{} ['results/judges/embedding/model/uncouple.json', "
        "'results/checkpoints/SmolLM2-135M-Instruct/spin/uncouple.json']"
    )
    calls, identity = verdicts.split("] ")
    assert calls == "['safe', 'unsafe'"
    assert json.loads(identity) == {"kind": "length", "most_words": 2, "dtype": None}


def test_an_option_of_scoring_is_two_files(copy):
    option = """    least: float = Field(0.0, description="Scores below this are not kept.")

    @property
    def most_tokens"""
    edit(copy, "uncouple/scoring/options.py", "    @property\n    def most_tokens", option)
    edit(
        copy,
        "uncouple/scoring/score.py",
        '        "keep": options.keep,\n',
        '        "keep": options.keep,\n        "least": options.least,\n',
    )
    assert changed(copy) == {"uncouple/scoring/options.py", "uncouple/scoring/score.py"}
    python(copy, WRITE)
    assert "  # Scores below this are not kept.\n  least: 0.0\n" in (copy / "config.yaml").read_text()
    code = """
config["scoring"]["least"] = 0.25
experiment = load(config, ".")
from uncouple.options import from_flags, to_flags
from uncouple.commands import build_parser
from uncouple.scoring.options import Scoring
flags = to_flags(experiment.scoring, of=Scoring)
given = ["score", "s", "--model", "m", "--output", "o", *flags]
print(from_flags(Scoring, build_parser("score").parse_args(given)).least)
"""
    assert python(copy, LOAD + code) == "0.25\n"
