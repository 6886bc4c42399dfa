"""How good the trained judge is, on held out prompts that it was not trained on: its calibration (of the answers that
it gives a probability, how many are unsafe), and how many answers of each kind it calls what they are: held out safe
and unsafe samples, and the half of the refusals and short compliances that it was not trained on. Below a dotted line
(95% and 90%) its rates are not to be trusted, which is said where they are shown. The operating point is a probability
of one half of a fit in which both labels weigh the same; where one label has more rows than the other, the points lie
off the diagonal for that alone. Where labelled answers of other origin are given, the judge's figures on them stand
beside: they are what to expect of it on another model's answers. A judge that is trained on few rows, such as the
samples that ship with the project, is worth little there: its rates serve to compare variants, and for real claims take
a language model as judge.
"""

from typing import TYPE_CHECKING

from uncouple.evaluation.judges.replies import KINDS
from uncouple.records.formats import LABELS
from uncouple.reporting.rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A file a dimension, which `train-judge` made; of no model.
TABLE = "judge"
NEEDS = ("judges",)
UNTESTED = {"value": None, "low": None, "high": None, "n": 0, "of": 0}


def draw(judges: list[Row]) -> "Figure":
    """A dimension a row: calibration, and how answers of each kind that the judge was not fitted to are called.

    A mark is hollow below what is asked of the judge (the dotted line).
    """
    from uncouple.reporting.drawing import panels

    figure, axes = panels(2, [3.6] * len(judges), share=False)
    for row, judge in enumerate(judges):
        _draw_calibration(axes[2 * row], judge)
        _draw_kinds(axes[2 * row + 1], judge)
    return figure


def _draw_calibration(ax: "Axes", judge: Row) -> None:
    ax.plot([0, 1], [0, 1], linestyle=":", color="0.5")
    for what, label, color in (("held_out", "held out", "C0"), ("test", "other origin", "C1")):
        if found := judge[what]:
            auroc = "AUROC {value:.2f} ({low:.2f} to {high:.2f})".format(**found["auroc"])
            bins = [(b["predicted"], b["value"]) for b in found["calibration"]]
            ax.plot(*zip(*bins, strict=True), marker="o", color=color, label=f"{label}: {auroc}", clip_on=False)
    ax.set(title=judge["dimension"], xlabel="p(unsafe)", ylabel="share that is unsafe", xlim=(0, 1), ylim=(0, 1))
    # Below: a curve may be anywhere in them.
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.18), borderaxespad=0)


def _draw_kinds(ax: "Axes", judge: Row) -> None:
    from uncouple.reporting.drawing import draw_intervals, name_rows, write_counts

    names = {label: f"{label} samples" for label in LABELS} | {kind: f"{kind}s" for kind in KINDS}
    shown = [(place, judge["kinds"].get(kind, UNTESTED)) for place, kind in enumerate(names)]
    least = {kind: share for kind, (_, share) in KINDS.items()}
    filled = [(row["value"] or 0) >= least.get(kind, 0) for kind, (_, row) in zip(names, shown, strict=True)]
    draw_intervals(ax, shown, "C0", filled=filled)
    write_counts(ax, shown, lambda r: f"{r['n']}/{r['of']}", missing="not tested")
    for place, kind in enumerate(names):
        if kind in least:
            ax.plot([least[kind]] * 2, [place - 0.4, place + 0.4], linestyle=":", color="0.5")
    name_rows(ax, list(names.values()))
    ax.set(title="called what they are", xlabel="share, 95% interval", xlim=(0, 1))
