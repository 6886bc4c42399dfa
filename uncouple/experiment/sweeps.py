"""Sweeps: variants that are alike but for one key, however they came into the config."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uncouple.records.files import write_table
from uncouple.records.formats import SWEEPS
from uncouple.variants.kinds import VariantKind

# So many make a sweep: two are a comparison.
FEWEST = 3
# Keys that change nothing of what is measured.
IDLE = ("kind", "checkpoint")


@dataclass(frozen=True)
class Sweep:
    """Variants that are alike but for one key.

    Attributes:
        key: that key.
        series: what tells it from other sweeps of the key; nothing where there is one alone.
        values: dict of variant to its value, numbers ascending.
    """

    key: str
    series: str
    values: dict[str, Any]


def find_sweeps(variants: Mapping[str, VariantKind]) -> list[Sweep]:
    """The sweeps among variants, by name, of which no value comes twice."""
    groups: dict[tuple[Any, ...], dict[str, str]] = {}
    for name, variant in variants.items():
        texts = {key: value_text(getattr(variant, key)) for key in type(variant).model_fields if key not in IDLE}
        for key, text in texts.items():
            alike = tuple(item for item in texts.items() if item[0] != key)
            groups.setdefault((key, type(variant), alike), {}).setdefault(text, name)
    groups = {which: named for which, named in groups.items() if len(named) >= FEWEST}
    sweeps = []
    for (key, _, alike), named in groups.items():
        siblings = [dict(other[2]) for other in groups if other[0] == key]
        told = [f"{one} {text}" for one, text in alike if len({sibling.get(one) for sibling in siblings}) > 1]
        values = {name: getattr(variants[name], key) for name in named.values()}
        if all(map(is_number, values.values())):
            values = dict(sorted(values.items(), key=lambda item: item[1]))
        sweeps.append(Sweep(key, ", ".join(told), values))
    return sweeps


def write_sweeps(sweeps: Iterable[Sweep], output: str | Path) -> None:
    """Write which variants make a sweep, see `formats.SWEEPS`."""
    rows = [
        {"key": sweep.key, "series": sweep.series, "variant": variant, "value": value_text(value)}
        | {"number": float(value) if is_number(value) else None}
        for sweep in sweeps
        for variant, value in sweep.values.items()
    ]
    write_table(rows, output, SWEEPS, {})


def is_number(value: Any) -> bool:
    """Whether a value has its place on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def value_text(value: Any) -> str:
    """A value as the name of a variant has it; a key that is left out has its default."""
    if value is None:
        return "default"
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)
