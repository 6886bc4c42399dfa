"""Which weights of one matrix are suppressed: set arithmetic on the tops of the dimensions and the general set.

Every rule takes flat row-major indices (int64 arrays without repeats, in any order) and gives them
ascending. `tops` holds one array a dimension, in the order of the variant's `dimensions`.
"""

import bisect
import math
import operator
from functools import partial, reduce

import numpy as np


def select_intersection(tops, general):
    """Weights in the tops of all dimensions, the general set's top left in: shows why it is taken out."""
    return reduce(partial(np.intersect1d, assume_unique=True), tops)


def select_coupled(tops, general):
    """Weights in the tops of all dimensions and not in the general set's top.

    Source: Qian et al. 2025, section 3, step 2 (N_coupled).
    """
    return np.setdiff1d(select_intersection(tops, general), general, assume_unique=True)


def select_union(tops, general):
    """Weights in the top of any dimension and not in the general set's top."""
    return np.setdiff1d(reduce(np.union1d, tops), general)


def select_first(tops, general):
    """`A-only`: weights in the top of the first dimension and of no other, nor of the general set."""
    return np.setdiff1d(tops[0], reduce(np.union1d, tops[1:], general))


def select_second(tops, general):
    """`B-only`: weights in the top of the second dimension and of no other, nor of the general set."""
    return select_first([tops[1], tops[0], *tops[2:]], general)


def select_published(tops, general):
    """What the published code computes, which is not the coupled set.

    It sorts the indices of each dimension's top, marks in each list the positions that are not in the general top,
    joins the marks position by position, though position k of one list is another weight than position k
    of the other, and suppresses the first dimension's weights at the positions left.

    Source: the code published with Qian et al. 2025 (`get_set_difference_mask` and its use).
    """
    lists = [np.sort(top) for top in tops]
    marks = [~np.isin(indices, general) for indices in lists]
    return lists[0][reduce(np.logical_and, marks)]


def select_random(count, size, seed):
    """`count` weights of a matrix of `size`, drawn without replacement.

    Args:
        seed: a list of whole numbers.
    """
    return np.sort(np.random.default_rng(seed).choice(size, count, replace=False))


# `random` takes as many weights from each matrix as `coupled` does, so it is drawn in masks.py.
RULES = {
    "coupled": select_coupled,
    "published": select_published,
    "A-only": select_first,
    "B-only": select_second,
    "union": select_union,
    "intersection": select_intersection,
}


def find_ranks(top, index):
    """Rank of each weight in a top, 0 being the highest score; -1 where it is not in it.

    Args:
        top: int64 (k,), by score descending.
        index: int64 (m,), ascending.

    Returns:
        int64 (m,).
    """
    ranks, start, end = np.full(len(index), -1), 0, 4 * len(index)
    # The few are searched by the many, from the highest rank on until all are found: a top is long and out of order.
    while start < len(top) and (ranks < 0).any():
        part = top[start:end]
        place = np.minimum(np.searchsorted(index, part), len(index) - 1)
        found = np.flatnonzero(index[place] == part)
        ranks[place[found]] = start + found
        start, end = end, 4 * end
    return ranks


def smallest_count(select, lists, general, general_count):
    """How many of the highest scores must be a top at least, for a rule to select a weight of one matrix.

    Args:
        select: one of `terms.SELECTIONS`; `random` selects where `coupled` does.
        lists: one int64 array a dimension, all that is known of its ranking, by score descending.
        general: the same of the general set.
        general_count: size of the general top, or None where it is as large as the others.

    Returns:
        int, or None where no size up to what is known does.
    """
    known = min(map(len, lists))
    if select == "published":
        return _smallest_published([i[:known] for i in lists], general, general_count)
    weights = reduce(np.union1d, lists)
    never = np.iinfo(np.int64).max
    # From which size on a weight is in each top.
    since = np.stack([find_ranks(i, weights) for i in lists]) + 1
    since = np.where(since > 0, since, never)
    until_general = np.where((ranks := find_ranks(general, weights)) >= 0, ranks, never)
    alone = {"A-only": 0, "B-only": 1}
    if select in alone:
        counts, others = since[alone[select]], np.delete(since, alone[select], axis=0)
        free = (others > counts).all(axis=0)
    else:
        counts = since.min(axis=0) if select == "union" else since.max(axis=0)
        free = np.ones(len(weights), bool)
    if select != "intersection":
        free &= until_general >= (counts if general_count is None else general_count)
    counts = counts[free & (counts <= known)]
    return int(counts.min()) if len(counts) else None


def _smallest_published(lists, general, general_count):
    """`smallest_count` of `published`: lists are kept in order, with a bit for each place that is not in general's top.

    A weight that comes in moves all places behind it, which is a shift of one long number.
    """
    ranks = {int(weight): rank for rank, weight in enumerate(general)}
    untils = [[ranks.get(int(weight), math.inf) for weight in top] for top in lists]
    # Where all of a list is general's from the first, as with twice the same samples, no place is ever free.
    if general_count is None and not all(any(u > r for r, u in enumerate(until)) for until in untils):
        return None
    orders, free = [[] for _ in lists], [0] * len(lists)
    for count in range(1, len(lists[0]) + 1):
        size = count if general_count is None else general_count
        for which, (order, top, until) in enumerate(zip(orders, lists, untils, strict=True)):
            weight = int(top[count - 1])
            place = bisect.bisect(order, weight)
            order.insert(place, weight)
            low = free[which] & ((1 << place) - 1)
            free[which] = low | (until[count - 1] >= size) << place | free[which] >> place << place + 1
            if general_count is None and count <= len(general):
                # What comes into general's top is no longer free.
                taken = int(general[count - 1])
                place = bisect.bisect_left(order, taken)
                if place < count and order[place] == taken:
                    free[which] &= ~(1 << place)
        if reduce(operator.and_, free):
            return count
    return None
