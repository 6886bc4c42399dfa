"""The command: help at once and with an example, faults in one line, light imports, small modules."""

import ast
import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from uncouple import commands
from uncouple.commands import VERBS, main
from uncouple.errors import UncoupleError
from uncouple.options import key_value
from uncouple.records.files import read_table
from uncouple.records.formats import SAMPLES

HEAVY = ["torch", "transformers", "pyarrow", "numpy", "scipy", "matplotlib", "datasets", "yaml"]
MODULES = sorted((ROOT / "uncouple").rglob("*.py"))
# Each verb in turn asks for its help in one interpreter, which tells what that brought with it.
HELP_OF_ALL = """
import contextlib, io, json, sys
from uncouple.commands import VERBS, main
heavy, brought = json.loads(sys.argv[1]), {}
for arguments in [["--help"], *([verb, "--help"] for verb in VERBS)]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(arguments)
    brought[arguments[0]] = [name for name in heavy if name in sys.modules]
print(json.dumps(brought))
"""


def run(*arguments, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )


def imported(tree):
    """Names of all packages that a syntax tree imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


# Help


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_an_example_that_parses(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    _, _, after = text.partition("example")
    lines = after.replace("\\\n", " ").splitlines()
    examples = [line.split()[3:] for line in lines if line.strip().startswith("python -m uncouple ")]
    assert examples
    for example in examples:
        assert example[0] == verb
        assert commands.build_parser(verb).parse_args(example).verb == verb


@pytest.mark.parametrize(
    "arguments",
    [
        *(["measure", what] for what in ("awareness", "placement", "coupling")),
        *(["figures", what] for what in ("awareness", "placement", "coupling")),
        ["tables", "summary"],
    ],
    ids=" ".join,
)
def test_help_of_what_stands_below_a_verb(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--help"])
    assert caught.value.code == 0
    assert "--output" in capsys.readouterr().out


def test_help_names_every_verb(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(
        re.search(rf"^    {verb}\s", text, re.M) and commands.command(verb).SUMMARY in " ".join(text.split())
        for verb in VERBS
    )


def test_help_brings_no_heavy_package():
    done = run("-c", HELP_OF_ALL, json.dumps(HEAVY))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: [] for name in ["--help", *VERBS]}


def test_the_command_as_a_person_types_it(tmp_path):
    done = run("-X", "importtime", "-m", "uncouple", "--help", cwd=tmp_path)
    assert (done.returncode, done.stdout.split()[:4]) == (0, ["usage:", "python", "-m", "uncouple"])
    names = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in names
    assert names.isdisjoint(HEAVY)


# Faults


def test_a_fault_is_one_line_and_exit_status_1(tmp_path):
    arguments = ["samples", "--path", "none.csv", "--dimension", "d", "--n", "1", "--output", "made.parquet"]
    done = run("-m", "uncouple", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("uncouple samples: error: none.csv: no such file")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_tells_a_fault_in_the_same_way(verb, monkeypatch, capsys):
    def fail(parsed):
        raise UncoupleError("x.csv: broken. Mend it.")

    parser = commands.argparse.ArgumentParser()
    parser.set_defaults(verb=verb, json_log=None)
    monkeypatch.setattr(commands, "build_parser", lambda _: parser)
    monkeypatch.setattr(commands.command(verb), "run", fail)
    assert main([]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"uncouple {verb}: error: x.csv: broken. Mend it.\n")


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    """Only the user's faults are told in one line: a bug must show where it is."""

    def fail(parsed):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(commands.command("restore"), "run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["restore", "folder", "--output", "x"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param([], "VERB", id="no verb"),
        pytest.param(["scroe"], "scroe", id="unknown verb"),
        pytest.param(["score", "s", "--model", "m", "--output", "o", "--layers", "3"], "FIRST:LAST", id="layers"),
        pytest.param(["score", "s", "--model", "m"], "required: --output", id="no output"),
        pytest.param(["samples", "--dimension", "d", "--output", "o"], "--path --hub", id="neither path nor hub"),
        pytest.param(
            ["samples", "--path", "p.csv", "--hub", "h", "--dimension", "d", "--output", "o"],
            "not allowed with",
            id="both",
        ),
        pytest.param(
            ["samples", "--path", "p.csv", "--dimension", "d", "--output", "o", "--where", "a"], "KEY=VALUE", id="where"
        ),
        pytest.param(
            ["samples", "--path", "p.csv", "--dimension", "d", "--output", "o", "--where", "a=[1"],
            "'a=[1'",
            id="bad value",
        ),
    ],
)
def test_arguments_that_are_not_right(arguments, said, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_samples_without_a_count_are_all_in_their_order(write_jsonl, tmp_path):
    raw = write_jsonl("raw.jsonl", [{"prompt": f"p{i}", "response": f"r{i}"} for i in range(9)])
    assert main(["samples", "--path", str(raw), "--dimension", "d", "--output", str(tmp_path / "o")]) == 0
    assert read_table(tmp_path / "o", SAMPLES)[0].column("prompt").to_pylist() == [f"p{i}" for i in range(9)]


def test_samples_from_the_command_line(write_jsonl, tmp_path, capsys):
    rows = [
        {"ask": f"q{i}", "more": "please", "reply": f"r{i}", "is": {"safe": i % 2 == 0}, "kind": "a b"}
        for i in range(9)
    ]
    output = tmp_path / "made.parquet"
    arguments = ["samples", "--path", str(write_jsonl("raw.jsonl", rows)), "--dimension", "d", "--n", "5"]
    arguments += ["--prompt-column", "ask", "more", "--response-column", "reply", "--label", "unsafe"]
    arguments += ["--where", "is.safe=true", "--where", "kind=a b", "--output", str(output)]
    assert main(arguments) == 0
    table, metadata = read_table(output, SAMPLES)
    assert sorted(table.column("prompt").to_pylist()) == [f"q{i}\nplease" for i in (0, 2, 4, 6, 8)]
    assert metadata["source"]["where"] == {"is.safe": True, "kind": "a b"}
    assert set(table.column("label").to_pylist()) == {"unsafe"}
    assert capsys.readouterr().out == ""


# The code


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_no_module_imports_snakemake(path):
    text = path.read_text(encoding="utf-8")
    assert "snakemake" not in {name.lower() for name in imported(ast.parse(text))}
    # The one place where a module is picked by its name; see `fingerprint.load_part`.
    if path != ROOT / "uncouple/records/fingerprint.py":
        assert "import_module" not in text
        assert "__import__" not in text


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_no_module_is_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_datasets_is_needed_for_the_hub_alone():
    """A bare GPU machine has no `datasets`, and runs every other step."""
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        assert "datasets" not in set(imported(top)), path.name


def test_the_hub_without_datasets_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "datasets", None)
    arguments = ["samples", "--hub", "a/b", "--revision", "0" * 40, "--split", "train", "--dimension", "d", "--n", "1"]
    assert main([*arguments, "--output", str(tmp_path / "o.parquet")]) == 1
    assert "pip install datasets" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [["--ratio=-0.1"], ["--ratio", "nan"], ["--ratio", "2"], ["--general-ratio", "0"]],
)
def test_a_share_is_above_0_and_at_most_1(flags, capsys):
    given = [
        "mask",
        "--model",
        "m",
        "--scores",
        "s",
        "--dimensions",
        "a",
        "b",
        "--ratio",
        "0.1",
        "--output",
        "o",
        *flags,
    ]
    with pytest.raises(SystemExit):
        main(given)
    assert "give a number above 0 and at most 1" in capsys.readouterr().err


def test_out_of_memory_says_what_to_lower(monkeypatch, capsys):
    import torch

    def fail(_):
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")

    monkeypatch.setattr(commands.command("score"), "run", fail)
    assert main(["score", "s.parquet", "--model", "m", "--output", "o"]) == 1
    assert "out of memory (tried to allocate 20 GiB). Lower --batch-tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-05", 1e-5),
        ("2.5e+20", 2.5e20),
        ("0.1", 0.1),
        ("true", True),
        ('"1e-05"', "1e-05"),
        ("NaN", "NaN"),
        ("e5", "e5"),
    ],
)
def test_a_value_is_read_as_yaml_and_numbers_as_programs_write_them(text, value):
    assert key_value(f"key={text}") == ("key", value)


@pytest.mark.parametrize(
    ("judge", "flag"),
    [("phrases", "--dtype=float16"), ("phrases", "--model=m"), ("embedding", "--phrases=p")],
)
def test_a_flag_of_another_kind_of_judge_is_refused(judge, flag, capsys):
    assert main(["judge", "answers", "--judge", judge, flag, "--output", "verdicts"]) == 1
    named = flag.partition("=")[0]
    assert f"{named}: the judge `{judge}` has no use for it. Leave it out." in capsys.readouterr().err
