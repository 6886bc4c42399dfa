"""Writes what is told of the options elsewhere: the schema of a config, and config.yaml, which keeps its values.

`python -m uncouple.experiment.document` writes both, and with --check says which of them is not up to date.
"""

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from uncouple.evaluation.judges.registry import JUDGES
from uncouple.experiment.options import VARIANTS, Experiment
from uncouple.options import Section, alternatives, by_kind, kinds_told, whole

ROOT = Path(__file__).parent.parent.parent
HEAD = """\
# The default experiment, and the manual: every key stands here with what it does.
# A file of experiments/ (--configfile experiments/NAME.yaml) is laid over this one; `null` takes a key away.
# Paths are relative to this folder. Write small numbers as 1.0e-5: YAML takes 1e-5 for text.
"""
WIDTH = 120


def main(arguments: list[str]) -> int:
    """Write both files, or check them; the exit status is 1 where one is not up to date."""
    written = {"workflow/schemas/config.schema.yaml": schema(), "config.yaml": manual(ROOT / "config.yaml")}
    old = [name for name, text in written.items() if (ROOT / name).read_text(encoding="utf-8") != text]
    for name in old:
        if "--check" not in arguments:
            (ROOT / name).write_text(written[name], encoding="utf-8")
        print(f"{name}: {'not up to date' if '--check' in arguments else 'written'}")
    return int(bool(old) and "--check" in arguments)


def schema() -> str:
    """The JSON schema of a config, as YAML."""
    found: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    found |= _tidy(Experiment.model_json_schema())
    for union in (VARIANTS, JUDGES):
        for kind in union.values():
            told = found["$defs"][kind.__name__]
            told["required"] = ["kind", *told.get("required", [])]
            told["properties"]["kind"] = {
                "const": told["properties"]["kind"]["const"],
                "description": kinds_told(union.values()),
            }
    head = "# Written by `python -m uncouple.experiment.document` from the options of each section.\n"
    return head + yaml.dump(found, Dumper=_Dumper, sort_keys=False, width=WIDTH, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _tidy(value: Any, in_properties: bool = False) -> Any:
    """Without the titles, which repeat the names; names that are checked are the only ones."""
    if isinstance(value, list):
        return [_tidy(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    tidy = {
        key: _tidy(inner, key in ("properties", "$defs", "patternProperties"))
        for key, inner in value.items()
        if in_properties or key not in ("title", "discriminator")
    }
    if "patternProperties" in tidy and not in_properties:
        tidy["additionalProperties"] = False
    # A key that is left out is meant, and not null, which a config takes away before it is checked.
    parts = [part for part in tidy.get("anyOf", []) if part != {"type": "null"}]
    if not in_properties and "anyOf" in tidy and len(parts) < len(tidy["anyOf"]):
        del tidy["anyOf"]
        tidy.pop("default", None)
        tidy |= parts[0] if len(parts) == 1 else {"anyOf": parts}
    return tidy


# config.yaml


def manual(path: str | Path) -> str:
    """config.yaml anew: its values, and at the first place of each key what it does."""
    values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    return HEAD + "".join(f"{line}\n".replace(" \n", "\n") for line in _Manual().section(Experiment, values, 0))


class _Manual:
    """Lines of config.yaml.

    Attributes:
        described: the keys whose description stands there already.
        active: the kinds of a union that an entry is of; `richest`, that with the most keys.
    """

    def __init__(self) -> None:
        self.described: set[tuple[Any, ...]] = set()
        self.active: set[Any] = set()
        self.richest: Any = None

    def section(
        self, section: type[Section], values: dict[str, Any] | None, depth: int, union: tuple[Any, ...] = ()
    ) -> Iterator[str]:
        """Lines of a section.

        Args:
            values: those that it has; None for one that is only shown.
            union: its kinds, where it is one of several.
        """
        fields = dict(section.model_fields)
        if "kind" in fields:
            fields = {"kind": fields.pop("kind")} | fields
        if union:
            fields |= self._of_others(section, union)
        for name, field in fields.items():
            first = self._first(section, name, field, union)
            given = values is not None and name in values
            if not given and not first:
                continue
            if not depth:
                yield ""
            if first:
                told = kinds_told(union) if name == "kind" else field.description
                yield from _comment(told or "", depth)
            yield from self._key(section, name, field, values, depth)

    def _first(self, section: type[Section], name: str, field: FieldInfo, union: tuple[Any, ...]) -> bool:
        key = (union or section, name, field.description)
        if key in self.described:
            return False
        self.described.add(key)
        return True

    def _of_others(self, section: type[Section], union: tuple[Any, ...]) -> dict[str, FieldInfo]:
        """Keys that other kinds have and no entry of config.yaml shows: they are told of beside those of this kind."""
        if section is not self.richest:
            return {}
        return {
            name: field
            for kind in union
            if kind not in self.active
            for name, field in kind.model_fields.items()
            if name not in section.model_fields
        }

    def _key(
        self, section: type[Section], name: str, field: FieldInfo, values: dict[str, Any] | None, depth: int
    ) -> Iterator[str]:
        indent, value, (base, item) = "  " * depth, (values or {}).get(name), _parts(field)
        example = field.examples[0] if field.examples else field.default
        # What has a default stands there as such; a key of another kind does not.
        if value is None and values is not None and name in section.model_fields and not field.is_required():
            value = {} if isinstance(field.default, Section) and not field.examples else field.default
        if item:
            yield f"{indent}{name}:"
            yield from self._entries(value or {}, item, depth + 1)
            yield from (f"{indent}  # {line}" for line in field.examples or [])
        elif isinstance(base, type) and issubclass(base, Section) and not field.examples:
            yield f"{indent}{'# ' * (value is None)}{name}:"
            yield from self.section(base, value, depth + 1)
        elif value is None or value == {} or isinstance(value, Section):
            yield f"{indent}# {name}: {flow(example)}"
        else:
            yield f"{indent}{name}: {flow(value)}"

    def _entries(self, values: dict[str, Any], item: Any, depth: int) -> Iterator[str]:
        """Lines of sections by name."""
        kinds = tuple(kind for kind, _ in alternatives(item))
        named = by_kind(kinds) if len(kinds) > 1 else {}
        self.active = {named[value["kind"]] for value in values.values()} if named else set()
        self.richest = max(self.active, key=lambda kind: len(kind.model_fields), default=None)
        for name, value in values.items():
            yield f"{'  ' * depth}{name}:"
            kind = named[value["kind"]] if named else kinds[0]
            yield from self.section(kind, value, depth + 1, kinds if named else ())


def _parts(field: FieldInfo) -> tuple[Any, Any]:
    """(the section or other type of a field, the type of an entry where it is sections by name)."""
    base = alternatives(whole(field))[0][0]
    if get_origin(base) is dict:
        item = get_args(base)[1]
        kinds = [kind for kind, _ in alternatives(item)]
        if all(isinstance(kind, type) and issubclass(kind, Section) for kind in kinds):
            return base, item
    return base, None


def _comment(text: str, depth: int) -> list[str]:
    indent = "  " * depth
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_long_words=False
    )


def flow(value: Any) -> str:
    """A value in one line of YAML; small numbers as it takes them for numbers."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float) and 0 < abs(value) < 0.01:
        digits, _, exponent = f"{value:e}".partition("e")
        return f"{float(digits)}e{int(exponent)}"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {flow(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(flow, value))}]"
    if isinstance(value, str) and yaml.safe_load(f"[{value}]") not in (
        [value],
        [int(value) if value.isdigit() else value],
    ):
        return yaml.safe_dump(value, default_style='"').strip()
    return str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
