"""How figures are drawn and saved. Colours, sizes and fonts are the style file's."""

import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
# The same figure must give the same file: no random ids and, below, no date.
matplotlib.rcParams["svg.hashsalt"] = "uncouple"

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.axis import Axis  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.layout_engine import ConstrainedLayoutEngine  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402
from matplotlib.transforms import Bbox  # noqa: E402

from uncouple.errors import UncoupleError  # noqa: E402
from uncouple.records.files import atomic_path  # noqa: E402
from uncouple.records.formats import FORMATS  # noqa: E402
from uncouple.reporting.parts import FIGURE_FORMS, find_figure  # noqa: E402
from uncouple.reporting.rows import Row, Sources  # noqa: E402

# A square and a diamond have a meaning of their own.
MARKERS = "o^v<>PX*"
# What a format calls the date of a file.
DATES = {"svg": ("Date",), "pdf": ("CreationDate",)}


def draw_figures(
    names: Sequence[str], paths: Iterable[Path], outputs: Sequence[str], *, style: Path, model: str | None = None
) -> None:
    """Draw some figures.

    Args:
        names: the figures.
        paths: the files that they are drawn from, in any order.
        outputs: files to write of each (.png, .svg, .pdf), with `{figure}` in their names where there are several.
        style: a matplotlib style file.
        model: name of the model whose rows are drawn.

    Raises:
        UncoupleError: a figure that is not known, no style file, a file that is missing or has not what is drawn, or
            an output that is none of `parts.FIGURE_FORMS`.
    """
    modules = {name: find_figure(name) for name in names}
    if unknown := [output for output in outputs if Path(output).suffix[1:] not in FIGURE_FORMS]:
        told = ", ".join(FIGURE_FORMS)
        raise UncoupleError(f"{unknown[0]}: a figure is drawn as one of {told}. Name it so (--output).")
    if not Path(style).is_file():
        raise UncoupleError(f"{style}: no such style file.")
    if len(modules) > 1 and any("{figure}" not in str(output) for output in outputs):
        raise UncoupleError("several figures cannot have one file. Write {figure} in the names (--output).")
    sources = Sources(paths, model)
    with plt.style.context(str(style)):
        for name, module in modules.items():
            # A figure that has a layout engine is laid out for each form, and drawn once more for that.
            is_laid_out = plt.rcParams["figure.constrained_layout.use"]
            with plt.rc_context({"figure.constrained_layout.use": False}):
                figure = module.draw(*_drawn_from(module, name, sources))
                if is_laid_out:
                    ConstrainedLayoutEngine().execute(figure)
                box = figure.get_tightbbox().padded(plt.rcParams["savefig.pad_inches"])
                for output in outputs:
                    _save(figure, box, Path(str(output).replace("{figure}", name)))
            plt.close(figure)


def _drawn_from(module: ModuleType, name: str, sources: Sources) -> list[Any]:
    """What the function of a figure is given."""
    if hasattr(module, "ACROSS"):
        return [sources.by_model(module.TABLE)]
    if FORMATS[module.TABLE].columns is None:
        return [sources.records(module.TABLE)]
    rows: list[Any] = [sources.rows(module.TABLE)]
    if hasattr(module, "EACH"):
        which = name.partition("-")[2]
        rows.append([row for row in sources.all_rows(module.EACH) if row["key"] == which])
        if not rows[-1]:
            raise UncoupleError(
                f"{name}: this figure is drawn for each of the {module.EACH}, and none of those given (--from) is "
                f"{which!r}."
            )
    return rows


def _save(figure: Figure, box: Bbox, output: Path) -> None:
    suffix = output.suffix.lstrip(".")
    with atomic_path(output) as partial:
        figure.savefig(partial, format=suffix, bbox_inches=box, metadata=dict.fromkeys(DATES.get(suffix, ())))


def panels(
    columns: int = 1, heights: Sequence[float] | None = None, share: bool = True, width: float | None = None
) -> tuple[Figure, list[Axes]]:
    """A new figure and its axes, row by row.

    Args:
        columns: axes of a row.
        heights: of each row, in inches; one row of the style's height where it is left out.
        share: whether the axes of a row have one y axis.
        width: of the figure, in inches; it is the style's for a column and less for each further one where it is left
            out.
    """
    one, height = plt.rcParams["figure.figsize"]
    heights, width = heights or [height], width or one * (1 + 0.7 * (columns - 1))
    figure, axes = plt.subplots(
        len(heights),
        columns,
        figsize=(width, sum(heights)),
        height_ratios=heights,
        sharey="row" if share else False,
        squeeze=False,
    )
    return figure, list(axes.flat)


def offsets(names: Sequence[str]) -> list[tuple[str, float, str]]:
    """(name, offset of its mark from the middle of its row, colour) of what shares a row."""
    step = 0.6 / len(names)
    return [(name, step * (i - (len(names) - 1) / 2), f"C{i}") for i, name in enumerate(names)]


def looks(names: Sequence[str]) -> list[tuple[str, str, str]]:
    """(name, colour, marker) of each, no two alike of as many as both allow: with the last colour the next marker
    begins."""
    count = color_count()
    return [(name, f"C{i % count}", MARKERS[i // count % len(MARKERS)]) for i, name in enumerate(names)]


def color_count() -> int:
    """How many colours the style has."""
    return len(plt.rcParams["axes.prop_cycle"])


def in_percent(axis: Axis) -> None:
    """Shares on an axis as percent, few and each with all the digits that it has: 2.5% is not 2%."""
    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(lambda value, _: f"{100 * value:.6g}%".replace("-", "\N{MINUS SIGN}"))


def reach(row: Row) -> list[list[float]] | None:
    """How far the interval of a row goes to either side of its value; None where it has none."""
    if row["low"] is None:
        return None
    return [[max(0, row["value"] - row["low"])], [max(0, row["high"] - row["value"])]]


def draw_intervals(
    ax: Axes,
    shown: Iterable[tuple[float, Row]],
    color: str,
    label: str | None = None,
    filled: Sequence[bool] | None = None,
    marker: str = "o",
) -> None:
    """Marks with their intervals at (place, row); what has no value is left out."""
    # What looks alike is drawn at once: one by one, a figure of many variants takes half as much time again.
    alike: dict[tuple[str, bool], list[tuple[float, float, Any]]] = {}
    for number, (place, row) in enumerate(shown):
        if row["value"] is not None:
            face, sides = color if filled is None or filled[number] else "white", reach(row)
            alike.setdefault((face, sides is None), []).append((place, row["value"], sides))
    for (face, is_bare), drawn in alike.items():
        places, values, reaches = zip(*drawn, strict=True)
        # A mark at the edge of what a share can be is a whole mark.
        told = {"label": label, "clip_on": False, "zorder": 3}
        xerr = None if is_bare else np.hstack(reaches)
        ax.errorbar(values, places, xerr=xerr, fmt=marker, color=color, markerfacecolor=face, **told)
        # One entry of the legend is enough.
        label = None


def draw_cross(
    ax: Axes,
    across: Row | None,
    up: Row | None,
    color: str,
    label: str,
    *,
    start: Sequence[float] = (),
    marker: str = "o",
    filled: bool = True,
) -> None:
    """A mark where two rows cross, with the intervals of both; nothing where one is missing or has no value.

    Args:
        start: where an arrow to it begins; without two numbers there is none.
    """
    if not (across and up) or across["value"] is None or up["value"] is None:
        return
    place = across["value"], up["value"]
    if len(start) == 2:
        ax.annotate("", place, tuple(start), arrowprops={"arrowstyle": "->", "color": color, "alpha": 0.5})
    face = color if filled else "white"
    style = {"fmt": marker, "color": color, "markerfacecolor": face, "linewidth": 1, "label": label}
    ax.errorbar(*place, xerr=reach(across), yerr=reach(up), **style)


def write_counts(
    ax: Axes, shown: Iterable[tuple[float, Row]], tell: Callable[[Row], str], missing: str = "none judged"
) -> None:
    """A word beside each row, at (place, row)."""
    for place, row in shown:
        told = tell(row) if row["value"] is not None else missing
        ax.annotate(told, (1.03, place), xycoords=("axes fraction", "data"), va="center", fontsize="small")


def write_legend(figure: Figure, columns: int, **options: Any) -> None:
    """What is drawn in any of a figure's axes, each name once, above them; the figure grows by what this takes.

    Args:
        columns: of names.
        options: of the legend, as matplotlib takes them.
    """
    marks: dict[str, Any] = {}
    for ax in figure.axes:
        for mark, name in zip(*ax.get_legend_handles_labels(), strict=True):
            # The first, as it was drawn: what one of the axes has no value of has its mark in another.
            marks.setdefault(name, mark)
    legend = figure.legend(marks.values(), marks.keys(), loc="outside upper left", ncols=columns, **options)
    height = legend.get_window_extent().height / figure.dpi
    figure.set_figheight(figure.get_figheight() + height)


def write_notes(figure: Figure, notes: Iterable[str]) -> None:
    """Sentences below a figure, in lines that are no wider than it."""
    width = int(15 * figure.get_figwidth())
    lines = [line for note in notes for line in textwrap.wrap(note, width)]
    figure.supxlabel("\n".join(lines), x=0, ha="left", fontsize="small")


def name_rows(ax: Axes, names: Sequence[str], percent: bool = True) -> None:
    """Names down the y axis, the first on top."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    if percent:
        in_percent(ax.xaxis)
