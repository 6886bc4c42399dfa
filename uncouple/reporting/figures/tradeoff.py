"""Whether one dimension is gained at another's cost: awareness of each two dimensions against each other, by the first
judge, with 95% Wilson intervals. An arrow goes from the origin to each variant: up and to the right both are gained,
and one at the other's cost in the shaded quarters. A filled mark is an effect in one of the two dimensions or in both.
(The paper's Figure 1b shows fine-tuned models so.)
"""

import itertools
from typing import TYPE_CHECKING, Any

from uncouple.reporting.rows import Judged, Rows
from uncouple.variants.kinds import ORIGIN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = "metrics"
NEEDS = ("pairs",)


def draw(rows: Rows) -> "Figure":
    """Each two dimensions beside each other."""
    from matplotlib.patches import Rectangle

    from uncouple.reporting.drawing import draw_cross, in_percent, looks, panels, write_legend

    found = Judged(rows)
    judge = found.judges[0]
    variants = [name for name in found.variants if name != ORIGIN and name not in found.noises]
    pairs = list(itertools.combinations(found.dimensions, 2))
    figure, axes = panels(len(pairs), [4.2], share=False)
    for ax, (one, other) in zip(axes, pairs, strict=True):
        before = [found.get(ORIGIN, dimension, "awareness", judge) for dimension in (one, other)]
        start = [row["value"] for row in before if row and row["value"] is not None]
        for name, color, marker in looks(variants):
            after = [found.get(name, dimension, "awareness", judge) for dimension in (one, other)]
            is_effect = any(found.is_effect(name, dimension, judge) for dimension in (one, other))
            draw_cross(ax, after[0], after[1], color, name, start=start, marker=marker, filled=is_effect)
        draw_cross(ax, before[0], before[1], "0.3", ORIGIN, marker="D")
        if len(start) == 2:
            x, y = start
            shade: dict[str, Any] = {"color": "0.5", "alpha": 0.12, "linewidth": 0, "zorder": 0}
            ax.add_patch(Rectangle((0, y), x, 1 - y, **shade))
            ax.add_patch(Rectangle((x, 0), 1 - x, y, **shade))
        ax.set(xlabel=f"awareness of {one}", ylabel=f"awareness of {other}", xlim=(0, 1), ylim=(0, 1))
        for axis in (ax.xaxis, ax.yaxis):
            in_percent(axis)
    write_legend(figure, 3 if len(pairs) == 1 else 4)
    return figure
