"""Where the suppressed weights are: how many of each weight matrix, by layer and module, for each variant. Variants
with the same counts share a picture: ``random`` takes as many weights of each matrix as ``coupled`` does, but others.
"""

from collections import defaultdict
from typing import TYPE_CHECKING

from uncouple.reporting.rows import Rows, ordered

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = "placement"
NEEDS = ("placement",)


def draw(rows: Rows) -> "Figure":
    """How many weights of each matrix each variant suppresses: layer by module."""
    from matplotlib.ticker import MaxNLocator

    from uncouple.reporting.drawing import panels

    variants, modules = ordered(r["variant"] for r in rows.rows), ordered(r["module"] for r in rows.rows)
    layers = sorted({r["layer"] for r in rows.rows})
    counts = {(r["variant"], r["module"], r["layer"]): r["n"] for r in rows.rows}
    # What would be the same picture is drawn once.
    grids = defaultdict(list)
    for variant in variants:
        grid = tuple(tuple(counts.get((variant, module, layer), 0) for layer in layers) for module in modules)
        grids[grid].append(variant)
    most = max(1, max(max(map(max, grid)) for grid in grids))
    figure, axes = panels(1, [0.9 + 0.3 * len(modules)] * len(grids))
    for ax, (grid, names) in zip(axes, grids.items(), strict=True):
        image = ax.imshow(grid, aspect="auto", interpolation="nearest", vmin=0, vmax=most)
        ax.set(title=f"{', '.join(names)}: {sum(map(sum, grid)):,} weights{' each' if len(names) > 1 else ''}")
        ax.set_yticks(range(len(modules)), [module.split(".")[-1] for module in modules])
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(False)
    axes[-1].set_xlabel("layer")
    bar = figure.colorbar(image, ax=axes, label="weights of a matrix", pad=0.02)
    bar.locator = MaxNLocator(5, integer=True)
    bar.update_ticks()
    return figure
