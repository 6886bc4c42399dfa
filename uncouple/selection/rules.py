"""Which weights of one matrix are suppressed: set arithmetic on the tops of the dimensions and the general set.

A rule is a class, and its line in RULES. numpy is imported where it is used: a config is checked by the names alone.
"""

from __future__ import annotations

import bisect
import math
import operator
from functools import partial, reduce
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Index = NDArray[np.int64]
    Marks = NDArray[np.bool_] | bool


class Rule:
    """Which weights of one matrix are suppressed.

    Indices are flat and row-major, int64 arrays without repeats in any order, and are given ascending. `tops` holds one
    array a dimension, in the order of the variant's `dimensions`.

    Attributes:
        name: as `select` names it.
        about: what is selected, for people.
        is_drawn: whether chance decides, so that how many it takes says nothing.
        keeps_general: whether the general set's top is left in.
        goes_astray: whether some of its weights are coupled and some are not, so that it is told how many are.
    """

    name: str
    about: str
    is_drawn = False
    keeps_general = False
    goes_astray = False

    def select(self, tops: list[Index], general: Index, size: int, seed: list[int]) -> Index:
        """The weights selected.

        Args:
            tops, general: the tops of the dimensions and of the general set.
            size: weights of the matrix.
            seed: of what is drawn.
        """
        raise NotImplementedError

    def counts(self, since: Index) -> tuple[Index, Marks]:
        """From which size of the tops on each weight is selected, as far as the dimensions decide it.

        Args:
            since: int64 (dimensions, weights), from which size on a weight is in each top.

        Returns:
            (int64 (weights,), bool (weights,) or True: whether it is selected then).
        """
        raise NotImplementedError

    def smallest_count(self, lists: list[Index], general: Index, general_count: int | None) -> int | None:
        """How many of the highest scores must be a top at least, for a weight of one matrix to be selected.

        Args:
            lists: one int64 array a dimension, all that is known of its ranking, by score descending.
            general: the same of the general set.
            general_count: size of the general top, or None where it is as large as the others.

        Returns:
            int, or None where no size up to what is known does.
        """
        import numpy as np

        known = min(map(len, lists))
        weights = reduce(np.union1d, lists)
        never = np.iinfo(np.int64).max
        since = np.stack([find_ranks(i, weights) for i in lists]) + 1
        counts, free = self.counts(np.where(since > 0, since, never))
        if not self.keeps_general:
            until = np.where((ranks := find_ranks(general, weights)) >= 0, ranks, never)
            free &= until >= (counts if general_count is None else general_count)
        counts = counts[free & (counts <= known)]
        return int(counts.min()) if len(counts) else None


class Coupled(Rule):
    """Weights in the tops of all dimensions and not in the general set's top.

    Source: Qian et al. 2025, section 3, step 2 (N_coupled).
    """

    name = "coupled"
    about = "in the tops of all dimensions and not of the general set"

    def select(self, tops: list[Index], general: Index, size: int, seed: list[int]) -> Index:
        import numpy as np

        return np.setdiff1d(_in_all(tops), general, assume_unique=True)

    def counts(self, since: Index) -> tuple[Index, Marks]:
        return since.max(axis=0), True


class Published(Rule):
    """What the published code computes, which is not the coupled set.

    It sorts the indices of each dimension's top, marks in each list the positions that are not in the general top,
    joins the marks position by position, though position k of one list is another weight than position k
    of the other, and suppresses the first dimension's weights at the positions left.

    Source: the code published with Qian et al. 2025 (`get_set_difference_mask` and its use).
    """

    name = "published"
    about = "what the published code computes"
    goes_astray = True

    def select(self, tops: list[Index], general: Index, size: int, seed: list[int]) -> Index:
        import numpy as np

        lists = [np.sort(top) for top in tops]
        marks = [~np.isin(indices, general) for indices in lists]
        return lists[0][reduce(np.logical_and, marks)]

    def smallest_count(self, lists: list[Index], general: Index, general_count: int | None) -> int | None:
        """Lists are kept in order, with a bit for each place that is not in the general top.

        A weight that comes in moves all places behind it, which is a shift of one long number.
        """
        lists = [i[: min(map(len, lists))] for i in lists]
        ranks = {int(weight): rank for rank, weight in enumerate(general)}
        untils = [[ranks.get(int(weight), math.inf) for weight in top] for top in lists]
        # Where all of a list is general's from the first, as with twice the same samples, no place is ever free.
        if general_count is None and not all(any(u > r for r, u in enumerate(until)) for until in untils):
            return None
        orders: list[list[int]] = [[] for _ in lists]
        free = [0] * len(lists)
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


class OneOnly(Rule):
    """Weights in the top of one dimension and of no other, nor of the general set.

    Attributes:
        place: of that dimension.
    """

    place: int

    def select(self, tops: list[Index], general: Index, size: int, seed: list[int]) -> Index:
        import numpy as np

        others = [top for place, top in enumerate(tops) if place != self.place]
        return np.setdiff1d(tops[self.place], reduce(np.union1d, others, general))

    def counts(self, since: Index) -> tuple[Index, Marks]:
        import numpy as np

        counts = since[self.place]
        return counts, (np.delete(since, self.place, axis=0) > counts).all(axis=0)


class FirstOnly(OneOnly):
    """Weights of the first dimension alone."""

    name = "A-only"
    about = "of the first dimension alone"
    place = 0


class SecondOnly(OneOnly):
    """Weights of the second dimension alone."""

    name = "B-only"
    about = "of the second dimension alone"
    place = 1


class Union(Rule):
    """Weights in the top of any dimension and not in the general set's top."""

    name = "union"
    about = "of any"

    def select(self, tops: list[Index], general: Index, size: int, seed: list[int]) -> Index:
        import numpy as np

        return np.setdiff1d(reduce(np.union1d, tops), general)

    def counts(self, since: Index) -> tuple[Index, Marks]:
        return since.min(axis=0), True


class Intersection(Coupled):
    """Weights in the tops of all dimensions, the general set's top left in: shows why it is taken out."""

    name = "intersection"
    about = "of all, the general top left in"
    keeps_general = True

    def select(self, tops: list[Index], general: Index, size: int, seed: list[int]) -> Index:
        return _in_all(tops)


class Random(Coupled):
    """As many weights of each matrix as are coupled, drawn: shows that the choice matters."""

    name = "random"
    about = "as many as coupled, drawn"
    is_drawn = True

    def select(self, tops: list[Index], general: Index, size: int, seed: list[int]) -> Index:
        return draw_weights(len(super().select(tops, general, size, seed)), size, seed)


COUPLED = Coupled()
RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        COUPLED,
        Published(),
        FirstOnly(),
        SecondOnly(),
        Union(),
        Intersection(),
        Random(),
    )
}
# Lines of the figure of how many weights couple, from the most weights to the fewest. A mask reaches none of these.
LABELS = {
    Intersection.name: "in the tops of all dimensions",
    Published.name: "what the published code selects",
    Coupled.name: "coupled: those not in the general top",
}


def draw_weights(count: int, size: int, seed: list[int]) -> Index:
    """`count` weights of a matrix of `size`, drawn without replacement."""
    import numpy as np

    return np.sort(np.random.default_rng(seed).choice(size, count, replace=False))


def find_ranks(top: Index, index: Index) -> Index:
    """Rank of each weight in a top, 0 being the highest score; -1 where it is not in it.

    Args:
        top: int64 (k,), by score descending.
        index: int64 (m,), ascending.

    Returns:
        int64 (m,).
    """
    import numpy as np

    ranks, start, end = np.full(len(index), -1), 0, 4 * len(index)
    # The few are searched by the many, from the highest rank on until all are found: a top is long and out of order.
    while start < len(top) and (ranks < 0).any():
        part = top[start:end]
        place = np.minimum(np.searchsorted(index, part), len(index) - 1)
        found = np.flatnonzero(index[place] == part)
        ranks[place[found]] = start + found
        start, end = end, 4 * end
    return ranks


def _in_all(tops: list[Index]) -> Index:
    import numpy as np

    return reduce(partial(np.intersect1d, assume_unique=True), tops)
