"""How many weights each rule selects as the ratio grows, the general ratio being the same. ``coupled`` is the set that
the paper defines; of those that the published code selects, the number in brackets are coupled.
"""

from uncouple.reporting.pages import Section
from uncouple.reporting.rows import Sources, ordered
from uncouple.selection.rules import COUPLED, RULES

TABLES = ("coupling",)
NEEDS = ("coupling",)


def fill(sources: Sources) -> list[Section]:
    """A row a ratio, a column a rule."""
    rows = sources.rows("coupling").rows
    rules = ordered(r["select"] for r in rows)
    counts = {(r["ratio"], r["select"]): r for r in rows}
    astray = {rule for rule in rules if rule in RULES and RULES[rule].goes_astray}
    lines = [["ratio", *(f"{rule} (of them {COUPLED.name})" if rule in astray else rule for rule in rules)]]
    for ratio in ordered(r["ratio"] for r in rows):
        cells = [counts[ratio, rule] for rule in rules]
        # Of other rules all weights are coupled, or all coupled weights are theirs: the second number says nothing.
        shown = [f"{r['n']:,}" + (f" ({r['coupled']:,})" if r["select"] in astray else "") for r in cells]
        lines.append([f"{ratio:g}", *shown])
    return [Section(lines)]
