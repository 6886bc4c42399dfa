"""A model without its weights: its config, from a folder or the Hub, and its modules on the meta device."""

from contextlib import nullcontext
from pathlib import Path

import torch

from uncouple.errors import UncoupleError
from uncouple.hub import from_hub


def read_config(model):
    """The transformers config of a model folder, or of a model id on the Hub, of which nothing else is fetched."""
    from transformers import AutoConfig

    there = Path(model).is_dir()
    try:
        with nullcontext() if there else from_hub(f"the model {model}", "give its folder (--model)"):
            return AutoConfig.from_pretrained(str(model))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UncoupleError(f"{model}: its config cannot be read: {str(error).splitlines()[0]}") from error


def make_skeleton(config, dtype):
    """A model without weights, on the meta device.

    Args:
        config: of transformers; see `read_config`.
        dtype: torch.dtype.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval().requires_grad_(False)
