"""A column that names the matrix of each row, in tables whose rows of one matrix stand together."""

from collections.abc import Iterable, Sequence
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
