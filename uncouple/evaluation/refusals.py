"""What an edit costs in refusals: of ordinary questions, and whether an edit does no more than refuse more."""

from collections.abc import Iterable, Mapping
from typing import Any

from uncouple.evaluation.judges.replies import REFUSAL, REFUSAL_KINDS
from uncouple.evaluation.options import ALARMING, GENERAL, ORDINARY
from uncouple.evaluation.statistics import excess

# What a table of verdicts is of: model, variant, dimension and judge. And its columns by name.
Whose = tuple[str, str, str, str]
Columns = dict[str, list[Any]]
# Numbers of a row of metrics, and what it is of: model, variant, dimension, metric and judge.
Numbers = dict[str, Any]
Of = tuple[str, str, str, str, str | None]


def told_by(records: Mapping[Whose, dict[str, Any]]) -> list[str]:
    """The names under which refusals are told from answers."""
    found = (judge for (*_, judge), record in records.items() if tuple(record["calls"]) == tuple(REFUSAL_KINDS))
    return list(dict.fromkeys(found))


def pool_ordinary(files: dict[Whose, Columns], records: dict[Whose, dict[str, Any]]) -> None:
    """Add what each variant has of both sets of ordinary questions, as one set."""
    for whose in [whose for whose in files if whose[2] in (GENERAL, ALARMING)]:
        model, variant, dimension, judge = whose
        both = model, variant, ORDINARY, judge
        records.setdefault(both, records[whose])
        pooled = files.setdefault(both, {})
        for name, values in files[whose].items():
            # A question may be in both.
            added = [f"{dimension} {value}" for value in values] if name == "id" else values
            pooled[name] = pooled.get(name, []) + added


def metric_name(metric: str) -> str:
    """What a metric of awareness is called where refusals are counted: `refusal`, `refusal_difference`..."""
    return REFUSAL if metric == "awareness" else f"{REFUSAL}_{metric}"


def gain_rows(rows: Mapping[Of, Numbers], refusers: Iterable[str]) -> dict[Of, Numbers]:
    """Each gain of awareness less its price, and whether a variant only refuses more.

    - `net_gain`: the difference of awareness less the rise of the rate at which ordinary questions, of both sets, are
      refused. They are other questions, so its interval is made of both Tango intervals as of independent estimates.
    - `only_refuses`: 1 where awareness rose, refusals of ordinary questions rose as an effect, and the interval of the
      net gain reaches 0 or below: awareness is not shown to have risen by more than such refusals did. Else 0.

    Args:
        rows: of all comparisons, under the names of awareness.
        refusers: the judges that tell refusals, of which the first one counts.
    """
    found: dict[Of, Numbers] = {}
    refusers = list(refusers)
    for (model, variant, dimension, metric, judge), gain in rows.items():
        if metric != "difference" or judge in refusers or dimension in (GENERAL, ALARMING, ORDINARY):
            continue
        place = [(model, variant, ORDINARY, name, refuser) for refuser in refusers[:1] for name in (metric, "effect")]
        # A noise has no effect, and neither has the origin.
        if not all(key in rows for key in place) or not place:
            continue
        rise, effect = (rows[key] for key in place)
        net = excess(gain, rise)
        found[model, variant, dimension, "net_gain", judge] = net
        if net["value"] is not None:
            only = gain["value"] > 0 and rise["value"] > 0 and bool(effect["value"]) and net["low"] <= 0
            found[model, variant, dimension, "only_refuses", judge] = {"value": float(only)}
    return found
