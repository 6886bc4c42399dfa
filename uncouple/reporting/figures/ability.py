"""Perplexity per token (with a 95% interval over the text's windows) and the accuracy on common tasks (with the 95%
interval of its standard error) by variant. The dotted line marks the origin.
"""

from typing import TYPE_CHECKING

from uncouple.reporting.rows import Rows, ordered
from uncouple.variants.kinds import ORIGIN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = "metrics"
NEEDS = ("perplexity", "ability")


def draw(rows: Rows) -> "Figure":
    """Perplexity and the accuracy on each task, which is `acc`: one normalised by length is in the table."""
    from uncouple.reporting.drawing import draw_intervals, name_rows, panels

    measured = rows.of("perplexity", "acc", advice="perplexity and no ability; measure one")
    found = {(r["variant"], r["task"]): r for r in measured}
    variants, tasks = ordered(r["variant"] for r in measured), ordered(r["task"] for r in measured)
    figure, axes = panels(1, [0.8 + 0.22 * len(variants)] * len(tasks))
    for ax, task in zip(axes, tasks, strict=True):
        shown = [(i, found[v, task]) for i, v in enumerate(variants) if (v, task) in found]
        draw_intervals(ax, shown, "C0")
        if (ORIGIN, task) in found:
            ax.axvline(found[ORIGIN, task]["value"], linestyle=":", color="0.5", zorder=0)
        ax.set_xlabel(f"accuracy, {task}" if task else "perplexity per token")
        name_rows(ax, variants, percent=task is not None)
    return figure
