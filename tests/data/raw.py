"""Raw data of tests, what is made of it, and what must be said where it is refused."""

import csv
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uncouple.data.samples import make_samples
from uncouple.data.sources import Source
from uncouple.errors import UncoupleError
from uncouple.records.files import read_table
from uncouple.records.formats import SAMPLES

# The words that a message about bad data tells the reader what to do with.
REMEDY = re.compile(
    r"\b(Add|Check|Close|Convert|Delete|Fill|Give|Make|Put|Quote|Remove|Save|Say|Set|Use|Write|must be one of)\b"
)


def numbered(count):
    return [{"prompt": f"question {i}?", "response": f"answer {i}."} for i in range(count)]


def write_csv(path, rows, columns=None):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def pairs(rows):
    return [(row["prompt"], row["response"]) for row in rows]


def make(source, tmp_path, n=3, seed=0, **options):
    """The rows and metadata that make_samples writes of a source (a path, or a Source)."""
    source = source if isinstance(source, Source) else Source(path=str(source), **options)
    output = tmp_path / "made.parquet"
    make_samples(source, "fairness", "safe", n, seed, output)
    table, metadata = read_table(output, SAMPLES)
    return table.to_pylist(), metadata


def refused(source, tmp_path, *parts, n=1, seed=0, **options):
    """Check that a source is refused in one line that has all `parts` and says what to do; give the line."""
    with pytest.raises(UncoupleError) as caught:
        make(source, tmp_path, n=n, seed=seed, **options)
    message = str(caught.value)
    for part in (str(source.path if isinstance(source, Source) else source), *parts):
        assert part in message
    assert REMEDY.search(message), f"no word about what to do: {message}"
    assert "\n" not in message
    assert not (tmp_path / "made.parquet").exists()
    return message
