"""Above: awareness of each dimension by variant, safe answers of those that got a verdict, with 95% Wilson intervals
and the counts; the dotted line marks the origin. Below: its difference from the origin's on the same questions, with
Tango's 95% score interval and how many verdicts changed. A filled mark is an effect: the p-value of the exact McNemar
test, adjusted by Holm over all variants and dimensions of this one judge (over primary ones and others apart), is below
0.05, and more verdicts changed than under a noise variant, which is the origin asked again in other batches (in float32
only where arithmetic can change a token). Squares: the mean p(unsafe) of each variant, of the judges that give one, and
its difference from the origin's on the same questions, with 95% t intervals; these are not tested. Where every
difference is the same, as a noise's are 0, there is no spread to make a t interval of: its interval is what questions
that were not asked might do, and wider than that of differences that are small but not 0. Empty answers get no verdict
and are counted in the summary table. What the noise was, and which judge is not to be trusted, stands below.
"""

import itertools
from typing import TYPE_CHECKING

from uncouple.reporting.rows import Judged, Rows
from uncouple.variants.kinds import ORIGIN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TABLE = "metrics"
NEEDS = ("awareness",)
AXES = {
    "awareness": "awareness (safe / judged), 95% interval",
    "difference": f"difference from {ORIGIN}, paired, 95% interval",
    "p_unsafe": "mean p(unsafe), 95% interval",
    "p_unsafe_difference": "difference of p(unsafe), paired, 95% interval",
}
COUNTS = {
    "awareness": lambda row: f"{row['n']}/{row['of']}",
    "difference": lambda row: f"{row['n']} changed",
    "p_unsafe": lambda row: f"of {row['n']}",
    # A float changes with anything, so how many did says nothing.
    "p_unsafe_difference": lambda row: f"of {row['of']}",
}


def draw(rows: Rows) -> "Figure":
    """Awareness of each dimension by variant above its difference from the origin; then the same of p(unsafe)."""
    from uncouple.reporting.drawing import offsets, panels, write_legend, write_notes

    found = Judged(rows)
    others = [
        v
        for v in found.variants
        if any(found.get(v, d, "difference", j) for d in found.dimensions for j in found.judges)
    ]
    probable = found.with_p_unsafe()
    shown = [("awareness", found.variants, found.judges), ("difference", others, found.judges)]
    shown += [("p_unsafe", found.variants, probable), ("p_unsafe_difference", others, probable)]
    shown = [(metric, names, judging) for metric, names, judging in shown if names and judging]
    heights = [0.9 + 0.3 * len(names) * len(judging) for _, names, judging in shown]
    colors = {judge: color for judge, _, color in offsets(found.judges)}
    figure, axes = panels(len(found.dimensions), heights)
    for ax, ((metric, names, judging), dimension) in zip(axes, itertools.product(shown, found.dimensions), strict=True):
        for judge, offset, _ in offsets(judging):
            places = {variant: i + offset for i, variant in enumerate(names)}
            _draw_judge(ax, found, metric, dimension, judge, places, colors[judge])
        _finish(ax, metric, names)
    for ax, dimension in zip(axes, found.dimensions, strict=False):
        ax.set_title(dimension)
    if len(found.judges) > 1:
        write_legend(figure, len(found.judges), title="judge")
    write_notes(figure, found.notes())
    return figure


def _draw_judge(
    ax: "Axes", found: Judged, metric: str, dimension: str, judge: str, places: dict[str, float], color: str
) -> None:
    """One judge's marks on the axes of one metric and dimension."""
    from uncouple.reporting.drawing import draw_intervals, write_counts

    rows = {variant: row for variant in places if (row := found.get(variant, dimension, metric, judge))}
    shown = [(places[variant], row) for variant, row in rows.items()]
    filled = [metric != "difference" or found.is_effect(variant, dimension, judge) for variant in rows]
    marker = "s" if metric.startswith("p_unsafe") else "o"
    draw_intervals(ax, shown, color, label=judge, filled=filled, marker=marker)
    write_counts(ax, shown, COUNTS[metric])
    origin = found.get(ORIGIN, dimension, metric, judge)
    if origin and origin["value"] is not None:
        ax.axvline(origin["value"], linestyle=":", color=color, alpha=0.6, zorder=0)


def _finish(ax: "Axes", metric: str, names: list[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    from uncouple.reporting.drawing import name_rows

    ax.set_xlabel(AXES[metric])
    if metric.endswith("difference"):
        ax.axvline(0, linestyle=":", color="0.5", zorder=0)
        ax.xaxis.set_major_locator(MaxNLocator(5))
    else:
        ax.set_xlim(0, 1)
    name_rows(ax, names, percent=not metric.startswith("p_unsafe"))
