"""Placement: which matrices the weights of masks are in."""

import math
from collections.abc import Iterable
from pathlib import Path

from uncouple.models.families import split_name
from uncouple.records.files import write_table
from uncouple.records.formats import PLACEMENT
from uncouple.variants.masks import read_mask


def measure_placement(mask_paths: Iterable[Path], output: Path) -> None:
    """Write how many weights each mask takes of each matrix, see `formats.PLACEMENT`."""
    rows = []
    for path in mask_paths:
        entries, record = read_mask(path)
        for name, shape in record["shapes"].items():
            _, layer, inner = split_name(name)
            n = len(entries[name][0]) if name in entries else 0
            rows.append(
                {"model": record["model"]["name"], "variant": record["variant"], "layer": layer, "module": inner}
                | {"n": n, "of": math.prod(shape)}
            )
    write_table(rows, output, PLACEMENT, {})
