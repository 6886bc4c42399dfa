"""Statistics of verdicts: intervals of rates, and paired comparisons on the same questions."""

import pyarrow as pa

from uncouple.files import write_table

CONFIDENCE = 0.95
RESAMPLES = 10_000
# The one table that every figure is drawn from, and that every stage which measures something adds to.
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("model", "variant", "dimension", "metric")]
    + [(name, pa.float64()) for name in ("value", "low", "high")]
    + [("n", pa.int64()), ("of", pa.int64())]
)


def write_metrics(rows, output, **about):
    """Write a metrics table.

    Args:
        rows: dicts of the columns of `SCHEMA`; a missing one is null. Or a table of that schema.
        output: the table to write.
        about: what its record says besides what it is and the intervals' confidence.
    """
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, schema=SCHEMA)
    write_table(table, output, {"kind": "metrics", "version": 1, "confidence": CONFIDENCE} | about)


def rate(n, of):
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


def exact_mcnemar(gained, lost):
    """P-value of the exact McNemar test: that pairs which differ are as likely to differ one way as the other.

    Args:
        gained, lost: pairs that are 0 before and 1 after, and the other way round.

    Returns:
        float, two-sided; 1 where no pair differs.
    """
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0


def bootstrap_difference(before, after):
    """Percentile bootstrap interval of the mean of paired differences, `after` less `before`.

    Questions are drawn, each with both its verdicts.

    Args:
        before, after: numbers of the same questions, in the same order, (n,).

    Returns:
        (low, high), or (None, None) for fewer than two pairs.
    """
    import numpy as np
    from scipy.stats import bootstrap

    differences = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    if len(differences) < 2:
        return None, None
    # The batch bounds the memory: all resamples at once would be 10,000 times the questions.
    found = bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, 2**22 // len(differences)),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=0,
    ).confidence_interval
    return float(found.low), float(found.high)


def adjust_holm(p_values):
    """P-values adjusted by Holm's method for being looked at together, in the order given."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]] if p_values else []
