"""What figures and tables there are, and which an experiment has. Light: the rules ask whenever Snakemake starts."""

import inspect
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from uncouple.errors import UncoupleError
from uncouple.records.fingerprint import load_part

FOLDER = Path(__file__).parent


def part_names(kind: str) -> list[str]:
    """Names of all `figures`, or of all `tables`."""
    return sorted(path.stem for path in (FOLDER / kind).glob("[a-z]*.py"))


def find_part(kind: str, name: str) -> ModuleType:
    """The module of a figure or a table.

    Args:
        kind: `figures` or `tables`.
        name: one of `part_names`.

    Raises:
        UncoupleError: there is none of this name.
    """
    if name not in part_names(kind):
        raise UncoupleError(f"{name!r} is none of the {kind}. Use one of {', '.join(part_names(kind))}.")
    return load_part("uncouple.reporting.figures" if kind == "figures" else "uncouple.reporting.tables", name)


def is_wanted(kind: str, name: str, measured: Iterable[str]) -> bool:
    """Whether an experiment has a figure or table: it measures one of the things that this shows.

    Args:
        kind, name: see `find_part`.
        measured: what the experiment measures: `awareness`, `agreement` where it has two judges or more, `language`,
            `perplexity`, `ability`, `hsic`, `placement`, `coupling`, `judges` that are trained.
    """
    return not set(find_part(kind, name).NEEDS).isdisjoint(measured)


def caption(kind: str, name: str) -> str:
    """What a figure or table shows, in reStructuredText."""
    return inspect.cleandoc(find_part(kind, name).__doc__)
