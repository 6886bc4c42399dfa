"""Masks: the selected weights of a model with their original values, on disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncouple.errors import UncoupleError
from uncouple.records.columns import group_by_module
from uncouple.records.files import read_table
from uncouple.records.formats import MASK

# By module: int64 (k,), flat row-major indices, and float32 (k,), the original values.
Entries = dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]]


def read_mask(path: str | Path, base: Mapping[str, Any] | None = None) -> tuple[Entries, dict[str, Any]]:
    """Read a mask.

    Args:
        path: a mask file.
        base: the record of a model (`models.model_record`); where given, the mask must have been made from it.

    Returns:
        (the entries, metadata).

    Raises:
        UncoupleError: no mask, one of another model, or one that takes weights that there are not.
    """
    table, metadata = read_table(path, MASK)
    # Others' masks are shared, and by them weights are written at places in files.
    if fault := next(MASK.row_faults(table, metadata), None):
        raise UncoupleError(f"{path}: this mask is not as it should be: {fault}. Do not use it.")
    if base is not None:
        check_model(path, metadata["model"], base)
    return group_by_module(table, ("index", "value")), metadata


def check_places(where: str | Path, name: str, index: NDArray[np.int64], size: int) -> None:
    """That a mask's entries of a matrix are among its weights, which are `size`."""
    if len(index) and not 0 <= index.min() <= index.max() < size:
        raise UncoupleError(
            f"{where}: {name} has {size:,} weights, and the mask takes number {index.max():,}. Do not use it."
        )


def check_model(what: str | Path, made_from: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """That something was made from a model; from its tokenizer and chat template as well, where it says from which."""
    for key, name in (("fingerprint", "model"), ("tokenizer", "tokenizer or chat template")):
        if made_from.get(key, record[key]) != record[key]:
            raise UncoupleError(
                f"{what}: made from another {name} ({made_from['name']}, fingerprint {made_from[key]}) than "
                f"{record['name']} ({record[key]}). Make it again from this model."
            )
