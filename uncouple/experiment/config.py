"""Configs: checked against the sections and against themselves before any job starts, with defaults filled in."""

import difflib
import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from uncouple.errors import UncoupleError
from uncouple.experiment.options import VARIANTS, Experiment
from uncouple.experiment.sweeps import value_text
from uncouple.experiment.yaml_text import check_size, parse_yaml
from uncouple.hub import Pin
from uncouple.options import Section, allowed, alternatives, bounds_of, names_of, on_disk, walk, whole, with_files

# The clone, whose config.yaml every experiment is laid over.
ROOT = Path(__file__).parents[2]
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
MOST_OF_A_SWEEP = 1000
# The types of JSON and YAML, by what pydantic says of a value that is not of one.
TYPES = {"int": "integer", "float": "number", "bool": "boolean", "string": "string", "list": "array", "dict": "object"}
TYPES |= {"model": "object", "finite": "number"}


def read_experiment(path: str | Path | None = None) -> Experiment:
    """The experiment of a file, laid over config.yaml as Snakemake's --configfile does it; its files are paths as the
    working directory sees them.

    Args:
        path: None for that of config.yaml alone.

    Raises:
        UncoupleError: a file cannot be read, or see `load`.
    """
    config: dict[str, Any] = {}
    for file in [ROOT / "config.yaml", *([path] if path else [])]:
        try:
            found = parse_yaml(Path(file).read_text(encoding="utf-8"), file)
        except (OSError, UnicodeDecodeError) as error:
            raise UncoupleError(f"{file}: cannot be read ({error}). Name an experiment's file.") from None
        if not isinstance(found, dict):
            raise UncoupleError(f"{file}: no keys in it. Name an experiment's file.")
        config = lay_over(config, found)
    return with_files(load(config, ROOT), lambda it: it if Path(it).exists() else str(ROOT / it))


def lay_over(config: Any, over: dict[str, Any]) -> dict[str, Any]:
    """A config with what another says in place of it, key by key."""
    laid = dict(config) if isinstance(config, dict) else {}
    for key, value in over.items():
        laid[key] = lay_over(laid.get(key), value) if isinstance(value, dict) else value
    return laid


def load(config: dict[str, Any], root: str | Path) -> Experiment:
    """The experiment that a config describes: nulls taken out, sweeps spread, defaults filled in, everything checked.

    Args:
        config: as loaded from YAML.
        root: the folder that relative paths start from.

    Raises:
        UncoupleError: one line for each fault, naming the key and what is allowed.
    """
    # Snakemake has read it, and keeps its aliases.
    check_size(config, "the config")
    config = _without_nulls(config)
    _refuse(_strange_texts(config))
    if isinstance(config.get("variants"), dict):
        config["variants"] = spread_sweeps(config["variants"])
    try:
        experiment = Experiment.model_validate(config)
    except ValidationError as error:
        _refuse(_tell_all(error, config))
        raise
    _refuse(itertools.chain(_place_faults(experiment, Path(root)), experiment.faults()))
    return experiment


def _refuse(faults: Iterator[str]) -> None:
    if told := list(dict.fromkeys(faults)):
        raise UncoupleError("the config is not right:\n" + "\n".join(f"  {fault}" for fault in told))


def spread_sweeps(variants: dict[str, Any]) -> dict[str, Any]:
    """Variants with each list of values made into one variant a value.

    `{"s": {"ratio": [1e-5, 1e-4]}}` becomes `s.ratio-1e-05` and `s.ratio-0.0001`. `dimensions` is itself a list,
    so it sweeps as a list of lists.
    """
    spread = {}
    for name, variant in variants.items():
        swept = {k: v for k, v in variant.items() if _is_sweep(k, v)} if isinstance(variant, dict) else {}
        if (count := math.prod(map(len, swept.values()))) > MOST_OF_A_SWEEP:
            raise UncoupleError(
                f"variants.{name}: its lists make {count:,} variants. Write {MOST_OF_A_SWEEP:,} or fewer."
            )
        for values in itertools.product(*swept.values()):
            chosen = dict(zip(swept, values, strict=True))
            parts = [f"{key}-{value_text(value)}" for key, value in chosen.items()]
            spread[".".join([name, *parts])] = variant | chosen if chosen else variant
    # An experiment's own keys come before those of config.yaml; a figure begins with the origin all the same.
    return dict(sorted(spread.items(), key=lambda item: _place_of(item[1])))


def _place_of(variant: Any) -> int:
    kind = variant.get("kind") if isinstance(variant, dict) else None
    return (
        VARIANTS[kind].place if isinstance(kind, str) and kind in VARIANTS else max(k.place for k in VARIANTS.values())
    )


def _is_sweep(key: str, value: Any) -> bool:
    fields = [kind.model_fields[key] for kind in VARIANTS.values() if key in kind.model_fields]
    is_list = any(get_origin(base) is list for field in fields for base, _ in alternatives(whole(field)))
    return isinstance(value, list) and bool(value) and (not is_list or any(isinstance(v, list) for v in value))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return value


def _strange_texts(value: Any, where: str = "") -> Iterator[str]:
    """Names that YAML takes for a number, a boolean or a date, and texts that no path may have in it."""
    if isinstance(value, str) and CONTROL.search(value):
        yield f"{where}: {value!r} has a line break, or another control character, in it; write it in one line"
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if isinstance(value, dict) and not isinstance(key, str):
            yield f"{where or 'top level'}: the name {key!r} is not text; put it in quotes"
        elif isinstance(key, str) and CONTROL.search(key):
            yield f"{where or 'top level'}: the name {key!r} has a line break, or another control character, in it"
        yield from _strange_texts(inner, f"{where}.{key}" if where else str(key))


# Faults of values, in the words of who wrote the config


def _tell_all(error: ValidationError, config: dict[str, Any]) -> Iterator[str]:
    errors = [(_place(fault["loc"], config), fault) for fault in error.errors()]
    # What is below a name that is not allowed says nothing more.
    refused = [path for path, fault in errors if fault["loc"][-1] == "[key]"]
    for path, fault in errors:
        if fault["loc"][-1] == "[key]" or not any(path[: len(name)] == name for name in refused):
            yield _tell(path, fault)


def _place(loc: tuple[str | int, ...], value: Any) -> tuple[str | int, ...]:
    """The keys of a place in the config, without what pydantic adds of unions."""
    path: list[str | int] = []
    for part in loc:
        if (isinstance(value, dict) and part in value) or (isinstance(value, list) and isinstance(part, int)):
            path.append(part)
            value = value[part]  # type: ignore[index]
    return tuple(path)


def _tell(path: tuple[str | int, ...], fault: Any) -> str:
    """One fault."""
    kind, value, where = fault["type"], fault["input"], ".".join(map(str, path)) or "top level"
    if fault["loc"][-1] == "[key]":
        above = ".".join(map(str, path[:-1])) or "top level"
        told = fault.get("ctx", {})
        if names := told.get("expected"):
            return f"{above}: {path[-1]!r} is not known (allowed: {_plain(names)})"
        return f"{above}: the name {path[-1]!r} is not allowed here (it must match {told.get('pattern', 'text')})"
    if kind == "missing":
        return f"{where}: the key {str(fault['loc'][-1])!r} is missing"
    if kind == "union_tag_not_found":
        return f"{where}: the key {_plain(fault['ctx']['discriminator'])!r} is missing"
    if kind == "union_tag_invalid":
        tags = _plain(fault["ctx"]["expected_tags"])
        return (
            f"{where}.{_plain(fault['ctx']['discriminator'])}: {fault['ctx']['tag']!r} is not known (allowed: {tags})"
        )
    if kind == "extra_forbidden":
        return _tell_unknown(path, fault["loc"])
    annotation = _type_at(Experiment, fault["loc"])
    found = alternatives(annotation)
    if len(found) > 1:
        return f"{where}: {json.dumps(value, default=str)} is not allowed (allowed: {allowed(annotation)})"
    base, marks = found[0]
    if names := names_of(base, marks):
        return f"{where}: {value!r} is not known (allowed: {', '.join(map(str, names))})"
    if bounds := bounds_of(marks) if isinstance(value, int | float) and kind in BOUND_TYPES else []:
        return f"{where}: {value} is out of range (allowed: {' and '.join(bounds)})"
    if kind == "string_pattern_mismatch":
        return f"{where}: {value!r} must match {fault['ctx']['pattern']}{_advice(marks)}"
    if wanted := TYPES.get(kind.split("_")[0]):
        number = isinstance(value, str) and wanted in ("number", "integer")
        hint = "; write small numbers as 1.0e-5, YAML takes 1e-5 for text" if number and wanted == "number" else ""
        return f"{where}: {json.dumps(value, default=str)} is not of type {wanted}{hint}"
    if kind == "too_short":
        told = f"has too few entries (allowed: {fault['ctx']['min_length']} or more)"
        return f"{where}: {json.dumps(value, default=str)} {told}"
    return f"{where}: {fault['msg']}"


def _advice(marks: Iterable[Any]) -> str:
    pins = any(isinstance(mark, Pin) for mark in marks)
    return "; `python -m uncouple pin FILE` writes it in where there is a network" if pins else ""


BOUND_TYPES = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")


def _plain(text: str) -> str:
    return text.replace("'", "").replace(" or ", ", ")


def _tell_unknown(path: tuple[str | int, ...], loc: tuple[str | int, ...]) -> str:
    """That a section has no such key, with those that it has, or with the kinds that have it."""
    above, key = ".".join(map(str, path[:-1])) or "top level", str(path[-1])
    section = _section_at(loc[:-1])
    if "kind" in section.model_fields:
        union = next(kinds for kinds in _kinds() if section in kinds)
        if having := [kind.model_fields["kind"].default for kind in union if key in kind.model_fields]:
            own = section.model_fields["kind"].default
            return f"{above}.{key}: {own} has no such key; {', '.join(having)} has it"
    names = sorted(section.model_fields, key=lambda name: name != "kind")
    near = difflib.get_close_matches(key, names, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{above}: unknown key {key!r}{hint} (allowed: {', '.join(names)})"


def _kinds() -> Iterator[list[type[Section]]]:
    for field in Experiment.model_fields.values():
        for base, _ in alternatives(whole(field)):
            if get_origin(base) is dict:
                yield [kind for kind, _ in alternatives(get_args(base)[1])]


def _section_at(loc: tuple[str | int, ...]) -> type[Section]:
    return next(base for base, _ in alternatives(_type_at(Experiment, loc)) if isinstance(base, type))


def _type_at(annotation: Any, loc: tuple[str | int, ...]) -> Any:
    """The type of a place that pydantic names, in which stand the kind of a section and the types of other unions."""
    for part in loc:
        found = alternatives(annotation)
        sections = [base for base, _ in found if isinstance(base, type) and issubclass(base, Section)]
        tagged = [base for base in sections if len(found) > 1 and base.model_fields["kind"].default == part]
        holders = [base for base, _ in found if get_origin(base) in (dict, list)]
        if tagged:
            annotation = tagged[0]
        elif len(sections) == 1 and part in sections[0].model_fields:
            annotation = whole(sections[0].model_fields[part])
        elif holders and len(found) == 1:
            annotation = get_args(holders[0])[-1]
        else:
            break
    return annotation


# Faults of places and files


def _place_faults(experiment: Experiment, root: Path) -> Iterator[str]:
    """That each thing comes from one place, with the keys that go with it, and that the files are there."""
    for where, value, annotation in walk(experiment):
        if isinstance(value, Section) and value.places:
            yield from _one_of(where, value)
        elif (mark := on_disk(value, annotation)) and not IS_THERE[mark.what](root / value):
            yield f"{where}: there is no {mark.what} {value}"


# A path may be too long to be one, which these say no to.
IS_THERE = {"file": os.path.isfile, "folder": os.path.isdir}


def _one_of(where: str, section: Section) -> Iterator[str]:
    found = [place for place in section.places if getattr(section, place) is not None]
    if len(found) != 1:
        what = f"both {' and '.join(found)} are given; set one of them to null" if found else "none is given"
        yield f"{where}: give one of {', '.join(section.places)} ({what})"
        return
    for key in section.places[found[0]]:
        if getattr(section, key) is None:
            _, marks = alternatives(whole(type(section).model_fields[key]))[0]
            yield f"{where}: {found[0]} needs the key {key!r} too{_advice(marks)}"
