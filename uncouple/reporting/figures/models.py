"""All models together: the difference of awareness from the origin's on the same questions, by variant, with Tango's
95% score interval, by the first judge of each. A filled mark is an effect, told within each model. What agrees over
models is of the method, and what does not is of a model.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from uncouple.reporting.rows import Judged, Rows, ordered
from uncouple.variants.kinds import ORIGIN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = "metrics"
NEEDS = ("models",)
# It is of all models, and there is one.
ACROSS = True


def draw(models: Mapping[str, Rows]) -> "Figure":
    """A dimension a column, a variant a row, a colour a model."""
    from uncouple.reporting.drawing import draw_intervals, name_rows, offsets, panels, write_legend

    found = {name: Judged(rows) for name, rows in models.items()}
    controls = {ORIGIN, *(name for judged in found.values() for name in judged.noises)}
    variants = ordered(name for judged in found.values() for name in judged.variants if name not in controls)
    dimensions = ordered(dimension for judged in found.values() for dimension in judged.dimensions)
    height = 1 + 0.16 * len(variants) * (1 + len(found))
    figure, axes = panels(len(dimensions), [height])
    for ax, dimension in zip(axes, dimensions, strict=True):
        for model, offset, color in offsets(list(found)):
            judge = found[model].judges[0]
            placed = [(i, found[model].get(v, dimension, "difference", judge)) for i, v in enumerate(variants)]
            shown = [(place + offset, row) for place, row in placed if row]
            effects = [found[model].is_effect(variants[i], dimension, judge) for i, row in placed if row]
            draw_intervals(ax, shown, color, model, effects)
        ax.axvline(0, linestyle=":", color="0.5", zorder=0)
        ax.set(title=dimension, xlabel="difference of awareness")
        name_rows(ax, variants)
    write_legend(figure, 3)
    return figure
