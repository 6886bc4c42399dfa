"""Verification: that files are as they were written and as their formats say, and belong to those beside them."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uncouple.errors import UncoupleError
from uncouple.records.files import read_any
from uncouple.records.formats import (
    ANSWERS,
    ASKING_KEYS,
    FORMATS,
    MACHINE_KEYS,
    MASK,
    MODEL,
    QUESTIONS,
    SAMPLES,
    SCORE_SHARD,
    VERDICTS,
    Format,
    Record,
    value_at,
)
from uncouple.records.layout import TOPS, misplaced
from uncouple.records.sealed import REMEDY
from uncouple.records.store import is_entry

# In a model folder: its record, the hashes of its files, and of a checkpoint the folder of what made it.
MODEL_RECORD, MODEL_HASHES, MADE_OF = "uncouple.json", ".hashed-by-uncouple", "uncouple"


@dataclass(frozen=True)
class Found:
    """A file that is right by itself.

    Attributes:
        path, record: of the file.
        root: the folder in which it is looked for what it belongs to.
        ids: of its rows, where they have some.
    """

    path: Path
    record: Record
    root: Path
    ids: list[str]

    @property
    def form(self) -> Format:
        return FORMATS[self.record["kind"]]


def verify_paths(paths: Iterable[Path], check_model: Callable[[Path], Any]) -> tuple[list[Path], list[str]]:
    """Check files and folders.

    Of a folder every table and record in it is checked, models with their files, and what must match of those beside
    each other: verdicts and answers, answers and questions, shards and samples, and all of these and the model. In a
    results folder each file must lie where its record says that it belongs.

    Args:
        paths: files, and folders with all that is in them.
        check_model: a function of a model folder that raises an `UncoupleError` where its files are not those of its
            record; see `models.folders.model_record`.

    Returns:
        (the files checked, a sentence a fault with the file and what to do).
    """
    checked, faults, found = [], [], []
    for path in map(Path, paths):
        if not path.exists():
            faults.append(f"{path}: no such file or folder. Check the path.")
        for file in _files(path) if path.is_dir() else [path] if path.exists() else []:
            checked.append(file)
            one, told = _check_file(file, path)
            faults += told
            # What a store keeps may be of other times, and belongs to nothing beside it.
            found += [one] if one and not is_entry(file) else []
            if file.name == MODEL_RECORD and one:
                faults += _tell(check_model, file.parent)
    for one in found:
        faults += _not_beside(one, found)
    return checked, faults + list(_uncovered(found))


def _files(folder: Path) -> Iterator[Path]:
    """Tables, records and adapters in a folder, at any depth; of a model's own files its record speaks."""
    entries = sorted(folder.iterdir())
    is_model = (folder / MODEL_RECORD).is_file()
    for path in entries:
        if path.name in (MODEL_RECORD, MODEL_HASHES):
            yield path
        elif path.name.startswith("."):
            continue
        elif path.is_dir() and is_model:
            # What a base had of its own, deeper down, is an old record.
            if path.name == MADE_OF:
                yield from (file for file in sorted(path.iterdir()) if file.suffix in (".json", ".parquet"))
        elif path.is_dir():
            yield from _files(path)
        elif path.suffix == ".parquet" or (path.suffix in (".json", ".safetensors") and not is_model):
            yield path


def _check_file(path: Path, given: Path) -> tuple[Found | None, list[str]]:
    """(the file as `Found`, or None where it cannot be read; its faults)."""
    try:
        table, record = read_any(path)
    except UncoupleError as error:
        return None, [str(error)]
    form = FORMATS[record["kind"]]
    try:
        told = [f"{path}: {fault}. {REMEDY}" for fault in form.row_faults(table, record)]
    except (KeyError, TypeError, ValueError) as error:
        told = [f"{path}: its record is not one of {form.kind} ({type(error).__name__}: {error}). {REMEDY}"]
    root = path.parent.parent if form is MODEL else path.parent
    if given.is_dir() and (tail := _tail(path, given)):
        root = path.parents[len(tail) - 1]
        told += misplaced(path, tail, form, record, table)
    ids = table["id"].to_pylist() if table is not None and "id" in table.column_names else []
    return Found(path, record, root, ids), told


def _tell(check: Callable[[Path], Any], folder: Path) -> Iterator[str]:
    try:
        check(folder)
    except UncoupleError as error:
        yield str(error)
    except OSError as error:
        yield f"{folder}: cannot be read ({error}). Check its permissions and the disk."


def _tail(path: Path, given: Path) -> tuple[str, ...] | None:
    """The parts of a path from the folder of a results folder on, if it is as deep as what belongs there."""
    parts = (given.resolve().name, *path.relative_to(given).parts)
    for start in (1, 0):
        depths = {place.count("/") + 1 for form in TOPS.get(parts[start], []) for place in form.places}
        if len(parts) - start in depths:
            return parts[start:]
    return None


@dataclass(frozen=True)
class Relation:
    """What a file must have in common with another kind of file beside it.

    Attributes:
        form, other: kinds of files.
        key, other_key: functions of a `Found` that say which of the others it belongs to.
        fact, other_fact: functions of a `Found` that give what must be equal.
        told: what that is.
    """

    form: Format
    other: Format
    key: Callable[[Found], Any]
    other_key: Callable[[Found], Any]
    fact: Callable[[Found], Any]
    other_fact: Callable[[Found], Any]
    told: str


def _of(*keys: str) -> Callable[[Found], Any]:
    """A function of a `Found` to some of what its record says; a dot reaches into an object."""

    return lambda found: tuple(value_at(found.record, key) for key in keys)


_ASKED = ("fingerprints", *MACHINE_KEYS, *ASKING_KEYS, "noise")
_CHOICE = ("dimension", "label", "n", "seed")


def _ids_and(*keys: str) -> Callable[[Found], Any]:
    return lambda found: (found.ids, *_of(*keys)(found))


# The folder of a checkpoint in which lies what made it.
OWN = "uncouple"


def _which_model(record: Record) -> tuple[str, str | None]:
    """The name of a model, and of which variant it is the checkpoint."""
    return record["name"], record.get("source", {}).get("variant")


def _from_model(form: Format, prints: Sequence[str]) -> Relation:
    keys = ("fingerprint", "tokenizer", "generation")[: len(prints)]
    is_nested = "model.name" in form.keys
    return Relation(
        form,
        MODEL,
        (lambda found: _which_model(found.record["model"])) if is_nested else _of("model"),
        # A checkpoint keeps its base's record, and stands for itself alone.
        (lambda found: found.path.parent.name != OWN and _which_model(found.record)) if is_nested else _of("name"),
        _of(*prints),
        _of(*keys),
        "the model that it was made from",
    )


_NAMED = ("model", "variant", "dimension")
RELATIONS = (
    Relation(VERDICTS, ANSWERS, _of(*_NAMED), _of(*_NAMED), _ids_and(*_ASKED), _ids_and(*_ASKED), "the answers judged"),
    Relation(
        ANSWERS, QUESTIONS, _of("dimension"), _of("dimension"), _of("questions"), _of("fingerprint"), "the questions"
    ),
    Relation(
        SCORE_SHARD,
        SAMPLES,
        _of(*(f"samples.{key}" for key in _CHOICE)),
        _of(*_CHOICE),
        _of("samples.fingerprint"),
        _of("fingerprint"),
        "the samples scored",
    ),
    _from_model(SCORE_SHARD, ("model.fingerprint", "model.tokenizer")),
    _from_model(MASK, ("model.fingerprint",)),
    _from_model(ANSWERS, ("fingerprints.weights", "fingerprints.tokenizer", "fingerprints.generation")),
)


def _not_beside(one: Found, found: list[Found]) -> Iterator[str]:
    """What a file says of another that is beside it and that is none of those there."""
    for relation in RELATIONS:
        if one.form is relation.form:
            key = relation.key(one)
            others = [
                other
                for other in found
                if other.form is relation.other and other.root == one.root and relation.other_key(other) == key
            ]
            if others and not any(relation.other_fact(other) == relation.fact(one) for other in others):
                told = " or ".join(str(other.path) for other in others)
                yield f"{one.path}: does not belong to {told}: {relation.told} differ. {REMEDY}"


def _uncovered(found: list[Found]) -> Iterator[str]:
    """Sets of shards in which a layer is missing or comes twice."""
    layers = {(one.root, one.record["name"]): one.record["layers"] for one in found if one.form is MODEL}
    sets: dict[str, list[Found]] = {}
    same = _of("model.name", "model.fingerprint", "samples.fingerprint", "module", "prompt", "keep", "dtype")
    for one in found:
        if one.form is SCORE_SHARD:
            sets.setdefault(json.dumps([str(one.root), *same(one)], sort_keys=True), []).append(one)
    for shards in sets.values():
        is_known = (shards[0].root, shards[0].record["model"]["name"]) in layers
        # One alone, by hand, may be all that somebody wants.
        if len(shards) == 1 and not is_known:
            continue
        shards.sort(key=lambda one: one.record["layers"])
        following = 0
        for one in shards:
            first, last = one.record["layers"]
            if first < following:
                yield f"{one.path}: layers {first} to {following - 1} are in another shard of this set too. Delete one."
            elif first > following:
                yield f"{one.path}: layers {following} to {first - 1} are in no shard of this set. Score them."
            following = max(following, last + 1)
        total = layers.get((one.root, one.record["model"]["name"]), following)
        if following < total:
            yield f"{one.path}: layers {following} to {total - 1} are in no shard of this set. Score them."
