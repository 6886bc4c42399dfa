"""Intervals and tests, each against a direct computation or another library."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, sem, t
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from uncouple.evaluation import statistics
from uncouple.evaluation.statistics import (
    adjust_holm,
    detectable,
    difference_interval,
    exact_mcnemar,
    mean,
    questions_needed,
    rate,
    t_quantile,
)

COUNTS = st.integers(1, 5000).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of)))


@settings(max_examples=60, deadline=None)
@given(COUNTS)
def test_the_interval_of_a_rate_is_wilsons(counts):
    n, of = counts
    z, p = 1.959963984540054, n / of
    middle = (p + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    found = rate(n, of)
    assert (found["value"], found["n"], found["of"]) == (p, n, of)
    assert found["low"] == pytest.approx(middle - half, abs=1e-9)
    assert found["high"] == pytest.approx(middle + half, abs=1e-9)
    assert (found["low"], found["high"]) == pytest.approx(proportion_confint(n, of, method="wilson"), abs=1e-9)
    # Figures draw the distances from the value, which must not be negative.
    assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1


def test_a_known_interval():
    """Newcombe 1998, table I: 81 of 263 is 0.2553 to 0.3662."""
    found = rate(81, 263)
    assert (round(found["low"], 4), round(found["high"], 4)) == (0.2553, 0.3662)


def test_a_rate_of_nothing_has_no_value():
    assert rate(0, 0) == {"value": None, "low": None, "high": None, "n": 0, "of": 0}


@settings(deadline=None)
@given(st.integers(1, 3000))
def test_the_quantile_of_t_is_scipys(freedom):
    assert t_quantile(freedom) == pytest.approx(t.ppf(0.975, freedom), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_sum_of_binomial_terms_and_statsmodels_own(gained, lost):
    pairs = gained + lost
    terms = [math.comb(pairs, k) / 2**pairs for k in range(pairs + 1)]
    tail = 2 * sum(terms[: min(gained, lost) + 1])
    assert exact_mcnemar(gained, lost) == pytest.approx(min(1, tail), abs=1e-12)
    if pairs:
        found = mcnemar([[7, gained], [lost, 5]], exact=True).pvalue
        assert exact_mcnemar(gained, lost) == pytest.approx(found, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_steps_down_from_the_smallest(p_values):
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    truth, highest = [0.0] * len(p_values), 0.0
    for place, number in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[number]))
        truth[number] = highest
    assert adjust_holm(p_values) == pytest.approx(truth, abs=1e-12)


# The interval of a paired difference


def slow_score(gained, lost, of, difference):
    """Tango's statistic, the likeliest share of lost pairs looked for by bisection of the likelihood's slope."""
    same = of - gained - lost
    low, high = max(0.0, -difference), (1 - difference) / 2
    for _ in range(200):
        share = (low + high) / 2
        slope = sum(
            sign * count / chance if count else 0.0
            for sign, count, chance in (
                (1, gained, share + difference),
                (1, lost, share),
                (-2, same, 1 - difference - 2 * share),
            )
        )
        low, high = (share, high) if slope > 0 else (low, share)
    variance = (2 * share + difference - difference**2) / of
    excess = (gained - lost) / of - difference
    return excess / math.sqrt(variance) if excess else 0.0


PAIRS = st.integers(1, 400).flatmap(
    lambda of: st.integers(0, of).flatmap(
        lambda gained: st.tuples(st.just(gained), st.integers(0, of - gained), st.just(of))
    )
)


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_the_interval_holds_the_differences_that_the_score_test_does_not_reject(pairs):
    low, high = difference_interval(*pairs)
    assert -1 <= low <= (pairs[0] - pairs[1]) / pairs[2] <= high <= 1
    for difference in [*np.linspace(-0.999, 0.999, 41), low - 1e-6, low + 1e-6, high - 1e-6, high + 1e-6]:
        if -1 < difference < 1 and min(abs(difference - low), abs(difference - high)) > 1e-7:
            held = abs(slow_score(*pairs, difference)) <= 1.959963984540054
            assert held == (low < difference < high), difference


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_before_and_after_swapped_turn_the_interval_round(pairs):
    gained, lost, of = pairs
    low, high = difference_interval(gained, lost, of)
    assert difference_interval(lost, gained, of) == pytest.approx((-high, -low), abs=1e-12)


@pytest.mark.parametrize(
    ("pairs", "confidence", "truth"),
    [
        # Tango 1998, his two examples; Agresti and Min 2005; Fagerland, Lydersen and Laake 2014.
        ((9, 3, 32), 0.95, (-0.027, 0.390)),
        ((0, 1, 44), 0.90, (-0.096, 0.037)),
        ((16, 8, 86), 0.95, (-0.020, 0.207)),
        ((1, 7, 21), 0.95, (-0.517, -0.026)),
    ],
)
def test_published_intervals_of_a_difference(monkeypatch, pairs, confidence, truth):
    monkeypatch.setattr(statistics, "CONFIDENCE", confidence)
    assert difference_interval(*pairs) == pytest.approx(truth, abs=5e-4)


@pytest.mark.parametrize("of", [1, 2, 30, 64, 2000])
def test_where_nothing_changed_the_interval_is_no_point(of):
    """Of a share of which none was seen, it is Wilson's, to either side."""
    high = proportion_confint(0, of, method="wilson")[1]
    assert difference_interval(0, 0, of) == pytest.approx((-high, high), abs=1e-9)


@pytest.mark.parametrize("of", [1, 30])
def test_where_all_changed_one_way_the_interval_ends_there(of):
    low, high = difference_interval(of, 0, of)
    assert high == 1
    assert -1 < low < 1
    assert difference_interval(0, of, of) == pytest.approx((-1, -low), abs=1e-12)


def test_of_no_pairs_there_is_no_interval():
    assert difference_interval(0, 0, 0) == (None, None)


@functools.cache
def holds(gained, lost, of, difference):
    low, high = difference_interval(gained, lost, of)
    # Bisection ends a hair inside the interval.
    return low - 1e-12 <= difference <= high + 1e-12


def coverage(of, changed, one_way):
    """How often the interval holds the true difference: over all outcomes but those too rare to count.

    Args:
        of: pairs.
        changed: the share of them that change.
        one_way: the share of those that gain.
    """
    difference, total = changed * (2 * one_way - 1), 0.0
    for pairs in range(of + 1):
        if (chance := binom.pmf(pairs, of, changed)) > 1e-6:
            ways = binom.pmf(range(pairs + 1), pairs, one_way) * chance
            total += sum(
                way for gained, way in enumerate(ways) if way > 1e-7 and holds(gained, pairs - gained, of, difference)
            )
    return total


@pytest.mark.parametrize(
    ("of", "changed", "one_way"), [(30, 0.4, 0.5), (64, 0.2, 0.75), (128, 0.1, 0.5), (256, 0.1, 1), (657, 0.05, 1)]
)
def test_the_interval_holds_the_truth_as_often_as_it_says(of, changed, one_way):
    assert coverage(of, changed, one_way) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("changed", [0.02, 0.05])
def test_where_hardly_any_pair_changes_and_all_one_way_the_interval_is_wide_enough(changed):
    """There a bootstrap's holds the truth in 72% (of 64 pairs, 2% changed) and 83% (5%)."""
    assert coverage(64, changed, 1) >= 0.95


@pytest.mark.slow
def test_the_interval_holds_the_truth_over_a_grid():
    """Where few pairs are expected to change a single outcome weighs more than a point, and so does the error."""
    found = {
        (of, changed, one_way): coverage(of, changed, one_way)
        for of in (30, 40, 64, 100, 200, 500, 1000, 2000)
        for changed in (0.02, 0.05, 0.1, 0.2, 0.4)
        for one_way in (0.5, 0.75, 0.9, 1)
    }
    expected = {key: key[0] * key[1] for key in found}
    for least, most in ((0, 5), (5, 20), (20, 50), (50, math.inf)):
        values = [found[key] for key in found if least <= expected[key] < most]
        print(f"{least} to {most} changes: {min(values):.4f} to {max(values):.4f}, mean {np.mean(values):.4f}")
    assert min(found.values()) > 0.925
    assert np.mean([found[key] for key in found if expected[key] >= 5]) == pytest.approx(0.95, abs=0.005)
    for key, value in found.items():
        if expected[key] >= 50:
            assert value == pytest.approx(0.95, abs=0.01), key


# The mean of p(unsafe)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=40).filter(lambda values: np.std(values) > 1e-6))
def test_the_interval_of_a_mean_is_of_t_and_within_what_a_value_can_be(values):
    found = mean(values, -1, 1)
    low, high = t.interval(0.95, len(values) - 1, np.mean(values), sem(values))
    assert found["value"] == pytest.approx(np.mean(values), abs=1e-12)
    assert found["low"] == pytest.approx(max(-1, low), abs=1e-9)
    assert found["high"] == pytest.approx(min(1, high), abs=1e-9)


@pytest.mark.parametrize(("value", "lowest"), [(0.0, -1), (0.25, 0), (1.0, 0)])
@pytest.mark.parametrize("of", [1, 64])
def test_the_interval_of_a_mean_of_like_values_is_no_point(value, lowest, of):
    """As many others may be as Wilson's interval allows where none was seen, at the worst at an end."""
    found = mean([value] * of, lowest, 1)
    others = proportion_confint(0, of, method="wilson")[1]
    assert found["value"] == value
    assert found["low"] == pytest.approx((1 - others) * value + others * lowest, abs=1e-9)
    assert found["high"] == pytest.approx((1 - others) * value + others, abs=1e-9)


def test_a_mean_of_nothing_has_no_value():
    assert mean([], 0, 1) == {"value": None, "low": None, "high": None}


# What could have been seen


@pytest.mark.parametrize(("of", "smallest"), [(657, 0.050), (2165, 0.027)])
def test_known_differences_that_can_be_seen_where_a_fifth_changes(of, smallest):
    assert detectable(round(0.2 * of), of, 0.05) == pytest.approx(smallest, abs=0.001)


def test_where_all_changes_go_one_way_six_of_them_are_seen():
    assert binom.sf(5, 64, detectable(0, 64, 0.05)) == pytest.approx(0.8)


def test_too_few_pairs_see_nothing():
    assert detectable(0, 0, 0.05) is None
    # Five that all go one way have a p-value of 0.0625.
    assert detectable(0, 5, 0.05) is None
    assert detectable(0, 6, 0.05) == pytest.approx(0.8 ** (1 / 6))
    assert detectable(0, 6, 0.05 / 2) is None


@pytest.mark.parametrize(("difference", "share"), [(0.1, 0.1875), (-0.05, 0.3), (0.02, 0.05), (0.08, 0.08)])
@pytest.mark.parametrize("level", [0.05, 0.05 / 8])
def test_the_questions_that_a_difference_needs_are_nearly_those_of_the_exact_test(difference, share, level):
    """With so many questions the exact test finds nearly that difference, and not with half as many."""
    needed = questions_needed(difference, share, level)
    found = detectable(round(share * needed), needed, level)
    assert 0.95 * abs(difference) <= found <= 1.2 * abs(difference)
    assert detectable(round(share * needed / 2), needed // 2, level) > 1.2 * abs(difference)


@pytest.mark.parametrize("of", [20, 64, 192])
@pytest.mark.parametrize("share", [0.0, 0.15, 0.5])
@pytest.mark.parametrize("level", [0.05, 0.05 / 12])
def test_a_simulation_finds_it_four_times_in_five(of, share, level):
    changed = round(share * of)
    difference = detectable(changed, of, level)
    share = max(changed / of, difference)
    draw = np.random.default_rng(0)
    counts = draw.multinomial(of, [(share + difference) / 2, (share - difference) / 2, 1 - share], size=20_000)
    p_value = functools.cache(exact_mcnemar)
    found = np.mean([p_value(int(gained), int(lost)) < level for gained, lost, _ in counts])
    assert 0.79 <= found <= 0.81
