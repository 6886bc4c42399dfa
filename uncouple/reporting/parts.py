"""What figures and tables there are, and which an experiment has. Light: the rules ask whenever Snakemake starts."""

import inspect
import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

from uncouple.errors import UncoupleError
from uncouple.records.fingerprint import load_part

FOLDER = Path(__file__).parent
# What each figure is drawn as; a table is written in all of `pages.FORMS`.
FIGURE_FORMS = ("png", "svg", "pdf")


def part_names(kind: str) -> list[str]:
    """Names of all `figures`, or of all `tables`."""
    return sorted(path.stem for path in (FOLDER / kind).glob("[a-z]*.py"))


def find_figure(name: str) -> ModuleType:
    """The module of a figure.

    Args:
        name: of one that is drawn for each of something, with a dash and which: `sweep-ratio`.

    Raises:
        UncoupleError: there is none of this name.
    """
    stem, _, which = name.partition("-")
    _check_name("figures", stem)
    part = load_part("reporting.figures", stem)
    if which and not hasattr(part, "EACH"):
        raise UncoupleError(f"{name!r}: this figure is drawn once. Leave out the dash and what is behind it.")
    return part


def find_table(name: str) -> ModuleType:
    """The module of a table.

    Raises:
        UncoupleError: there is none of this name.
    """
    _check_name("tables", name)
    return load_part("reporting.tables", name)


def _check_name(kind: str, name: str) -> None:
    if name not in part_names(kind):
        raise UncoupleError(f"{name!r} is none of the {kind}. Use one of {', '.join(part_names(kind))}.")


def of_each_model(found: Mapping[str, ModuleType]) -> dict[str, ModuleType]:
    """Those of some parts that are made for each model."""
    return {name: part for name, part in found.items() if not hasattr(part, "ACROSS")}


def of_all_models(found: Mapping[str, ModuleType]) -> dict[str, ModuleType]:
    """Those of some parts that are made once, of all models."""
    return {name: part for name, part in found.items() if hasattr(part, "ACROSS")}


def is_wanted(part: ModuleType, measured: Iterable[str]) -> bool:
    """Whether an experiment has a figure or table: it measures one of the things that this shows.

    Args:
        part: see `find_figure` and `find_table`.
        measured: what the experiment measures: `awareness`, `agreement` where it has two judges or more, `language`,
            `perplexity`, `divergence`, `refusal`, `ability`, `hsic`, `placement`, `coupling`, `sweeps`, `pairs` of
            dimensions, `models` where there are several, `judges` that are trained, `paper` where a judge is that of
            published figures.
    """
    return not set(part.NEEDS).isdisjoint(measured)


def parts(kind: str, measured: Iterable[str], each: Mapping[str, Iterable[str]] | None = None) -> dict[str, ModuleType]:
    """The `figures` or `tables` that an experiment has, by name.

    Args:
        measured: see `is_wanted`.
        each: for what a part is drawn that says so by its EACH: by that, the names.
    """
    found = {name: load_part(f"reporting.{kind}", name) for name in part_names(kind)}
    return {
        f"{name}-{which}" if which else name: part
        for name, part in found.items()
        if is_wanted(part, measured)
        for which in ((each or {})[part.EACH] if hasattr(part, "EACH") else [""])
    }


def as_rst(text: str) -> str:
    """A text of anybody's in a caption of the report, which is a template of Snakemake's and then reStructuredText.

    Returns:
        The text in one line, of which nothing is markup: each mark stands behind a backslash, and no template begins
        with one brace alone.
    """
    return "".join(f"\\{c}" if c in string.punctuation else c for c in " ".join(text.split()))


def caption(part: ModuleType | type) -> str:
    """What a figure or table shows, or a kind of judge is, in reStructuredText."""
    return inspect.cleandoc(part.__doc__ or "")
