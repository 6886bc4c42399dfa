"""What figures and tables read: the rows of one model in tidy tables, and what must be known to read them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uncouple.errors import UncoupleError
from uncouple.evaluation.judges.replies import KINDS, REFUSAL_KINDS
from uncouple.evaluation.options import ORDINARY
from uncouple.evaluation.refusals import metric_name
from uncouple.records.files import read_any
from uncouple.variants.kinds import ORIGIN

Row = dict[str, Any]


class Sources:
    """Files of any kind, read once, told apart by what they say of themselves.

    Args:
        paths: the files.
        model: name of the model whose rows are wanted.
    """

    def __init__(self, paths: Iterable[Path], model: str | None):
        self.model = model
        self.found: dict[str, list[tuple[Path, Any, Row]]] = {}
        for path in paths:
            table, record = read_any(path)
            self.found.setdefault(record["kind"], []).append((path, table, record))

    def rows(self, kind: str) -> "Rows":
        """Rows of the model in the one table of a kind.

        Raises:
            UncoupleError: no such table is given, or more than one, or it has no row of the model.
        """
        given = self.found.get(kind, [])
        if len(given) != 1:
            raise UncoupleError(f"{len(given)} files of the kind `{kind}` are given, and one is needed (--from).")
        path, table, _ = given[0]
        rows = [row for row in table.to_pylist() if row["model"] == self.model]
        if not rows:
            raise UncoupleError(f"{path}: no row of the model {self.model!r} in it.")
        return Rows(path, self.model, rows)

    def by_model(self, kind: str) -> "dict[str, Rows]":
        """Rows of each model, one table of a kind or several."""
        found: dict[str, Rows] = {}
        for path, table, _ in self.found.get(kind, []):
            for row in table.to_pylist():
                found.setdefault(row["model"], Rows(path, row["model"], [])).rows.append(row)
        return found

    def all_rows(self, kind: str) -> list[Row]:
        """Rows of all tables of a kind, of whatever model."""
        return [row for _, table, _ in self.found.get(kind, []) for row in table.to_pylist()]

    def records(self, kind: str) -> list[Row]:
        """The records of a kind, of whatever model.

        Raises:
            UncoupleError: none is given.
        """
        if kind not in self.found:
            raise UncoupleError(f"no file of the kind `{kind}` is given, and one or more are needed (--from).")
        return [record for _, _, record in self.found[kind]]

    def tables(self, kind: str) -> list[tuple[Row, list[Row]]]:
        """(record, rows) of each table of a kind that is of the model."""
        found = [(record, table) for _, table, record in self.found.get(kind, []) if record["model"] == self.model]
        return [(record, table.to_pylist()) for record, table in found]

    def __contains__(self, kind: str) -> bool:
        return kind in self.found


@dataclass(frozen=True)
class Rows:
    """Rows of one model in a tidy table."""

    path: Path
    model: str | None
    rows: list[Row]

    def of(self, *metrics: str, advice: str | None = None) -> list[Row]:
        """Those of some metrics.

        Args:
            metrics: their names.
            advice: what to tell where there is none, such as `HSIC; measure it`; without it that is no fault.
        """
        found = [row for row in self.rows if row["metric"] in metrics]
        if advice and not found:
            what, _, remedy = advice.partition("; ")
            raise UncoupleError(f"{self.path}: no {what} of {self.model!r} in it. {remedy.capitalize()}.")
        return found


def ordered(values: Iterable[Any]) -> list[Any]:
    """Each value once, in the order of the first of each."""
    return list(dict.fromkeys(values))


class Judged:
    """Metrics rows of what verdicts came to.

    Attributes:
        variants, dimensions, judges: in the order of the table.
        noises: variants that are the origin once more, asked in other batches.
        refuser: the judge that tells refusals, None where none does; `sets` of questions it told them on.

    Raises:
        UncoupleError: a judge has judged a variant on one dimension and not on another.
    """

    def __init__(self, rows: Rows):
        keys = ("variant", "dimension", "metric", "judge", "item")
        self._rows = {tuple(row[key] for key in keys): row for row in rows.rows}
        judged = rows.of("awareness")
        columns = ("variant", "dimension", "judge")
        self.variants, self.dimensions, self.judges = (ordered(row[key] for row in judged) for key in columns)
        self.noises = ordered(row["variant"] for row in rows.of("batch"))
        self.refuser = next((row["judge"] for row in rows.of("refusal")), None)
        self.sets = ordered(row["dimension"] for row in rows.of("refusal"))
        for variant in self.variants:
            for dimension in self.dimensions:
                for judge in self.judges:
                    if not self.get(variant, dimension, "awareness", judge):
                        raise UncoupleError(
                            f"{rows.path}: no verdicts of {variant} on {dimension} by {judge}. Judge them, and measure "
                            "again."
                        )

    def get(
        self, variant: str | None, dimension: str, metric: str, judge: str | None = None, item: str | None = None
    ) -> Row | None:
        """A row, or None where there is none."""
        return self._rows.get((variant, dimension, metric, judge, item))

    def name(self, metric: str, judge: str | None) -> str:
        """What a metric of awareness is called of a judge."""
        return metric_name(metric) if judge == self.refuser else metric

    def is_effect(self, variant: str, dimension: str, judge: str | None) -> bool:
        """Whether a variant's difference from the origin is called an effect, see `awareness.measure_awareness`."""
        row = self.get(variant, dimension, self.name("effect", judge), judge)
        return bool(row and row["value"])

    def is_exploratory(self, variant: str, dimension: str, judge: str | None) -> bool:
        """Whether a comparison is not among the primary ones of the experiment, where it has such."""
        return bool(self.get(variant, dimension, self.name("exploratory", judge), judge))

    def placed(self, name: str, metric: str) -> list[tuple[int, Row]]:
        """(place among the variants, row) of a metric of refusals on a set of questions."""
        rows = [self.get(variant, name, metric, self.refuser) for variant in self.variants]
        return [(place, row) for place, row in enumerate(rows) if row]

    def with_p_unsafe(self) -> list[str]:
        """Those of the judges that give a p(unsafe)."""
        given = {key[3] for key, row in self._rows.items() if key[2] == "p_unsafe" and row["value"] is not None}
        return [judge for judge in self.judges if judge in given]

    @property
    def callers(self) -> list[str]:
        """The judges, and the classifier of refusals where there is one."""
        return [*self.judges, *([self.refuser] if self.refuser else [])]

    def notes(self) -> list[str]:
        """What must be known to read the rates: how noises were asked, and which judges are not to be trusted."""
        told = []
        for variant in self.noises:
            sizes = {
                dimension: f"{_size(row['value'])} instead of {_size(row['of'])}"
                for dimension in self.dimensions
                if (row := self.get(variant, dimension, "batch"))
            }
            alike = len(set(sizes.values())) == 1
            said = ordered(size if alike else f"{size} ({dimension})" for dimension, size in sizes.items())
            told.append(f"{variant}: {ORIGIN} asked again in batches of {', '.join(said)}.")
        told += [line for judge in self.callers for line in self.distrust(judge)]
        return told + [
            self._only_refuses(variant, dimension, judge)
            for variant in self.variants
            for dimension in self.dimensions
            for judge in self.judges
            if (row := self.get(variant, dimension, "only_refuses", judge)) and row["value"]
        ]

    def distrust(self, judge: str) -> list[str]:
        """Why a judge, or the classifier of refusals, is not to be trusted; nothing where it may be."""
        if judge == self.refuser:
            # It is one for all sets.
            return list(self._distrust(judge, self.sets[0], "refusal_kind", REFUSAL_KINDS))
        return [line for dimension in self.dimensions for line in self._distrust(judge, dimension, "kind", KINDS)]

    def _only_refuses(self, variant: str, dimension: str, judge: str) -> str:
        gain, net = (self.get(variant, dimension, metric, judge) or {} for metric in ("difference", "net_gain"))
        rise = self.get(variant, ORDINARY, "refusal_difference", self.refuser) or {}
        return (
            f"{variant} refuses more, and is not shown to be more aware of {dimension} ({judge}): awareness "
            f"{gain['value']:+.1%}, refusals of ordinary questions {rise['value']:+.1%}, the one less the other "
            f"{net['value']:+.1%} ({net['low']:+.1%} to {net['high']:+.1%})."
        )

    def _distrust(
        self, judge: str, dimension: str, metric: str, kinds: Mapping[str, tuple[str, float]]
    ) -> Iterator[str]:
        where = "" if judge == self.refuser else f" on {dimension}"
        for kind, (verdict, least) in kinds.items():
            row = self.get(None, dimension, metric, judge, kind)
            if row and row["value"] is None:
                yield f"{judge} was not tested on answers of the kind {kind} ({dimension})."
            elif row and row["value"] < least:
                yield (
                    f"Do not trust {judge}{where}: it calls {row['n']} of {row['of']} held-out answers of the "
                    f"kind {kind} {verdict}, fewer than {least:.0%}."
                )


def _size(most: float | None) -> str:
    return f"{most:.0f}" if most else "as many as fit"
