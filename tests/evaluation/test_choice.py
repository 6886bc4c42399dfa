"""The choice of one half is tried on the other: planted verdicts, and the loop that anyone would write."""

import random

import pytest

from uncouple.evaluation.choice import measure_choice
from uncouple.evaluation.statistics import difference_interval, exact_mcnemar
from uncouple.experiment.sweeps import Sweep, write_sweeps
from uncouple.records.files import digest, read_table
from uncouple.records.formats import METRICS

N = 60
HALF = [int(digest(str(i)), 16) % 2 for i in range(N)]


def planted(seed):
    """Verdicts of the origin and of five variants on two dimensions; the last value is good on the first half alone."""
    rng = random.Random(seed)
    found = {}
    for dimension in ("fairness", "privacy"):
        for variant in ("origin", "a", "b", "c", "d", "e"):
            found[variant, dimension] = [rng.choice(["safe", "unsafe", "unsafe", "none"]) for _ in range(N)]
        found["e", dimension] = ["safe" if half == 0 else "unsafe" for half in HALF]
    return found


def measured(write_verdicts, tmp_path, found, variants="abcde", **options):
    paths = [
        write_verdicts(f"{variant}-{dimension}", verdicts, variant=variant, dimension=dimension)
        for (variant, dimension), verdicts in found.items()
    ]
    write_sweeps([Sweep("ratio", "", {name: number for number, name in enumerate(variants)})], tmp_path / "s.parquet")
    measure_choice(paths, tmp_path / "s.parquet", tmp_path / "out.parquet", **options)
    return read_table(tmp_path / "out.parquet", METRICS)[0].to_pylist()


def slow(found, variant, dimension, half):
    """(gained, lost, pairs) of a variant on a half."""
    before, after = found["origin", dimension], found[variant, dimension]
    pairs = [(b, a) for b, a, h in zip(before, after, HALF, strict=True) if h == half and "none" not in (a, b)]
    return pairs.count(("unsafe", "safe")), pairs.count(("safe", "unsafe")), len(pairs)


@pytest.mark.parametrize("seed", range(3))
def test_each_half_picks_and_the_other_tells(write_verdicts, tmp_path, seed):
    found = planted(seed)
    rows = measured(write_verdicts, tmp_path, found, min_judged=0.01)
    told = {(r["item"], r["dimension"], r["metric"]): r for r in rows}
    assert len(told) == len(rows) == 2 * 2 * 3
    for half, name in enumerate(("first", "second")):
        item = f"ratio, picked by the {name} half"

        def gain(variant, half=half):
            its = [slow(found, variant, d, half) for d in ("fairness", "privacy")]
            return sum((gained - lost) / pairs for gained, lost, pairs in its)

        best = max("abcde", key=gain)
        assert {r["variant"] for r in rows if r["item"] == item} == {best}
        assert best == "e" or half == 1
        for dimension in ("fairness", "privacy"):
            gained, lost, pairs = slow(found, best, dimension, half)
            assert told[item, dimension, "picked"]["value"] == pytest.approx((gained - lost) / pairs)
            gained, lost, pairs = slow(found, best, dimension, 1 - half)
            chosen = told[item, dimension, "chosen"]
            assert (chosen["value"], chosen["n"], chosen["of"]) == (
                pytest.approx((gained - lost) / pairs),
                gained + lost,
                pairs,
            )
            assert (chosen["low"], chosen["high"]) == difference_interval(gained, lost, pairs)
            assert told[item, dimension, "chosen_p"]["value"] == exact_mcnemar(gained, lost)


def test_what_is_good_by_luck_is_not_on_the_other_half(write_verdicts, tmp_path):
    rows = measured(write_verdicts, tmp_path, planted(0), min_judged=0.01)
    first = {(r["metric"], r["dimension"]): r["value"] for r in rows if "first" in r["item"]}
    assert min(first["picked", d] for d in ("fairness", "privacy")) > 0.5
    assert max(first["chosen", d] for d in ("fairness", "privacy")) < 0


def test_a_sweep_of_which_no_variant_is_judged_on_all_has_no_choice(write_verdicts, tmp_path):
    found = {key: value for key, value in planted(0).items() if key[0] == "origin" or key[1] == "privacy"}
    found["origin", "fairness"] = ["safe"] * N
    assert measured(write_verdicts, tmp_path, found, min_judged=0.01) == []
