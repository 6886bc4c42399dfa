"""Selections are held to Python's own sets, one weight at a time."""

import math
import time
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from uncouple.records.columns import top_count
from uncouple.scoring.shards import Scores
from uncouple.selection.options import Selection
from uncouple.selection.rules import RULES, draw_weights, find_ranks
from uncouple.selection.select import select_weights

SIZE = 60
CERTAIN = [name for name, rule in RULES.items() if not rule.is_drawn]


def ranked(seed, size=SIZE, levels=10):
    """All indices of a matrix by score descending, ties by index: scores on few levels, so that ties are many."""
    scores = np.random.default_rng(seed).integers(0, levels, size)
    return sorted(range(size), key=lambda i: (-scores[i], i))


def brute(select, tops, general):
    """What each rule means, in words of sets and lists."""
    sets, general = [set(t) for t in tops], set(general)
    if select == "intersection":
        return {w for w in range(SIZE) if all(w in s for s in sets)}
    if select == "coupled":
        return {w for w in range(SIZE) if all(w in s for s in sets) and w not in general}
    if select == "union":
        return {w for w in range(SIZE) if any(w in s for s in sets) and w not in general}
    if select == "A-only":
        return {w for w in sets[0] if not any(w in s for s in sets[1:]) and w not in general}
    if select == "B-only":
        return {w for w in sets[1] if not any(w in s for s in sets[:1] + sets[2:]) and w not in general}
    assert select == "published"
    lists = [sorted(t) for t in tops]
    return {lists[0][k] for k in range(len(lists[0])) if all(other[k] not in general for other in lists)}


@given(st.sampled_from(CERTAIN), st.integers(2, 3), st.integers(0, 10**6), st.floats(0.01, 0.9), st.floats(0.01, 0.9))
@settings(max_examples=400)
def test_rules_equal_brute_force_sets(select, dimensions, seed, ratio, general_ratio):
    orders = [ranked(seed + d) for d in range(dimensions)]
    general = ranked(seed + 99)
    k, g = math.floor(Fraction(repr(ratio)) * SIZE), math.floor(Fraction(repr(general_ratio)) * SIZE)
    truth = brute(select, [o[:k] for o in orders], general[:g])
    tops = {f"d{i}": {"m": (np.array(o), None)} for i, o in enumerate(orders)} | {
        "general": {"m": (np.array(general), None)}
    }
    scores = Scores(tops, {"m": [6, 10]}, {})
    found = select_weights(scores, ["m"], Selection(select=select, ratio=ratio, general_ratio=general_ratio))["m"]
    assert found.tolist() == sorted(truth)


def test_published_differs_from_coupled_and_is_not_even_inside_it():
    """A worked example: positions, not weights, are compared."""
    a, b, general = np.array([1, 5, 9]), np.array([2, 5, 7]), np.array([2])
    assert RULES["coupled"].select([a, b], general, 10, [0]).tolist() == [5]
    assert RULES["published"].select([a, b], general, 10, [0]).tolist() == [5, 9]


def test_random_takes_as_many_as_are_coupled():
    a, b, general = np.arange(9), np.arange(4, 12), np.array([6])
    assert len(RULES["random"].select([a, b], general, SIZE, [0, 1])) == 4


@pytest.mark.parametrize(
    ("ratio", "size", "count"), [(0.29, 100, 29), (1e-4, 884736, 88), (5e-7, 67895296, 33), (1e-5, 99999, 0)]
)
def test_top_count_takes_the_ratio_as_written(ratio, size, count):
    assert top_count(ratio, size) == count


@given(st.integers(0, 50), st.integers(0, 10**6))
def test_random_draws_distinct_weights_by_seed(count, seed):
    drawn = draw_weights(count, 50, [seed, 1])
    assert len(set(drawn.tolist())) == count
    assert drawn.tolist() == sorted(drawn.tolist())
    assert drawn.tolist() == draw_weights(count, 50, [seed, 1]).tolist()


def test_random_differs_by_seed_and_by_matrix():
    assert draw_weights(20, 10**6, [0, 1]).tolist() != draw_weights(20, 10**6, [1, 1]).tolist()
    assert draw_weights(20, 10**6, [0, 1]).tolist() != draw_weights(20, 10**6, [0, 2]).tolist()


@given(st.sampled_from(CERTAIN), st.integers(0, 10**6), st.integers(0, 40), st.booleans())
@settings(max_examples=300)
def test_smallest_count_equals_trying_every_count(select, seed, general_count, tied):
    known = 30
    lists = [np.array(ranked(seed + d, levels=40)[:known]) for d in range(2)]
    # A general ranking close to the first dimension's, so that often nothing is left.
    general = np.concatenate([lists[0][seed % 3 :], np.setdiff1d(np.arange(SIZE), lists[0][seed % 3 :])])[:known]
    general_count = None if tied else min(general_count, known)
    counts = [
        c
        for c in range(1, known + 1)
        if len(RULES[select].select([i[:c] for i in lists], general[: c if tied else general_count], SIZE, [0]))
    ]
    assert RULES[select].smallest_count(lists, general, general_count) == (counts[0] if counts else None)


@pytest.mark.parametrize("same", [True, False], ids=["the same samples twice", "places that never meet"])
def test_the_smallest_count_takes_little_time_where_there_is_none(same):
    """As many weights as a matrix of a 7B model keeps; trying every count took the square of it."""
    known = 20_000
    order = np.random.default_rng(0).permutation(known)
    # Weights of the second list stand before all of general's, those of the first behind: their places never meet.
    general = order + 10**6
    lists = [general, general] if same else [np.append(general[:-1], 10**7), np.append(0, general[:-1])]
    start = time.process_time()
    assert RULES["published"].smallest_count(lists, general, None if same else known) is None
    assert time.process_time() - start < 10


@given(st.integers(0, 10**6))
def test_ranks_equal_positions(seed):
    top = ranked(seed)[:20]
    found = find_ranks(np.array(top), np.arange(SIZE))
    assert found.tolist() == [top.index(i) if i in top else -1 for i in range(SIZE)]
