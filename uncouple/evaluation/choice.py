"""Choice: what the value of a sweep that one half of the questions picks does on the other half.

The best of many values is so in part by luck, and its difference on the questions that picked it is too large.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from uncouple.evaluation.awareness import compare, read_verdicts
from uncouple.evaluation.collect import read_sweeps, write_metrics
from uncouple.evaluation.refusals import Columns, told_by
from uncouple.records.files import digest
from uncouple.records.fingerprint import fingerprint
from uncouple.records.formats import LABELS
from uncouple.variants.kinds import ORIGIN

HALVES = ("first", "second")


def measure_choice(verdict_paths: Iterable[Path], sweeps: Path, output: Path, *, min_judged: float = 0.5) -> None:
    """Write which variant of each sweep each half of the questions picks, and what that does on the other half.

    The halves are by question, the same for all variants and judges. A half picks the variant whose difference of
    awareness from the origin, on the mean of all dimensions, is largest on it; of equal ones that of the first value.

    Metrics of the variant that is picked, `item` being which half picks it, in which sweep:
    - `picked`: its difference from the origin on the half that picks it, which is too large.
    - `chosen`: the same on the other half, with Tango's interval; an honest one.
    - `chosen_p`: the exact McNemar test of that; `n` of the `of` verdicts that changed are safe now.

    Args:
        verdict_paths: files of verdicts, of one model or several, the origin's among them.
        sweeps: which variants make a sweep, see `formats.SWEEPS`.
        output: the metrics table to write.
        min_judged: see `awareness.measure_awareness`.

    Raises:
        UncoupleError: see `awareness.measure_awareness`.
    """
    files, records = read_verdicts(verdict_paths, min_judged)
    refusers = told_by(records)
    groups = read_sweeps(sweeps)
    judged = dict.fromkeys((model, judge) for model, _, _, judge in files if judge not in refusers)
    rows: list[dict[str, Any]] = []
    for model, judge in judged:
        its = {whose[1:3]: table for whose, table in files.items() if (whose[0], whose[3]) == (model, judge)}
        for (key, series), variants in groups.items():
            for row in _choices(its, [name for name in variants if name != ORIGIN]):
                told = f"{key}{f' ({series})' if series else ''}, picked by the {row.pop('half')} half"
                rows.append({"model": model, "judge": judge, "item": told} | row)
    write_metrics(rows, output, measured="choice", code=fingerprint("evaluation.choice"))


def _choices(files: dict[tuple[str, str], Columns], variants: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of a sweep by one judge, without model, judge and item.

    Args:
        files: verdicts by variant and dimension.
        variants: those of the sweep.
    """
    dimensions = list(dict.fromkeys(dimension for _, dimension in files))
    complete = [name for name in variants if all((name, d) in files for d in dimensions)]
    if not complete or any((ORIGIN, d) not in files for d in dimensions):
        return
    halves = {
        half: {who: _of_half(table, number) for who, table in files.items()} for number, half in enumerate(HALVES)
    }
    for half, other in zip(HALVES, HALVES[::-1], strict=True):
        found = {name: [_difference(halves[half], name, d) for d in dimensions] for name in complete}
        if any(row["difference"]["value"] is None for its in found.values() for row in its):
            continue
        best = max(complete, key=lambda name: sum(row["difference"]["value"] for row in found[name]))
        for dimension, row in zip(dimensions, found[best], strict=True):
            then = _difference(halves[other], best, dimension)
            told = {"picked": row["difference"], "chosen": then["difference"], "chosen_p": then["p"]}
            for metric, numbers in told.items():
                yield {"half": half, "variant": best, "dimension": dimension, "metric": metric} | numbers


def _difference(files: dict[tuple[str, str], Columns], variant: str, dimension: str) -> dict[str, dict[str, Any]]:
    return compare(files[ORIGIN, dimension], files[variant, dimension], LABELS[0])


def _of_half(table: Columns, half: int) -> Columns:
    """The verdicts on the questions of one half, 0 or 1, which their ids decide."""
    places = [place for place, name in enumerate(table["id"]) if int(digest(name), 16) % 2 == half]
    return {name: [values[place] for place in places] for name, values in table.items()}
