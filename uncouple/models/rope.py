"""Rotary embeddings that stretch with the text: what may share a batch, and what must be computed again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uncouple.models.families import FAMILIES, Family

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def longest_together(config: PreTrainedConfig) -> int | None:
    """The most tokens of a sample that may share a batch, or None where there is no such bound.

    Rotary embeddings that depend on the longest position that they see (longrope, dynamic) would stretch the positions
    of the shorter samples.

    Args:
        config: of transformers.
    """
    return min((limit for limit, _ in _stretches(config)), default=None)


def is_stretched_anew(config: PreTrainedConfig, length: int) -> bool:
    """Whether the positions of a text of so many tokens are others than they were when it had one token less.

    With longrope they change once, past the original window, and with `dynamic` from there on at each token. Keys that
    were kept from before are wrong then.
    """
    return any(length == limit + 1 or (kind == "dynamic" and length > limit) for limit, kind in _stretches(config))


def _stretches(config: PreTrainedConfig) -> list[tuple[int, str]]:
    """(tokens up to which positions are as they are, kind) of each rotary embedding that stretches them."""
    # One that is not declared may be asked questions; transformers has one name for it in nearly all.
    parameters = getattr(config, FAMILIES.get(config.model_type, Family).rope, None) or {}
    # Some models have one set a kind of layer.
    sets = parameters.values() if all(isinstance(value, dict) for value in parameters.values()) else [parameters]
    return [
        (rope.get("original_max_position_embeddings") or config.max_position_embeddings, rope["rope_type"])
        for rope in sets
        if rope.get("rope_type") in ("longrope", "dynamic")
    ]
