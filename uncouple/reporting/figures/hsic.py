"""How far the representations of two dimensions depend on each other: HSIC with Gaussian kernels of median width
between the hidden states of the last token, layer by layer. The pairs of samples are arbitrary, so no value is a
dependence by itself: compare variants, and the biased estimate with the grey band, which holds 95% of what other
pairings of the same samples give.
"""

from typing import TYPE_CHECKING

from uncouple.reporting.rows import Row, Rows, ordered
from uncouple.variants.kinds import ORIGIN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = "metrics"
NEEDS = ("hsic",)


def draw(rows: Rows) -> "Figure":
    """Both estimates by layer and variant, over what pairs drawn at random give."""
    from matplotlib.ticker import MaxNLocator

    from uncouple.reporting.drawing import panels

    found = rows.of("hsic_biased", "hsic_unbiased", "hsic_null", advice="HSIC; measure it")
    dimensions, variants = ordered(r["dimension"] for r in found), ordered(r["variant"] for r in found)

    def by_layer(dimension: str, kind: str, variant: str) -> list[Row]:
        wanted = (dimension, f"hsic_{kind}", variant)
        lines = [r for r in found if (r["dimension"], r["metric"], r["variant"]) == wanted]
        return sorted(lines, key=lambda r: r["layer"])

    figure, axes = panels(2, [3.0] * len(dimensions))
    for row, dimension in enumerate(dimensions):
        for ax, kind in zip(axes[2 * row : 2 * row + 2], ("biased", "unbiased"), strict=True):
            for variant in variants:
                if line := by_layer(dimension, kind, variant):
                    ax.plot([r["layer"] for r in line], [r["value"] for r in line], marker=".", label=variant)
            band = by_layer(dimension, "null", ORIGIN)
            if band and kind == "biased":
                layers, low, high = ([r[key] for r in band] for key in ("layer", "low", "high"))
                ax.fill_between(layers, low, high, color="0.5", alpha=0.2, linewidth=0, label="pairs at random")
            ax.set(title=f"{dimension}, {kind}", xlabel="layer", ylabel="HSIC")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].legend()
    return figure
