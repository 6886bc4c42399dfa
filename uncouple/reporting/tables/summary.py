"""The variants: weights suppressed, perplexity, divergence (how far predictions of ordinary responses are from the
origin's, in nats a token, with its 95% interval over the samples), awareness of each dimension with its 95% Wilson
interval, its difference from the origin's on the same questions with Tango's 95% score interval and the p-value
adjusted by Holm over all variants and dimensions of the one judge, or where some variants are primary over those and
over the others apart, which are called exploratory (a star marks an effect), the smallest difference that would have
been found with 80% power where so many verdicts change (a smaller one is not ruled out), the mean p(unsafe) and its
difference with 95% t intervals, of the judges that give one, the share of ordinary questions that are refused and its
rise, told and tested in the same way (``general`` are prompts of general samples, ``alarming`` questions that only
sound so), and how many answers were empty (they get no verdict), degenerate (they repeat themselves) or truncated (cut
off at the most tokens; both are judged all the same). Below stands what the noise was, which judge is not to be
trusted, and which variant only refuses more.
"""

from collections import Counter
from collections.abc import Callable

from uncouple.evaluation.options import ALARMING, GENERAL
from uncouple.reporting.pages import Section
from uncouple.reporting.rows import Judged, Row, Sources

Cell = Callable[[str], str]
# The second one where weights are suppressed.
TABLES = ("metrics", "placement")
NEEDS = ("awareness",)


def fill(sources: Sources) -> list[Section]:
    """A row a variant; each column is a head and a function of the variant to its cell."""
    metrics = sources.rows("metrics")
    found = Judged(metrics)
    columns: list[tuple[str, Cell]] = [("variant", lambda variant: variant)]
    if "placement" in sources:
        suppressed: Counter[str] = Counter()
        for row in sources.rows("placement").rows:
            suppressed[row["variant"]] += row["n"]
        columns.append(("weights suppressed", lambda variant: f"{suppressed[variant]:,}"))
    if perplexity := {row["variant"]: f"{row['value']:,.1f}" for row in metrics.of("perplexity")}:
        columns.append(("perplexity", lambda variant: perplexity.get(variant, "")))
    if divergence := {row["variant"]: _nats(row) for row in metrics.of("divergence")}:
        columns.append(("divergence", lambda variant: divergence.get(variant, "")))
    probable = found.with_p_unsafe()
    for dimension in found.dimensions:
        for judge in found.judges:
            columns += _judge_columns(found, dimension, judge, judge in probable)
    for name in found.sets:
        if found.refuser and name in (GENERAL, ALARMING):
            columns += _compared(found, name, found.refuser)
    flags = ["empty", "degenerate", "truncated"]
    if any(row["n"] for row in metrics.of("thinking")):
        flags.append("thinking")
    for dimension in found.dimensions:
        for flag in flags:
            columns.append((f"{dimension} {flag}", _counter(found, dimension, flag)))
    lines = [[head for head, _ in columns]]
    lines += [[tell(variant) for _, tell in columns] for variant in found.variants]
    return [Section(lines, below=found.notes())]


def _judge_columns(found: Judged, dimension: str, judge: str, has_p_unsafe: bool) -> list[tuple[str, Cell]]:
    def tell_mean(metric: str, sign: str) -> Cell:
        return lambda variant: _mean(found.get(variant, dimension, metric, judge), sign)

    columns = _compared(found, dimension, judge)
    if has_p_unsafe:
        columns += [(f"{dimension} p(unsafe) ({judge})", tell_mean("p_unsafe", ""))]
        columns += [(f"{dimension} p(unsafe) difference ({judge})", tell_mean("p_unsafe_difference", "+"))]
    return columns


def _compared(found: Judged, dimension: str, judge: str) -> list[tuple[str, Cell]]:
    """What a judge counts, and its difference from the origin's."""

    def tell_rate(variant: str) -> str:
        return _interval(found.get(variant, dimension, found.name("awareness", judge), judge))

    def tell_difference(variant: str) -> str:
        star = "* " if found.is_effect(variant, dimension, judge) else ""
        told = (found.name(metric, judge) for metric in ("difference", "p_holm", "detectable"))
        difference = _difference(*(found.get(variant, dimension, metric, judge) for metric in told))
        return star + difference + ", exploratory" * found.is_exploratory(variant, dimension, judge)

    heads = ("refusals", "rise") if judge == found.refuser else ("awareness", "difference")
    cells = (tell_rate, tell_difference)
    return [(f"{dimension} {head} ({judge})", tell) for head, tell in zip(heads, cells, strict=True)]


def _counter(found: Judged, dimension: str, flag: str) -> Cell:
    def tell(variant: str) -> str:
        row = found.get(variant, dimension, flag)
        return f"{row['n']} of {row['of']}" if row else ""

    return tell


def _mean(row: Row | None, sign: str) -> str:
    if row is None or row["value"] is None:
        return ""
    value, low, high = (f"{row[name]:{sign}.3f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _nats(row: Row) -> str:
    value, *ends = (f"{row[name]:.2g}" for name in ("value", "low", "high") if row[name] is not None)
    return f"{value} ({' to '.join(ends)})" if ends else value


def _interval(row: Row | None) -> str:
    if row is None or row["value"] is None:
        return "none judged"
    return f"{row['value']:.1%} ({row['low']:.1%} to {row['high']:.1%}), {row['n']} of {row['of']}"


def _difference(row: Row | None, p: Row | None, detectable: Row | None) -> str:
    if row is None or row["low"] is None:
        return ""
    told = f", p {p['value']:.2g}" if p else ""
    if detectable:
        smallest = detectable["value"]
        told += ", 80% power at none" if smallest is None else f", 80% power from {smallest:.1%}"
    return f"{row['value']:+.1%} ({row['low']:+.1%} to {row['high']:+.1%}), {row['n']} of {row['of']} changed{told}"
