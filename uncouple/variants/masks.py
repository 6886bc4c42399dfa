"""Masks: the selected weights of a model with their original values, on disk."""

from uncouple.errors import UncoupleError
from uncouple.records.files import read_table
from uncouple.scoring.shards import group_by_module


def read_mask(path, base=None):
    """Read a mask.

    Args:
        path: a mask file.
        base: the record of a model (`models.model_record`); where given, the mask must have been made from it.

    Returns:
        (dict of module to (index int64 (k,), value float32 (k,)), metadata).
    """
    table, metadata = read_table(path, "mask")
    if base is not None:
        check_model(path, metadata["model"], base)
    return group_by_module(table, ("index", "value")), metadata


def check_model(what, made_from, record):
    """That something was made from a model; from its tokenizer and chat template as well, where it says from which."""
    for key, name in (("fingerprint", "model"), ("tokenizer", "tokenizer or chat template")):
        if made_from.get(key, record[key]) != record[key]:
            raise UncoupleError(
                f"{what}: made from another {name} ({made_from['name']}, fingerprint {made_from[key]}) than "
                f"{record['name']} ({record[key]}). Make it again from this model."
            )
