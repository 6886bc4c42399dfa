"""Statistics of verdicts: intervals of rates, and paired comparisons on the same questions."""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev
from typing import Any

# What all intervals hold the truth with.
CONFIDENCE = 0.95
# How often a test is to find a difference that it is said to be able to find.
POWER = 0.8


def rate(n: int, of: int) -> dict[str, Any]:
    """A rate with its Wilson interval, as columns of the metrics table. A rate of nothing has neither.

    Args:
        n: how many of `of`.

    Returns:
        dict of value, low, high, n, of.
    """
    if not of:
        return {"value": None, "low": None, "high": None, "n": n, "of": of}
    from scipy.stats import binomtest

    interval = binomtest(n, of).proportion_ci(CONFIDENCE, method="wilson")
    return {"value": n / of, "low": float(interval.low), "high": float(interval.high), "n": n, "of": of}


def exact_mcnemar(gained: int, lost: int) -> float:
    """P-value of the exact McNemar test: that pairs which differ are as likely to differ one way as the other.

    Args:
        gained, lost: pairs that are 0 before and 1 after, and the other way round.

    Returns:
        float, two-sided; 1 where no pair differs.
    """
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0


def detectable(changed: int, of: int, level: float) -> float | None:
    """The smallest difference of two proportions of the same pairs that the exact McNemar test finds with `POWER`.

    Args:
        changed: pairs that differ, taken for their share in truth; where the difference is larger, it is that.
        of: all pairs.
        level: below which p-value the test has found one.

    Returns:
        float, 0 to 1; None where so few pairs could show none.
    """
    share = changed / of if of else 0
    low, high = 0.0, 1.0
    if _power(high, share, of, level) < POWER:
        return None
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if _power(middle, share, of, level) >= POWER else (middle, high)
    return high


def _power(difference: float, share: float, of: int, level: float) -> float:
    """How often the exact McNemar test finds a difference, where such a share of pairs differs."""
    import numpy as np
    from scipy.stats import binom

    share = max(share, difference)
    if not share:
        return 0.0
    differing = np.arange(of + 1)
    # So many of them, or more, must go one way.
    needed = binom.isf(level / 2, differing, 0.5) + 1
    up = (share + difference) / (2 * share)
    found = binom.sf(needed - 1, differing, up) + binom.sf(needed - 1, differing, 1 - up)
    return float(binom.pmf(differing, of, share) @ found)


def difference_interval(gained: int, lost: int, of: int) -> tuple[float | None, float | None]:
    """Tango's score interval of the difference of two proportions of the same pairs, after less before.

    It holds each difference that the score test does not reject, so it is no point where no pair differs. Of 30 to
    2,000 pairs it covers 95% within a point where 50 or more are expected to differ, and on the mean where 5 are; 93%
    in the worst case, and up to 100% where fewer than 5 are.

    Args:
        gained, lost: pairs that are 0 before and 1 after, and the other way round.
        of: all pairs.

    Returns:
        (low, high), from -1 to 1, or (None, None) where there is no pair.

    Source: Tango 1998, Statistics in Medicine 17, 891-908.
    """
    if not of:
        return None, None
    return _last_held(gained, lost, of, -1.0), _last_held(gained, lost, of, 1.0)


def _last_held(gained: int, lost: int, of: int, end: float) -> float:
    """The difference nearest to an end, -1 or 1, that the score test does not reject, by bisection."""
    held, rejected = (gained - lost) / of, end
    for _ in range(60):
        middle = (held + rejected) / 2
        # The likeliest share of pairs that are lost, given that the difference is `middle`.
        b = (2 * of - gained + lost) * middle - gained - lost
        share = (math.sqrt(max(0.0, b * b + 8 * of * lost * middle * (1 - middle))) - b) / (4 * of)
        variance = of * (2 * share + middle * (1 - middle))
        if (gained - lost - of * middle) ** 2 <= standard_errors() ** 2 * variance:
            held = middle
        else:
            rejected = middle
    return held


def excess(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """How much larger one estimate is than another of independent data, with an interval made of both intervals.

    Args:
        one, other: dicts of value, low and high.

    Returns:
        dict of value, low and high; None where one of the estimates is.

    Source: Zou and Donner 2008, Statistics in Medicine 27, 1693-1702 (the variance of each is recovered from its
    interval, where it counts).
    """
    if one["value"] is None or other["value"] is None:
        return dict.fromkeys(("value", "low", "high"))
    value = one["value"] - other["value"]
    below = math.hypot(one["value"] - one["low"], other["high"] - other["value"])
    above = math.hypot(one["high"] - one["value"], other["value"] - other["low"])
    return {"value": value, "low": value - below, "high": value + above}


def standard_errors() -> float:
    """Standard errors to either side of an interval."""
    return NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


def t_quantile(freedom: int) -> float:
    """The distance t from 0 within which CONFIDENCE of Student's t distribution lies.

    A bare GPU machine has no scipy. For whole degrees of freedom the distribution function is a finite sum, which
    bisection inverts.

    Args:
        freedom: degrees of freedom, a whole number from 1.

    Source: Abramowitz and Stegun 1964, 26.7.3 and 26.7.4.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _share_within(angle, freedom) < CONFIDENCE else (low, angle)
    return math.sqrt(freedom) * math.tan(low)


def _share_within(angle: float, freedom: int) -> float:
    """P(abs(T) < sqrt(freedom) tan(angle)) of Student's t."""
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for step in range(1 + odd, freedom, 2):
        total += term
        term *= step / (step + 1) * math.cos(angle) ** 2
    return (angle + math.sin(angle) * total) * 2 / math.pi if odd else math.sin(angle) * total


def mean(values: Sequence[float], lowest: float, highest: float) -> dict[str, Any]:
    """A mean with its t interval, as columns of the metrics table. A mean of nothing has neither.

    Args:
        values: list of float, of independent questions.
        lowest, highest: what a value can be.

    Returns:
        dict of value, low and high.
    """
    if not values:
        return {"value": None, "low": None, "high": None}
    value, count = fmean(values), len(values)
    if len(set(values)) == 1:
        # The t interval would be a point. But up to this share of all questions may have other values, though none of
        # these has: the upper end of Wilson's interval of 0 of them.
        unseen = standard_errors() ** 2 / (count + standard_errors() ** 2)
        low, high = value - unseen * (value - lowest), value + unseen * (highest - value)
    else:
        from scipy.stats import t

        half = float(t.ppf(0.5 + CONFIDENCE / 2, count - 1)) * stdev(values) / math.sqrt(count)
        low, high = value - half, value + half
    return {"value": value, "low": max(lowest, low), "high": min(highest, high)}


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted by Holm's method for being looked at together, in the order given."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]] if p_values else []
