"""How often two judges call an answer the same, of those that both give a verdict on, all variants together."""

from collections import defaultdict
from typing import TYPE_CHECKING

from uncouple.reporting.rows import Rows, ordered

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = "metrics"
NEEDS = ("agreement",)
# Text must be read on the dark and on the light end of the colour map.
TEXT_ON = {True: "white", False: "black"}


def draw(rows: Rows) -> "Figure":
    """A square of judges for each dimension."""
    from uncouple.reporting.drawing import panels

    pairs: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in rows.of("agreement", advice="two judges; judge its answers with another too"):
        counts = pairs[row["dimension"], row["judge"], row["item"]]
        counts[0] += row["n"]
        counts[1] += row["of"]
    dimensions, judges = ordered(d for d, _, _ in pairs), ordered(j for _, *both in pairs for j in both)
    figure, axes = panels(len(dimensions), [0.8 + len(judges)], width=1 + (0.3 + len(judges)) * len(dimensions))
    for ax, dimension in zip(axes, dimensions, strict=True):
        grid = [[1.0] * len(judges) for _ in judges]
        for (_, one, other), (n, of) in ((k, v) for k, v in pairs.items() if k[0] == dimension):
            a, b = judges.index(one), judges.index(other)
            grid[a][b] = grid[b][a] = n / of if of else float("nan")
            told = f"{n / of:.0%}\n{n}/{of}" if of else "none"
            for place in ((a, b), (b, a)):
                ax.annotate(told, place, ha="center", va="center", color=TEXT_ON[grid[a][b] < 0.5])
        ax.imshow(grid, vmin=0, vmax=1)
        ax.set_xticks(range(len(judges)), judges)
        ax.set_yticks(range(len(judges)), judges)
        ax.set_title(dimension)
        ax.grid(False)
    return figure
