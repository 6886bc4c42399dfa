"""How often cautionary phrases occur: the share of all answers that have each phrase in them, with 95% Wilson
intervals, by variant. Phrases that no answer has are left out.
"""

from typing import TYPE_CHECKING

from uncouple.reporting.rows import Rows, ordered

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = "metrics"
NEEDS = ("language",)


def draw(rows: Rows) -> "Figure":
    """The share of answers with each phrase, and with any of them at the end."""
    from matplotlib.ticker import MaxNLocator

    from uncouple.reporting.drawing import draw_intervals, name_rows, offsets, panels

    counted = rows.of("phrase", "any_phrase", advice="phrases; measure the language of its answers")
    dimensions, variants = ordered(r["dimension"] for r in counted), ordered(r["variant"] for r in counted)
    # The row of any phrase is of none.
    found = {(r["dimension"], r["variant"], r["item"]): r for r in counted}
    phrases = {
        d: [*ordered(r["item"] for r in counted if r["dimension"] == d and r["item"] and r["n"]), None]
        for d in dimensions
    }
    figure, axes = panels(1, [0.9 + 0.12 * len(variants) * len(phrases[d]) for d in dimensions])
    for ax, dimension in zip(axes, dimensions, strict=True):
        for variant, offset, color in offsets(variants):
            shown = [(i + offset, found[dimension, variant, p]) for i, p in enumerate(phrases[dimension])]
            draw_intervals(ax, shown, color, label=variant)
        ax.set(title=dimension, xlabel="answers with the phrase, 95% interval", xlim=(0, None))
        ax.xaxis.set_major_locator(MaxNLocator(5))
        name_rows(ax, [phrase or "any of them" for phrase in phrases[dimension]])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure
