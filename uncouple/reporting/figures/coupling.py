"""How many weights couple as the ratio grows: those in the tops of all dimensions, those of them that are not in the
general top (the coupled set that the paper defines), and those that the published code selects, which are not the same
set. The general ratio is the dimensions' own. Both axes are logarithmic; a ratio at which a rule selects nothing is
left out.
"""

from typing import TYPE_CHECKING

from uncouple.reporting.rows import Rows
from uncouple.selection.rules import LABELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = "coupling"
NEEDS = ("coupling",)


def draw(rows: Rows) -> "Figure":
    """How many weights each rule selects as the ratio grows."""
    from uncouple.reporting.drawing import panels

    figure, (ax,) = panels()
    for name, label in LABELS.items():
        points = [(r["ratio"], r["n"]) for r in rows.rows if r["select"] == name and r["n"]]
        if points:
            ax.plot(*zip(*points, strict=True), marker="o", label=label)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="ratio: share of a matrix's weights that is its top",
        ylabel="weights selected",
    )
    ax.set_title(f"of {rows.rows[0]['of']:,} weights scored")
    ax.legend()
    return figure
