"""Options: each section's flags say all that the section says, and a wrong value is told by its flag."""

import argparse
import math

import hypothesis.strategies as st
import pytest
from conftest import ROOT
from hypothesis import given, settings

from uncouple.data.sources import Source
from uncouple.evaluation.judges.registry import JUDGES
from uncouple.evaluation.options import Ability, Asking, Evaluation, Hsic, Pairing, Perplexity
from uncouple.experiment.options import VARIANTS
from uncouple.models.places import Base, Model, Place, Placed, Running
from uncouple.options import (
    Section,
    add_flags,
    allowed,
    alternatives,
    from_flags,
    key_value,
    names_of,
    read_as,
    size_in_bytes,
    to_flags,
    whole,
    with_files,
)
from uncouple.reporting.options import Figures
from uncouple.scoring.options import Scoring, ShardedScoring
from uncouple.selection.options import Selection

# A section, and its fields that have no flag: other sections, and tasks, which a command takes by place.
SECTIONS = [Source, Place, Base, Placed, Running, Model, Scoring, ShardedScoring, Selection, Asking, Pairing, Hsic]
SECTIONS += [Perplexity, Ability, Figures, *JUDGES.values(), *VARIANTS.values()]
NO_FLAG = {"tasks"}
# Two dashes alone end a command line's flags, so nothing can be called that.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text != "--")
SCALARS = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
PATTERNED = {
    "wheel": "some-wheel==1.0",
    "sha256": "a" * 64,
    "hub": "owner/name",
    "revision": "0123456789" * 4,
    "device": "cuda:1",
    "path": "raw data.csv",
}


BOUNDS = ("gt", "ge", "le", "min_length", "max_length")


def values_of(annotation, name):
    """A strategy of values of a type."""
    found = []
    for base, marks in alternatives(annotation):
        bounds = {key: getattr(mark, key) for mark in marks for key in BOUNDS if hasattr(mark, key)}
        origin = getattr(base, "__origin__", base)
        if names := names_of(base, marks):
            found.append(st.sampled_from(names))
        elif base is bool:
            found.append(st.booleans())
        elif base is int:
            found.append(st.integers(bounds.get("ge", -5), 10**12))
        elif base is float:
            found.append(st.floats(bounds["gt"], bounds.get("le", 10.0), exclude_min=True))
        elif origin is list:
            sizes = {"min_size": max(2, bounds.get("min_length", 2)), "max_size": bounds.get("max_length", 4)}
            found.append(st.lists(values_of(base.__args__[0], name), unique=True, **sizes))
        elif origin is dict:
            found.append(st.dictionaries(TEXTS, SCALARS, max_size=3))
        elif isinstance(base, type) and issubclass(base, Section):
            found.append(sections_of(base))
        else:
            assert base is str, base
            found.append(st.just(PATTERNED[name]) if any(hasattr(mark, "pattern") for mark in marks) else TEXTS)
    return st.one_of(found)


def sections_of(section):
    """A strategy of sections of a kind, each with any of its options told."""
    told = {}
    for name, field in section.model_fields.items():
        if name not in NO_FLAG | {"kind"} | set(section.places):
            value = values_of(whole(field), name)
            told[name] = value if field.is_required() or field.default is not None else st.none() | value
    places = [st.fixed_dictionaries({p: values_of(whole(section.model_fields[p]), p)}) for p in section.places]
    fixed = {"tasks": st.just({"boolq": "hub"})} if "tasks" in section.model_fields else {}
    told = st.fixed_dictionaries(told | fixed)
    both = st.tuples(told, st.one_of(places)) if places else st.tuples(told, st.just({}))
    return both.map(lambda parts: section(**parts[0] | parts[1]))


def parse(section, flags, **given):
    parser = argparse.ArgumentParser()
    add_flags(parser, section, but=NO_FLAG)
    return from_flags(section, parser.parse_args(flags), **given)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_flags_read_back_as_the_section(section, data):
    made = data.draw(sections_of(section))
    fixed = {name: getattr(made, name) for name in NO_FLAG if name in section.model_fields}
    assert parse(section, to_flags(made, but=NO_FLAG), **fixed) == made


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_no_flag_is_the_default(section):
    made = next(iter(section.places), None)
    needed = {"layers": (2, ["--layers", "2"]), "method": ("fft", ["--method", "fft"])}
    needed |= {"learn_from": (["privacy"], ["--learn-from", "privacy"])}
    required = [name for name, field in section.model_fields.items() if field.is_required() and name in needed]
    given = {name: needed[name][0] for name in required}
    flags = [f"--{made}", PATTERNED[made]] if made else []
    flags += [word for name in given for word in needed[name][1]]
    fixed = {"tasks": {"boolq": "hub"}} if "tasks" in section.model_fields else {}
    assert parse(section, flags, **fixed) == section(**{made: PATTERNED[made]} if made else {}, **given, **fixed)


@pytest.mark.parametrize("section", [*SECTIONS, Evaluation], ids=lambda section: section.__name__)
def test_every_option_is_described_and_none_needs_null(section):
    for name, field in section.model_fields.items():
        assert field.description, name
        nullable = type(None) in getattr(field.annotation, "__args__", ())
        # Null takes a key away, so what may be null is null where it is left out.
        assert not nullable or field.default is None, name
        assert field.is_required() or nullable or field.default is not None, name


def test_help_tells_description_and_default(capsys):
    parser = argparse.ArgumentParser()
    add_flags(parser, Scoring)
    text = " ".join(parser.format_help().split())
    assert "--keep KEEP Share of each matrix's weights whose scores are kept." in text
    assert "may be above it (default: 0.001)" in text
    assert "--module {mlp,attention,all}" in text


def test_of_an_option_that_must_be_given_help_says_nothing_of_leaving_it_out():
    parser = argparse.ArgumentParser()
    add_flags(parser, Selection, only=("dimensions",), required=("dimensions",))
    assert "left out" not in parser.format_help()


@pytest.mark.parametrize(
    ("section", "flags", "said"),
    [
        (Scoring, ["--keep", "2"], "argument --keep: '2': give a number above 0 and at most 1"),
        (Scoring, ["--keep", "nan"], "argument --keep: 'nan': give a number above 0 and at most 1"),
        (Scoring, ["--batch-tokens", "0"], "argument --batch-tokens: '0': give a whole number at least 1, or auto"),
        (Scoring, ["--batch-tokens", "1.5"], "argument --batch-tokens: '1.5': give a whole number"),
        (Scoring, ["--module", "mpl"], "argument --module: invalid choice: 'mpl' (choose from"),
        (Selection, ["--select", "all"], "argument --select: invalid choice: 'all'"),
        (Placed, ["--device", "gpu"], "argument --device: 'gpu': give text that matches"),
        (Running, ["--template-option", "a"], "argument --template-option: 'a': write KEY=VALUE"),
        (Running, ["--template-option", "a=[1]"], "'a=[1]': the value is no text, number or boolean"),
        (Source, ["--path", "a.csv", "--revision", "main"], "argument --revision: 'main': give text that matches"),
        (Source, [], "one of the arguments --path --hub is required"),
    ],
)
def test_a_value_that_is_wrong_is_told_in_one_line_by_its_flag(section, flags, said, capsys):
    with pytest.raises(SystemExit):
        parse(section, flags)
    *_, line = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_key_may_have_a_sign_of_equality_in_it():
    where = {"a=b": 1, '"q"=': "x=y", "plain": "c=d", "-dash": True}
    source = Source(path="a.csv", where=where)
    assert parse(Source, to_flags(source)).where == where
    assert key_value('"a=b"=1') == ("a=b", 1)
    assert key_value("a=b=1") == ("a", "b=1")


def test_a_text_may_begin_with_a_dash():
    source = Source(path="-x.csv", name="--name", columns={"prompt": ["-a", "b"]})
    assert parse(Source, to_flags(source)) == source


def test_the_options_of_the_section_that_is_extended_alone():
    sharded = ShardedScoring(keep=0.01, layers_per_shard=3)
    flags = to_flags(sharded, of=Scoring)
    assert "--layers-per-shard" not in flags
    assert parse(Scoring, flags) == Scoring(keep=0.01)


@pytest.mark.parametrize(
    ("text", "size"), [("80GB", 80 * 10**9), ("79GiB", 79 * 2**30), ("1.5 MB", 1_500_000), ("7", 7), ("2K", 2000)]
)
def test_a_size_in_bytes(text, size):
    assert size_in_bytes(text) == size


def test_what_is_no_size():
    with pytest.raises(ValueError, match="80GB or 79GiB"):
        size_in_bytes("much")


def test_a_type_is_told_in_words():
    assert allowed(whole(Perplexity.model_fields["window"])) == "a whole number at least 2, or max"
    assert read_as(whole(Perplexity.model_fields["window"]))("max") == "max"
    assert math.isclose(read_as(whole(Scoring.model_fields["keep"]))("1e-5"), 1e-5)


def test_paths_are_changed_wherever_they_stand_and_nothing_else_is():
    ability = Ability(tasks={"boolq": "b.jsonl", "race": "hub"})
    assert with_files(ability, "/root/{}".format).tasks == {"boolq": "/root/b.jsonl", "race": "hub"}
    card, text = (JUDGES["causal"](path="m", template=template) for template in ("card", "t.txt"))
    changed = [with_files(judge, "/root/{}".format) for judge in (card, text)]
    assert [(judge.path, judge.template) for judge in changed] == [("/root/m", "card"), ("/root/m", "/root/t.txt")]


def test_options_are_light():
    """Each job of a cluster reads a config."""
    import subprocess
    import sys

    heavy = ["numpy", "scipy", "torch", "transformers", "pyarrow", "matplotlib", "datasets"]
    code = "import sys, uncouple.experiment.paths, uncouple.experiment.config; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not set(heavy) & set(done.stdout.split())
