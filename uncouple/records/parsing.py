"""Bytes to tables and records. Whoever made the bytes: what comes of them is a table, a record or a clear error.

A seal says that bytes are as they were written, and not by whom: a stranger can seal a file as well.
"""

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from uncouple.errors import SpoiltFile, UncoupleError
from uncouple.records.formats import Record
from uncouple.records.limits import bounded
from uncouple.records.sealed import REMEDY, SEAL_KEY

if TYPE_CHECKING:
    import pyarrow as pa

Pathlike = str | os.PathLike[str]
# One key of a Parquet file's schema metadata holds all of ours, as one JSON object.
METADATA_KEY = b"uncouple"
# What a table may take in memory, and its values in number: so much for any, and so much more for each of its bytes.
# Text that repeats itself is packed to a hundredth, a column of one value to nothing.
ROOM, GROWTH = 160 * 10**6, 50
VALUES, DENSITY = 2 * 10**6, 4


def parse_json(text: str | bytes, **options: Any) -> Any:
    """What a JSON text says; whatever is wrong with it is a ValueError.

    Args:
        options: of `json.loads`.
    """
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_table(path: Pathlike, data: bytes) -> "tuple[pa.Table, Record]":
    """A table of ours and its record."""
    import pyarrow as pa

    table = parse_parquet(path, pa.BufferReader(data), len(data), is_ours=True)
    return table, _record(path, "table", lambda: parse_json((table.schema.metadata or {})[METADATA_KEY]))


def parse_parquet(path: Pathlike, source: Any, size: int, *, is_ours: bool = False) -> "pa.Table":
    """The rows of a Parquet file: texts are UTF-8, and memory is bounded by what its bytes can honestly hold.

    Args:
        path: for errors.
        source: what pyarrow reads.
        size: its bytes.
        is_ours: whether its format says which values are written once for many rows, as names of matrices are.

    Raises:
        UncoupleError: not to be read, or it would be more.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    fault, remedy = (SpoiltFile, REMEDY) if is_ours else (UncoupleError, "Give another file.")
    try:
        with bounded(str(path), ROOM + GROWTH * size):
            file = pq.ParquetFile(source)
            # What a column says of itself is not asked for: pyarrow ends the process where it is wrong.
            values = file.metadata.num_rows * max(1, file.metadata.num_columns)
            if values > VALUES + DENSITY * size:
                raise fault(f"{path}: it says that there are {values:,} values in its {size:,} bytes. {remedy}")
            table = file.read(use_threads=False)
            table = table if is_ours else _spelt_out(table)
            table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise fault(f"{path}: not a readable Parquet file ({error}). {remedy}") from None
    return table


def _spelt_out(table: "pa.Table") -> "pa.Table":
    """A table in which each value stands by itself: of one that is written once for many rows little is seen."""
    import pyarrow as pa

    for number, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(number, field.name, table.column(number).cast(field.type.value_type))
        elif "dictionary<" in str(field.type):
            raise ValueError(f"its column {field.name} has values that are written once for many, within others")
    return table


def parse_header(path: Pathlike, kind: str, data: bytes) -> Record:
    """The record in the header of safetensors."""
    # Eight bytes say how long the header is, which is JSON; of another kind of file they say anything.
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    try:
        told = parse_json(header)["__metadata__"][METADATA_KEY.decode()]
    except (ValueError, KeyError, TypeError):
        raise SpoiltFile(f"{path}: a file of kind `{kind}` was expected, and this is none.") from None
    return _record(path, kind, lambda: parse_json(told))


def parse_record(path: Pathlike, kind: str, data: bytes) -> Record:
    """A record that is a file of its own."""
    value = _record(path, kind, lambda: parse_json(data))
    value.pop(SEAL_KEY, None)
    return value


def _record(path: Pathlike, kind: str, read: Callable[[], Any]) -> Record:
    try:
        value = read()
    except ValueError as error:
        raise SpoiltFile(f"{path}: this {kind} is not valid JSON ({error}). {REMEDY}") from None
    except (KeyError, TypeError):
        value = None
    if not isinstance(value, dict):
        raise SpoiltFile(f"{path}: a file of kind `{kind}` was expected, and this is none. {REMEDY}")
    return value
