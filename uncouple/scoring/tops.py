"""The top entries and the quantiles of a matrix of scores, from one count of their leading bits."""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from uncouple.records.columns import top_count

QUANTILES = (0.5, 0.9, 0.99, 0.999, 0.9999)
_LEVEL_BITS = 12


def count_levels(scores: Tensor) -> NDArray[np.int64]:
    """How many entries of a matrix are on each level: what their leading 20 bits say, a step of 2**-11 of the value.

    Floats that are not negative have the order of their bits, so one count serves the top entries and the quantiles.

    Args:
        scores: float32 tensor, contiguous, finite and not negative.

    Returns:
        int64 array, by level: how many entries are on it or below.
    """
    return torch.bincount(scores.view(-1).view(torch.int32) >> _LEVEL_BITS).cpu().numpy().cumsum()


def top_entries(
    scores: Tensor, keep: float, levels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The top floor(keep * N) entries of a matrix, found where it is: a GPU hands over those and no others.

    Args:
        scores: float32 tensor of N entries, contiguous, finite and not negative.
        keep: share of the entries.
        levels: what `count_levels` gives for them.

    Returns:
        (int64 (k,), float32 (k,)): flat row-major indices and scores, by score descending, ties by index ascending.
    """
    flat = scores.view(-1)
    count = top_count(keep, len(flat))
    # The level of the least of the top; what lies above its floor is little more than the top.
    floor = float(_floor_of(np.searchsorted(levels, len(flat) - count, side="right"))) if count else math.inf
    found = (flat >= floor).nonzero().view(-1)
    index, value = found.cpu().numpy(), flat[found].cpu().numpy()
    order = np.argsort(-value, kind="stable")[:count]
    return index[order], value[order]


def find_quantiles(levels: NDArray[np.int64]) -> dict[str, float]:
    """Quantiles, rounded down to their level, of the scores that `count_levels` has counted: dict of text to float."""
    places = [int(q * (levels[-1] - 1)) for q in QUANTILES]
    floors = _floor_of(np.searchsorted(levels, places, side="right"))
    return {str(q): float(floor) for q, floor in zip(QUANTILES, floors, strict=True)}


def _floor_of(level: ArrayLike) -> NDArray[np.float32]:
    """The least float32 on a level."""
    return (np.asarray(level, np.int32) << _LEVEL_BITS).view(np.float32)
