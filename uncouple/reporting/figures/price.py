"""What is gained and what it costs. Upwards: the difference of awareness from the origin's on the same questions, by
the first judge. To the right, above: the rise of the share of ordinary questions that are refused, general and alarming
ones together; below, where it was measured: the divergence of the predictions on ordinary responses, in nats a token.
The origin is where the arrows begin. Intervals are those of each measure, 95%. A filled mark is an effect on awareness.
A square refuses more and is not shown to be more aware: refusals of ordinary questions rose as an effect, and the
interval of the gain less that rise reaches 0 or below. Above the dotted diagonal awareness rose by more than such
refusals.
"""

from typing import TYPE_CHECKING

from uncouple.evaluation.options import GENERAL, ORDINARY
from uncouple.reporting.rows import Judged, Row, Rows
from uncouple.variants.kinds import ORIGIN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TABLE = "metrics"
NEEDS = ("refusal",)
REFUSALS, DIVERGENCE = "rise of refusals of ordinary questions", "divergence on ordinary responses, nats a token"


def draw(rows: Rows) -> "Figure":
    """A dimension a column: awareness over refusals, and below over divergence."""
    from uncouple.reporting.drawing import in_percent, looks, panels, write_legend

    rows.of("refusal", advice="refusals; judge the answers with the classifier of refusals, and measure awareness")
    found = Judged(rows)
    variants = [name for name in found.variants if name != ORIGIN and name not in found.noises]
    prices = {
        REFUSALS: {name: found.get(name, ORDINARY, "refusal_difference", found.refuser) for name in variants},
        DIVERGENCE: {name: found.get(name, GENERAL, "divergence") for name in variants},
    }
    prices = {told: price for told, price in prices.items() if any(price.values())}
    figure, axes = panels(len(found.dimensions), [3.2] * len(prices))
    for number, ax in enumerate(axes):
        row, column = divmod(number, len(found.dimensions))
        told, price = list(prices.items())[row]
        for look in looks(variants):
            _draw_variant(ax, found, look, found.dimensions[column], price[look[0]])
        ax.axhline(0, linestyle=":", color="0.5", zorder=0)
        ax.axvline(0, linestyle=":", color="0.5", zorder=0)
        in_percent(ax.yaxis)
        ax.set_xlabel(told)
        if told == REFUSALS:
            ax.axline((0, 0), slope=1, linestyle=":", color="0.5", zorder=0)
            in_percent(ax.xaxis)
        if not column:
            ax.set_ylabel("difference of awareness")
    for ax, dimension in zip(axes, found.dimensions, strict=False):
        ax.set_title(dimension)
    write_legend(figure, 4)
    return figure


def _draw_variant(ax: "Axes", found: Judged, look: tuple[str, str, str], dimension: str, price: Row | None) -> None:
    from uncouple.reporting.drawing import draw_cross

    (name, color, marker), judge = look, found.judges[0]
    gain, only = (found.get(name, dimension, metric, judge) for metric in ("difference", "only_refuses"))
    marker = "s" if only and only["value"] else marker
    filled = found.is_effect(name, dimension, judge)
    draw_cross(ax, price, gain, color, name, start=(0, 0), marker=marker, filled=filled)
