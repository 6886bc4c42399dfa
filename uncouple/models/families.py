"""Architectures: all that is particular to each, declared here and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from uncouple.errors import UncoupleError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

# Which linear layers.
Module = Literal["mlp", "attention", "all"]
MODULES = get_args(Module)


@dataclass(frozen=True)
class Head:
    """What an architecture does to the product of its last hidden states and the head's weights, to make logits of it.

    Each is the key of the config that holds a number, or None where nothing of the kind is done; in this order.

    Attributes:
        factor: it is multiplied by this.
        divisor: it is divided by this.
        cap: it is capped softly: cap * tanh(logits / cap).
    """

    factor: str | None = None
    divisor: str | None = None
    cap: str | None = None


@dataclass(frozen=True)
class Family:
    """What the pipeline must know of an architecture. The tests over all families hold it to the model itself.

    Attributes:
        layers: path of the list of decoder layers.
        attention, mlp: paths of the linear layers inside one decoder layer.
        head: how logits are made. Scores and perplexity make them anew, a part of the tokens at a time.
        attention_cap: key of the config that caps the logits of attention, or None where nothing does. Only the model's
            own form of attention (eager) caps them.
        rope: key of the config that says how rotary embeddings stretch positions.
    """

    layers: str
    attention: tuple[str, ...]
    mlp: tuple[str, ...]
    head: Head
    attention_cap: str | None
    rope: str = "rope_parameters"


_SPLIT = (
    "model.layers",
    tuple(f"self_attn.{name}_proj" for name in "qkvo"),
    tuple(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)
_FUSED = ("model.layers", ("self_attn.qkv_proj", "self_attn.o_proj"), ("mlp.gate_up_proj", "mlp.down_proj"))
_NEOX = (
    "gpt_neox.layers",
    ("attention.query_key_value", "attention.dense"),
    ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
)
_LLAMA = Family(*_SPLIT, Head(), None)
# Keyed by `model_type` of the model's config.json. A new one: a line here, and its tiny config in tests/conftest.py.
FAMILIES = {
    # transformers takes a mistral whose config names its layers' types for a ministral.
    **dict.fromkeys(["llama", "mistral", "ministral", "qwen2", "qwen3", "olmo2"], _LLAMA),
    "gemma2": Family(*_SPLIT, Head(cap="final_logit_softcapping"), "attn_logit_softcapping"),
    "gemma3_text": Family(*_SPLIT, Head(cap="final_logit_softcapping"), None),
    "granite": Family(*_SPLIT, Head(divisor="logits_scaling"), None),
    **dict.fromkeys(["cohere", "cohere2"], Family(*_SPLIT, Head(factor="logit_scale"), None)),
    "phi3": Family(*_FUSED, Head(), None),
    "gpt_neox": Family(*_NEOX, Head(), None),
}


def find_family(config: Mapping[str, Any]) -> Family:
    """The family of a model.

    Args:
        config: config.json, see `folders.read_config`.

    Raises:
        UncoupleError: an architecture that is not among FAMILIES.
    """
    kind = config.get("model_type", "")
    if kind in FAMILIES:
        return FAMILIES[kind]
    names = sorted({name for family in FAMILIES.values() for name in family.attention + family.mlp})
    raise UncoupleError(
        f"architecture {kind!r} is not known: neither its linear layers (looked for {', '.join(names)}) nor what its "
        f"loss head does. Known: {', '.join(FAMILIES)}. Declare it in FAMILIES in uncouple/models/families.py."
    )


def family_of(model: PreTrainedModel) -> Family:
    """The family of a model in memory; see `find_family`."""
    return find_family({"model_type": model.config.model_type})


def needs_own_attention(config: Mapping[str, Any]) -> bool:
    """Whether a model must run with its own form of attention (eager), and not with a faster one.

    So must one that caps attention's logits, also where it is left to the architecture's default, and any that is not
    declared: it may be asked questions, and what its attention does besides is not known.

    Args:
        config: config.json, see `folders.read_config`.
    """
    family = FAMILIES.get(config.get("model_type", ""))
    return not family or (family.attention_cap is not None and config.get(family.attention_cap, True) is not None)


def target_names(config: Mapping[str, Any], module: str, first: int = 0, last: int | None = None) -> list[str]:
    """Full names of the linear layers of decoder layers first..last, in the model's order.

    Args:
        config: config.json, see `folders.read_config`.
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


def split_name(name: str) -> tuple[str, int, str]:
    """Parts of a full name such as `model.layers.7.mlp.up_proj`: (`model.layers.7`, 7, `mlp.up_proj`)."""
    found = re.fullmatch(r"(.*?layers\.(\d+))\.(.+)", name)
    if not found:
        raise ValueError(f"{name!r} is not in a decoder layer")
    return found[1], int(found[2]), found[3]


def find_linear_layers(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Linear]:
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
