"""What one key of the variants does, all else being equal: awareness of each dimension less the origin's on the same
questions, by the first judge, with Tango's 95% score interval (filled marks are effects); and what it costs: refusals
of ordinary questions less the origin's, the divergence of the predictions of ordinary responses, and perplexity, whose
dotted line is the origin's, as far as they are measured. A line joins the values of one series; where there are
several, the legend tells what else their variants have. Where many values are tried, the best of them is so by luck as
well: the table of choices shows what the value that one half of the questions picks does on the other half.
"""

from typing import TYPE_CHECKING, Any

from uncouple.evaluation.options import ORDINARY
from uncouple.reporting.rows import Judged, Row, Rows, ordered
from uncouple.variants.kinds import ORIGIN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TABLE = "metrics"
NEEDS = ("sweeps",)
# It is drawn for each key.
EACH = "sweeps"
# From such a factor between the ends on, an axis is logarithmic.
WIDE = 30


def draw(rows: Rows, swept: list[Row]) -> "Figure":
    """A panel for each thing that is measured, over the values of the key.

    Args:
        rows: metrics.
        swept: rows of the key, see `formats.SWEEPS`.
    """
    from uncouple.reporting.drawing import panels, write_legend

    found = Judged(rows)
    judge = found.judges[0]
    shown = [(f"awareness of {d}, less the {ORIGIN}'s", d, "difference", judge) for d in found.dimensions]
    refusers = ordered(r["judge"] for r in rows.of("refusal_difference") if r["dimension"] == ORDINARY)
    shown += [
        (f"refusals of ordinary questions, less the {ORIGIN}'s", ORDINARY, "refusal_difference", by) for by in refusers
    ]
    shown += [("divergence, nats a token", "general", "divergence", None)] * bool(rows.of("divergence"))
    shown += [("perplexity", "general", "perplexity", None)] * bool(rows.of("perplexity"))
    figure, axes = panels(1, [1.4] * len(shown), share=False)
    for ax, (label, dimension, metric, by) in zip(axes, shown, strict=True):
        _draw_panel(ax, found, swept, (dimension, metric, by))
        ax.set_title(label, loc="left")
        ax.sharex(axes[0])
        ax.label_outer()
    axes[-1].set_xlabel(swept[0]["key"])
    if len(ordered(row["series"] for row in swept)) > 1:
        write_legend(figure, 2)
    return figure


def _draw_panel(ax: "Axes", found: Judged, swept: list[Row], what: tuple[str, str, str | None]) -> None:
    from uncouple.reporting.drawing import in_percent

    dimension, metric, by = what
    is_difference = metric.endswith("difference")
    for number, series in enumerate(ordered(row["series"] for row in swept)):
        points = [(row, told) for row in swept if row["series"] == series and (told := _told(found, row, what))]
        _draw_series(ax, swept, points, f"C{number}", series, joined=swept[0]["number"] is not None)
        effects = [
            (_place(swept, row), told["value"])
            for row, told in points
            if metric == "difference" and by and found.is_effect(row["variant"], dimension, by)
        ]
        if effects:
            ax.plot(*zip(*effects, strict=True), linestyle="none", marker="o", color=f"C{number}", zorder=3)
    origin = found.get(ORIGIN, dimension, metric, by)
    level = 0 if is_difference else origin and origin["value"]
    if level is not None:
        ax.axhline(level, linestyle=":", color="0.5", zorder=0)
    if is_difference:
        in_percent(ax.yaxis)
    _scale(ax, swept)


def _told(found: Judged, row: Row, what: tuple[str, str, str | None]) -> Row | None:
    told = found.get(row["variant"], *what)
    return told if told and told["value"] is not None else None


def _draw_series(
    ax: "Axes", swept: list[Row], points: list[tuple[Row, Row]], color: str, label: str, *, joined: bool
) -> None:
    if not points:
        return
    places = [_place(swept, row) for row, _ in points]
    values = [told["value"] for _, told in points]
    ends = [(told["value"] if told[end] is None else told[end]) for end in ("low", "high") for _, told in points]
    low, high = ends[: len(points)], ends[len(points) :]
    error = [[v - e for v, e in zip(values, low, strict=True)], [e - v for v, e in zip(values, high, strict=True)]]
    style: dict[str, Any] = {"marker": "o", "markerfacecolor": "white", "linestyle": "-" if joined else "none"}
    ax.errorbar(places, values, yerr=[[max(0, e) for e in side] for side in error], color=color, label=label, **style)


def _place(swept: list[Row], row: Row) -> float:
    """Where a value stands: at its number, or beside the others in their order."""
    return row["number"] if row["number"] is not None else ordered(r["value"] for r in swept).index(row["value"])


def _scale(ax: "Axes", swept: list[Row]) -> None:
    numbers = [row["number"] for row in swept]
    if None in numbers:
        names = ordered(row["value"] for row in swept)
        ax.set_xticks(range(len(names)), names)
        ax.set_xlim(-0.5, len(names) - 0.5)
    elif min(numbers) > 0 and max(numbers) / min(numbers) >= WIDE:
        ax.set_xscale("log")
