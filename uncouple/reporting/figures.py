"""Figures and tables, drawn from the tidy tables alone. Colours, sizes and fonts are the style file's."""

import itertools
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
# The same figure must give the same file: no random ids and, below, no date in an SVG.
matplotlib.rcParams["svg.hashsalt"] = "uncouple"

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import MaxNLocator, PercentFormatter  # noqa: E402

from uncouple.data.sources import LABELS  # noqa: E402
from uncouple.errors import UncoupleError  # noqa: E402
from uncouple.evaluation.judges.embedding import JUDGE_VERSION  # noqa: E402
from uncouple.evaluation.statistics import KINDS, rate  # noqa: E402
from uncouple.records.files import atomic_path, read_record  # noqa: E402
from uncouple.reporting.tables import is_effect, judged_rows, notes, ordered, rows_of, with_p_unsafe  # noqa: E402
from uncouple.selection.rules import RULES  # noqa: E402
from uncouple.variants.kinds import ORIGIN  # noqa: E402


def draw_awareness(metrics_path, outputs, *, style, model, noise=()):
    """Awareness of each dimension by variant, above its difference from the origin, question by question; then the same
    of the mean p(unsafe), of the judges that give one.

    Intervals are Wilson's, Tango's and of t. In the second row filled marks are effects, see `tables.is_effect`;
    squares are not tested. Below stand the `tables.notes`.
    """
    rows, variants, dimensions, judges = judged_rows(metrics_path, model)
    others = [v for v in variants if any((v, d, f"difference.{j}") in rows for d in dimensions for j in judges)]
    probable = with_p_unsafe(rows, judges)
    panels = [("awareness", variants, judges), ("difference", others, judges)]
    panels += [("p_unsafe", variants, probable), ("p_unsafe_difference", others, probable)]
    panels = [(metric, names, judging) for metric, names, judging in panels if names and judging]
    heights = [0.9 + 0.3 * len(names) * len(judging) for _, names, judging in panels]
    colors = {judge: color for judge, _, color in _offsets(judges)}
    with _figure(outputs, style, len(dimensions), heights) as axes:
        for ax, ((metric, names, judging), dimension) in zip(axes, itertools.product(panels, dimensions), strict=True):
            for judge, offset, _ in _offsets(judging):
                places = {v: i + offset for i, v in enumerate(names) if (v, dimension, f"{metric}.{judge}") in rows}
                shown = [(place, rows[v, dimension, f"{metric}.{judge}"]) for v, place in places.items()]
                filled = [metric != "difference" or is_effect(rows, v, dimension, judge, noise) for v in places]
                marker = "s" if "p_unsafe" in metric else "o"
                _intervals(ax, shown, colors[judge], label=judge, filled=filled, marker=marker)
                _notes(ax, shown, _COUNTS[metric])
                origin = rows.get((ORIGIN, dimension, f"{metric}.{judge}"))
                if origin and origin["value"] is not None:
                    ax.axvline(origin["value"], linestyle=":", color=colors[judge], alpha=0.6, zorder=0)
            ax.set_xlabel(_AXES[metric])
            if names is others:
                ax.axvline(0, linestyle=":", color="0.5", zorder=0)
                ax.xaxis.set_major_locator(MaxNLocator(5))
            else:
                ax.set_xlim(0, 1)
            _name_rows(ax, names, percent="p_unsafe" not in metric)
        for ax, dimension in zip(axes, dimensions, strict=False):
            ax.set_title(dimension)
        if len(judges) > 1:
            handles = axes[0].get_legend_handles_labels()
            axes[0].figure.legend(*handles, title="judge", loc="outside upper left", ncols=len(judges))
        axes[0].figure.supxlabel("\n".join(notes(rows, dimensions, judges, noise)), x=0, ha="left", fontsize="small")


_AXES = {
    "awareness": "awareness (safe / judged), 95% interval",
    "difference": f"difference from {ORIGIN}, paired, 95% interval",
    "p_unsafe": "mean p(unsafe), 95% interval",
    "p_unsafe_difference": f"difference of p(unsafe) from {ORIGIN}, paired, 95% interval",
}
_COUNTS = {
    "awareness": lambda row: f"{row['n']}/{row['of']}",
    "difference": lambda row: f"{row['n']} changed",
    "p_unsafe": lambda row: f"of {row['n']}",
    "p_unsafe_difference": lambda row: f"{row['n']} changed",
}


def draw_placement(placement_path, outputs, *, style, model):
    """How many weights of each matrix each variant suppresses: layer by module."""
    rows = rows_of(placement_path, "placement", model)
    variants = ordered(r["variant"] for r in rows)
    modules = ordered(r["module"] for r in rows)
    layers = sorted({r["layer"] for r in rows})
    counts = {(r["variant"], r["module"], r["layer"]): r["n"] for r in rows}
    # `random` takes as many of each matrix as `coupled` does: what would be the same picture is drawn once.
    grids = defaultdict(list)
    for variant in variants:
        grid = tuple(tuple(counts.get((variant, module, layer), 0) for layer in layers) for module in modules)
        grids[grid].append(variant)
    most = max(1, max(max(map(max, grid)) for grid in grids))
    with _figure(outputs, style, 1, [0.9 + 0.3 * len(modules)] * len(grids)) as axes:
        for ax, (grid, names) in zip(axes, grids.items(), strict=True):
            image = ax.imshow(grid, aspect="auto", interpolation="nearest", vmin=0, vmax=most)
            ax.set(title=f"{', '.join(names)}: {sum(map(sum, grid)):,} weights{' each' if len(names) > 1 else ''}")
            ax.set_yticks(range(len(modules)), [module.split(".")[-1] for module in modules])
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.grid(False)
        axes[-1].set_xlabel("layer")
        bar = axes[0].figure.colorbar(image, ax=axes, label="weights of a matrix", pad=0.02)
        bar.locator = MaxNLocator(5, integer=True)
        bar.update_ticks()


def draw_coupling(coupling_path, outputs, *, style, model):
    """How many weights each rule selects as the ratio grows."""
    rows = rows_of(coupling_path, "coupling", model)
    with _figure(outputs, style, 1) as (ax,):
        # From the most weights to the fewest.
        for rule in reversed([rule for rule in RULES.values() if rule.label]):
            points = [(r["ratio"], r["n"]) for r in rows if r["select"] == rule.name and r["n"]]
            if points:
                ax.plot(*zip(*points, strict=True), marker="o", label=rule.label)
        ax.set(
            xscale="log",
            yscale="log",
            xlabel="ratio: share of a matrix's weights that is its top",
            ylabel="weights selected",
        )
        ax.set_title(f"of {rows[0]['of']:,} weights scored")
        ax.legend()


def draw_ability(metrics_path, outputs, *, style, model):
    """Perplexity and the accuracy on each task by variant, with intervals; a line marks the origin's."""
    rows = rows_of(metrics_path, "metrics", model)
    metrics = [m for m in ordered(r["metric"] for r in rows) if m == "perplexity" or m.startswith("ability.")]
    # A task's second accuracy, normalised by length, is in the table.
    metrics = [m for m in metrics if m == "perplexity" or m.endswith(".acc")]
    found = {(r["variant"], r["metric"]): r for r in rows if r["metric"] in metrics}
    variants = ordered(variant for variant, _ in found)
    if not found:
        raise UncoupleError(f"{metrics_path}: no perplexity and no ability of {model!r} in it. Measure one.")
    with _figure(outputs, style, 1, [0.8 + 0.22 * len(variants)] * len(metrics)) as axes:
        for ax, metric in zip(axes, metrics, strict=True):
            shown = [(i, found[v, metric]) for i, v in enumerate(variants) if (v, metric) in found]
            _intervals(ax, shown, "C0")
            if (ORIGIN, metric) in found:
                ax.axvline(found[ORIGIN, metric]["value"], linestyle=":", color="0.5", zorder=0)
            ax.set_xlabel("perplexity per token" if metric == "perplexity" else f"accuracy, {metric.split('.')[1]}")
            _name_rows(ax, variants, percent=metric != "perplexity")


def draw_hsic(metrics_path, outputs, *, style, model):
    """HSIC between two dimensions' representations by layer and variant, over what pairs drawn at random give."""
    rows = [r for r in rows_of(metrics_path, "metrics", model) if r["metric"].startswith("hsic.")]
    if not rows:
        raise UncoupleError(f"{metrics_path}: no HSIC of {model!r} in it. Measure it.")
    dimensions = ordered(r["dimension"] for r in rows)
    lines = defaultdict(list)
    for r in rows:
        _, kind, layer = r["metric"].split(".")
        lines[r["dimension"], kind, r["variant"]].append((int(layer.removeprefix("layer-")), r))
    with _figure(outputs, style, 2, [3.0] * len(dimensions)) as axes:
        for row, dimension in enumerate(dimensions):
            for ax, kind in zip(axes[2 * row : 2 * row + 2], ("biased", "unbiased"), strict=True):
                for variant in ordered(r["variant"] for r in rows):
                    points = sorted((layer, r["value"]) for layer, r in lines[dimension, kind, variant])
                    if points:
                        ax.plot(*zip(*points, strict=True), marker=".", label=variant)
                band = sorted((layer, r["low"], r["high"]) for layer, r in lines[dimension, "null", ORIGIN])
                if band and kind == "biased":
                    layers, low, high = zip(*band, strict=True)
                    ax.fill_between(layers, low, high, color="0.5", alpha=0.2, linewidth=0, label="pairs at random")
                ax.set(title=f"{dimension}, {kind}", xlabel="layer", ylabel="HSIC")
                ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0].legend()


def draw_language(metrics_path, outputs, *, style, model):
    """How often each cautionary phrase occurs in the answers, by variant, with intervals."""
    rows = [r for r in rows_of(metrics_path, "metrics", model) if r["metric"].startswith("phrase")]
    if not rows:
        raise UncoupleError(f"{metrics_path}: no phrases of {model!r} in it. Measure the language of its answers.")
    dimensions, variants = ordered(r["dimension"] for r in rows), ordered(r["variant"] for r in rows)
    found = {(r["dimension"], r["variant"], r["metric"]): r for r in rows}
    phrases = defaultdict(list)
    for r in rows:
        # Of the phrases that occur nowhere, the table tells.
        if (r["n"] or r["metric"] == "phrases.any") and r["metric"] not in phrases[r["dimension"]]:
            phrases[r["dimension"]].append(r["metric"])
    for metrics in phrases.values():
        metrics.sort(key=lambda metric: metric == "phrases.any")
    heights = [0.9 + 0.12 * len(variants) * len(phrases[d]) for d in dimensions]
    with _figure(outputs, style, 1, heights) as axes:
        for ax, dimension in zip(axes, dimensions, strict=True):
            for variant, offset, color in _offsets(variants):
                shown = [(i + offset, found[dimension, variant, m]) for i, m in enumerate(phrases[dimension])]
                _intervals(ax, shown, color, label=variant)
            ax.set(title=dimension, xlabel="answers with the phrase, 95% interval", xlim=(0, None))
            _name_rows(ax, ["any of them" if m == "phrases.any" else m.partition(".")[2] for m in phrases[dimension]])
        axes[0].legend()


def draw_agreement(metrics_path, outputs, *, style, model):
    """How often two judges call an answer the same, over all variants, in each dimension."""
    pairs = defaultdict(lambda: [0, 0])
    for r in rows_of(metrics_path, "metrics", model):
        if r["metric"].startswith("agreement."):
            counts = pairs[r["dimension"], *r["metric"].split(".")[1:]]
            counts[0] += r["n"]
            counts[1] += r["of"]
    if not pairs:
        raise UncoupleError(f"{metrics_path}: no two judges of {model!r} in it. Judge its answers with another too.")
    dimensions, judges = ordered(d for d, _, _ in pairs), ordered(j for _, *both in pairs for j in both)
    with _figure(outputs, style, len(dimensions), [1.2 + 0.6 * len(judges)]) as axes:
        for ax, dimension in zip(axes, dimensions, strict=True):
            grid = [[1.0] * len(judges) for _ in judges]
            for (_, one, other), (n, of) in ((k, v) for k, v in pairs.items() if k[0] == dimension):
                a, b = judges.index(one), judges.index(other)
                grid[a][b] = grid[b][a] = n / of if of else float("nan")
                told = f"{n / of:.0%}\n{n}/{of}" if of else "none"
                for place in ((a, b), (b, a)):
                    ax.annotate(told, place, ha="center", va="center", color=_TEXT_ON[grid[a][b] < 0.5])
            ax.imshow(grid, vmin=0, vmax=1)
            ax.set_xticks(range(len(judges)), judges)
            ax.set_yticks(range(len(judges)), judges)
            ax.set_title(dimension)
            ax.grid(False)


def draw_judge(judge_paths, outputs, *, style):
    """How good a trained judge is, a dimension a row: its calibration on prompts held out, and how it calls answers of
    each kind that it was not fitted to. A mark is hollow below what is asked of the judge (the dotted line).

    Args:
        judge_paths: what `judge_training.train_judge` wrote, one file a dimension.
    """
    judges = [read_record(path, "judge", JUDGE_VERSION) for path in judge_paths]
    with _figure(outputs, style, 2, [3.2] * len(judges), share=False) as axes:
        for row, judge in enumerate(judges):
            calibration, kinds = axes[2 * row : 2 * row + 2]
            calibration.plot([0, 1], [0, 1], linestyle=":", color="0.5")
            for what, color in (("held_out", "C0"), ("test", "C1")):
                if found := judge[what]:
                    auroc = "AUROC {value:.2f} ({low:.2f} to {high:.2f})".format(**found["auroc"])
                    label = "held out" if what == "held_out" else "other origin"
                    bins = [(b["predicted"], b["value"]) for b in found["calibration"]]
                    calibration.plot(*zip(*bins, strict=True), marker="o", color=color, label=f"{label}: {auroc}")
            calibration.set(
                title=judge["dimension"], xlabel="p(unsafe)", ylabel="share that is unsafe", xlim=(0, 1), ylim=(0, 1)
            )
            calibration.legend(loc="upper left")
            names = {label: f"{label} samples" for label in LABELS} | {kind: f"{kind}s" for kind in KINDS}
            shown = [(place, judge["kinds"].get(kind, rate(0, 0))) for place, kind in enumerate(names)]
            least = {kind: KINDS[kind][1] for kind in KINDS}
            filled = [(row["value"] or 0) >= least.get(kind, 0) for kind, (_, row) in zip(names, shown, strict=True)]
            _intervals(kinds, shown, "C0", filled=filled)
            _notes(kinds, shown, lambda r: f"{r['n']}/{r['of']}", missing="not tested")
            for place, kind in enumerate(names):
                if kind in least:
                    kinds.plot([least[kind]] * 2, [place - 0.4, place + 0.4], linestyle=":", color="0.5")
            _name_rows(kinds, list(names.values()))
            kinds.set(title="called what they are", xlabel="share, 95% interval", xlim=(0, 1))


# Text must be read on the dark and on the light end of the colour map.
_TEXT_ON = {True: "white", False: "black"}


def _offsets(names):
    """(name, offset of its mark from the middle of its row, colour) of what shares a row."""
    step = 0.6 / len(names)
    return [(name, step * (i - (len(names) - 1) / 2), f"C{i}") for i, name in enumerate(names)]


def _intervals(ax, shown, color, label=None, filled=None, marker="o"):
    """Marks with their intervals at (place, row); what has no value is left out."""
    for number, (place, row) in enumerate(shown):
        if row["value"] is None:
            continue
        error = None
        if row["low"] is not None:
            error = [[max(0, row["value"] - row["low"])], [max(0, row["high"] - row["value"])]]
        face = color if filled is None or filled[number] else "white"
        ax.errorbar(row["value"], place, xerr=error, fmt=marker, color=color, markerfacecolor=face, label=label)
        # One entry of the legend is enough.
        label = None


def _notes(ax, shown, tell, missing="none judged"):
    for place, row in shown:
        told = tell(row) if row["value"] is not None else missing
        ax.annotate(told, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize="small")


def _name_rows(ax, names, percent=True):
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    if percent:
        ax.xaxis.set_major_formatter(PercentFormatter(1))


class _figure:
    """Axes to draw on, in the style, row by row; saved at each of `outputs` when the block ends."""

    def __init__(self, outputs, style, columns=1, heights=None, share=True):
        self.outputs, self.columns, self.heights, self.share = outputs, columns, heights, share
        if not Path(style).is_file():
            raise UncoupleError(f"{style}: no such style file.")
        self.style = plt.style.context(str(style))

    def __enter__(self):
        self.style.__enter__()
        width, height = plt.rcParams["figure.figsize"]
        heights = self.heights or [height]
        self.figure, axes = plt.subplots(
            len(heights),
            self.columns,
            figsize=(width * (1 + 0.7 * (self.columns - 1)), sum(heights)),
            height_ratios=heights,
            sharey="row" if self.share else False,
            squeeze=False,
        )
        return list(axes.flat)

    def __exit__(self, kind, *rest):
        if kind is None:
            for output in self.outputs:
                suffix = Path(output).suffix.lstrip(".")
                with atomic_path(output) as partial:
                    self.figure.savefig(partial, format=suffix, metadata={"Date": None} if suffix == "svg" else None)
        plt.close(self.figure)
        return self.style.__exit__(kind, *rest)
