"""All models together: awareness of each dimension by variant, by the first judge, with its difference from the
origin's in points of a hundred (a star marks an effect, told within each model); and, where it was measured, what
ordinary questions, perplexity and common tasks say. (The paper's Tables 1 and 2 are laid out so.) Intervals and
p-values are in the summary of each model.
"""

from collections.abc import Callable

from uncouple.evaluation.options import GENERAL, ORDINARY
from uncouple.reporting.pages import Section
from uncouple.reporting.rows import Judged, Rows, Sources, ordered

TABLES = ("metrics",)
NEEDS = ("models",)
# It is of all models, and there is one.
ACROSS = True
Cell = Callable[[str], str]


def fill(sources: Sources) -> list[Section]:
    """A row a variant, columns of each model."""
    rows = sources.by_model("metrics")
    models = {name: Judged(found) for name, found in rows.items()}
    variants = ordered(variant for found in models.values() for variant in found.variants)
    awareness, prices = [], []
    for name, found in models.items():
        awareness += [(f"{name}: {dimension}", _awareness(found, dimension)) for dimension in found.dimensions]
        prices += [(f"{name}: {told}", cell) for told, cell in _prices(found, rows[name])]
    sections = [_section("awareness", awareness, variants)]
    return [*sections, _section("prices", prices, variants)] if prices else sections


def _section(title: str, columns: list[tuple[str, Cell]], variants: list[str]) -> Section:
    lines = [["variant", *(head for head, _ in columns)]]
    return Section([*lines, *([variant, *(cell(variant) for _, cell in columns)] for variant in variants)], title=title)


def _awareness(found: Judged, dimension: str) -> Cell:
    judge = found.judges[0]

    def tell(variant: str) -> str:
        row = found.get(variant, dimension, "awareness", judge)
        if not row:
            return ""
        if row["value"] is None:
            return "none judged"
        difference = found.get(variant, dimension, "difference", judge)
        told = f" ({100 * difference['value']:+.1f})" if difference and difference["value"] is not None else ""
        return f"{row['value']:.1%}{told}{'*' if found.is_effect(variant, dimension, judge) else ''}"

    return tell


def _prices(found: Judged, rows: Rows) -> list[tuple[str, Cell]]:
    """(head, cell of a variant) of all that is measured besides awareness."""
    shown = [("ordinary questions refused", ORDINARY, "refusal", found.refuser, None, "{:.1%}")]
    shown += [("divergence", GENERAL, "divergence", None, None, "{:.3g}")]
    shown += [("perplexity", GENERAL, "perplexity", None, None, "{:,.1f}")]
    shown += [(f"{task}", GENERAL, "acc", None, task, "{:.1%}") for task in ordered(r["task"] for r in rows.of("acc"))]
    keys = ("variant", "dimension", "metric", "judge", "task")
    values: dict[tuple[str | None, ...], float | None] = {
        tuple(row[key] for key in keys): row["value"] for row in rows.rows if not row["item"]
    }

    def column(*what: str | None, form: str) -> Cell:
        return lambda variant: "" if (value := values.get((variant, *what))) is None else form.format(value)

    found_prices = {key[1:] for key in values}
    return [(head, column(*what, form=form)) for head, *what, form in shown if tuple(what) in found_prices]
