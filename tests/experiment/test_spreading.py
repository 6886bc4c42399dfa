"""Lists in variants: each makes a variant of each of its values."""

import pytest
from experiment.test_config import faults, resolved

from uncouple.experiment.config import spread_sweeps


def test_a_list_makes_a_variant_of_each_of_its_values():
    assert spread_sweeps({"s": {"ratio": [1e-5, 1e-4]}}) == {
        "s.ratio-1e-05": {"ratio": 1e-5},
        "s.ratio-0.0001": {"ratio": 1e-4},
    }


def test_two_lists_make_all_their_pairs_in_order():
    spread = spread_sweeps({"o": {"kind": "origin"}, "s": {"n": [8, 16], "label": "safe", "seed": [0, 1]}})
    assert list(spread) == ["o", "s.n-8.seed-0", "s.n-8.seed-1", "s.n-16.seed-0", "s.n-16.seed-1"]
    assert spread["s.n-16.seed-0"] == {"n": 16, "label": "safe", "seed": 0}


def test_dimensions_sweep_as_a_list_of_lists():
    assert spread_sweeps({"s": {"dimensions": ["a", "b"]}}) == {"s": {"dimensions": ["a", "b"]}}
    assert spread_sweeps({"s": {"dimensions": [["a", "b"], ["b", "a"]]}}) == {
        "s.dimensions-a+b": {"dimensions": ["a", "b"]},
        "s.dimensions-b+a": {"dimensions": ["b", "a"]},
    }


@pytest.mark.parametrize(
    ("key", "values", "names"),
    [
        ("ratio", [1e-5, 1e-4], ["spin.ratio-1e-05", "spin.ratio-0.0001"]),
        ("n", [8, 16], ["spin.n-8", "spin.n-16"]),
        ("select", ["coupled", "A-only"], ["spin.select-coupled", "spin.select-A-only"]),
        (
            "dimensions",
            [["fairness", "privacy"], ["privacy", "fairness"]],
            ["spin.dimensions-fairness+privacy", "spin.dimensions-privacy+fairness"],
        ),
    ],
)
def test_a_config_may_sweep(key, values, names):
    variants = resolved(**{f"variants__spin__{key}": values}).variants
    assert list(variants) == ["origin", "noise", *names, "published", "random"]
    assert [getattr(variants[name], key) for name in names] == values


def test_a_fault_in_one_value_of_a_sweep_is_told_of_that_one():
    (line,) = faults({"variants.spin.ratio": [1e-5, 5e-2]})
    assert "variants.spin.ratio-0.05.ratio" in line
    assert "scoring.keep" in line


def test_a_sweep_over_nothing_is_refused():
    (line,) = faults({"variants.spin.ratio": []})
    assert "variants.spin.ratio" in line
