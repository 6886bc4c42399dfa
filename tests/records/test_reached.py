"""What the fingerprints of the package's own verbs cover: enough, by what really runs, and no more than they must."""

import ast
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from conftest import ROOT, TEXTS

from uncouple.commands import VERBS
from uncouple.evaluation.judges.registry import JUDGES
from uncouple.records.definitions import Module
from uncouple.records.fingerprint import PACKAGE, Package
from uncouple.records.store import code_of
from uncouple.records.syntax import ABOUT
from uncouple.reporting.parts import part_names

# The roots of each verb, as the workflow's rules name them: its function, its flags and what it picks by name. `pin`,
# `cost` and `status` make nothing of a results folder, and know every option.
PARTS = {kind: [f"reporting.{kind}.{name}" for name in part_names(kind)] for kind in ("figures", "tables")}
APART = ("measure", "pin", "cost", "status")
ROOTS = {
    verb: (f"{file}:run", f"{file}:add_flags", *PARTS.get(verb, ()))
    for verb, file in ((verb, f"commands.{verb.replace('-', '_')}") for verb in VERBS if verb not in APART)
}
MEASURES = ("awareness", "choice", "language", "collect", "placement", "coupling", "sweeps", "stability", "times")
ROOTS |= {f"measure {name}": (f"commands.measure:run_{name}", f"commands.measure:add_{name}") for name in MEASURES}
OWN = Package(PACKAGE)
REACHED = {verb: OWN.reached(*roots) for verb, roots in ROOTS.items()}
FINGERPRINTS = {verb: OWN.fingerprint(*roots) for verb, roots in ROOTS.items()}
FILES = {path: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


def module_name(path):
    parts = Path(path).relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def changed_package(path, text):
    """The package when one of its files has another text."""
    package, name = Package(PACKAGE), module_name(path)
    package.modules |= OWN.modules | {name: Module(PACKAGE.name, name, path, text)}
    return package


def stale(path, text, others_stand=False):
    """The verbs whose fingerprint changes when a file of the package has another text.

    Args:
        others_stand: whether the names in it stay, so that what other files say by themselves need not be found anew.
    """
    package, name = changed_package(path, text), module_name(path)
    if others_stand:
        package._facts |= {place: facts for place, facts in OWN._facts.items() if place.module != name}
    return {verb for verb, roots in ROOTS.items() if package.fingerprint(*roots) != FINGERPRINTS[verb]}


# A table of edits

RUN_MODELS = {"ask", "perplexity", "divergence", "ability", "hsic"}
SCORES = {"score", "memory"}
COUPLES = {"mask", "measure coupling"}
LEASE = {"train-judge", "judge", "tune"} | RUN_MODELS | SCORES
# What is done; a text that occurs once in the package; what it becomes; the verbs that are stale then.
EDITS = [
    ("an option's default", "tokens: Count = Field(64", "tokens: Count = Field(65", {"ask"}),
    ("an option's bounds", "permutations: Count", "permutations: Whole", {"hsic"}),
    ("a flag's name", '"--gpu-memory"', '"--memory"', {"memory"}),
    ("a helper of flags", "default=(0, None)", "default=(1, None)", SCORES),
    ("how a flag is read", "return int(first), int(last)", "return int(first), int(last) + 1", SCORES),
    ("what a verb hands on", "score_once(a.model, a.samples", "score_once(a.samples, a.model", {"score"}),
    ("an option's description", "Where an answer is cut off, in tokens.", "Where it is cut off.", set()),
    ("an option's examples", 'examples=["models/my-encoder"]', 'examples=["my-encoder"]', set()),
    ("the help of a flag of several verbs", '"a model folder (safetensors)"', '"a folder"', set()),
    ("what a flag's value is called", 'metavar="FIRST:LAST"', 'metavar="A:B"', set()),
    ("the command's description", 'description="Find', 'description="Search', set()),
    ("a verb's example", "uncouple score fairness.parquet --model", "uncouple score --model", set()),
    ("a verb's summary", 'SUMMARY = "score the weights', 'SUMMARY = "score weights', set()),
    ("a figure's caption", "HSIC with Gaussian kernels", "HSIC", set()),
    ("what a kind of judge is", '"is a language model that replies safe or unsafe"', '"is a language model"', set()),
    ("what a judge's file is", '"its encoder"', '"an encoder"', set()),
    ("what a rule is said to be", '"what the published code computes"', '"as published"', set()),
    ("what a rule's line is called", '"what the published code selects"', '"as published"', {"figures"}),
    ("an error's words", "and no {INDEX_NAME} that says what is in them", "and no {INDEX_NAME}", set()),
    ("a log line's words", "that never left their thoughts", "that think on", set()),
    ("what a log line tells", 'say(f"samples: took {len(drawn)}', 'say(f"samples: took {len(rows)}', {"samples"}),
    ("how code is read", "IMPORTS = (ast.Import, ast.ImportFrom)", "IMPORTS = (ast.Import,)", set()),
    ("what scoring alone takes", "        1e-3,\n        description=", "        1e-4,\n        description=", SCORES),
    ("a docstring", "P-values adjusted by Holm's method", "P-values adjusted", set()),
    ("the package's version", '__version__ = "', '__version__ = "1.', set()),
    ("a verb", '"tables", "verify", "store"', '"tables", "verify"', set()),
    ("Holm's method", 'method="holm"', 'method="bonferroni"', {"measure awareness"}),
    (
        "a selection rule",
        "        Random(),\n",
        "        Random(),\n        Union(),\n",
        COUPLES | {"tables"},
    ),
    ("a selection rule that nothing uses", "\nRULES: dict", "\nclass All:\n    pass\n\n\nRULES: dict", set()),
    ("a word on a model card", "Nothing was trained.", "No training.", {"apply"}),
    ("how often a GPU is tried for", "poll: float = 1.0", "poll: float = 2.0", LEASE),
    ("when an answer is degenerate", "if len(words) < 12:", "if len(words) < 13:", {"judge"}),
    ("a kernel", "tl.program_id(0)", "tl.program_id(1)", {"score"}),
    ("a decorator", "lru_cache(maxsize=16)", "lru_cache(maxsize=32)", SCORES | {"ask", "hsic", "divergence"}),
    ("a figure's title", 'title="judge"', 'title="judges"', {"figures"}),
    ("a figure's label", 'label="weights of a matrix"', 'label="weights"', {"figures"}),
    ("what runs where figures are imported", 'use("Agg")\n', 'use("svg")\n', {"figures"}),
    ("an attention that is registered", "register(GROUPED, g", "register(GROUPED + 'd', g", {"ask", "judge", "hsic"}),
    ("how a file is sealed", 'SEAL = b"uncouple-sha256:"', 'SEAL = b"sha256:"', set(ROOTS) - {"memory"}),
    ("an import that nothing uses", "import glob\n", "import glob\nimport math\n", set()),
    ("a line break", "a.model, a.mask, a.output", "a.model,  # the base\n        a.mask, (a.output)", set()),
]


@pytest.mark.parametrize(("old", "new", "expected"), [pytest.param(*edit[1:], id=edit[0]) for edit in EDITS])
def test_an_edit_makes_stale_what_it_may_change(old, new, expected):
    (path,) = [path for path, text in FILES.items() for _ in range(text.count(old))]
    assert stale(path, FILES[path].replace(old, new)) == expected


def test_a_figure_makes_stale_the_steps_that_draw_it():
    (path,) = [path for path in FILES if module_name(path) == "reporting.figures.hsic"]
    package = changed_package(path, FILES[path].replace('xlabel="layer"', 'xlabel="layers"'))
    for name in PARTS["figures"]:
        roots = (*ROOTS["figures"][:2], name)
        assert (package.fingerprint(*roots) != OWN.fingerprint(*roots)) == (name == "reporting.figures.hsic")


def test_the_code_of_verdicts_is_that_of_their_judge_too():
    """Who judges is given a judge, and does not name it."""
    place = "evaluation.judges.judge:judge_answers"
    codes = {code_of(place), *(code_of(place, kind) for kind in JUDGES.values())}
    assert len(codes) == 1 + len(JUDGES)


# Who reads the attributes of kinds whose words do not count, and what is called so and is none of them.
TELL_ABOUT = {
    "options: kind.about": "a key's description",
    "selection.options: rule.about": "a key's description",
    "tuning.options: method.about": "a key's description",
    "commands.judge: kind.inputs": "a flag's help, and the flags",
    "commands.judge: other.inputs": "the flags",
    "evaluation.judges.kinds: self.inputs": "an error",
}
OTHERS = {
    *("evaluation.judges.judge: self.about", "evaluation.judges.judge: bench.about"),
    *(f"evaluation.{name}: result.work.about" for name in ("hsic", "ability", "perplexity", "divergence")),
    *("evaluation.answers: asked.variant.about", "scoring.gradients: self.inputs"),
}


def test_what_kinds_say_of_themselves_is_read_by_whom_it_is_told():
    found = set()
    for path, text in FILES.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and node.attr in ABOUT:
                found.add(f"{module_name(path)}: {ast.unparse(node)}")
    assert found == set(TELL_ABOUT) | OTHERS


@pytest.mark.parametrize("verb", ROOTS)
def test_every_verb_has_a_fingerprint_of_its_own(verb):
    assert re.fullmatch("[0-9a-f]{16}", FINGERPRINTS[verb])
    assert list(FINGERPRINTS.values()).count(FINGERPRINTS[verb]) == 1
    assert set(ROOTS[verb][:2]) < set(REACHED[verb])


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_comments_docstrings_and_layout_make_nothing_stale(path):
    tree = ast.parse(FILES[path])
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
            node.body[0].value.value = "Other words."
    assert stale(path, "# A comment.\n" + ast.unparse(tree).replace("\n\n", "\n\n\n")) == set()


# Every definition


def statements(path):
    """(statement, names that it binds, whether its import runs more than a definition) of each at a file's top."""
    for node in ast.parse(FILES[path]).body:
        names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node, {node.name}, False
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            runs = any(isinstance(target, (ast.Attribute, ast.Subscript)) for target in targets)
            own = [n for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
            yield node, set() if runs else {n.id for n in own}, runs
        elif not isinstance(node, (ast.Import, ast.ImportFrom)) and not is_text(node) and not is_for_types(node):
            yield node, names, True


def is_text(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def is_for_types(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def changed(path, node):
    """The text of a file after a change within a statement: something done first, or another value."""
    lines = FILES[path].splitlines(keepends=True)
    if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Try, ast.With)):
        first = node.body[1 if is_text(node.body[0]) and len(node.body) > 1 else 0]
        at = (first.end_lineno if is_text(first) else first.lineno - 1) - len(getattr(first, "decorator_list", ()))
        # In a class a statement that only runs would be one of its import.
        edit = "edited = 1" if isinstance(node, ast.ClassDef) else "0 if True else 1"
        lines.insert(at, f"{' ' * first.col_offset}{edit}\n")
    else:
        part = next(getattr(node, field) for field in ("value", "iter", "test") if getattr(node, field, None))
        end, start = (part.end_lineno - 1, part.end_col_offset), (part.lineno - 1, part.col_offset)
        for (line, column), mark in ((end, "]"), (start, "[")):
            code = lines[line].encode()
            lines[line] = (code[:column] + mark.encode() + code[column:]).decode()
    return "".join(lines)


@pytest.mark.parametrize("path", [path for path in FILES if list(statements(path))], ids=module_name)
def test_an_edit_of_any_definition_makes_stale_exactly_the_verbs_that_reach_it(path):
    name = module_name(path)
    for node, names, runs in statements(path):
        places = {f"{name}:{each}" for each in names} | ({f"{name}:"} if runs else set())
        expected = {verb for verb, reached in REACHED.items() if places & set(reached)}
        assert stale(path, changed(path, node), others_stand=True) == expected, places


# No more than they must


def words(text):
    return set(re.findall(r"\w+", text))


def test_nothing_is_reached_that_no_text_names():
    """By an independent rule that is too wide: a name counts wherever it stands in what counts, comments included."""
    texts, always = defaultdict(list), []
    called, bound = defaultdict(set), defaultdict(set)
    for path, text in FILES.items():
        for node, names, runs in statements(path):
            bound[module_name(path)] |= names
            for name in names:
                texts[name].append(ast.get_source_segment(text, node) + " ".join(map(ast.unparse, decorators(node))))
            if runs:
                always.append(ast.get_source_segment(text, node))
        for node in ast.walk(ast.parse(text)):
            for alias in node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else ():
                called[alias.asname or alias.name].add(alias.name)
    for verb, roots in ROOTS.items():
        seen, todo = set(), words(" ".join(always))
        for module, _, name in (root.partition(":") for root in roots):
            todo |= {name} if name else bound[module]
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo |= words(" ".join(texts[name])) | called[name]
        assert {place.partition(":")[2] for place in REACHED[verb]} - {""} <= seen, verb


def decorators(node):
    return getattr(node, "decorator_list", [])


# No less: what ran


@pytest.fixture(scope="module")
def steps(tmp_path_factory, make_model, encoder):
    """List of (verb, roots, arguments): each verb on a tiny model, in all that it does differently."""
    folder = tmp_path_factory.mktemp("traced")
    rows = [{"prompt": p, "response": r, "question": p} for p, r in TEXTS]
    more = [{"prompt": f"{p} {i}", "response": f"Sure, {i}."} for i in range(3) for p, _ in TEXTS]
    for name, values in {"safe": rows, "unsafe": more}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in values))
    boolq = [{"passage": r, "question": p, "answer": len(p) % 2 == 0} for p, r in TEXTS]
    (folder / "boolq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in boolq))
    (folder / "text.txt").write_text("\n".join(response for _, response in TEXTS))
    (folder / "phrases.txt").write_text("I cannot\nI can't\n")
    text = re.sub(r"\n +", " ", STEPS.strip())
    scores = " ".join(f"DIR/scores-{name}.parquet" for name in ("fairness", "privacy", "general"))
    style = ROOT / "resources/figures.mplstyle"
    places = {"TINY": make_model("llama"), "ENCODER": encoder, "STYLE": f"--style {style}"}
    places |= {"MODEL": "--model DIR/model", "SCORES": f"--scores {scores}"}
    places |= {"VERDICTS": "DIR/verdicts.parquet DIR/verdicts-suppressed.parquet", "DIR": folder}
    for name, place in places.items():
        text = re.sub(rf"\b{name}\b", str(place), text)
    made = []
    for line in text.splitlines():
        (verb,) = [verb for verb in ROOTS if f"{line} ".startswith(f"{verb} ")]
        made.append((verb, ROOTS[verb], line.removeprefix(verb).split()))
    return made


STEPS = """
samples --path DIR/safe.jsonl --dimension fairness --label safe --n 4 --output DIR/fairness.parquet
samples --path DIR/safe.jsonl --dimension privacy --label safe --n 4 --seed 1 --output DIR/privacy.parquet
samples --path DIR/safe.jsonl --dimension general --n 3 --output DIR/general.parquet
samples --path DIR/unsafe.jsonl --dimension fairness --label unsafe --output DIR/unsafe.parquet
samples --path DIR/safe.jsonl --dimension fairness --label safe --output DIR/all.parquet
samples --path DIR/safe.jsonl --questions --dimension fairness --output DIR/questions.parquet
fetch --path TINY --output DIR/model
fetch --path ENCODER --encoder --output DIR/encoder
memory MODEL --gpu-memory 8GB
score DIR/fairness.parquet MODEL --keep 0.05 --store DIR/store --device cpu --output DIR/scores-fairness.parquet
score DIR/privacy.parquet MODEL --keep 0.05 --device cpu --output DIR/scores-privacy.parquet
score DIR/general.parquet MODEL --keep 0.05 --layers 0:1 --output DIR/scores-general.parquet
mask MODEL SCORES --dimensions fairness privacy --ratio 0.02 --general-ratio 0.03 --output DIR/mask.parquet
mask MODEL SCORES --dimensions fairness privacy --ratio 0.02 --select random --output DIR/random.parquet
apply MODEL --mask DIR/mask.parquet --output DIR/suppressed
restore DIR/suppressed --output DIR/again
tune DIR/fairness.parquet MODEL --method lora --epochs 1 --device cpu --output DIR/lora
tune DIR/fairness.parquet DIR/general.parquet MODEL --method reft --epochs 1 --device cpu --output DIR/reft
ask DIR/questions.parquet MODEL --max-new-tokens 4 --store DIR/store --output DIR/answers.parquet
ask DIR/questions.parquet MODEL --mask DIR/mask.parquet --max-new-tokens 4 --output DIR/suppressed.parquet
train-judge DIR/all.parquet DIR/unsafe.parquet --encoder DIR/encoder --device cpu --output DIR/classifier.json
judge DIR/answers.parquet --phrases DIR/phrases.txt --output DIR/verdicts.parquet
judge DIR/suppressed.parquet --phrases DIR/phrases.txt --output DIR/verdicts-suppressed.parquet
judge DIR/answers.parquet --judge embedding --classifier DIR/classifier.json --model DIR/encoder --output DIR/v.parquet
judge DIR/answers.parquet --judge causal MODEL --output DIR/w.parquet
perplexity --path DIR/text.txt MODEL --mask DIR/mask.parquet --window 32 --output DIR/perplexity.parquet
divergence DIR/general.parquet MODEL --mask DIR/mask.parquet --origin TINY --output DIR/divergence.parquet
ability boolq=DIR/boolq.jsonl --limit 2 MODEL --output DIR/ability.parquet
hsic DIR/fairness.parquet DIR/privacy.parquet MODEL --permutations 9 --output DIR/hsic.parquet
measure awareness VERDICTS --output DIR/awareness.parquet
measure language DIR/answers.parquet --phrases fairness=DIR/phrases.txt --output DIR/language.parquet
measure placement DIR/mask.parquet --output DIR/placement.parquet
measure sweeps --sweep ratio mine suppressed=0.02 random=0.02 --output DIR/sweeps.parquet
measure stability DIR/mask.parquet DIR/random.parquet --sweeps DIR/sweeps.parquet --output DIR/stability.parquet
measure times score=DIR/none.tsv --model model --output DIR/times.parquet
measure choice VERDICTS --sweeps DIR/sweeps.parquet --output DIR/choice.parquet
measure coupling MODEL SCORES --dimensions fairness privacy --ratios 0.01 0.02 --output DIR/coupling.parquet
measure collect DIR/awareness.parquet DIR/language.parquet
  DIR/hsic.parquet DIR/perplexity.parquet DIR/divergence.parquet DIR/ability.parquet --output DIR/metrics.parquet
figures awareness ability hsic language placement coupling
  --from DIR/metrics.parquet DIR/placement.parquet DIR/coupling.parquet --model model STYLE --output DIR/{figure}.svg
figures judge --from DIR/classifier.json STYLE --output DIR/judge.png
tables summary selections examples times --from DIR/metrics.parquet DIR/placement.parquet DIR/coupling.parquet
  DIR/times.parquet DIR/answers.parquet DIR/suppressed.parquet VERDICTS --model model
  --output DIR/{table}.md DIR/{table}.html
store list --store DIR/store
verify DIR/model DIR/mask.parquet VERDICTS DIR/metrics.parquet DIR/scores-fairness.parquet
"""


# They run for a flag's help alone, or to make fingerprints, which says nothing of results.
NOT_COUNTED = {"options:kinds_told", *OWN.reached("records.fingerprint:fingerprint")}


def test_whatever_ran_is_reached(steps, tmp_path):
    """Each verb is run for real: a function that ran and is not reached could change and leave a step fresh."""
    (tmp_path / "steps.json").write_text(json.dumps(steps))
    command = [
        sys.executable,
        Path(__file__).with_name("tracing.py"),
        PACKAGE,
        tmp_path / "steps.json",
        tmp_path / "traces",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    at_line = {}
    for path in FILES:
        for node, names, runs in statements(path):
            first = min([node, *decorators(node)], key=lambda each: each.lineno).lineno
            places = {f"{module_name(path)}:{name}" for name in names} | ({f"{module_name(path)}:"} if runs else set())
            at_line |= {(str(path), line): (places, runs) for line in range(first, node.end_lineno + 1)}
    ran = defaultdict(set)
    for verb, calls in json.loads((tmp_path / "traces").read_text()).items():
        for file, line, importing in calls:
            # What runs while a module is imported counts if a statement of it does that is more than a definition.
            if line and (importing is None or at_line[tuple(importing)][1]):
                places, _ = at_line[file, line]
                assert places & (set(REACHED[verb]) | NOT_COUNTED), f"{verb}: {file}:{line}, {importing}"
                ran[verb] |= places
            if not line:
                assert any(runs for _, _, runs in statements(Path(file))) <= (f"{module_name(file)}:" in REACHED[verb])
                ran[verb].add(f"{module_name(file)}:")
    assert set(ran) == set(ROOTS)
    assert min(map(len, ran.values())) > 15
    assert len(set.union(*ran.values())) > 300
