"""What a variant costs, in sentences made of the metrics. None is said to be nothing: it is said what was ruled out."""

import math
from collections.abc import Iterator
from statistics import fmean, stdev

from uncouple.evaluation.statistics import t_quantile
from uncouple.reporting.facts import Facts, listed, points, points_between, several
from uncouple.variants.kinds import ORIGIN

# Questions on which a refusal is a price: of both sets together; beside them a dimension's own are refused too.
ORDINARY = "ordinary"


def tell_prices(facts: Facts) -> Iterator[str]:
    """What the variants that matter cost, a sentence a measure and variant, and what was not measured."""
    unmeasured = []
    for what, tell in PRICES.items():
        if told := [sentence for name in facts.main for sentence in tell(facts, name)]:
            yield from several(told)
        else:
            unmeasured.append(what)
    if unmeasured and facts.main:
        yield f"Not measured: {listed(unmeasured)}."


def _tell_refusals(facts: Facts, variant: str) -> Iterator[str]:
    judge = next((row["judge"] for row in facts.metrics.of("refusal_difference")), None)
    row = facts.found.get(variant, ORDINARY, "refusal_difference", judge)
    if row is None or row["value"] is None:
        return
    effect = facts.found.get(variant, ORDINARY, "refusal_effect", judge)
    if effect and effect["value"]:
        which = "more" if row["value"] > 0 else "less"
        told = f"{points(row['value'])} ({points_between(row)}, {row['of']} questions)"
        explores = facts.explores(variant, ORDINARY, judge)
        yield f"{variant} refuses ordinary questions {which} often, {told}: an effect{explores}."
    else:
        yield (
            f"{variant}: refusals of {row['of']} ordinary questions {points(row['value'])}, no effect; ruled out is a "
            f"rise of more than {points(max(0.0, row['high']), '')}."
        )


def _tell_perplexity(facts: Facts, variant: str) -> Iterator[str]:
    losses = {name: _losses(facts, name) for name in (ORIGIN, variant)}
    differences = [losses[variant][i] - loss for i, loss in losses[ORIGIN].items() if i in losses[variant]]
    if not differences:
        return
    ratio = f"{variant}: perplexity is {_ratio(fmean(differences))} times the origin's"
    if len(differences) == 1:
        yield f"{ratio}, in the one window of text, so nothing is ruled out."
        return
    half = t_quantile(len(differences) - 1) * stdev(differences) / math.sqrt(len(differences))
    low, high = (_ratio(fmean(differences) + side) for side in (-half, half))
    ruled_out = f"; ruled out is more than {high} times" if fmean(differences) <= half else ""
    yield f"{ratio} ({low} to {high}, paired by {len(differences)} windows){ruled_out}."


def _losses(facts: Facts, variant: str) -> dict[str, float]:
    return {row["item"]: row["value"] for row in facts.metrics.of("nll") if row["variant"] == variant}


def _ratio(loss: float) -> str:
    # A wrecked model's may be beyond the largest float.
    digits = 3 if loss < 5 else 0
    return f"{math.exp(loss):,.{digits}f}" if loss < 20 else "above a hundred million"


def _tell_divergence(facts: Facts, variant: str) -> Iterator[str]:
    for row in facts.metrics.of("divergence"):
        if row["variant"] == variant:
            told = f" ({row['low']:.2g} to {row['high']:.2g})" if row["low"] is not None else ""
            yield f"{variant}: predictions of ordinary responses diverge by {row['value']:.2g} nats a token{told}."


def _tell_ability(facts: Facts, variant: str) -> Iterator[str]:
    rows = {(row["task"], row["variant"]): row for row in facts.metrics.of("acc")}
    tasks = [task for task, name in rows if name == variant and (task, ORIGIN) in rows]
    if told := [f"{t} {rows[t, variant]['value']:.1%} ({rows[t, ORIGIN]['value']:.1%})" for t in tasks]:
        yield (
            f"{variant}: accuracies, the origin's behind each: {', '.join(told)}; they are not compared in pairs, and "
            "the figure of ability has their intervals."
        )


PRICES = {
    "refusals of ordinary questions": _tell_refusals,
    "perplexity": _tell_perplexity,
    "divergence": _tell_divergence,
    "general ability": _tell_ability,
}
