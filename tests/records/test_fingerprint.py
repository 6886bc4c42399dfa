"""What an edit of the code makes stale: what changes a result, and nothing else."""

import ast
import re
import shutil

import pytest
from uncouple.commands.cli import VERBS

from uncouple.records import fingerprint as module
from uncouple.records.fingerprint import fingerprint, module_fingerprint


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package, which the fingerprints are taken of."""
    copy = tmp_path / "uncouple"
    shutil.copytree(module.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "PACKAGE", copy)
    module._module_facts.cache_clear()
    yield copy
    module._module_facts.cache_clear()


def stale(package, name, edit, verbs=tuple(VERBS)):
    """Those of `verbs` whose fingerprint changes when the text of one file of the package is edited."""
    before = {verb: fingerprint(verb) for verb in verbs}
    path = package / name
    text = path.read_text(encoding="utf-8")
    edited = edit(text)
    assert edited != text
    path.write_text(edited, encoding="utf-8")
    module._module_facts.cache_clear()
    return {verb for verb in verbs if fingerprint(verb) != before[verb]}


def add_constant(text):
    return text + "\nADDED = 1\n"


def drop_docstrings(text):
    return ast.unparse(module._without_docstrings(ast.parse(text)))


def test_how_replies_are_decoded_counts_for_answers_and_judges_alone(package):
    assert stale(package, "models/decoding.py", add_constant) == {"ask", "judge"}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_fingerprint(verb):
    assert re.fullmatch("[0-9a-f]{16}", fingerprint(verb))
    assert fingerprint(verb) == fingerprint(verb)


def test_no_two_verbs_share_one():
    assert len({fingerprint(verb) for verb in VERBS}) == len(VERBS)


def test_a_verb_that_is_not_there():
    with pytest.raises(ValueError, match="run_nothing"):
        fingerprint("nothing")


def test_the_copy_has_the_fingerprints_of_the_package(package):
    here = fingerprint("score")
    module._module_facts.cache_clear()
    assert package != module.Path(module.__file__).parent
    assert here == fingerprint("score")


@pytest.mark.parametrize("name", ["scoring/score.py", "records/files.py", "models/families.py", "commands/cli.py"])
@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda text: text.replace("\n", "  # a comment\n", 1) + "\n# the end\n", id="comments"),
        pytest.param(lambda text: re.sub(r"\n(def|class) ", r"\n\n\n\n\n\1 ", text) + "\n\n\n", id="blank lines"),
        pytest.param(lambda text: text.replace('"""', '"""Other words. ', 1), id="docstring of the module"),
        pytest.param(lambda text: re.sub(r'(\).*:\n    """)', r"\1Other words. ", text), id="docstrings of functions"),
        pytest.param(drop_docstrings, id="no docstrings, other layout"),
    ],
)
def test_comments_docstrings_and_layout_change_nothing(package, name, edit):
    assert stale(package, name, edit) == set()


def test_a_constant_changes_the_verbs_that_use_its_module(package):
    assert stale(package, "evaluation/judges/judge.py", lambda text: text.replace("< 12", "< 13"), ["judge"]) == {
        "judge"
    }


def test_a_text_that_is_no_docstring_counts(package):
    def edit(text):
        return text.replace('("safe" if', '("Safe" if')

    assert stale(package, "evaluation/judges/phrases.py", edit, ["judge"]) == {"judge"}


def test_a_default_of_an_argument_counts(package):
    def edit(text):
        return text.replace('source="this source"', 'source="that source"')

    assert stale(package, "data/samples.py", edit, ["samples"]) == {"samples"}


def test_what_a_verb_hands_on_counts_for_that_verb_alone(package):
    assert stale(package, "commands/cli.py", lambda text: text.replace("keep=a.keep", "keep=a.keep / 2")) == {"score"}


def test_what_is_imported_at_one_remove_counts(package):
    """Applying a mask imports masks, which imports shards; nothing of it imports scoring."""
    assert "uncouple.scoring.shards" not in (package / "variants/checkpoints.py").read_text(encoding="utf-8")
    assert stale(package, "scoring/shards.py", add_constant, ["apply"]) == {"apply"}
    assert stale(package, "scoring/score.py", add_constant, ["apply"]) == set()


def test_a_change_of_how_models_are_fetched_or_weights_selected_asks_nothing_anew(package):
    for name in ("models/fetch.py", "data/samples.py", "selection/rules.py", "selection/select.py"):
        assert not {"score", "ask"} & stale(package, name, add_constant, ["score", "ask"])


def test_what_is_imported_inside_a_function_counts(package):
    late = "\n\ndef late():\n    from uncouple.reporting import drawing\n\n    return drawing\n"
    assert stale(package, "reporting/drawing.py", add_constant, ["score"]) == set()
    assert stale(package, "scoring/score.py", lambda text: text + late, ["score"]) == {"score"}
    assert stale(package, "reporting/drawing.py", add_constant, ["score"]) == {"score"}


def test_each_module_makes_stale_what_imports_it_and_no_more(package):
    assert stale(package, "reporting/drawing.py", add_constant) == {"figures"}
    assert stale(package, "evaluation/awareness.py", add_constant) == {"measure"}
    assert stale(package, "scoring/score.py", add_constant) == {"score"}
    assert stale(package, "records/files.py", add_constant) == set(VERBS) - {"verify"}


def test_drawing_and_judging_do_not_make_scores_stale(package):
    for name in (
        "reporting/drawing.py",
        "evaluation/awareness.py",
        "evaluation/judges/judge.py",
        "evaluation/answers.py",
        "variants/masks.py",
        "variants/checkpoints.py",
    ):
        assert stale(package, name, add_constant, ["score"]) == set()


def test_what_nothing_imports_makes_nothing_stale(package):
    assert stale(package, "experiment/config.py", add_constant) == set()


def test_the_fingerprint_of_a_module(package):
    before = module_fingerprint("evaluation.judges.judge"), module_fingerprint("scoring.score")
    stale(package, "evaluation/judges/judge.py", add_constant, [])
    assert module_fingerprint("evaluation.judges.judge") != before[0]
    assert module_fingerprint("scoring.score") == before[1]


def test_imports_are_written_as_the_fingerprint_reads_them():
    """A relative import would escape it."""
    for path in module.PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level], path.name
