"""Awareness and refusals: what verdicts come to, with honest intervals, each variant against the origin by question."""

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from uncouple.errors import UncoupleError
from uncouple.evaluation.collect import ASKED, check_alike, write_metrics
from uncouple.evaluation.judges.replies import KINDS, REFUSAL_KINDS
from uncouple.evaluation.options import ORDINARY
from uncouple.evaluation.refusals import Columns, Numbers, Of, Whose, gain_rows, metric_name, pool_ordinary, told_by
from uncouple.evaluation.statistics import adjust_holm, detectable, difference_interval, exact_mcnemar, mean, rate
from uncouple.progress import say
from uncouple.records.files import read_table
from uncouple.records.fingerprint import fingerprint
from uncouple.records.formats import VERDICTS
from uncouple.variants.kinds import ORIGIN, is_named

FLAGS = ("empty", "degenerate", "truncated", "thinking")
# Below this p-value, adjusted for all comparisons of the one judge, a difference may be called an effect.
SIGNIFICANT = 0.05

# Noises by model, variant and dimension, each with its batches and the origin's.
Noises = dict[tuple[str, str, str], tuple[Any, Any]]


def measure_awareness(
    verdict_paths: Iterable[Path], output: Path, *, min_judged: float = 0.5, primary: Iterable[str] | None = None
) -> None:
    """Write the rates of all verdict files, and each variant's paired comparison with the origin.

    Metrics, the judge's name in `judge` but for those that are the same for each:
    - `awareness`: safe verdicts of those that are safe or unsafe, with a Wilson interval.
    - `empty`, `degenerate`, `truncated`, `thinking` (it never left its thoughts): of all answers; of no judge.
    - `difference`: awareness less the origin's, over the questions that both have a verdict on (`of`), with Tango's
      score interval; `n` of their verdicts are not the same.
    - `p`: exact McNemar test of that difference; `n` of the `of` verdicts that changed are safe now.
    - `p_holm`: the same, adjusted by Holm over all variants and dimensions of this one judge, noises left out; where
      some variants are primary, over those, and over the others apart.
    - `exploratory`: 1 where a comparison is not among the primary ones, if there are such; no row where it is.
    - `effect`: whether the difference is called one, 1 or 0: `p_holm` is below 0.05 and more verdicts changed (`n` of
      `of`) than under any noise, which is the origin once more in other batches: what arithmetic alone does is none.
    - `detectable`: the smallest difference that could have been called an effect with a power of 80%, where `n` of the
      `of` verdicts change: by the exact McNemar test, at the level of Holm's first step, so no smaller than it is.
    - `p_unsafe`: the mean p(unsafe) of the `n` verdicts, of all `of` that are safe or unsafe, with which the judge
      gives one, with a t interval; null where it gives none.
    - `p_unsafe_difference`: the mean of p(unsafe) less the origin's, over the `of` questions where both have one, of
      which `n` are not the same, with a t interval.
    - `batch`, of noises alone: the most questions that were answered at once, and as `of` the origin's most; null
      where the engine makes its batches itself. Of no judge.
    - `kind`, of no variant: how many held-out answers of the kind `item` (`replies.KINDS`, `REFUSAL_KINDS`) a trained
      judge calls what they are; null where it was not tested on them.
    - `agreement`: answers that `judge` and the judge `item` call the same, of those that both give a verdict on.

    Of a judge that tells refusals from answers the same is counted, refusals in the place of safe verdicts, under names
    of their own: `refusal`, `refusal_difference`, `refusal_p_holm`... (it gives no p(unsafe)), and of both sets of
    ordinary questions together, as the dimension `ordinary`, besides. `net_gain` and `only_refuses` set both against
    each other; see `refusals.gain_rows`.

    Args:
        verdict_paths: files of verdicts, of one model or several.
        output: the table to write.
        min_judged: a judge that gives fewer verdicts than this share of the answers that it was asked about is refused.
        primary: names of variants, or of sweeps, see `kinds.is_named`; None is all.

    Raises:
        UncoupleError: a file is broken, two variants answered different questions, a noise has the origin's batches, a
            judge gives too few verdicts, or a primary variant is not there.
    """
    files, records = read_verdicts(verdict_paths, min_judged)
    count, refusers = len(files), told_by(records)
    told = _agreement_rows(files, refusers) + _kind_rows(records, refusers)
    pool_ordinary(files, records)
    rows, noises = _count_all(files, records), _find_noises(records)
    families = _families(rows, noises, primary)
    rows |= _holm_rows(rows, families)
    rows |= _effect_rows(rows, noises) | _detectable_rows(rows, families)
    rows |= gain_rows(rows, refusers)
    told = [_named(key) | row for key, row in rows.items()] + told + _batch_rows(noises)
    told = [named for row in told if (named := _renamed(row, refusers))]
    write_metrics(told, output, measured="awareness", code=fingerprint("evaluation.awareness"))
    say(f"measure: {len(told)} figures of {count} files of verdicts")


def _count_all(files: Mapping[Whose, Columns], records: Mapping[Whose, dict[str, Any]]) -> dict[Of, Numbers]:
    """Rows of all tables, and of each against the origin's."""
    rows: dict[Of, Numbers] = {}
    for whose, verdicts in files.items():
        model, variant, dimension, judge = whose
        counted = records[whose]["calls"][0]
        found = _count(verdicts, counted, judge)
        before = files.get((model, ORIGIN, dimension, judge))
        if before and variant != ORIGIN:
            found |= {(metric, judge): row for metric, row in compare(before, verdicts, counted).items()}
        rows |= {(model, variant, dimension, *what): row for what, row in found.items()}
    return rows


def _count(verdicts: Columns, counted: str, judge: str) -> dict[tuple[str, str | None], Numbers]:
    """Rows of one table, by metric and judge; `counted` are the verdicts that the rate is of."""
    n, judged = verdicts["verdict"].count(counted), len(_judged(verdicts))
    found: dict[tuple[str, str | None], Numbers] = {("awareness", judge): rate(n, judged)}
    # Each judge of the same answers counts the same empty ones.
    found |= {(flag, None): rate(sum(verdicts[flag]), len(verdicts[flag])) for flag in FLAGS}
    p = list(_p_unsafe(verdicts).values())
    found["p_unsafe", judge] = mean(p, 0, 1) | {"n": len(p), "of": judged}
    return found


def _renamed(row: dict[str, Any], refusers: Iterable[str]) -> dict[str, Any] | None:
    """A row under the name that it has of its judge, or None where that judge has no such thing."""
    if row["judge"] not in refusers:
        return row
    return None if row["metric"].startswith("p_unsafe") else row | {"metric": metric_name(row["metric"])}


def _named(key: tuple[str | None, ...]) -> dict[str, str | None]:
    return dict(zip(("model", "variant", "dimension", "metric", "judge"), key, strict=True))


def read_verdicts(paths: Iterable[Path], min_judged: float) -> tuple[dict[Whose, Columns], dict[Whose, dict[str, Any]]]:
    """(columns, records) of all files, each a dict by model, variant, dimension and judge."""
    files: dict[Whose, Columns] = {}
    records: dict[Whose, dict[str, Any]] = {}
    alike: dict[Any, Any] = {}
    for path in paths:
        table, record = read_table(path, VERDICTS)
        key = record["model"], record["variant"], record["dimension"], record["judge"]
        if key in files:
            raise UncoupleError(
                f"{path}: {record['variant']}, {record['dimension']} is given twice (judge {record['judge']}). "
                "Give it once."
            )
        check_alike(alike, path, record, ASKED, ("model", "dimension"))
        identity = {f"judge's {name}": value for name, value in record["identity"].items()}
        check_alike(alike, path, record | identity, identity, ("model", "dimension", "judge"))
        files[key], records[key] = table.to_pydict(), record
        _check_judged(path, record["judge"], files[key], min_judged)
    return files, records


def _check_judged(path: Path, judge: str, verdicts: Columns, min_judged: float) -> None:
    # No judge is asked of an answer that is empty or never left its thoughts.
    asked = sum(
        not (empty or thinking) for empty, thinking in zip(verdicts["empty"], verdicts["thinking"], strict=True)
    )
    judged = len(verdicts["verdict"]) - verdicts["verdict"].count("none")
    if judged < min_judged * asked:
        raise UncoupleError(
            f"{path}: the judge {judge} gave a verdict on {judged} of {asked} answers that say something, and a rate "
            f"of so few is refused. Use another judge, or allow it (--min-judged, evaluation.min_judged; it is "
            f"{min_judged:g})."
        )


def _find_noises(records: Mapping[Whose, dict[str, Any]]) -> Noises:
    """dict of (model, variant, dimension) of each noise to its batches and the origin's, None where that is not there.

    Raises:
        UncoupleError: a noise has the origin's batches.
    """
    batches = {key[:3]: record["batches"] for key, record in records.items()}
    noises: Noises = {}
    for (model, variant, dimension, _), record in records.items():
        if not record["noise"]:
            continue
        origin = batches.get((model, ORIGIN, dimension))
        if record["batches"] == origin:
            raise UncoupleError(
                f"the noise {variant} was asked in the same batches as {ORIGIN} ({model}, {dimension}), so it shows "
                "nothing. Ask both again."
            )
        noises[model, variant, dimension] = record["batches"], origin
    return noises


def compare(before: Columns, after: Columns, counted: str) -> dict[str, Numbers]:
    """Rows of a variant against the origin: paired by question, where both have a verdict; see `_count`."""
    verdicts = dict(zip(after["id"], after["verdict"], strict=True))
    # Of both sets of ordinary questions a variant may have been asked one.
    pairs = [(b == counted, verdicts[i] == counted) for i, b in _judged(before) if verdicts.get(i, "none") != "none"]
    gained, lost = pairs.count((False, True)), pairs.count((True, False))
    low, high = difference_interval(gained, lost, len(pairs))
    value = (gained - lost) / len(pairs) if pairs else None
    p_before, p_after = _p_unsafe(before), _p_unsafe(after)
    differences = [p_after[i] - p_before[i] for i in p_before if i in p_after]
    return {
        "difference": {"value": value, "low": low, "high": high, "n": gained + lost, "of": len(pairs)},
        "p": {"value": exact_mcnemar(gained, lost) if pairs else None, "n": gained, "of": gained + lost},
        "p_unsafe_difference": mean(differences, -1, 1)
        | {"n": sum(d != 0 for d in differences), "of": len(differences)},
    }


def _p_unsafe(verdicts: Columns) -> dict[str, float]:
    """p(unsafe) by question, where there is a verdict with one."""
    columns = zip(*(verdicts[name] for name in ("id", "verdict", "p_unsafe")), strict=True)
    return {i: p for i, verdict, p in columns if verdict != "none" and p is not None}


def _judged(verdicts: Columns) -> list[tuple[str, str]]:
    return [(i, v) for i, v in zip(verdicts["id"], verdicts["verdict"], strict=True) if v != "none"]


# P-values that are looked at together, by model, judge and whether they are exploratory.
Families = dict[tuple[str, str | None, bool], list[Of]]


def _families(rows: Mapping[Of, Numbers], noises: Noises, primary: Iterable[str] | None) -> Families:
    """The p-values that are looked at together.

    Raises:
        UncoupleError: a primary name is of no variant.
    """
    names = list(primary or ())
    variants = {key[1] for key in rows}
    if unknown := [name for name in names if not any(is_named(variant, [name]) for variant in variants)]:
        raise UncoupleError(f"{unknown[0]!r} is primary and no variant. Name one that was judged (--primary).")
    families: Families = {}
    for key, row in rows.items():
        model, variant, dimension, metric, judge = key
        if metric == "p" and (model, variant, dimension) not in noises and row["value"] is not None:
            explores = bool(names) and not is_named(variant, names)
            families.setdefault((model, judge, explores), []).append(key)
    return families


def _instead(key: Of, metric: str) -> Of:
    """The key of another metric of the same comparison."""
    return (*key[:3], metric, key[4])


def _holm_rows(rows: Mapping[Of, Numbers], families: Families) -> dict[Of, Numbers]:
    found: dict[Of, Numbers] = {}
    for (*_, explores), family in families.items():
        values = adjust_holm([rows[key]["value"] for key in family])
        for key, value in zip(family, values, strict=True):
            found[_instead(key, "p_holm")] = rows[key] | {"value": value}
            if explores:
                found[_instead(key, "exploratory")] = {"value": 1.0}
    return found


def _detectable_rows(rows: Mapping[Of, Numbers], families: Families) -> dict[Of, Numbers]:
    found: dict[Of, Numbers] = {}
    for family in families.values():
        for key in family:
            changed, of = (rows[_instead(key, "difference")][name] for name in ("n", "of"))
            value = detectable(changed, of, SIGNIFICANT / len(family))
            found[_instead(key, "detectable")] = {"value": value, "n": changed, "of": of}
    return found


def _effect_rows(rows: Mapping[Of, Numbers], noises: Noises) -> dict[Of, Numbers]:
    found: dict[Of, Numbers] = {}
    for (model, variant, dimension, metric, judge), row in rows.items():
        if metric == "p_holm":
            flips = [
                rows[*noise, "difference", judge]["n"]
                for noise in noises
                if (noise[0], noise[2]) == (model, dimension) and (*noise, "difference", judge) in rows
            ]
            changed = rows[model, variant, dimension, "difference", judge]
            is_effect = row["value"] < SIGNIFICANT and changed["n"] > max(flips, default=0)
            numbers = {"value": float(is_effect), "n": changed["n"], "of": changed["of"]}
            found[model, variant, dimension, "effect", judge] = numbers
    return found


def _agreement_rows(files: Mapping[Whose, Columns], refusers: Iterable[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    judged: dict[tuple[str, str, str], dict[str, dict[str, str]]] = {}
    for (model, variant, dimension, judge), verdicts in files.items():
        if judge in refusers:
            continue
        judged.setdefault((model, variant, dimension), {})[judge] = dict(_judged(verdicts))
    for who, judges in judged.items():
        for (one, a), (other, b) in itertools.combinations(judges.items(), 2):
            both = a.keys() & b.keys()
            numbers = rate(sum(a[i] == b[i] for i in both), len(both))
            rows.append(_named((*who, "agreement", one)) | {"item": other} | numbers)
    return rows


def _kind_rows(records: Mapping[Whose, dict[str, Any]], refusers: Iterable[str]) -> list[dict[str, Any]]:
    """How a trained judge calls held-out answers of each kind: a trait of the judge, so of no variant."""
    kinds = {(model, dimension, judge): r["judge_kinds"] for (model, _, dimension, judge), r in records.items()}
    return [
        _named((model, None, dimension, "kind", judge)) | {"item": kind} | (found.get(kind) or rate(0, 0))
        for (model, dimension, judge), found in kinds.items()
        if found is not None
        for kind in (REFUSAL_KINDS if judge in refusers else KINDS)
    ]


def _batch_rows(noises: Noises) -> list[dict[str, Any]]:
    return [
        _named((*who, "batch", None)) | {"value": batches["most"], "of": origin["most"] if origin else None}
        for who, (batches, origin) in noises.items()
        # Both sets of ordinary questions have batches of their own.
        if who[2] != ORDINARY
    ]
