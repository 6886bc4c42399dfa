"""How many weights each rule selects as the ratio grows, the general ratio being the same. ``coupled`` is the set that
the paper defines; of those that the published code selects, the number in brackets are coupled.
"""

from uncouple.reporting.pages import Section
from uncouple.reporting.rows import Sources, ordered

TABLES = ("coupling",)
NEEDS = ("coupling",)


def fill(sources: Sources) -> list[Section]:
    """A row a ratio, a column a rule."""
    rows = sources.rows("coupling").rows
    rules = ordered(r["select"] for r in rows)
    counts = {(r["ratio"], r["select"]): r for r in rows}
    lines = [["ratio", *(f"{rule} (of them coupled)" if rule == "published" else rule for rule in rules)]]
    for ratio in ordered(r["ratio"] for r in rows):
        cells = [counts[ratio, rule] for rule in rules]
        # Of the rules that leave the general top out and of `coupled` itself, the second number would say nothing.
        shown = [f"{r['n']:,}" + (f" ({r['coupled']:,})" if r["select"] == "published" else "") for r in cells]
        lines.append([f"{ratio:g}", *shown])
    return [Section(lines)]
