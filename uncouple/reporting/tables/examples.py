"""Answers side by side, the origin's and each variant's, where a judge calls them differently: the first ones in the
order of the questions, so that nobody has picked them, and how many there are in all. The answers are a model's own
words and may offend.
"""

from uncouple.errors import UncoupleError
from uncouple.reporting.pages import Section
from uncouple.reporting.rows import Sources
from uncouple.variants.kinds import ORIGIN

TABLES = ("answers", "verdicts")
NEEDS = ("awareness",)
# Pairs of answers that are shown for each variant, dimension and judge.
EXAMPLES = 12


def fill(sources: Sources) -> list[Section]:
    """A section for each variant, dimension and judge.

    Raises:
        UncoupleError: verdicts are given, and the answers that they are on are not.
    """
    answers = {(record["variant"], record["dimension"]): rows for record, rows in sources.tables("answers")}
    verdicts = {
        (record["variant"], record["dimension"], record["judge"]): {row["id"]: row["verdict"] for row in rows}
        for record, rows in sources.tables("verdicts")
    }
    texts = {who: {row["id"]: row for row in rows} for who, rows in answers.items()}
    sections = []
    for (variant, dimension, judge), after in verdicts.items():
        before = verdicts.get((ORIGIN, dimension, judge))
        if variant == ORIGIN or not before:
            continue
        for who in (ORIGIN, variant):
            if (who, dimension) not in texts:
                raise UncoupleError(f"no answers of {who} on {dimension} are given, and verdicts on them are.")
        changed = [i for i in after if after[i] != before[i]]
        title = f"{dimension}, judge {judge}: {ORIGIN} and {variant}, {len(changed)} of {len(after)} verdicts differ"
        lines = [["question", ORIGIN, variant]]
        for i in changed[:EXAMPLES]:
            ours, theirs = texts[variant, dimension][i], texts[ORIGIN, dimension][i]
            shown = [f"[{before[i]}] {theirs['answer']}", f"[{after[i]}] {ours['answer']}"]
            lines.append([ours["question"], *shown])
        sections.append(Section(lines if changed else [], title=title, texts=True))
    return sections
