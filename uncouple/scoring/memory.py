"""Memory: what scoring needs, what is free, and how the work is cut to fit. Needs a model's config, not its weights."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from uncouple.errors import UncoupleError
from uncouple.models.attention import pack_attention
from uncouple.models.batching import BATCH_TOKENS
from uncouple.models.devices import free_memory, pick_device
from uncouple.models.families import find_linear_layers, split_name, target_names
from uncouple.models.folders import read_config
from uncouple.models.head import HEAD_BYTES
from uncouple.models.load import pick_dtype
from uncouple.models.skeleton import make_skeleton
from uncouple.scoring.kernels import ACCUMULATOR_DTYPE
from uncouple.scoring.options import Scoring
from uncouple.scoring.recompute import Recipe, lighten, make_again

GB = 10**9
# Fewer tokens read all weights too often for what is done with them. Rather less than that, more passes.
FEWEST_TOKENS = {"cpu": 128, "cuda": 1024}
# Memory of the process besides tensors: Python, the libraries, the allocator's gaps (measured); on a GPU the context is
# not in what is free, and the allocator's gaps are a share of what it holds.
RUNTIME_BYTES = {"cpu": 700 * 10**6, "cuda": 0}
# On a CPU the batch may take this much however much is free, since a larger one is no faster; see BATCH_TOKENS.
CPU_BATCH_BYTES = 220 * 10**6
RESERVE = 0.05


@dataclass(frozen=True)
class Plan:
    """How a scoring job fits into memory, or where several GPUs share the model into the fullest. Sizes are bytes.

    Attributes:
        weights: the model, or its part.
        sums: float32 accumulators of one pass.
        token: what one token of a batch keeps for the backward pass.
        fixed: buffers that do not grow with the batch.
        runtime: the process itself.
        free: what there was before anything was loaded.
        passes: tuples of decoder layers, those of one pass over the samples together.
        batch_tokens: the most tokens of a batch.
        longest: tokens of the longest sample.
        devices: over how many the model is spread.
    """

    weights: int
    sums: int
    token: int
    fixed: int
    runtime: int
    free: int
    passes: tuple[tuple[int, ...], ...]
    batch_tokens: int
    longest: int
    devices: int = 1

    @property
    def batch(self) -> int:
        """Bytes of the largest batch: a sample longer than a batch is one of its own."""
        return self.fixed + self.token * max(self.batch_tokens, self.longest)

    @property
    def peak(self) -> int:
        return self.weights + self.sums + self.runtime + self.batch

    def __str__(self) -> str:
        count, where = len(self.passes), f"on the fullest of {self.devices} GPUs " if self.devices > 1 else ""
        return (
            f"{where}{self.peak / GB:.1f} of {self.free / GB:.1f} GB free: weights {self.weights / GB:.2f}, "
            f"accumulators {self.sums / GB:.2f}, batch {self.batch / GB:.2f} "
            f"({self.batch_tokens} tokens of {self.token / 1e6:.2f} MB), process {self.runtime / GB:.2f}; "
            f"{len(self.passes[0])} layers a pass, {count} pass{'es' if count > 1 else ''} over the samples"
        )


def plan_scoring(
    skeleton: PreTrainedModel,
    names: Sequence[str],
    kind: str,
    free: float,
    longest: int,
    batch_tokens: int | None = None,
    devices: int = 1,
) -> Plan:
    """Fit a scoring job into memory: as few passes over the samples as leave room for a batch worth its name.

    Args:
        skeleton: the model without its weights; see `make_skeleton`.
        names: full names of the linear layers to score.
        kind: `cpu` or `cuda`.
        free: bytes, of the device that has least.
        longest: tokens of the longest sample.
        batch_tokens: tokens of a batch where the user has said so, else None.
        devices: over how many the model is spread.

    Raises:
        UncoupleError: not even one layer fits; says what to change.
    """
    layers = find_linear_layers(skeleton, names)
    weights = sum(p.numel() * p.element_size() for p in skeleton.parameters())
    numbers = sorted({split_name(name)[1] for name in names})
    size = dict.fromkeys(numbers, 0)
    for name, layer in layers.items():
        size[split_name(name)[1]] += layer.weight.numel() * ACCUMULATOR_DTYPE.itemsize
    weights, held = _fullest(skeleton, names[0], weights, devices)
    token = math.ceil(bytes_per_token(skeleton, layers, longest, kind) * held / skeleton.config.num_hidden_layers)
    largest = max(layer.weight.numel() for layer in layers.values())
    # Logits of a part of the tokens, half of them once more in half precision; the CPU's product of one matrix.
    fixed = 2 * HEAD_BYTES[kind] + (largest * ACCUMULATOR_DTYPE.itemsize if kind == "cpu" else 0)
    runtime = RUNTIME_BYTES[kind]
    usable = free * (1 - RESERVE) - weights - fixed - runtime
    fewest = max(longest, batch_tokens or FEWEST_TOKENS[kind])
    for layers_per_pass in _fewer_and_fewer(len(numbers)):
        passes = _make_passes(numbers, layers_per_pass, devices)
        most_here = math.ceil(min(held, len(numbers)) / len(passes))
        sums = max(sum(sorted((size[number] for number in part), reverse=True)[:most_here]) for part in passes)
        # The last resort is one layer and a batch of one sample.
        least = longest if layers_per_pass == 1 and not batch_tokens else fewest
        room = math.floor((usable - sums) / token)
        if room >= least:
            most = min(room, BATCH_TOKENS[kind] * devices)
            if kind == "cpu":
                most = min(most, CPU_BATCH_BYTES // token)
            tokens = batch_tokens or max(most, longest)
            return Plan(weights, sums, token, fixed, runtime, int(free), tuple(passes), tokens, longest, devices)
    batch = fixed + token * max(longest, batch_tokens or 0)
    need = weights + runtime + max(size.values()) + batch
    advice = ["spread it over more GPUs (--device all)" if kind == "cuda" else "free some memory"]
    advice += ["use half precision (--dtype bfloat16)"] if skeleton.dtype.itemsize > 2 else []
    advice += ["lower --batch-tokens" if batch_tokens else f"leave out long samples (the longest has {longest} tokens)"]
    raise UncoupleError(
        f"one layer at a time needs {need / (1 - RESERVE) / GB:.1f} GB and {free / GB:.1f} GB are free: weights "
        f"{weights / GB:.1f}, accumulators {max(size.values()) / GB:.2f}, batch "
        f"{batch / GB:.2f}, process {runtime / GB:.2f}. To make it fit, {', or '.join(advice)}."
    )


def plan_for_machine(
    model: str | Path,
    options: Scoring,
    *,
    layers: tuple[int, int | None],
    gpu_memory: int | None,
    gpus: int,
    longest: int,
) -> Plan:
    """The plan for a model that need not be here, on this machine or on GPUs that need not be here either.

    Args:
        model: model folder, or a model id on the Hub.
        options: as for `score.score_layers`.
        layers: (first, last), both included; last None means the model's last.
        gpu_memory: bytes of each GPU, or None for what is free on this machine.
        gpus: over how many the model is spread, the layers evenly.
        longest: tokens of the longest sample.

    Raises:
        UncoupleError: an unknown architecture, or it does not fit.
    """
    config = read_config(model)
    if gpu_memory:
        kind, free = "cuda", gpu_memory
    else:
        # Not leased: nothing is going to run.
        device = pick_device("cuda" if torch.cuda.is_available() else "cpu")
        kind, free = device.type, free_memory(device)
    names = target_names(config, options.module, *layers)
    skeleton = make_skeleton(config, pick_dtype(config, options.dtype, kind))
    return plan_scoring(skeleton, names, kind, free, longest, options.most_tokens, gpus)


def _fullest(skeleton: PreTrainedModel, name: str, weights: int, devices: int) -> tuple[int, int]:
    """(bytes of weights, number of decoder layers) that the fullest of several GPUs may hold.

    Layers are spread by `device_map="balanced"`, which gives each GPU its share and as much as a quarter more than a
    decoder layer, which is never cut.

    Args:
        name: of a linear layer in a decoder layer.
        weights: bytes of all.
    """
    count = skeleton.config.num_hidden_layers
    if devices == 1:
        return weights, count
    layer = sum(p.numel() * p.element_size() for p in skeleton.get_submodule(split_name(name)[0]).parameters())
    most = min(weights, math.ceil(weights / devices + 1.25 * layer))
    return most, min(count, most // layer)


def _make_passes(numbers: Sequence[int], layers_per_pass: int, devices: int) -> list[tuple[int, ...]]:
    """Decoder layers by pass: neighbours, so that later passes end their way back early.

    Over several GPUs they are far apart: neighbours are on one GPU, which would hold all sums of the pass.
    """
    if devices == 1:
        return [tuple(numbers[i : i + layers_per_pass]) for i in range(0, len(numbers), layers_per_pass)]
    count = math.ceil(len(numbers) / layers_per_pass)
    return [tuple(numbers[i::count]) for i in range(count)]


def _fewer_and_fewer(count: int) -> Iterable[int]:
    """Sizes of the parts that `count` layers are cut into: all, half, a third... each size once."""
    return dict.fromkeys(math.ceil(count / parts) for parts in range(1, count + 1))


def bytes_per_token(skeleton: PreTrainedModel, layers: Mapping[str, nn.Linear], tokens: int, kind: str = "cpu") -> int:
    """What the forward pass keeps for the backward pass, for each token of a batch.

    A forward pass of the skeleton, of which autograd tells the tensors that it would keep; to them come
    the inputs of the scored layers. No number is computed.

    Args:
        skeleton: see `make_skeleton`.
        layers: dict of name to linear layer, those that are scored.
        tokens: of a sample; where attention is not fused, it keeps more the longer the sample is.
        kind: `cpu` or `cuda`, where it is to run.
    """
    kept, parameters = {}, {p.untyped_storage()._cdata for p in skeleton.parameters()}

    def keep(tensor: Tensor) -> Tensor | Recipe:
        light = lighten(tensor)
        if isinstance(light, torch.Tensor):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = (storage.nbytes(), tensor)
        return light

    def catch(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not output.requires_grad:
            output.requires_grad_()
        keep(inputs[0])

    handles = [layer.register_forward_hook(catch) for layer in layers.values()]
    width = skeleton.get_input_embeddings().weight.shape[1]
    states = torch.empty(1, tokens, width, dtype=skeleton.dtype, device="meta")
    positions = torch.arange(tokens, device="meta")[None]
    with (
        pack_attention(skeleton, kind),
        torch.autograd.graph.saved_tensors_hooks(keep, make_again),
        torch.enable_grad(),
    ):
        skeleton.base_model(inputs_embeds=states, position_ids=positions, cu_seq_lens_q=[tokens], use_cache=False)
    for handle in handles:
        handle.remove()
    return math.ceil(sum(size for key, (size, _) in kept.items() if key not in parameters) / tokens)
