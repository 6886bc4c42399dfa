"""How far the representations of two dimensions depend on each other: HSIC with Gaussian kernels of median width
between the hidden states of the last token, layer by layer. The pairs of samples are arbitrary, so no value is a
dependence by itself: compare variants, and the biased estimate with the grey band, which holds 95% of what other
pairings of the same samples give. The wide pale line is the origin; where others coincide, their dashes take turns.
"""

from typing import TYPE_CHECKING, Any

from uncouple.reporting.rows import Row, Rows, ordered
from uncouple.variants.kinds import ORIGIN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = "metrics"
NEEDS = ("hsic",)
# Of a line's dashes, in points: how long one is, and how many lines can lie on each other and all be seen.
DASH, TURNS = 4, 4
WIDE = {"linewidth": 6, "alpha": 0.35}
# A mark at each so many layers.
MARKED = 5


def draw(rows: Rows) -> "Figure":
    """Both estimates by layer and variant, over what pairs drawn at random give."""
    from matplotlib.ticker import MaxNLocator

    from uncouple.reporting.drawing import color_count, looks, panels, write_legend

    found = rows.of("hsic_biased", "hsic_unbiased", "hsic_null", advice="HSIC; measure it")
    dimensions, variants = ordered(r["dimension"] for r in found), ordered(r["variant"] for r in found)

    def by_layer(dimension: str, kind: str, variant: str) -> list[Row]:
        wanted = (dimension, f"hsic_{kind}", variant)
        lines = [r for r in found if (r["dimension"], r["metric"], r["variant"]) == wanted]
        return sorted(lines, key=lambda r: r["layer"])

    figure, axes = panels(2, [3.0] * len(dimensions))
    for row, dimension in enumerate(dimensions):
        for ax, kind in zip(axes[2 * row : 2 * row + 2], ("biased", "unbiased"), strict=True):
            for number, (variant, color, marker) in enumerate(looks(variants)):
                if line := by_layer(dimension, kind, variant):
                    style = WIDE if variant == ORIGIN else _dashes(number, len(variants) - 1)
                    places, values = ([r[key] for r in line] for key in ("layer", "value"))
                    # What has the colour of another has marks besides.
                    if number >= color_count():
                        style = style | {"marker": marker, "markersize": 4, "markevery": (number % MARKED, MARKED)}
                    ax.plot(places, values, color=color, label=variant, **style)
            band = by_layer(dimension, "null", ORIGIN)
            if band and kind == "biased":
                layers, low, high = ([r[key] for r in band] for key in ("layer", "low", "high"))
                ax.fill_between(layers, low, high, color="0.5", alpha=0.2, linewidth=0, label="pairs at random")
            ax.set(title=f"{dimension}, {kind}", xlabel="layer", ylabel="HSIC")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    write_legend(figure, 4, handlelength=3)
    return figure


def _dashes(turn: int, lines: int) -> dict[str, Any]:
    """How a line is drawn, so that its dashes fill gaps of the others."""
    turns = min(lines, TURNS)
    return {"linestyle": (DASH * (turn % turns), (DASH, DASH * (turns - 1)))} if turns > 1 else {}
