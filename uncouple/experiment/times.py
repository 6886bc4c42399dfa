"""What each long step took, as Snakemake measured it: its benchmark files as a tidy table."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from uncouple.errors import UncoupleError
from uncouple.records.files import write_table
from uncouple.records.formats import TIMES

# A number of Snakemake's, its column here, and what it is multiplied by.
COLUMNS = {"s": ("seconds", 1), "cpu_time": ("cpu_seconds", 1), "max_rss": ("memory", 2**20)}
# What Snakemake writes of a process that was over before it looked.
UNKNOWN = "NA"


def measure_times(steps: Iterable[tuple[str, str]], output: str | Path, *, model: str) -> None:
    """Write how long steps took and what memory, see `formats.TIMES`.

    Args:
        steps: (verb, benchmark file of Snakemake's) of each. One whose file is not there has a row of nulls.
        model: name of the model that they are of.

    Raises:
        UncoupleError: a file is none of Snakemake's.
    """
    rows = [{"model": model, "step": step, "file": path} | _read(Path(path)) for step, path in steps]
    write_table(rows, Path(output), TIMES, {})


def _read(path: Path) -> dict[str, Any]:
    """The numbers of the one row of a benchmark file; all null where it is not there."""
    if not path.exists():
        return dict.fromkeys((name for name, _ in COLUMNS.values()))
    try:
        (row,) = csv.DictReader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t")
        return {
            name: None if row[theirs] == UNKNOWN else float(row[theirs]) * factor
            for theirs, (name, factor) in COLUMNS.items()
        }
    except (ValueError, KeyError, TypeError):
        raise UncoupleError(
            f"{path}: not what Snakemake writes of one job (a row with {', '.join(COLUMNS)}). Delete it."
        ) from None
