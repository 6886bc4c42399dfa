"""A model without its weights: its modules on the meta device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from uncouple.errors import UncoupleError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def make_skeleton(config: Mapping[str, Any], dtype: torch.dtype) -> PreTrainedModel:
    """A model without weights, on the meta device.

    Args:
        config: config.json, see `folders.read_config`.
        dtype: of its weights.

    Raises:
        UncoupleError: transformers cannot make anything of the config.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        complete = AutoConfig.for_model(**config)
    # What a config may be refused by has no class in common.
    except Exception as error:
        said = " ".join(str(error).split())
        raise UncoupleError(f"architecture {config.get('model_type')!r}: its config cannot be read: {said}") from error
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(complete, dtype=dtype)
    return model.eval().requires_grad_(False)
