"""What can be checked of a table's content: each check is made of the columns that it looks at, see `formats`.

A check is a function of (table, record) that gives one sentence a fault, each naming the row, counted from 0.
"""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

Check = Callable[["pa.Table", dict[str, Any]], Iterator[str]]
# What rounding may put a value beyond the end of its own interval.
ROUNDING = 1e-9


def filled(*columns: str) -> Check:
    """No text of these columns is empty."""

    def check(table: "pa.Table", record: dict[str, Any]) -> Iterator[str]:
        for column in columns:
            yield from _first(table, column, (not text for text in table[column].to_pylist()), "is empty")

    return check


def unique(*columns: str) -> Check:
    """No two rows have the same in all of these columns."""

    def check(table: "pa.Table", record: dict[str, Any]) -> Iterator[str]:
        seen: dict[tuple[Any, ...], int] = {}
        for row, key in enumerate(zip(*(table[column].to_pylist() for column in columns), strict=True)):
            if (first := seen.setdefault(key, row)) != row:
                told = ", ".join(str(part) for part in key if part is not None)
                yield f"row {row} has the same {', '.join(columns)} as row {first} ({told})"
                return

    return check


def one_of(column: str, values: tuple[str, ...]) -> Check:
    """A column has these values alone."""

    def check(table: "pa.Table", record: dict[str, Any]) -> Iterator[str]:
        marks = (value not in values for value in table[column].to_pylist())
        yield from _first(table, column, marks, f"is none of {', '.join(values)}")

    return check


def as_recorded(*columns: str) -> Check:
    """Each row has what the record says of the whole table under the same name."""

    def check(table: "pa.Table", record: dict[str, Any]) -> Iterator[str]:
        for column in columns:
            marks = (value != record[column] for value in table[column].to_pylist())
            yield from _first(table, column, marks, f"is not that of the record, {record[column]!r}")

    return check


def within(column: str, low: float, high: float) -> Check:
    """Numbers of a column, where there are some, are in a range, both ends included, and so are finite or its ends."""

    def check(table: "pa.Table", record: dict[str, Any]) -> Iterator[str]:
        values = table[column].to_pylist()
        marks = (value is not None and not low <= value <= high for value in values)
        yield from _first(table, column, marks, f"is not within {low:g} and {high:g}")

    return check


def ascending(*columns: str) -> Check:
    """In each row, each of these numbers is at most the next one; what is null is left out."""

    def check(table: "pa.Table", record: dict[str, Any]) -> Iterator[str]:
        for row, numbers in enumerate(zip(*(table[column].to_pylist() for column in columns), strict=True)):
            known = [number for number in numbers if number is not None]
            for one, other in zip(known, known[1:], strict=False):
                # So written, a NaN is a fault too.
                if not one <= other + ROUNDING * max(1.0, abs(other)):
                    yield f"row {row}: {' <= '.join(columns)} does not hold ({', '.join(map(str, numbers))})"
                    return

    return check


def no_verdict_of(*flags: str) -> Check:
    """What is marked by one of these has no verdict, and without a verdict there is no p_unsafe."""

    def check(table: "pa.Table", record: dict[str, Any]) -> Iterator[str]:
        for row in range(table.num_rows):
            said = table["verdict"][row].as_py()
            if said != "none" and (marked := [flag for flag in flags if table[flag][row].as_py()]):
                yield f"row {row}: the verdict {said} on an answer that is marked {marked[0]}"
                return

    return check


def top_of_each_matrix(table: "pa.Table", record: dict[str, Any]) -> Iterator[str]:
    """A score shard: by matrix, scores finite, not negative and descending, ties by index, as many as are kept."""
    import numpy as np

    from uncouple.records.columns import top_count

    for name, start, end, size in _matrices(table, {k: m["shape"] for k, m in record["matrices"].items()}):
        if size is None:
            yield f"row {start}: {name} is not among the record's matrices, or its rows do not stand together"
            continue
        index, score = (table[column].slice(start, end - start).to_numpy() for column in ("index", "score"))
        yield from _row(start, _outside(index, size), f"{name}: the index is not within its {size:,} weights")
        bad = ~np.isfinite(score) | (score < 0)
        yield from _row(start, bad, f"{name}: the score is not finite, or negative")
        falls, ties = score[1:] < score[:-1], score[1:] == score[:-1]
        bad = np.append(False, ~(falls | (ties & (index[1:] > index[:-1]))))
        yield from _row(start, bad, f"{name}: out of order (by score descending, then index ascending)")
        if (kept := end - start) > (most := top_count(record["keep"], size)):
            yield f"{name}: {kept:,} rows, and a share of {record['keep']:g} of its weights is {most:,}"
        if len(np.unique(index)) < len(index):
            yield f"{name}: a weight comes twice"


def entries_of_each_matrix(table: "pa.Table", record: dict[str, Any]) -> Iterator[str]:
    """A mask: by matrix, each weight once, by index ascending, with a finite value."""
    import numpy as np

    if not table.num_rows:
        yield "no weight is in it"
    for name, start, end, size in _matrices(table, record["shapes"]):
        if size is None:
            yield f"row {start}: {name} is not among the record's matrices, or its rows do not stand together"
            continue
        index, value = (table[column].slice(start, end - start).to_numpy() for column in ("index", "value"))
        yield from _row(start, _outside(index, size), f"{name}: the index is not within its {size:,} weights")
        yield from _row(start, np.append(False, index[1:] <= index[:-1]), f"{name}: out of order (by index ascending)")
        yield from _row(start, ~np.isfinite(value), f"{name}: the value is not finite")


def _matrices(table: "pa.Table", shapes: dict[str, list[int]]) -> Iterator[tuple[str, int, int, int | None]]:
    """(module, first row, row after the last, how many weights it has) of rows that stand together.

    The last is None of a module without a shape, and of one whose rows began before.
    """
    import numpy as np

    codes = table["module"].unify_dictionaries().combine_chunks()
    numbers, names = codes.indices.to_numpy(), codes.dictionary.to_pylist()
    bounds, seen = np.flatnonzero(np.diff(numbers, prepend=-1, append=-1)), set()
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        name = names[numbers[start]]
        yield name, start, end, math.prod(shapes[name]) if name in shapes and name not in seen else None
        seen.add(name)


def _outside(index: "np.ndarray", size: int) -> "np.ndarray":
    return (index < 0) | (index >= size)


def _row(start: int, marks: "np.ndarray", told: str) -> Iterator[str]:
    """The first marked row, if any."""
    if marks.any():
        yield f"row {start + int(marks.argmax())}, {told}"


def _first(table: "pa.Table", column: str, marks: Iterator[bool], told: str) -> Iterator[str]:
    for row, mark in enumerate(marks):
        if mark:
            yield f"row {row}: {column} {told} (it is {table[column][row].as_py()!r})"
            return
