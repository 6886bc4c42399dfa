"""Whether two results folders hold the same masks, answers and verdicts, whatever version of Uncouple wrote them.

python -m benchmarks.same_results BEFORE AFTER
"""

import sys
from pathlib import Path

import pyarrow.parquet as pq

# What of each kind of table must be equal, and a number that float noise may move, if there is one.
COMPARED = {
    "masks": (("module", "index", "value"), None),
    "answers": (("id", "question", "answer", "tokens", "truncated"), None),
    "verdicts": (("id", "verdict", "empty", "degenerate", "truncated"), "p_unsafe"),
}
NOISE = 1e-5


def compare(before, after):
    """(text, whether it is equal) of each table of either folder."""
    for kind, (columns, noisy) in COMPARED.items():
        folders = [Path(folder) / kind for folder in (before, after)]
        for name in sorted({p.relative_to(folder) for folder in folders for p in folder.rglob("*.parquet")}):
            if lacking := [folder for folder in folders if not (folder / name).exists()]:
                yield f"{kind}/{name}: not in {lacking[0]}", False
                continue
            tables = [pq.read_table(folder / name) for folder in folders]
            rows = [table.select(columns).to_pylist() for table in tables]
            differ = sum(a != b for a, b in zip(*rows, strict=False)) + abs(len(rows[0]) - len(rows[1]))
            told, equal = f"{kind}/{name}: {differ} of {max(map(len, rows))} rows differ", not differ
            if noisy and equal:
                pairs = list(zip(*(table.column(noisy).to_pylist() for table in tables), strict=True))
                off = max((abs(a - b) for a, b in pairs if None not in (a, b)), default=0)
                told += f", {noisy} by {off:.1e} at most"
                equal = off <= NOISE and all((a is None) == (b is None) for a, b in pairs)
            yield told, equal


def main(before, after):
    found = list(compare(before, after))
    for told, equal in found:
        print("equal  " if equal else "DIFFERS", told)
    if not found or not all(equal for _, equal in found):
        sys.exit("the results are not the same" if found else "there is nothing to compare")


if __name__ == "__main__":
    main(*sys.argv[1:])
