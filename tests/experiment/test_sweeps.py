"""Sweeps: which variants are alike but for one key, whether a list made them or a person did."""

import json

from uncouple.commands import main
from uncouple.experiment.config import spread_sweeps
from uncouple.experiment.options import VARIANTS
from uncouple.experiment.sweeps import Sweep, find_sweeps, write_sweeps
from uncouple.records.files import read_table
from uncouple.records.formats import SWEEPS


def variants(**told):
    return {name: VARIANTS[v["kind"]](**v) for name, v in spread_sweeps(told).items()}


def suppress(**keys):
    return {"kind": "suppress"} | keys


def test_a_list_of_values_is_a_sweep_with_numbers_ascending():
    (sweep,) = find_sweeps(variants(origin={"kind": "origin"}, s=suppress(ratio=[1e-4, 1e-6, 1e-5])))
    values = {"s.ratio-1e-06": 1e-6, "s.ratio-1e-05": 1e-5, "s.ratio-0.0001": 1e-4}
    assert sweep == Sweep("ratio", "", values)
    assert list(sweep.values) == list(values)


def test_variants_that_a_person_wrote_one_by_one_are_one_as_well():
    told = {"mine": suppress(seed=2), "other": suppress(checkpoint=True), "third": suppress(seed=1)}
    assert find_sweeps(variants(**told)) == [Sweep("seed", "", {"other": 0, "third": 1, "mine": 2})]


def test_a_key_that_is_left_out_has_a_value_as_well(tmp_path):
    told = {"mine": suppress(), "first": suppress(layers=[0, 9]), "last": suppress(layers=[20, 29])}
    (sweep,) = find_sweeps(variants(**told))
    write_sweeps([sweep], tmp_path / "sweeps.parquet")
    rows = read_table(tmp_path / "sweeps.parquet", SWEEPS)[0].to_pylist()
    assert {row["variant"]: row["value"] for row in rows} == {"mine": "default", "first": "0+9", "last": "20+29"}
    assert {row["number"] for row in rows} == {None}


def test_two_values_are_a_comparison_and_a_value_twice_counts_once():
    assert find_sweeps(variants(s=suppress(n=[8, 16]))) == []
    assert find_sweeps(variants(s=suppress(n=[8, 16]), again=suppress(n=16))) == []


def test_variants_that_differ_in_two_keys_are_no_sweep():
    assert find_sweeps(variants(a=suppress(n=8), b=suppress(n=16, seed=1), c=suppress(n=32, seed=2))) == []


def test_several_sweeps_of_a_key_are_told_apart_by_what_differs():
    found = find_sweeps(variants(s=suppress(ratio=[1e-6, 1e-5, 1e-4], select=["coupled", "random"])))
    assert [(sweep.key, sweep.series) for sweep in found] == [("ratio", "select coupled"), ("ratio", "select random")]


def test_names_and_lists_are_values_too():
    told = variants(
        s=suppress(module=["mlp", "attention", "all"]), t=suppress(layers=[[0, 9], [10, 19], [20, 29]], n=9)
    )
    module, layers = find_sweeps(told)
    assert list(module.values.values()) == ["mlp", "attention", "all"]
    assert layers.values == {"t.layers-0+9": [0, 9], "t.layers-10+19": [10, 19], "t.layers-20+29": [20, 29]}


def test_the_table_holds_what_the_flags_tell(tmp_path):
    path = tmp_path / "sweeps.parquet"
    sweeps = [["ratio", "select coupled", "a=1e-07", "b=0.5"], ["module", "", f"c={json.dumps('mlp')}"]]
    flags = [part for sweep in sweeps for part in ("--sweep", *sweep)]
    assert main(["measure", "sweeps", *flags, "--output", str(path)]) == 0
    rows = [tuple(row.values()) for row in read_table(path, SWEEPS)[0].to_pylist()]
    assert rows == [
        ("ratio", "select coupled", "a", "1e-07", 1e-7),
        ("ratio", "select coupled", "b", "0.5", 0.5),
        ("module", "", "c", "mlp", None),
    ]
