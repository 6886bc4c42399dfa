"""What is known of the variants of a model, for sentences about them, and how such sentences say numbers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from uncouple.reporting.rows import Judged, Row, Rows, Sources, ordered
from uncouple.selection.rules import RULES

# So many variants are named in one sentence or list, before it is only said how many more there are.
NAMED = 8


@dataclass(frozen=True)
class Facts:
    """What sentences are made of.

    Attributes:
        metrics: all rows of the model.
        suppressed: of each variant, how many weights it suppresses, and how many there are in their matrices.
        records: what a table of verdicts says of each variant.
    """

    metrics: Rows
    suppressed: dict[str, tuple[int, int]]
    records: dict[str, Row]

    @cached_property
    def found(self) -> Judged:
        """What the verdicts came to."""
        return Judged(self.metrics)

    @property
    def judge(self) -> str:
        """The one to look at."""
        return self.found.judges[0]

    @cached_property
    def compared(self) -> list[str]:
        """Variants that are tested against the origin, in the order of the figures."""
        return ordered(row["variant"] for row in self.metrics.of("effect"))

    @cached_property
    def main(self) -> list[str]:
        """Those that matter: all with an effect by any judge, and where none has one, all that are no controls."""
        places = [(v, d, j) for v in self.compared for d in self.found.dimensions for j in self.found.judges]
        effects = [place[0] for place in places if self.found.is_effect(*place) or self.only_refuses(*place)]
        return ordered(effects) or [name for name in self.compared if not self.is_control(name)]

    def mask(self, variant: str) -> Row | None:
        """What the record of its mask says, if it has one."""
        return self.records.get(variant, {}).get("mask")

    def is_control(self, variant: str) -> bool:
        """Whether its weights were drawn: what it does, the choice of weights does not."""
        mask = self.mask(variant)
        return bool(mask and mask["select"] in RULES and RULES[mask["select"]].is_drawn)

    def explores(self, variant: str, dimension: str, judge: str | None) -> str:
        """What is said of a comparison that is not among the primary ones; nothing where it is."""
        return ", exploratory" if self.found.is_exploratory(variant, dimension, judge) else ""

    def only_refuses(self, variant: str, dimension: str, judge: str) -> bool:
        """Whether its awareness is not shown to have risen by more than its refusals of ordinary questions."""
        row = self.found.get(variant, dimension, "only_refuses", judge)
        return bool(row and row["value"])

    def differences(self, dimension: str, judge: str) -> dict[str, Row]:
        """The differences that were tested, by variant."""
        rows = {name: self.found.get(name, dimension, "difference", judge) for name in self.compared}
        return {name: row for name, row in rows.items() if row and row["value"] is not None}

    def without_effect(self, dimension: str) -> dict[str, Row]:
        """Those of them that the first judge calls no effect, and that do not only refuse more."""
        return {
            name: row
            for name, row in self.differences(dimension, self.judge).items()
            if not self.found.is_effect(name, dimension, self.judge)
            and not self.only_refuses(name, dimension, self.judge)
        }


def read_facts(sources: Sources) -> Facts:
    """The facts of a model, of its metrics and, where they are given, placement and verdicts."""
    counts: dict[str, Counter[str]] = {}
    for row in sources.rows("placement").rows if "placement" in sources else ():
        counts.setdefault(row["variant"], Counter()).update(n=row["n"], of=row["of"])
    suppressed = {variant: (count["n"], count["of"]) for variant, count in counts.items()}
    records = {record["variant"]: record for record, _ in sources.tables("verdicts")}
    return Facts(sources.rows("metrics"), suppressed, records)


def points(value: float, sign: str = "+") -> str:
    """A difference of two shares, in points of a hundred."""
    return f"{100 * value:{sign}.1f} points"


def points_between(row: Row) -> str:
    """The interval of a difference of two shares."""
    return f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}"


def listed(words: Sequence[str]) -> str:
    """Words as a sentence has them: a, b and c; of many the first ones, and how many more there are."""
    if len(words) > NAMED:
        words = [*words[:NAMED], f"{len(words) - NAMED} more"]
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def several(sentences: Iterable[str]) -> list[str]:
    """Sentences about a variant each; of many the first ones, and how many more there are."""
    told = list(sentences)
    more = len(told) - NAMED
    return told if more <= 0 else [*told[:NAMED], f"The same of {more} more is in the tables and figures."]
