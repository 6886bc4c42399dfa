"""Valid files made wrong, from a seed: in their bytes, or in what they say, with a seal that is right again."""

import copy
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

from uncouple.records.parsing import METADATA_KEY
from uncouple.records.sealed import BLANK_SEAL, SEAL, SEAL_KEY, _sealed

# What a stranger may write in the place of any value.
JUNK = [None, True, -1, 0, 2**31, 2**63, 2**70, 1e308, float("nan"), float("inf"), "", "a" * 5000, "../../x", "/x"]
JUNK += ["\x1b[2J", "\u202e", "x\0y", [], {}, [[]], [1, 2, 3], {"a": 1}, ["a", None], "origin", "1", 3.5, "\ud800"]
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**60, 2**63, 2**64 - 1]
TEXTS = [
    b"9" * 400,
    b"-1",
    b"[" * 3000,
    b'{"a":' * 500,
    b"\0",
    b"\xff\xfe",
    b"null",
    b"1e999",
    b"&a [*a]",
    b"!!python/x",
]


def mutate_bytes(rng, data, others):
    """Bytes with one to four changes; others are valid files to take parts of."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data) + 1)
        length = min(rng.choice([1, 2, 4, 8, 30, 300]), len(data) - place)
        kind = rng.randrange(7)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            number = rng.choice(NUMBERS).to_bytes(8, "little")[: rng.choice([1, 2, 4, 8])]
            data[place : place + len(number)] = number
        elif kind == 2:
            del data[place : place + length]
        elif kind == 3:
            data[place:place] = data[place : place + length] * rng.choice([1, 2, 50])
        elif kind == 4:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            data[place : place + length] = other[start : start + length]
        elif kind == 5:
            data[place : place + length] = rng.choice(TEXTS)
        else:
            data[place : place + length] = rng.randbytes(length)
    return bytes(data)


def mutate_value(rng, value):
    """A JSON value of which one to three places say something else, or are gone, or are there twice."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        holder = value
        while True:
            inner = list(holder.values()) if isinstance(holder, dict) else holder
            holders = [one for one in inner if isinstance(one, dict | list) and one]
            if not holders or rng.random() < 0.3:
                break
            holder = rng.choice(holders)
        if not holder:
            break
        key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
        kind = rng.randrange(5)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            other = rng.choice(list(holder.values()) if isinstance(holder, dict) else holder)
            holder[key] = copy.deepcopy(other)
        else:
            holder[key] = copy.deepcopy(rng.choice(JUNK))
    return value


def reseal(data):
    """Bytes with the seal that is theirs; as they are where none is in them."""
    place = data.rfind(SEAL)
    if place < 0 or place + len(BLANK_SEAL) > len(data):
        return data
    return data[:place] + _sealed(data, place) + data[place + len(BLANK_SEAL) :]


def mutate_record(rng, data):
    """A sealed record that says something else."""
    value = mutate_value(rng, json.loads(data))
    value[SEAL_KEY] = BLANK_SEAL.decode()
    return reseal(json.dumps(value).encode())


def mutate_table(rng, data):
    """A sealed table whose record or rows are others."""
    table = pq.ParquetFile(pa.BufferReader(data)).read()
    record = json.loads(table.schema.metadata[METADATA_KEY])
    if rng.random() < 0.6:
        record = mutate_value(rng, record)
    else:
        table = _mutate_rows(rng, table)
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(record).encode(), SEAL_KEY: BLANK_SEAL})
    file = io.BytesIO()
    pq.write_table(table, file, compression=rng.choice(["zstd", "snappy", "none"]))
    return reseal(file.getvalue())


def _mutate_rows(rng, table):
    place = rng.randrange(table.num_columns)
    name, column = table.column_names[place], table.column(place)
    kind = rng.randrange(6)
    if kind == 0:
        return table.remove_column(place)
    if kind == 1:
        return table.rename_columns([rng.choice(["x", name]) if n == name else n for n in table.column_names])
    if kind == 2:
        return table.slice(rng.randrange(len(table) + 1), rng.randrange(3))
    if kind == 3:
        return table.set_column(place, name, pa.nulls(len(table), column.type))
    if kind == 4:
        return pa.concat_tables([table, table.slice(0, 1)] * rng.randint(1, 3))
    values = column.to_pylist()
    if values:
        values[rng.randrange(len(values))] = rng.choice(JUNK)
    try:
        return table.set_column(place, name, pa.array(values, column.type))
    except (pa.ArrowException, OverflowError, TypeError, UnicodeEncodeError, ValueError):
        return table.set_column(place, name, pa.array([str(len(values))] * len(values), pa.string()))


def mutate_header(rng, data):
    """safetensors whose header, or whose record in it, says something else; with a seal, it is right."""
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    about = header.get("__metadata__", {})
    if METADATA_KEY.decode() in about and rng.random() < 0.5:
        about[METADATA_KEY.decode()] = json.dumps(mutate_value(rng, json.loads(about[METADATA_KEY.decode()])))
    else:
        tensors = mutate_value(rng, {k: v for k, v in header.items() if k != "__metadata__"})
        header = ({"__metadata__": about} if about else {}) | tensors
    text = json.dumps(header).encode()
    lengths = [len(text)] * 9 + [rng.choice([0, 1, 2**60, 2**64 - 1, len(text) + 8])]
    return reseal(rng.choice(lengths).to_bytes(8, "little") + text + rest)


def mutate_json(rng, data):
    """A JSON text, or one of JSON Lines, that says something else."""
    lines = data.splitlines()
    if len(lines) > 1 and data[:1] == b"{" and lines[0][-1:] == b"}":
        place = rng.randrange(len(lines))
        lines[place] = json.dumps(mutate_value(rng, json.loads(lines[place]))).encode()
        return b"\n".join(lines)
    return json.dumps(mutate_value(rng, json.loads(data))).encode()
