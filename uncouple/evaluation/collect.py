"""The one table of metrics: how rows come into it, and which files may be compared in it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from uncouple.errors import UncoupleError
from uncouple.evaluation.statistics import CONFIDENCE
from uncouple.records.files import read_table, write_table
from uncouple.records.formats import ASKING_KEYS, MACHINE_KEYS, METRIC_KEYS, METRICS, SWEEPS
from uncouple.variants.kinds import ORIGIN

# What must be equal of the model in all files that are compared, by the names of their records.
MODEL = ("weights", "tokenizer", *MACHINE_KEYS)
# And of how answers were asked for.
ASKED = (*MODEL, "generation", *ASKING_KEYS)


def write_metrics(rows: list[dict[str, Any]], output: Path, **about: Any) -> None:
    """Write a metrics table.

    Args:
        rows: dicts of the columns of `formats.METRICS`; a missing one is null.
        output: the table to write.
        about: what its record says besides its kind and the intervals' confidence: `measured`, what is in it; and
            where that is of one variant alone `alike`, which keys of the record must be equal for two variants to be
            compared.
    """
    write_table(rows, output, METRICS, {"confidence": CONFIDENCE} | about)


def collect_metrics(paths: Iterable[Path], output: Path) -> None:
    """Write several metrics tables as the one that figures are drawn from; a row may come once.

    Raises:
        UncoupleError: a row comes twice, or two variants of a model were not measured in the same way.
    """
    rows: list[dict[str, Any]] = []
    seen: dict[tuple[Any, ...], Path] = {}
    alike: dict[Any, Any] = {}
    for path in paths:
        table, record = read_table(path, METRICS)
        found = table.to_pylist()
        if found and "alike" in record:
            whose = record | {"dimension": found[0]["dimension"]}
            check_alike(alike, path, whose, record["alike"], ("measured", "model", "dimension"))
        for row in found:
            key = tuple(row[name] for name in METRIC_KEYS)
            if key in seen:
                told = ", ".join(str(part) for part in key if part is not None)
                raise UncoupleError(f"{path}: {told} is in {seen[key]} too. Give one of them.")
            seen[key] = path
        rows += found
    write_metrics(rows, output, measured="metrics")


def read_sweeps(path: Path) -> dict[tuple[str, str], list[str]]:
    """The variants of each sweep in the order of its values, by key and series; see `formats.SWEEPS`."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in read_table(path, SWEEPS)[0].to_pylist():
        groups.setdefault((row["key"], row["series"]), []).append(row["variant"])
    return groups


def check_alike(
    seen: dict[Any, Any], path: Path, record: dict[str, Any], keys: Iterable[str], whose: tuple[str, ...]
) -> None:
    """That files which are compared were made alike, but for what their variants are.

    Args:
        seen: dict of what the files before had, to which this one's is added.
        path, record: of the file.
        keys: what must be equal.
        whose: keys of the record; files that have these in common are compared.

    Raises:
        UncoupleError: names both files and what differs.
    """
    group = tuple(record[key] for key in whose)
    differs: dict[Path, list[str]] = {}
    for key, value in _facts(path, record, keys).items():
        first, first_path = seen.setdefault((whose, group, key), (value, path))
        if value != first:
            differs.setdefault(first_path, []).append(key)
    for first_path, names in differs.items():
        raise UncoupleError(
            f"{path} and {first_path} cannot be compared: their {', '.join(names)} differ. Make both in the same way."
        )


def _facts(path: Path, record: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """What a file's record says of some keys, those of `fingerprints` included."""
    known = record | record.get("fingerprints", {})
    if missing := [key for key in keys if key not in known]:
        raise UncoupleError(
            f"{path}: its record does not say {', '.join(missing)}; another version of Uncouple made it. Make it again."
        )
    facts = {key: _content(known[key]) for key in keys}
    # A variant without a mask that is not the origin is a model of its own: its weights differ. So do those of what is
    # opened from a checkpoint, which others may be opened from as well.
    is_own = not (known.get("mask") or known.get("noise") or known["variant"] == ORIGIN)
    weights = facts.pop("weights", None)
    base = known.get("base", ORIGIN)
    if weights is not None and not (is_own and base == ORIGIN):
        facts["weights" if base == ORIGIN else f"weights of {base}"] = weights
    # A noise is to have other batches, and in float32 an answer depends neither on them nor on the device.
    if known.get("noise") or known["dtype"] == "float32":
        facts.pop("batches", None)
    if known["dtype"] == "float32":
        facts.pop("device", None)
    # Tasks may be measured one by one.
    tasks, limit = facts.pop("tasks", {}), facts.pop("limit", None)
    return (
        facts | {f"task {name}": task for name, task in tasks.items()} | {f"limit of {name}": limit for name in tasks}
    )


def _content(value: Any) -> Any:
    """Without the paths of files: where one lay says nothing of what was in it."""
    if isinstance(value, dict):
        return {key: _content(inner) for key, inner in value.items() if key not in ("file", "source")}
    return value
