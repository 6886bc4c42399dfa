"""What an option is: a field of a section, with its type, bounds, default and description, and the flag made from it.

Each section of a config is one class, in the room that reads it. Schema, config.yaml, the flags of a verb and what a
rule passes are made from it.
"""

import argparse
import json
import re
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, core_schema

from uncouple.errors import UncoupleError

BOUNDS = {"gt": "above", "ge": "at least", "le": "at most"}


class Section(BaseModel):
    """Options that belong together.

    A field whose default is None may be left out; then it has no flag. `places` holds fields of which exactly one is
    given, each with those that it needs besides.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, regex_engine="python-re")
    places: ClassVar[dict[str, tuple[str, ...]]] = {}


SectionType = TypeVar("SectionType", bound=Section)


@dataclass(frozen=True)
class OneOf:
    """Marks a text that is one of the names of a registry."""

    names: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.literal_schema(list(self.names))


@dataclass(frozen=True)
class OnDisk:
    """Marks the path of a file or folder, which is relative to the clone in a config and must be there."""

    what: Literal["file", "folder"]


@dataclass(frozen=True)
class Flag:
    """Marks an option whose flag is not called as its field is: one of a dict is given once for each of its keys."""

    name: str


def size_in_bytes(text: Any) -> Any:
    """Bytes of a size such as 80GB; what is no text stays."""
    if not isinstance(text, str):
        return text
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?) ?([KMGT]?)(i?)B?", text)
    if not match:
        raise ValueError("write a size such as 80GB or 79GiB")
    number, unit, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(unit or " "))


Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
# 0 stands for all, or for none, as the description says.
Whole = Annotated[int, Field(ge=0)]
Size = Annotated[int, BeforeValidator(size_in_bytes), Field(ge=1)]
File = Annotated[str, OnDisk("file")]
Folder = Annotated[str, OnDisk("folder")]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Device = Annotated[str, Field(pattern="^(auto|all|cpu|cuda(:[0-9]+)?)$")]
# What YAML makes of one word.
Scalar = bool | int | float | str


def _each_once(values: list[Any]) -> list[Any]:
    if twice := [value for place, value in enumerate(values) if value in values[:place]]:
        raise PydanticCustomError("unique", "{value} is there twice; give it once", {"value": repr(twice[0])})
    return values


@dataclass(frozen=True)
class EachOnce:
    """Marks a list in which nothing is twice."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(_each_once, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return handler(schema) | {"uniqueItems": True}


def narrowed(section: type[Section], name: str, **bounds: Any) -> Any:
    """The field of a section as another has it, with other bounds."""
    field = section.model_fields[name]
    return Field(field.default, description=field.description, examples=field.examples, **bounds)


def by_kind(kinds: Iterable[type[SectionType]]) -> dict[str, type[SectionType]]:
    """The kinds of a union by the name that their key `kind` has."""
    return {kind.model_fields["kind"].default: kind for kind in kinds}


def kinds_told(kinds: Iterable[Any]) -> str:
    """What the kinds of a union are, in one sentence: the description of their key `kind`."""
    return f"{'; '.join(f'{name} {kind.about}' for name, kind in by_kind(kinds).items())}."


def whole(field: FieldInfo) -> Any:
    """The type of a field, its marks and bounds included."""
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def alternatives(annotation: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    """The types that a value may have, None apart, each with its marks and bounds."""
    if get_origin(annotation) is Annotated:
        base, *marks = get_args(annotation)
        marks = [inner for mark in marks for inner in (mark.metadata if isinstance(mark, FieldInfo) else [mark])]
        return [(inner, (*more, *marks)) for inner, more in alternatives(base)]
    if get_origin(annotation) in (Union, types.UnionType):
        return [found for part in get_args(annotation) for found in alternatives(part)]
    return [] if annotation is type(None) else [(annotation, ())]


def names_of(base: Any, marks: Iterable[Any]) -> tuple[str, ...]:
    """The names that a type allows, where it allows no others."""
    if get_origin(base) is Literal:
        return get_args(base)
    return next((mark.names for mark in marks if isinstance(mark, OneOf)), ())


def allowed(annotation: Any) -> str:
    """What a value of a type may be, in words."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", list: "a list"}
    told = []
    for base, marks in alternatives(annotation):
        if names := names_of(base, marks):
            told.append(", ".join(names))
            continue
        pattern = next((mark.pattern for mark in marks if getattr(mark, "pattern", None)), None)
        kind = words.get(get_origin(base) or base, "an object")
        limits = " and ".join(bounds_of(marks))
        told.append(f"{kind} that matches {pattern}" if pattern else f"{kind} {limits}".rstrip())
    return ", or ".join(dict.fromkeys(told))


def bounds_of(marks: Iterable[Any]) -> list[str]:
    """Bounds in words: `above 0`, `at most 1`."""
    return [f"{word} {getattr(mark, key):g}" for key, word in BOUNDS.items() for mark in marks if hasattr(mark, key)]


# Flags


def add_flags(
    parser: Any, section: type[Section], *, only: Iterable[str] = (), but: Iterable[str] = (), required: Iterable = ()
) -> None:
    """Give a parser a flag for each option of a section.

    Args:
        parser: an `argparse.ArgumentParser`, or a group of one.
        only: fields that get one; by default all.
        but: fields that get none.
        required: fields that must be given, though a config may leave them out.
    """
    given = [name for name, _ in _fields(section, only, but)]
    one_of = len(given) and all(name in given for name in section.places) and section.places
    place = parser.add_mutually_exclusive_group(required=True) if one_of else parser
    for name, field in _fields(section, only, but):
        if inner := _inner_section(field):
            add_flags(parser, inner)
        else:
            _add_flag(place if name in section.places else parser, name, field, name in required)


def from_flags(section: type[SectionType], parsed: argparse.Namespace, **given: Any) -> SectionType:
    """The section that parsed flags tell.

    Args:
        given: fields that are told otherwise than by flags.

    Raises:
        UncoupleError: the options do not go together.
    """
    values = dict(given)
    for name, field in section.model_fields.items():
        if inner := _inner_section(field):
            values.setdefault(name, from_flags(inner, parsed))
        elif name not in values and (value := getattr(parsed, _dest(name, field), None)) is not None:
            values[name] = dict(value) if _shape(field)[0] is dict else value
    try:
        return section(**values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UncoupleError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}.") from None


def to_flags(section: Section, *, of: type[Section] | None = None, but: Iterable[str] = ()) -> list[str]:
    """A section as flags, which `from_flags` reads back as it was.

    Args:
        of: a section that this one extends: the flags are of its options alone.
        but: fields that get none.
    """
    flags: list[str] = []
    for name, field in _fields(of or type(section), (), but):
        value = getattr(section, name)
        if isinstance(value, Section):
            flags += to_flags(value)
            continue
        flag, (shape, _) = _flag(name, field), _shape(field)
        if shape is bool and value is not None:
            flags.append(flag if value else f"--no-{flag.removeprefix('--')}")
        elif shape is dict:
            flags += [part for key, inner in value.items() for part in (flag, _key_value(key, inner))]
        elif shape is list and value:
            texts = [_text(inner) for inner in value]
            # argparse takes a text with a dash in front for a flag of its own.
            dashed = any(text.startswith("-") for text in texts)
            flags += [f"{flag}={text}" for text in texts] if dashed else [flag, *texts]
        elif value is not None:
            text = _text(value)
            flags += [f"{flag}={text}"] if text.startswith("-") else [flag, text]
    return flags


def _fields(section: type[Section], only: Iterable[str], but: Iterable[str]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        # The kind of a thing is what its section is, and no option of it.
        if name != "kind" and name not in but and (not only or name in only):
            yield name, field


def _inner_section(field: FieldInfo) -> type[Section] | None:
    base = field.annotation
    return base if isinstance(base, type) and issubclass(base, Section) else None


def _shape(field: FieldInfo) -> tuple[Any, Any]:
    """(dict, list, bool or None, the type of one item) of a field."""
    found = alternatives(whole(field))
    base = found[0][0]
    if len(found) == 1 and get_origin(base) in (dict, list):
        return get_origin(base), get_args(base)[-1]
    return (bool if base is bool and len(found) == 1 else None), whole(field)


def _dest(name: str, field: FieldInfo) -> str:
    return _flag(name, field).removeprefix("--").replace("-", "_")


def _flag(name: str, field: FieldInfo) -> str:
    named = next((mark.name for mark in field.metadata if isinstance(mark, Flag)), name)
    return f"--{named.replace('_', '-')}"


def _add_flag(parser: Any, name: str, field: FieldInfo, required: bool) -> None:
    shape, item = _shape(field)
    default = None if required or shape in (dict, list) or field.is_required() else field.default
    told = field.description or ""
    # What follows says what is done where it is left out.
    told = (told.split(". ")[0] if required else told).rstrip(".")
    told += "" if default is None else f" (default: {_text(default)})"
    settings: dict[str, Any] = {"help": told.replace("%", "%%"), "required": required, "default": default}
    if shape is bool:
        settings["action"] = argparse.BooleanOptionalAction
    elif shape is dict:
        settings |= {"action": "append", "type": key_value, "metavar": "KEY=VALUE"}
    elif shape is list:
        settings |= {"action": "extend", "nargs": "+"}
    if shape in (None, list):
        choices = [names_of(*found) for found in alternatives(item)]
        if len(choices) == 1 and choices[0]:
            settings["choices"] = choices[0]
        else:
            settings |= {"type": read_as(item), "metavar": _dest(name, field).upper()}
    parser.add_argument(_flag(name, field), **settings)


def read_as(annotation: Any) -> Callable[[str], Any]:
    """A function for argparse that reads a text as a value of a type, or says what is allowed."""
    adapter = TypeAdapter(annotation)

    def read(text: str) -> Any:
        try:
            return adapter.validate_python(text)
        except ValidationError as error:
            told = [e["msg"] for e in error.errors() if e["type"] == "value_error"]
            told = [message.removeprefix("Value error, ") for message in told] or [f"give {allowed(annotation)}"]
            raise argparse.ArgumentTypeError(f"{text!r}: {told[0]}") from None

    return read


def key_value(text: str) -> tuple[str, Any]:
    """(key, value) of KEY=VALUE: the value is JSON or YAML, and so is a key in quotes, which may have a = in it."""
    if text.startswith('"'):
        try:
            key, end = json.JSONDecoder().raw_decode(text)
        except json.JSONDecodeError:
            raise argparse.ArgumentTypeError(f"{text!r}: the quotes of the key do not end") from None
        equals, value = text[end : end + 1], text[end + 1 :]
    else:
        key, equals, value = text.partition("=")
    if not (equals == "=" and key):
        raise argparse.ArgumentTypeError(f"{text!r}: write KEY=VALUE")
    return key, _value(text, value)


def _value(text: str, value: str) -> Any:
    try:
        # Numbers as programs write them, which YAML 1.1 takes for text: 1e-05.
        found = json.loads(value, parse_constant=_no_number)
    except ValueError:
        import yaml

        try:
            found = yaml.safe_load(value)
        except yaml.YAMLError:
            raise argparse.ArgumentTypeError(f"{text!r}: the value is not YAML; quote it") from None
    if not isinstance(found, Scalar):
        raise argparse.ArgumentTypeError(f"{text!r}: the value is no text, number or boolean; quote it")
    return found


def _key_value(key: str, value: Any) -> str:
    plain = "=" not in key and key and not key.startswith(('"', "-"))
    return f"{key if plain else json.dumps(key, ensure_ascii=False)}={json.dumps(value, ensure_ascii=False)}"


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of a config")


def _text(value: Any) -> str:
    return (
        " ".join(map(_text, value))
        if isinstance(value, list)
        else repr(value)
        if isinstance(value, float)
        else str(value)
    )


# Files


def walk(value: Any, annotation: Any = None, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(where, value, type) of a value and of all that is in it."""
    yield where, value, annotation
    for key, inner, kind in _inside(value, annotation):
        yield from walk(inner, kind, f"{where}.{key}" if where else str(key))


def with_files(value: Any, change: Callable[[str], str], annotation: Any = None) -> Any:
    """A copy of a section in which each path of a file or folder is changed."""
    changed = {key: with_files(inner, change, kind) for key, inner, kind in _inside(value, annotation)}
    if isinstance(value, Section):
        return value.model_copy(update=changed)
    if isinstance(value, dict):
        return changed
    if isinstance(value, list):
        return list(changed.values())
    return change(value) if on_disk(value, annotation) else value


def on_disk(value: Any, annotation: Any) -> OnDisk | None:
    """The mark of a value that is the path of a file or folder."""
    for base, marks in alternatives(annotation) if isinstance(value, str) else ():
        if value in names_of(base, marks):
            return None
        if found := [mark for mark in marks if isinstance(mark, OnDisk)]:
            return found[0]
    return None


def _inside(value: Any, annotation: Any) -> Iterator[tuple[Any, Any, Any]]:
    if isinstance(value, Section):
        for name, field in type(value).model_fields.items():
            yield name, getattr(value, name), whole(field)
    elif isinstance(value, dict | list):
        found = [base for base, _ in alternatives(annotation) if get_origin(base) is type(value)]
        item = get_args(found[0])[-1] if found else None
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield key, inner, item
