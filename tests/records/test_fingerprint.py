"""What an edit makes stale, rule by rule on small packages, and on the real one by a table of edits."""

import ast
import re
from pathlib import Path

import pytest

from uncouple.records import definitions, syntax
from uncouple.records import fingerprint as module
from uncouple.records.fingerprint import Package, fingerprint


def read_rules():
    """(rule, files, edit, whether it counts) of each edit in fingerprint_rules.txt."""
    text = (Path(__file__).parent / "fingerprint_rules.txt").read_text(encoding="utf-8")
    for rule in text.split("\n## ")[1:]:
        name, _, body = rule.partition("\n")
        edits = re.findall(r"^([+-]) (.+)", body, re.M)
        parts = re.split(r"^# (\S+\.py)\n", re.sub(r"^[+-] .*\n?", "", body, flags=re.M), flags=re.M)
        files = dict(zip(parts[1::2], parts[2::2], strict=True))
        for sign, edit in edits:
            yield pytest.param(files, edit, sign == "+", id=f"{name}: {edit}")


def write(folder, files):
    for name, text in ({"__init__.py": ""} | files).items():
        path = folder / "p" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Package(folder / "p")


def replaced(files, edit):
    """The files after an edit, `OLD -> NEW`, of a text that occurs once in them."""
    old, new = (side.replace("\\n", "\n") for side in edit.split(" -> "))
    found = re.escape(old)
    found = rf"(?<!\w){found}(?!\w)" if old.isalnum() else found
    counts = {name: len(re.findall(found, text)) for name, text in files.items()}
    assert sum(counts.values()) == 1, f"{old!r} occurs in {counts}"
    return {name: re.sub(found, lambda _: new, text) for name, text in files.items()}


@pytest.mark.parametrize(("files", "edit", "counts"), list(read_rules()))
def test_what_counts(files, edit, counts, tmp_path):
    before = write(tmp_path / "before", files).fingerprint("run:run")
    after = write(tmp_path / "after", replaced(files, edit)).fingerprint("run:run")
    assert re.fullmatch("[0-9a-f]{16}", before)
    assert (after != before) == counts


# What cannot be followed

FAULTS = {
    "import p.gone": r"run\.py:1: \S+ has no module gone\.",
    "from p import gone": r"run\.py:1: \S+__init__\.py has no gone\.",
    "from p.a import f, gone": r"run\.py:1: \S+a\.py has no gone\.",
    "from p.a import *": r"run\.py:1: `import \*`",
    "from p.b import round": r"run\.py:1: b:round is imported from where it is imported\.",
    "try:\n    from p import gone\nexcept ImportError: gone = None": r"run\.py:2: \S+ has no gone",
    "def run():\n    from .a import gone": r"run\.py:2: \S+ has no gone",
    "def run():\n    import p\n    return p.a.gone": r"run\.py:3: \S+a\.py has no gone",
    "from p import a\ndef run(name): return getattr(a, name)()": r"run\.py:2: the module p\.a as a value",
    "from p import a\ndef run(name): return vars(a)[name]": r"run\.py:2: the module p\.a as a value",
    "def run(name):\n    from p import a\n\n    m = a\n    return m.f()": r"run\.py:4: the module p\.a as a value",
    "import p\ndef run(): return p": r"run\.py:2: the module p as a value",
    "def run(name): return globals()[name]": r"run\.py:1: globals cannot be followed",
    "def run(name): return eval(name)": r"run\.py:1: eval cannot be followed",
    "def run(name): return [exec(n) for n in name]": r"run\.py:1: exec cannot be followed",
    "import importlib as i\ndef run(name): return i.import_module(f'p.{name}')": r"run\.py:2: importlib.import_module",
    "from importlib import import_module as i\ndef run(): return i('.a', 'p')": r"run\.py:2: importlib.import_module",
    "from importlib import import_module as i\ndef run(): return i": r"run\.py:2: importlib.import_module",
    "def run(name):\n\n    return __import__(name)": r"run\.py:3: __import__ cannot be followed",
    "import importlib\ndef run(): return importlib.import_module('p.gone')": r"run\.py:2: \S+ has no module gone",
    "class run:\n    from p.a import f": r"run\.py:2: an import in a class",
    "def run():\n    global f\n    from p.a import f": r"run\.py:3: an import in a class, or to a `global` name",
    "from p.a import f, load_part\ndef run(x): return load_part(x, 'a')": r"run\.py:2: write out the package",
    "from p.a import f, load_part\ndef run(x): return load_part": r"run\.py:2: write out the package",
    "from p.a import load_part\ndef run(x): return load_part('parts', x)": r"run\.py:2: which part of parts is loaded",
    "from p.a import load_part\ndef run(): return load_part('parts', 'gone')": r"run\.py:2: \S+ has no module parts",
    "import p.bad\ndef run(): pass": r"run\.py:1: \S+ has no module bad",
}


@pytest.mark.parametrize("source", FAULTS)
def test_what_cannot_be_followed_is_an_error_with_file_and_line(source, tmp_path):
    files = {"a.py": "def f(): pass\ndef load_part(p, n): return __import__(f'{p}.{n}')\n", "parts/a.py": ""}
    if "import round" in source:
        files |= {"a.py": "from p.b import round\n", "b.py": "from p.a import round\n"}
    files["run.py"] = source if "run" in source else f"{source}\ndef run(): pass"
    with pytest.raises(ValueError, match=FAULTS[source]):
        write(tmp_path, files).fingerprint("run:run")


def test_what_is_not_reached_need_not_be_followed(tmp_path):
    source = "def run(): pass\ndef other(name):\n    import p.gone\n    return globals()[name], getattr(p.gone, name)\n"
    package = write(tmp_path, {"run.py": source, "a.py": "import p.gone\n"})
    assert set(package.reached("run:run")) == {"run:run", "run:", ":"}
    with pytest.raises(ValueError, match=r"run\.py:3: "):
        package.fingerprint("run:other")


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("run:gone", r"the root run:gone: \S+run\.py has no gone\."),
        ("gone:run", r"the root gone:run: \S+p has no module gone\."),
        ("gone", r"the root gone: \S+p has no module gone\."),
        ("run:a", "the root run:a: this is no definition"),
        ("run:json", "the root run:json: this is no definition"),
    ],
)
def test_a_root_that_is_not_there(root, message, tmp_path):
    package = write(tmp_path, {"run.py": "import json\nfrom p import a\ndef run(): pass\n", "a.py": ""})
    with pytest.raises(ValueError, match=message):
        package.fingerprint(root)


def test_a_module_cannot_be_read(tmp_path):
    package = write(tmp_path, {"run.py": "import p.a\ndef run(): pass\n", "a.py": "def f(:\n"})
    with pytest.raises(SyntaxError) as caught:
        package.fingerprint("run:run")
    assert caught.value.filename.endswith("a.py")


# Roots and parts

PARTS = {
    "run.py": "from p.load import load_part\ndef run(name): return load_part('parts', name).draw()\n",
    "load.py": "import importlib\ndef load_part(p, n): return importlib.import_module(f'p.{p}.{n}')\n",
    "parts/a.py": "def draw(): return 1\n",
    "parts/b.py": "def draw(): return 2\ndef other(): return 3\n",
}


def test_a_part_that_is_picked_by_name_is_a_root(tmp_path):
    package = write(tmp_path, PARTS)
    first, second = (set(package.reached("run:run", f"parts.{name}:draw")) for name in "ab")
    assert first - second == {"parts.a:draw", "parts.a:"}
    assert second - first == {"parts.b:draw", "parts.b:"}
    assert first & second == {"run:run", "load:load_part", "run:", "load:", "parts:", ":"}
    assert package.fingerprint("run:run", "parts.a:draw") != package.fingerprint("run:run", "parts.b:draw")
    assert "parts.b:other" in package.reached("run:run", "parts.b")
    with pytest.raises(ValueError, match=r"run\.py:2: which part of parts"):
        package.fingerprint("run:run", "load:load_part")


def test_only_load_part_may_load_what_is_not_written_out(tmp_path):
    package = write(
        tmp_path, {"a.py": "def load_part(p, n): return __import__(n)\ndef pick(p, n): return __import__(n)\n"}
    )
    package.fingerprint("a:load_part")
    with pytest.raises(ValueError, match=r"a\.py:2: __import__ cannot be followed"):
        package.fingerprint("a:pick")


def test_a_part_is_loaded_by_name():
    assert module.load_part("records", "fingerprint") is module
    with pytest.raises(ModuleNotFoundError, match="records.gone"):
        module.load_part("records", "gone")


def test_a_root_may_be_all_of_a_module(tmp_path):
    files = {
        "run.py": "from p.a import f\nimport p.a\nX = 1\ndef g(): pass\n",
        "a.py": "def f(): pass\ndef h(): pass\nf()\n",
    }
    package = write(tmp_path, files)
    assert set(package.reached("run")) == {"run:X", "run:g", "a:f", "run:", "a:", ":"}
    assert package.fingerprint("run") == package.fingerprint("run:X", "run:g", "run:f") != package.fingerprint("run:X")


def test_the_order_of_roots_says_nothing(tmp_path):
    package = write(tmp_path, {"run.py": "X = 1\nY = 2\n"})
    assert package.fingerprint("run:X", "run:Y") == package.fingerprint("run:Y", "run:X", "run:X")


def test_what_is_reached_tells_which_edit_made_a_step_stale(tmp_path):
    files = {"run.py": "from p.a import f\ndef run(): return f()\n", "a.py": "def f(): return 1\nprint(2)\n"}
    before, now = (
        write(tmp_path, files).reached("run:run"),
        write(tmp_path, replaced(files, "2 -> 3")).reached("run:run"),
    )
    assert set(before) == set(now) == {"run:run", "a:f", "run:", "a:", ":"}
    assert {place for place in before if not before[place]} == {"run:", ":"}
    assert {place for place in now if now[place] != before[place]} == {"a:"}


def test_the_package_that_this_is_part_of():
    assert fingerprint("records.fingerprint:fingerprint") == Package(module.PACKAGE).fingerprint(
        "records.fingerprint:fingerprint"
    )
    assert "records.syntax:Reading" in module.own_package().reached("records.fingerprint:fingerprint")


def test_each_file_is_read_once(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or path.open("rb").read())
    package = write(tmp_path, PARTS)
    for name in "abab":
        package.fingerprint("run:run", f"parts.{name}")
    assert sorted(read) == sorted([*(Path(name).name for name in PARTS), "__init__.py"])


# Versions of Python

VERSIONED = '''
import functools
from p.b import g
@functools.cache
async def run(a, /, b: int = 1, *c, d="é", **e) -> "list[g]":
    """Words."""
    with open(f"{a!r:>{b}.3f} x {{y}} {a}" "z", u"r", f"{a:{b}}") as f, f: pass
    try: return lambda *a: [i async for i in a if not i < 2 <= 3], {**e, "k": -1.5e300j, 7: b"\\xff"}, a[1:, ...]
    except* OSError as error: raise ValueError from error
    match a:
        case {"x": [1, *_], **rest} | None as y: del rest
    for a.x, b[0] in c: x: int = (w := 3) if a and b or c else ~d @ e
    else: assert a, await g()
'''
VERSIONED_DIGEST = "149c22e21bd72593"


def newer(tree):
    """A syntax tree as a newer Python may make it: with more fields that are empty, and f-strings cut otherwise."""
    for node in ast.walk(tree):
        node.new_list, node.new_value, node.type_params = [], None, []
        if isinstance(node, ast.JoinedStr):
            texts = [each.value if isinstance(each, ast.Constant) else [each] for each in node.values]
            parts = [part for each in texts for part in each] + [""]
            node.values = [ast.Constant(value=part) if isinstance(part, str) else part for part in parts]
    return tree


def test_versions_of_python_say_the_same(tmp_path, monkeypatch):
    """The digest is the same under Python 3.11, 3.12 and 3.13."""
    files = {"run.py": VERSIONED, "b.py": "def g(): pass\n"}
    assert write(tmp_path, files).fingerprint("run:run") == VERSIONED_DIGEST
    parse = ast.parse
    monkeypatch.setattr(syntax, "_layout", syntax._layout.__wrapped__)
    monkeypatch.setattr(definitions.ast, "parse", lambda *a, **k: newer(parse(*a, **k)))
    for kind in (ast.FunctionDef, ast.AsyncFunctionDef, ast.Call, ast.Name, ast.Constant, ast.Return):
        monkeypatch.setattr(kind, "_fields", ("new_list", *kind._fields, "new_value", "type_params"))
    assert write(tmp_path, files).fingerprint("run:run") == VERSIONED_DIGEST
