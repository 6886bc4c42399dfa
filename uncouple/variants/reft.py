"""LoReFT: a model whose weights stay as they are, and whose hidden states are moved at the ends of each prompt.

    adapter, _ = read_adapter("tuned/adapter.safetensors", model_record(folder))
    with adapted(model, adapter), adapter.on(prompt):
        model(input_ids=ids, attention_mask=attention)

Source: Wu et al. 2024, "ReFT: Representation Finetuning for Language Models", section 3 (LoReFT).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from uncouple.errors import UncoupleError
from uncouple.models.families import family_of
from uncouple.models.prompt_places import acting
from uncouple.records.files import digest, read_tensors, write_tensors
from uncouple.records.formats import ADAPTER, Record
from uncouple.variants.masks import check_model


class Intervention(nn.Module):
    """What is done to the hidden states of one layer: h + R^T (W h + b - R h).

    R has orthonormal rows, whatever training makes of it. All is float32, for that holds in no half precision. To begin
    with W is R and b is 0, so that training starts from the model as it is, as that of other methods does.

    Args:
        hidden: width of the hidden states.
        rank: rows of R and of W.
    """

    def __init__(self, hidden: int, rank: int) -> None:
        super().__init__()
        self.rotation = parametrizations.orthogonal(nn.Linear(hidden, rank, bias=False))
        self.target = nn.Linear(hidden, rank)
        with torch.no_grad():
            self.target.weight.copy_(self.rotation.weight)
            self.target.bias.zero_()

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states (n, hidden) as they are to be, of the dtype that they have."""
        with torch.autocast(hidden.device.type, enabled=False):
            states, rotation = hidden.float(), self.rotation.weight
            return (states + (self.target(states) - states @ rotation.T) @ rotation).to(hidden.dtype)


class Adapter(nn.Module):
    """Interventions on a model's decoder layers, each on what its layer gives to the next.

    Args:
        layers: numbers of the decoder layers.
        hidden, rank: see `Intervention`.
        positions: how many of a prompt's first tokens, and how many of its last, it is meant for.

    Attributes:
        mask: bool (batch, tokens), where it acts; None where it does not act at all.
    """

    def __init__(self, layers: Iterable[int], hidden: int, rank: int, positions: int) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({str(layer): Intervention(hidden, rank) for layer in layers})
        self.positions = positions
        self.mask: Tensor | None = None

    @contextmanager
    def at(self, mask: Tensor | None) -> Iterator[None]:
        """Where it acts in the forward passes of the block.

        Args:
            mask: bool (batch, tokens), see `edge_mask`; with it every pass must be of that shape. None, as outside
                of any block, leaves all as it is: so in the passes after a prompt, one for each token.
        """
        before, self.mask = self.mask, mask
        try:
            yield
        finally:
            self.mask = before

    def on(self, prompt: Tensor) -> AbstractContextManager[None]:
        """Act on the ends of prompts in the block; see `prompt_places.OnPrompts`."""
        return self.at(edge_mask(prompt, self.positions))

    def digest(self) -> str:
        """What it does, whatever it is called."""
        parts = (part for name, values in sorted(self.tensors().items()) for part in (name, values.numpy().tobytes()))
        return digest(self.positions, *parts)

    def tensors(self) -> dict[str, Tensor]:
        """What it is made of, float32 on the CPU: R (rank, hidden), W (rank, hidden) and b (rank,) of each layer, as
        rotation, weight and bias after its number and a dot."""
        found: dict[str, Tensor] = {}
        for layer, one in self.layers.items():
            parts = {"rotation": one.rotation.weight, "weight": one.target.weight, "bias": one.target.bias}
            found |= {f"{layer}.{name}": part.detach().cpu().contiguous() for name, part in parts.items()}
        return found


def edge_mask(prompt: Tensor, positions: int) -> Tensor:
    """The first and the last tokens of each prompt.

    Args:
        prompt: bool (batch, tokens), the tokens of prompts. A row may have several, each ended by a token that is none,
            and padding wherever it likes.
        positions: how many at each end. A prompt of up to twice as many tokens is taken whole.

    Returns:
        bool (batch, tokens).
    """
    place = torch.arange(prompt.shape[1], device=prompt.device).expand_as(prompt)

    def since(prompt: Tensor) -> Tensor:
        """How many tokens of its prompt there are up to each, itself included."""
        return place - place.masked_fill(prompt, -1).cummax(1).values

    return prompt & ((since(prompt) <= positions) | (since(prompt.flip(1)).flip(1) <= positions))


@contextmanager
def adapted(model: PreTrainedModel, adapter: Adapter) -> Iterator[PreTrainedModel]:
    """A loaded model that goes through an adapter, where `Adapter.at` or `prompt_places.prompts_at` says; as it was
    after the block.

    Args:
        model, adapter: see `add_hooks`.
    """
    hooks = add_hooks(model, adapter)
    try:
        with acting(model, adapter):
            yield model
    finally:
        for hook in hooks:
            hook.remove()


def add_hooks(model: PreTrainedModel, adapter: Adapter) -> list[RemovableHandle]:
    """Have a model go through an adapter, until the hooks are removed.

    Args:
        model: a causal language model of a family that is declared, of any dtype.
        adapter: moved to where the model's layers are.
    """
    hooks = []
    for number, one in adapter.layers.items():
        layer = model.get_submodule(f"{family_of(model).layers}.{number}")
        one.to(next(layer.parameters()).device)
        hooks.append(layer.register_forward_hook(_make_hook(adapter, one)))
    return hooks


def _make_hook(adapter: Adapter, one: Intervention) -> Any:
    def hook(layer: nn.Module, inputs: Any, hidden: Tensor) -> Tensor:
        if adapter.mask is None:
            return hidden
        mask = adapter.mask.to(hidden.device)
        # A copy: what the layer gave is kept as it is for the way back.
        hidden = hidden.clone()
        hidden[mask] = one(hidden[mask])
        return hidden

    return hook


def write_adapter(adapter: Adapter, path: Path, record: Record) -> None:
    """Write an adapter.

    Args:
        path: the file (.safetensors).
        record: what made it, see `formats.ADAPTER`.
    """
    write_tensors(adapter.tensors(), path, ADAPTER, record | {"positions": adapter.positions})


def _check_shapes(path: str | Path, layers: list[int], tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """(rank, hidden) of all interventions, after a check that each has its three tensors and there are no others."""
    first = tensors[f"{layers[0]}.rotation"].shape
    parts = {"rotation": first, "weight": first, "bias": first[:1]}
    wanted = {f"{layer}.{name}": shape for layer in layers for name, shape in parts.items()}
    found = {name: tensor.shape for name, tensor in tensors.items() if tensor.dtype is torch.float32}
    if found != wanted or len(tensors) != len(wanted) or len(first) != 2 or not 0 < first[0] <= first[1]:
        raise UncoupleError(
            f"{path}: its tensors are not those of interventions on {len(layers)} layers. Make it again."
        )
    return first[0], first[1]


def read_adapter(path: str | Path, base: Mapping[str, Any] | None = None) -> tuple[Adapter, Record]:
    """Read an adapter, ready to be used and not to be trained on, and its record.

    Args:
        path: the file.
        base: the record of a model (`models.model_record`); where given, the adapter must have been made from it.

    Raises:
        UncoupleError: missing, changed since it was written, or made from another model.
    """
    tensors, record = read_tensors(path, ADAPTER)
    if base is not None:
        check_model(path, record["model"], base)
    layers = sorted({int(name) for name in {name.partition(".")[0] for name in tensors} if name.isdecimal()})
    rotation = tensors.get(f"{layers[0]}.rotation") if layers else None
    if rotation is None:
        raise UncoupleError(f"{path}: there is no intervention in it. Make it again.")
    rank, hidden = _check_shapes(path, layers, tensors)
    adapter = Adapter(layers, hidden, rank, record["positions"])
    for layer, one in adapter.layers.items():
        parametrize.remove_parametrizations(one.rotation, "weight")
        parts = {"rotation.weight": "rotation", "target.weight": "weight", "target.bias": "bias"}
        one.load_state_dict({name: tensors[f"{layer}.{part}"] for name, part in parts.items()})
    return adapter.requires_grad_(False).eval(), record
