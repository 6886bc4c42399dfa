"""Stability: how far the masks of a sweep take the same weights, as over seeds and draws."""

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from uncouple.evaluation.collect import read_sweeps, write_metrics
from uncouple.records.fingerprint import fingerprint
from uncouple.variants.masks import Entries, read_mask


def measure_stability(mask_paths: Iterable[Path], sweeps: Path, output: Path) -> None:
    """Write how like each other the masks of each sweep are.

    The metric, of the dimension `general`: `jaccard`, of `variant` and the variant `item`: the weights that both take,
    `n`, of the `of` that either takes.

    Args:
        mask_paths: masks, of one model or several.
        sweeps: which of their variants make a sweep, see `formats.SWEEPS`.
        output: the metrics table to write.
    """
    found: dict[str, dict[str, Entries]] = {}
    for path in mask_paths:
        entries, record = read_mask(path)
        found.setdefault(record["model"]["name"], {})[record["variant"]] = entries
    pairs = {pair: None for names in read_sweeps(sweeps).values() for pair in itertools.combinations(names, 2)}
    rows = []
    for model, masks in found.items():
        for one, other in pairs:
            if one in masks and other in masks:
                shared, either = _overlap(masks[one], masks[other])
                numbers = {"value": shared / either if either else None, "n": shared, "of": either}
                who = {"model": model, "variant": one, "dimension": "general", "metric": "jaccard", "item": other}
                rows.append(who | numbers)
    write_metrics(rows, output, measured="stability", code=fingerprint("evaluation.stability"))


def _overlap(one: Entries, other: Entries) -> tuple[int, int]:
    """(weights in both masks, weights in either)."""
    none = np.empty(0, np.int64)
    shared = sum(
        len(np.intersect1d(one.get(name, (none,))[0], other.get(name, (none,))[0])) for name in one.keys() | other
    )
    counts = (len(index) for entries in (one, other) for index, _ in entries.values())
    return shared, sum(counts) - shared
