"""Which linear layers of a model are its MLP and its attention, by architecture."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from uncouple.errors import UncoupleError

# Which linear layers.
Module = Literal["mlp", "attention", "all"]
MODULES = get_args(Module)


@dataclass(frozen=True)
class Family:
    """Where an architecture keeps the linear layers of a decoder layer.

    Attributes:
        layers: path of the list of decoder layers.
        attention, mlp: paths of the linear layers inside one decoder layer.
    """

    layers: str
    attention: tuple
    mlp: tuple


_LLAMA = Family(
    "model.layers",
    tuple(f"self_attn.{name}_proj" for name in "qkvo"),
    tuple(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)
# Keyed by `model_type` of the model's config.json.
FAMILIES = {
    **dict.fromkeys(["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "olmo2"], _LLAMA),
    "phi3": Family("model.layers", ("self_attn.qkv_proj", "self_attn.o_proj"), ("mlp.gate_up_proj", "mlp.down_proj")),
    "gpt_neox": Family(
        "gpt_neox.layers",
        ("attention.query_key_value", "attention.dense"),
        ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    ),
}


def find_family(config):
    """The family of a model.

    Args:
        config: config.json as a dict.

    Raises:
        UncoupleError: an architecture that is not among FAMILIES.
    """
    kind = config.get("model_type")
    if kind in FAMILIES:
        return FAMILIES[kind]
    names = sorted({name for family in FAMILIES.values() for name in family.attention + family.mlp})
    raise UncoupleError(
        f"architecture {kind!r} is not known, so its linear layers were not found (looked for {', '.join(names)}). "
        f"Known: {', '.join(FAMILIES)}. Add it to FAMILIES in uncouple/models/families.py."
    )


def target_names(config, module, first=0, last=None):
    """Full names of the linear layers of decoder layers first..last, in the model's order.

    Args:
        config: config.json as a dict.
        module: `mlp`, `attention` or `all`.
        first, last: decoder layers, counted from 0, both included; `last` None means the model's last.

    Returns:
        list of str, such as `model.layers.0.mlp.gate_proj`.
    """
    if module not in MODULES:
        raise UncoupleError(f"module {module!r}: use one of {', '.join(MODULES)}.")
    family, count = find_family(config), config["num_hidden_layers"]
    last = count - 1 if last is None else last
    if not 0 <= first <= last < count:
        raise UncoupleError(f"layers {first}:{last}: this model has the layers 0:{count - 1}.")
    inner = {"mlp": family.mlp, "attention": family.attention, "all": family.attention + family.mlp}[module]
    return [f"{family.layers}.{layer}.{name}" for layer in range(first, last + 1) for name in inner]


def split_name(name):
    """Parts of a full name such as `model.layers.7.mlp.up_proj`: (`model.layers.7`, 7, `mlp.up_proj`)."""
    layer, number, inner = re.fullmatch(r"(.*?layers\.(\d+))\.(.+)", name).groups()
    return layer, int(number), inner


def find_linear_layers(model, names):
    """The linear modules of a loaded model by name.

    Returns:
        dict of name to torch.nn.Linear.

    Raises:
        UncoupleError: some of them are not there or are not linear: names each, and those that are there.
    """
    from torch import nn

    found = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    missing = [name for name in names if name not in found]
    if missing:
        raise UncoupleError(
            f"{type(model).__name__}: these linear layers were not found: {', '.join(missing[:8])}"
            f"{' ...' if len(missing) > 8 else ''}. The model has {', '.join(list(found)[:8])} ..."
        )
    return {name: found[name] for name in names}
