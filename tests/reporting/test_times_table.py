"""The table of times: sums by hand, and what is said where something was not measured."""

import pytest

from uncouple.records.files import write_table
from uncouple.records.formats import TIMES
from uncouple.reporting.pages import write_tables
from uncouple.reporting.tables.times import _duration

STEPS = [("score", 90.0, 180.0, 2e9), ("score", 30.0, 30.0, 3e9), ("ask", 0.2, None, None), ("ask", None, None, None)]


def test_times_are_summed_by_step(tmp_path):
    rows = [
        {"model": "m", "step": step, "file": str(number), "seconds": seconds, "cpu_seconds": cpu, "memory": memory}
        for number, (step, seconds, cpu, memory) in enumerate(STEPS)
    ]
    write_table(rows, tmp_path / "times.parquet", TIMES, {})
    write_tables(["times"], [tmp_path / "times.parquet"], [str(tmp_path / "times.md")], model="m")
    lines = (tmp_path / "times.md").read_text().splitlines()[2:]
    assert lines == [
        "| score | 2 | 2.0 min | 3.00 GB | 1.8 |",
        "| ask | 1 measured of 2 | 0.2 s |  |  |",
        "| in all | 3 measured of 4 | 2.0 min | 3.00 GB | 1.8 |",
    ]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(59.94, "59.9 s"), (60, "1.0 min"), (3569, "59.5 min"), (3600, "1 h 00 min"), (45000, "12 h 30 min")],
)
def test_durations(seconds, told):
    assert _duration(seconds) == told
