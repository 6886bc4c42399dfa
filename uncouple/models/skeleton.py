"""A model without its weights: its modules on the meta device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from uncouple.errors import UncoupleError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def make_skeleton(config: Mapping[str, Any], dtype: torch.dtype) -> PreTrainedModel:
    """A model without weights, on the meta device.

    Args:
        config: config.json, see `folders.read_config`.
        dtype: of its weights.

    Raises:
        UncoupleError: see `complete_config`.
    """
    from transformers import AutoModelForCausalLM

    complete = complete_config(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(complete, dtype=dtype)
    return model.eval().requires_grad_(False)


def complete_config(config: Mapping[str, Any]) -> PreTrainedConfig:
    """transformers' config, which has all that config.json leaves to the architecture.

    Raises:
        UncoupleError: transformers cannot make anything of it.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(**config)
    # What a config may be refused by has no class in common.
    except Exception as error:
        said = " ".join(str(error).split())
        raise UncoupleError(f"architecture {config.get('model_type')!r}: its config cannot be read: {said}") from error
