"""What the long steps took, as Snakemake measured it: jobs, the time of all of them one after the
other, the most memory that one had resident (not that of a GPU), and how many cores it kept busy on average. A job
that took its results from the store took little, and its time says so. What trains a judge is of all models.
"""

from uncouple.reporting.pages import Section
from uncouple.reporting.rows import Row, Sources, ordered

TABLES = ("times",)
NEEDS = ("awareness",)


def fill(sources: Sources) -> list[Section]:
    """A row a verb, and one of all."""
    rows = sources.rows("times").rows
    lines = [["step", "jobs", "time", "memory", "busy cores"]]
    for step in ordered(row["step"] for row in rows):
        lines.append([step, *_cells([row for row in rows if row["step"] == step])])
    return [Section([*lines, ["in all", *_cells(rows)]])]


def _cells(rows: list[Row]) -> list[str]:
    measured = [row for row in rows if row["seconds"] is not None]
    jobs = f"{len(rows)}" if len(measured) == len(rows) else f"{len(measured)} measured of {len(rows)}"
    seconds = sum(row["seconds"] for row in measured)
    # Of a job that is over in a moment nothing but its time is known.
    memory = max((row["memory"] for row in measured if row["memory"] is not None), default=None)
    loaded = [row for row in measured if row["cpu_seconds"] is not None and row["seconds"]]
    busy = sum(row["cpu_seconds"] for row in loaded) / sum(row["seconds"] for row in loaded) if loaded else None
    return [
        jobs,
        _duration(seconds) if measured else "",
        "" if memory is None else f"{memory / 1e9:.2f} GB",
        "" if busy is None else f"{busy:.1f}",
    ]


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return (
        f"{hours} h {minutes:02d} min" if hours else f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"
    )
