"""Stability: how many weights the masks of a sweep share, against sets of them."""

import itertools

from conftest import write_mask

from uncouple.evaluation.stability import measure_stability
from uncouple.experiment.sweeps import Sweep, write_sweeps
from uncouple.records.files import read_any, read_table, write_table
from uncouple.records.formats import MASK, METRICS

UP, DOWN = "model.layers.0.mlp.up_proj", "model.layers.1.mlp.down_proj"
TAKEN = {
    "a": {UP: [1, 5, 9], DOWN: [2, 3]},
    "b": {UP: [5, 9, 11]},
    "c": {DOWN: [3]},
    "alone": {UP: [1, 5, 9]},
}


def write_masks(folder, model_folder):
    paths = []
    for name, entries in TAKEN.items():
        table, record = read_any(write_mask(folder / "made.parquet", model_folder, entries))
        about = {key: value for key, value in record.items() if key not in ("kind", "version", "seal")}
        write_table(table, folder / f"{name}.parquet", MASK, about | {"variant": name})
        paths.append(folder / f"{name}.parquet")
    return paths


def test_pairs_of_a_sweep_are_compared_and_no_others(model_folder, tmp_path):
    masks = write_masks(tmp_path, model_folder)
    write_sweeps([Sweep("seed", "", {"a": 0, "b": 1, "c": 2, "not suppressed": 3})], tmp_path / "sweeps.parquet")
    measure_stability(masks, tmp_path / "sweeps.parquet", tmp_path / "out.parquet")
    rows = read_table(tmp_path / "out.parquet", METRICS)[0].to_pylist()
    found = {(r["variant"], r["item"]): (r["value"], r["n"], r["of"]) for r in rows}
    weights = {name: {(m, i) for m, index in its.items() for i in index} for name, its in TAKEN.items()}
    expected = {}
    for one, other in itertools.combinations("abc", 2):
        shared, either = weights[one] & weights[other], weights[one] | weights[other]
        expected[one, other] = (len(shared) / len(either), len(shared), len(either))
    assert found == expected
    assert {(r["metric"], r["dimension"], r["model"]) for r in rows} == {("jaccard", "general", model_folder.name)}
