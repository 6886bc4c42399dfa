"""What came out, in sentences that are made of the metrics alone: what was done to the model, what that did, how sure
that is, what it cost and what to do next. A difference is from the origin's awareness on the same questions, in points
of a hundred, with its 95% interval, by the first judge; of the others stands what they call an effect. No effect is not
no difference, so it is said how large a one was ruled out. Costs are told of variants with an effect and, where none
has one, of all but controls; the summary has the rest.
"""

from collections.abc import Callable, Iterator

from uncouple.evaluation.awareness import SIGNIFICANT
from uncouple.evaluation.statistics import POWER, questions_needed
from uncouple.reporting.facts import Facts, listed, points, points_between, read_facts, several
from uncouple.reporting.pages import Section
from uncouple.reporting.prices import tell_prices
from uncouple.reporting.rows import Row, Sources
from uncouple.variants.kinds import ORIGIN

# The second one where weights are suppressed; what records of the third say of the variants.
TABLES = ("metrics", "placement", "verdicts")
NEEDS = ("awareness",)
# Samples of each set that the paper takes.
SAMPLES = 128
# More questions than these nobody asks.
MOST_QUESTIONS = 100_000


def fill(sources: Sources) -> list[Section]:
    """A row a question of the reader's, its answer in sentences of a line each."""
    facts = read_facts(sources)
    lines = [[about, "\n".join(tell(facts))] for about, tell in ANSWERS.items()]
    return [Section([["question", "answer"], *lines], texts=True)]


def _tell_made(facts: Facts) -> Iterator[str]:
    for noise in facts.found.noises:
        yield f"{noise} is {ORIGIN} asked again in other batches: a control, which changes by arithmetic alone."
    yield from several(_tell_variant(facts, name) for name in facts.compared)


def _tell_variant(facts: Facts, variant: str) -> str:
    record = facts.records.get(variant, {})
    base = record.get("base", ORIGIN)
    of = "" if base in (ORIGIN, variant) else f" of {base}"
    if mask := facts.mask(variant):
        counts = "{:,} of {:,} weights".format(*facts.suppressed[variant]) if variant in facts.suppressed else "weights"
        control = ": a control" if facts.is_control(variant) else ""
        return (
            f"{variant} sets {counts}{of} to zero: {mask['select']} of {listed(mask['dimensions'])}, "
            f"{mask['module']}, ratio {mask['ratio']:g}{control}."
        )
    if adapter := record.get("adapter"):
        return f"{variant} is fine-tuned{of} by {adapter['method']} on {adapter['n']} samples: an adapter."
    return f"{variant} is a model of its own{', fine-tuned' if base == variant else ''}."


def _tell_effects(facts: Facts) -> Iterator[str]:
    if not facts.compared:
        yield f"Nothing is compared: no variant but {ORIGIN} was asked and judged."
        return
    if facts.found.distrust(facts.judge):
        yield f"What follows is by {facts.judge}, which is not to be trusted, see below."
    if not any(row["value"] for row in facts.metrics.of("effect", "only_refuses")):
        yield "Nothing is an effect: by no judge is a difference more than chance and noise could make."
    for dimension in facts.found.dimensions:
        rest = facts.without_effect(dimension)
        tested = facts.differences(dimension, facts.judge)
        yield from several(_tell_effect(facts, name, dimension, tested[name]) for name in tested if name not in rest)
        if told := [f"{name} ({points(row['value'])})" for name, row in rest.items()]:
            yield f"{dimension}: no effect of {listed(told)} by {facts.judge}."
    for judge in facts.found.judges[1:]:
        told = [
            f"{name} on {dimension} ({points(row['value'])}{facts.explores(name, dimension, judge)})"
            for dimension in facts.found.dimensions
            for name, row in facts.differences(dimension, judge).items()
            if facts.found.is_effect(name, dimension, judge)
        ]
        yield f"By {judge}, effects are: {listed(told)}." if told else f"By {judge} nothing is an effect."


def _tell_effect(facts: Facts, variant: str, dimension: str, row: Row) -> str:
    p = facts.found.get(variant, dimension, "p_holm", facts.judge)
    adjusted = f", p {p['value']:.2g} adjusted" if p else ""
    difference = f"{points(row['value'])} ({points_between(row)}{adjusted})"
    if facts.only_refuses(variant, dimension, facts.judge):
        return (
            f"{dimension}: {variant} only refuses more. Awareness rose, {difference}, but is not shown to have risen "
            f"by more than refusals of ordinary questions did, by {facts.judge}."
        )
    which = "more" if row["value"] > 0 else "less"
    control = ", though of a control" if facts.is_control(variant) else ""
    explores = facts.explores(variant, dimension, facts.judge)
    return f"{dimension}: {variant} is {which} aware, {difference}: an effect by {facts.judge}{explores}{control}."


def _tell_certainty(facts: Facts) -> Iterator[str]:
    for dimension in facts.found.dimensions:
        rest = facts.without_effect(dimension)
        if told := [f"{name} {points_between(row)}" for name, row in rest.items()]:
            yield (
                f"{dimension}: no effect is not no difference. Ruled out is only what lies beyond these intervals of "
                f"95% each: {listed(told)}."
            )
        yield from _tell_power(facts, dimension)
    if not facts.found.noises:
        yield "No noise was asked, so how many verdicts change by arithmetic alone is not known."
    for noise in facts.found.noises:
        rows = {d: facts.found.get(noise, d, "difference", facts.judge) for d in facts.found.dimensions}
        told = [f"{row['n']} of {row['of']} verdicts on {dimension}" for dimension, row in rows.items() if row]
        yield f"{noise} changed {listed(told)}."
    for judge in facts.found.callers:
        yield from facts.found.distrust(judge)


def _tell_power(facts: Facts, dimension: str) -> Iterator[str]:
    rows = [facts.found.get(name, dimension, "detectable", facts.judge) for name in facts.compared]
    if not (found := [row for row in rows if row]):
        return
    asked = f"{dimension}: {max(row['of'] for row in found)} questions"
    if values := [row["value"] for row in found if row["value"] is not None]:
        found_from = points(max(values), "")
        yield f"{asked} show a difference of {found_from} or more {POWER:.0%} of the time, smaller ones less often."
    else:
        yield f"{asked} are too few to show any difference {POWER:.0%} of the time."


def _tell_advice(facts: Facts) -> Iterator[str]:
    if distrusted := [judge for judge in facts.found.judges if facts.found.distrust(judge)]:
        yield f"Take a better judge than {listed(distrusted)}: what it calls an effect need be none."
    for dimension in facts.found.dimensions:
        yield from _tell_questions(facts, dimension)
    chosen = [name for name in facts.compared if facts.mask(name) and not facts.is_control(name)]
    if worse := [name for name in chosen if _is_worse(facts, name)]:
        yield f"Try a smaller ratio, or other layers: {_ratios(facts, worse)} made nothing better."
    if unmoved := [name for name in chosen if not _changed(facts, name)]:
        yield f"Try a larger ratio: {_ratios(facts, unmoved)} changed no verdict."
    if few := [name for name in chosen if _samples(facts, name) < SAMPLES]:
        yield f"Take more samples: {listed(few)} took fewer than the paper's {SAMPLES} of a set."
    if facts.compared and not facts.found.noises:
        yield "Add a variant of the kind noise."


def _tell_questions(facts: Facts, dimension: str) -> Iterator[str]:
    """How many questions would show the largest difference that is no effect, were it the truth."""
    rest = {name: row for name, row in facts.without_effect(dimension).items() if not facts.is_control(name)}
    name = max(rest, key=lambda name: abs(rest[name]["value"]), default=None)
    if name is None or not rest[name]["value"]:
        return
    row, explores = rest[name], facts.found.is_exploratory(name, dimension, facts.judge)
    # Those that its p-value is adjusted for.
    tests = [
        r
        for r in facts.metrics.of("p_holm")
        if r["judge"] == facts.judge
        and facts.found.is_exploratory(r["variant"], r["dimension"], facts.judge) == explores
    ]
    n = questions_needed(row["value"], row["n"] / row["of"], SIGNIFICANT / len(tests))
    told = f"about {n:,} questions" if n <= MOST_QUESTIONS else f"more than {MOST_QUESTIONS:,} questions"
    yield (
        f"{dimension}: were {points(row['value'])} of {name} the truth, {told} would show it {POWER:.0%} of the time; "
        f"{row['of']} were asked."
    )


def _is_worse(facts: Facts, variant: str) -> bool:
    """Whether it has effects, and none but losses and refusals."""
    places = [(variant, dimension, facts.judge) for dimension in facts.found.dimensions]
    gained = [
        facts.differences(place[1], facts.judge)[variant]["value"] > 0 and not facts.only_refuses(*place)
        for place in places
        if facts.found.is_effect(*place) or facts.only_refuses(*place)
    ]
    return bool(gained) and not any(gained)


def _changed(facts: Facts, variant: str) -> int:
    rows = [facts.differences(dimension, facts.judge).get(variant) for dimension in facts.found.dimensions]
    return sum(row["n"] for row in rows if row)


def _samples(facts: Facts, variant: str) -> int:
    """Of the smallest set that its weights were scored with."""
    return min(shard["samples"]["n"] for shard in (facts.mask(variant) or {})["scores"].values())


def _ratios(facts: Facts, variants: list[str]) -> str:
    return listed([f"{name} ({(facts.mask(name) or {})['ratio']:g})" for name in variants])


ANSWERS: dict[str, Callable[[Facts], Iterator[str]]] = {
    "what was done": _tell_made,
    "what it did": _tell_effects,
    "how sure": _tell_certainty,
    "what it cost": tell_prices,
    "what to do next": _tell_advice,
}
