"""A column that names the matrix of each row, in tables whose rows of one matrix stand together; and how many do."""

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa


def module_column(names: Iterable[str], counts: Sequence[int]) -> pa.DictionaryArray:
    """A column that says each row's module, `counts` rows for each of `names`."""
    codes = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return pa.DictionaryArray.from_arrays(codes, pa.array(list(names), pa.string()))


def group_by_module(table: pa.Table, columns: Sequence[str]) -> dict[str, Any]:
    """dict of module to a tuple of numpy columns, from a table whose rows of one module stand together."""
    codes = table.column("module").unify_dictionaries().combine_chunks()
    numbers, names = codes.indices.to_numpy(), codes.dictionary.to_pylist()
    bounds = np.flatnonzero(np.diff(numbers, prepend=-1, append=-1))
    arrays = [table.column(column).to_numpy() for column in columns]
    return {names[numbers[a]]: tuple(x[a:b] for x in arrays) for a, b in zip(bounds[:-1], bounds[1:], strict=True)}


def top_count(ratio: float, size: int) -> int:
    """floor(ratio * size), the ratio taken as the decimal number that was written.

    In binary floating point 0.29 * 100 is 28.999..., whose floor is one too few.
    """
    return math.floor(Fraction(repr(float(ratio))) * size)
