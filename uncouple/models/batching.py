"""Batches of texts of like length."""

from collections.abc import Sequence


def batches_by_length(
    encoded: Sequence[Sequence[int]], batch_size: int, together: int | None = None
) -> list[list[int]]:
    """Batches of the places of token lists, the shortest first, so that like lengths share a batch and its padding.

    Args:
        encoded: lists of token ids.
        batch_size: how many share a batch.
        together: longer ones than this are alone; see `packing.longest_together`.
    """
    order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i]), i))
    short = sum(not together or len(ids) <= together for ids in encoded)
    batches = [order[start : min(start + batch_size, short)] for start in range(0, short, batch_size)]
    return batches + [[i] for i in order[short:]]
