"""Which texts share a batch: padded, those of like length; packed behind one another, any."""

from collections.abc import Sequence

# Tokens of a packed batch: on a CPU more leave its caches, and a GPU is busy with so many.
BATCH_TOKENS = {"cpu": 512, "cuda": 8192}


def batches_by_length(
    encoded: Sequence[Sequence[int]], batch_size: int, together: int | None = None
) -> list[list[int]]:
    """Batches of the places of token lists, the shortest first, so that like lengths share a batch and its padding.

    Args:
        encoded: lists of token ids.
        batch_size: how many share a batch.
        together: longer ones than this are alone; see `rope.longest_together`.
    """
    order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i]), i))
    short = sum(not together or len(ids) <= together for ids in encoded)
    batches = [order[start : min(start + batch_size, short)] for start in range(0, short, batch_size)]
    return batches + [[i] for i in order[short:]]


def make_batches(lengths: Sequence[int], batch_tokens: int, together: int | None = None) -> list[list[int]]:
    """Batches of sample numbers, each of at most `batch_tokens` tokens: each sample, longest first, goes where it fits.

    The first batches are the fullest, so that what does not fit in memory fails at once and not at the end. A sample
    longer than `batch_tokens` is a batch of its own, and so is one longer than `together`; see `rope.longest_together`.
    """
    # One that must be alone counts as a whole batch.
    lengths = [max(n, batch_tokens) if together and n > together else n for n in lengths]
    batches: list[list[int]] = []
    rooms: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = next((i for i, room in enumerate(rooms) if lengths[number] <= room), len(rooms))
        if place == len(rooms):
            batches.append([])
            rooms.append(batch_tokens)
        batches[place].append(number)
        rooms[place] -= lengths[number]
    return batches
