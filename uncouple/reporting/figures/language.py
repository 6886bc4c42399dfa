"""How often cautionary phrases occur: the share of all answers that have each phrase in them, with 95% Wilson
intervals, by variant. Phrases that no answer has are left out. Of more variants than there are colours, only the share
of answers with any of them is shown, a row a variant.
"""

from typing import TYPE_CHECKING

from uncouple.reporting.rows import Row, Rows, ordered

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = "metrics"
NEEDS = ("language",)
# Rows by dimension, variant and phrase.
Found = dict[tuple[str, str, str | None], Row]


def draw(rows: Rows) -> "Figure":
    """The share of answers with each phrase, and with any of them at the end."""
    from uncouple.reporting.drawing import color_count, draw_intervals, name_rows, offsets, panels, write_legend

    counted = rows.of("phrase", "any_phrase", advice="phrases; measure the language of its answers")
    dimensions, variants = ordered(r["dimension"] for r in counted), ordered(r["variant"] for r in counted)
    # The row of any phrase is of none.
    found: Found = {(r["dimension"], r["variant"], r["item"]): r for r in counted}
    phrases = {
        d: [*ordered(r["item"] for r in counted if r["dimension"] == d and r["item"] and r["n"]), None]
        for d in dimensions
    }
    if len(variants) > color_count():
        return _draw_any(found, dimensions, variants)
    figure, axes = panels(1, [0.9 + 0.12 * len(variants) * len(phrases[d]) for d in dimensions])
    for ax, dimension in zip(axes, dimensions, strict=True):
        for variant, offset, color in offsets(variants):
            shown = [(i + offset, found[dimension, variant, p]) for i, p in enumerate(phrases[dimension])]
            draw_intervals(ax, shown, color, label=variant)
        ax.set(title=dimension, xlabel="answers with the phrase, 95% interval", xlim=(0, None))
        name_rows(ax, [phrase or "any of them" for phrase in phrases[dimension]])
    write_legend(figure, 3)
    return figure


def _draw_any(found: Found, dimensions: list[str], variants: list[str]) -> "Figure":
    """The share of answers with any phrase, a dimension a column."""
    from uncouple.reporting.drawing import draw_intervals, name_rows, panels

    figure, axes = panels(len(dimensions), [0.9 + 0.22 * len(variants)])
    for ax, dimension in zip(axes, dimensions, strict=True):
        draw_intervals(ax, [(i, found[dimension, name, None]) for i, name in enumerate(variants)], "C0")
        ax.set(title=dimension, xlabel="answers with any phrase, 95% interval", xlim=(0, None))
        name_rows(ax, variants)
    return figure
