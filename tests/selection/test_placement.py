"""Where the weights of masks are, counted by matrix."""

import pyarrow as pa

from uncouple.records.files import read_table, write_table
from uncouple.records.formats import MASK, PLACEMENT
from uncouple.selection.placement import measure_placement

RECORD = {"dimensions": [], "select": "coupled", "ratio": 0.1, "general_ratio": 0.1, "module": "mlp"}
RECORD |= {"layers": None, "seed": 0}


def write_mask(path, taken, shapes, variant):
    rows = [(name, i) for name, count in taken.items() for i in range(count)]
    table = pa.table(
        {
            "module": pa.array([name for name, _ in rows], pa.string()).dictionary_encode(),
            "index": pa.array([i for _, i in rows], pa.int64()),
            "value": pa.array([1.0] * len(rows), pa.float32()),
            "rank_general": pa.nulls(len(rows), pa.int64()),
        }
    )
    record = RECORD | {
        "variant": variant,
        "model": {"name": "base", "fingerprint": "f"},
        "scores": {"d": {"samples": {}}},
    }
    write_table(table, path, MASK, record | {"shapes": shapes})
    return path


def test_placement_counts_each_matrix(tmp_path):
    shapes = {"model.layers.0.mlp.up_proj": [4, 6], "model.layers.11.mlp.down_proj": [6, 4], "m.layers.3.a.b": [2, 2]}
    taken = {"model.layers.0.mlp.up_proj": 3, "m.layers.3.a.b": 1}
    one = write_mask(tmp_path / "one.parquet", taken, shapes, "spin")
    two = write_mask(tmp_path / "two.parquet", {"m.layers.3.a.b": 2}, {"m.layers.3.a.b": [2, 2]}, "random")
    measure_placement([one, two], tmp_path / "placement.parquet")
    table, _ = read_table(tmp_path / "placement.parquet", PLACEMENT)
    assert sorted(tuple(row.values()) for row in table.to_pylist()) == [
        ("base", "random", 3, "a.b", 2, 4),
        ("base", "spin", 0, "mlp.up_proj", 3, 24),
        ("base", "spin", 3, "a.b", 1, 4),
        ("base", "spin", 11, "mlp.down_proj", 0, 24),
    ]
