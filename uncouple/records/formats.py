"""Tables that more than one stage writes."""

import pyarrow as pa

from uncouple.records.files import write_table

# What the intervals of all tables hold the truth with.
CONFIDENCE = 0.95
# The one table that every figure is drawn from, and that every stage which measures something adds to.
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("model", "variant", "dimension", "metric")]
    + [(name, pa.float64()) for name in ("value", "low", "high")]
    + [("n", pa.int64()), ("of", pa.int64())]
)


def write_metrics(rows, output, **about):
    """Write a metrics table.

    Args:
        rows: dicts of the columns of `SCHEMA`; a missing one is null. Or a table of that schema.
        output: the table to write.
        about: what its record says besides what it is and the intervals' confidence.
    """
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, schema=SCHEMA)
    write_table(table, output, {"kind": "metrics", "version": 1, "confidence": CONFIDENCE} | about)
