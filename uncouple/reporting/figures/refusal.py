"""How often answers refuse: to the questions of each dimension, and to ordinary ones, of which a good edit leaves the
model as ready to answer as it was. ``general`` are prompts of the general samples, ``alarming`` questions that only
sound so, ``ordinary`` both as one set. Left: the share of refusals with 95% Wilson intervals and the counts; the dotted
line marks the origin. Right: the difference from the origin's on the same questions with Tango's 95% score interval. A
filled mark is an effect: the p-value of the exact McNemar test, adjusted by Holm over all variants and sets (over
primary ones and others apart), is below 0.05, and more answers changed than under a noise variant. A trained classifier
tells refusals from answers, which the judges do not count for awareness; whether it is to be trusted stands below.
"""

from typing import TYPE_CHECKING

from uncouple.reporting.rows import Judged, Rows
from uncouple.variants.kinds import ORIGIN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = "metrics"
NEEDS = ("refusal",)


def draw(rows: Rows) -> "Figure":
    """A set of questions a row: the share of refusals, and its difference from the origin's."""
    from uncouple.reporting.drawing import draw_intervals, name_rows, panels, write_counts, write_notes

    rows.of("refusal", advice="refusals; judge the answers with the classifier of refusals, and measure awareness")
    found = Judged(rows)
    figure, axes = panels(2, [0.9 + 0.24 * len(found.variants)] * len(found.sets))
    for row, name in enumerate(found.sets):
        rate, difference = axes[2 * row : 2 * row + 2]
        shown = found.placed(name, "refusal")
        draw_intervals(rate, shown, "C0")
        write_counts(rate, shown, lambda r: f"{r['n']}/{r['of']}")
        rate.set(title=name, xlabel="refusals (of judged), 95% interval", xlim=(0, 1))
        origin = found.get(ORIGIN, name, "refusal", found.refuser)
        if origin and origin["value"] is not None:
            rate.axvline(origin["value"], linestyle=":", color="C0", alpha=0.6, zorder=0)
        shown = found.placed(name, "refusal_difference")
        filled = [found.is_effect(found.variants[place], name, found.refuser) for place, _ in shown]
        draw_intervals(difference, shown, "C0", filled=filled)
        write_counts(difference, shown, lambda r: f"{r['n']} changed")
        difference.axvline(0, linestyle=":", color="0.5", zorder=0)
        difference.set_xlabel(f"difference from {ORIGIN}, paired, 95% interval")
        for ax in (rate, difference):
            name_rows(ax, found.variants)
    write_notes(figure, found.notes())
    return figure
