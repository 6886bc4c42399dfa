"""What is written from the options, schema and config.yaml, is up to date, and shows each key where it comes first."""

import re

import pytest
import yaml
from conftest import ROOT
from pydantic import Field

from uncouple.experiment import document
from uncouple.options import Section

MANUAL = (ROOT / "config.yaml").read_text(encoding="utf-8")


def test_schema_and_manual_are_up_to_date():
    assert document.main(["--check"]) == 0


def test_the_check_sees_what_is_not(tmp_path, monkeypatch, capsys):
    (tmp_path / "workflow/schemas").mkdir(parents=True)
    (tmp_path / "workflow/schemas/config.schema.yaml").write_text(document.schema())
    (tmp_path / "config.yaml").write_text(MANUAL.replace("# Samples drawn", "# Samples"))
    monkeypatch.setattr(document, "ROOT", tmp_path)
    assert document.main(["--check"]) == 1
    assert capsys.readouterr().out == "config.yaml: not up to date\n"
    assert document.main([]) == 0
    assert (tmp_path / "config.yaml").read_text() == MANUAL


def test_the_values_are_kept(tmp_path):
    edited = MANUAL.replace("max_new_tokens: 64", "max_new_tokens: 128").replace("  noise:\n    kind: noise\n", "")
    (tmp_path / "config.yaml").write_text(edited)
    assert yaml.safe_load(document.manual(tmp_path / "config.yaml")) == yaml.safe_load(edited)


def test_a_new_option_is_shown_with_its_default_or_its_example(tmp_path):
    class Inner(Section):
        size: int = Field(3, description="How large it is.")
        small: float = Field(1e-5, description="How small it is.")
        name: str | None = Field(None, description="What it is called.", examples=["a b"])

    lines = list(document._Manual().section(Inner, {"size": 4}, 1))
    assert lines == [
        "  # How large it is.",
        "  size: 4",
        "  # How small it is.",
        "  small: 1.0e-5",
        "  # What it is called.",
        "  # name: a b",
    ]


def described(schema, defs, path=()):
    """(path, description) of every key of the schema."""
    if "$ref" in schema:
        schema = defs[schema["$ref"].rpartition("/")[2]] | {k: v for k, v in schema.items() if k != "$ref"}
    for name, sub in schema.get("properties", {}).items():
        yield (*path, name), sub.get("description", "")
        yield from described(sub, defs, (*path, name))
    inner = [
        *schema.get("patternProperties", {}).values(),
        *schema.get("oneOf", []),
        *filter(None, [schema.get("items")]),
    ]
    for sub in inner:
        yield from described(sub, defs, (*path, "*"))


# Told of in the text beside the key that they are in.
INSIDE = {"prompt", "response", "question", "label", "source"}


def test_every_key_of_the_schema_is_in_the_manual_with_its_description():
    schema = yaml.safe_load(document.schema())
    shown = " ".join(re.sub(r"(?m)^ *# ?", " ", MANUAL).split())
    found = list(described(schema, schema["$defs"]))
    assert len(found) > 60
    for path, text in found:
        assert text.strip(), path
        if "columns" not in path and "test" not in path[:-1]:
            assert " ".join(text.split()) in shown, path
        assert re.search(rf"(?m)^ *(# )?{path[-1]}:|[{{ ]{path[-1]}: ", MANUAL) or path[-1] in INSIDE, path


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-5, "1.0e-5"),
        (3e-6, "3.0e-6"),
        (2.5e-4, "2.5e-4"),
        (0.5, "0.5"),
        (True, "true"),
        ("yes", '"yes"'),
        ([1, "a"], "[1, a]"),
        ({"a.b": True}, "{a.b: true}"),
        ("0" * 40, "0" * 40),
    ],
)
def test_a_value_in_one_line(value, text):
    assert document.flow(value) == text
    if value != "0" * 40:
        assert yaml.safe_load(text) == value
