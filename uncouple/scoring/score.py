"""Importance scores: abs(W) x sum over samples of abs(dL_s/dW), for all layers of a shard in one pass."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from uncouple.errors import UncoupleError
from uncouple.models.devices import free_memory, pick_devices, release_memory
from uncouple.models.families import find_linear_layers, split_name, target_names
from uncouple.models.folders import check_folder, model_record
from uncouple.models.head import check_head
from uncouple.models.load import load_model, load_tokenizer, machine, pick_dtype
from uncouple.models.prompts import Encoded, PromptFormat, encode_samples
from uncouple.models.rope import longest_together
from uncouple.models.skeleton import make_skeleton
from uncouple.progress import say
from uncouple.records.files import read_table
from uncouple.records.formats import SAMPLES
from uncouple.scoring.gradients import accumulate_gradients
from uncouple.scoring.kernels import ACCUMULATOR_DTYPE
from uncouple.scoring.memory import Plan, plan_scoring
from uncouple.scoring.options import Scoring
from uncouple.scoring.packing import Batch, pack_samples
from uncouple.scoring.shards import Top, about_model, about_samples, write_shard
from uncouple.scoring.tops import count_levels, find_quantiles, top_entries


def score_layers(
    model_folder: str | Path,
    samples_path: str | Path,
    output: str | Path,
    options: Scoring,
    *,
    first: int = 0,
    last: int | None = None,
    device: str = "auto",
    template_options: dict[str, Any] | None = None,
) -> None:
    """Score one range of layers on one sample set and write the top weights as a score shard.

    Args:
        model_folder: the base model.
        samples_path: a samples table.
        output: the shard to write.
        options: how it is scored.
        first, last: decoder layers, both included; `last` None means the model's last.
        device: see `models.load_model`.
        template_options: of the chat template; see `prompts.bind_options`.

    Raises:
        UncoupleError: bad input, a loss head that is not known, one layer that does not fit into memory, or a gradient
            that is not finite (names layer and sample).
    """
    config = check_folder(model_folder)
    # An architecture that is not declared is refused before its files are hashed.
    names = target_names(config, options.module, first, last)
    record = model_record(model_folder)
    table, samples_record = read_table(samples_path, SAMPLES)
    samples = table.to_pylist()
    encoded, prompt = _encode(
        model_folder, samples, options.prompt, template_options, config["max_position_embeddings"]
    )
    lengths = [len(e.ids) for e in encoded]
    plan = _plan(config, names, max(lengths), options, device)
    model = load_model(model_folder, options.dtype, device)
    check_head(model)
    ids = [sample["id"] for sample in samples]
    batches = pack_samples(encoded, ids, plan.batch_tokens, longest_together(model.config))
    say(
        f"score: {len(encoded)} samples, {sum(lengths):,} tokens in {len(batches)} batches, {len(names)} matrices, "
        f"{model.dtype} on {model.device}"
    )
    tops, matrices = score_model(model, names, batches, options.keep, plan.passes)
    metadata = {
        "model": about_model(record),
        "samples": about_samples(samples_record),
        "layers": [split_name(names[0])[1], split_name(names[-1])[1]],
        "module": options.module,
        "prompt": vars(prompt),
        "keep": options.keep,
        **machine(model.dtype, model.device),
        "tokens": sum(lengths),
        "responses_cut": sum(e.cut > 0 for e in encoded),
        "matrices": matrices,
    }
    write_shard(output, tops, metadata)


def _encode(
    folder: str | Path, samples: list[dict[str, str]], prompt: str, given: dict[str, Any] | None, window: int
) -> tuple[list[Encoded], PromptFormat]:
    """Encoded samples and their prompt format, the tokenizer gone: it takes as much as a hundred tokens of a batch."""
    tokenizer, found = load_tokenizer(folder, prompt, given)
    encoded = encode_samples(tokenizer, samples, found, window)
    del tokenizer
    release_memory()
    if cut := sum(e.cut > 0 for e in encoded):
        say(f"score: {cut} responses were longer than the model's window and were cut")
    return encoded, found


def _plan(config: dict[str, Any], names: list[str], longest: int, options: Scoring, device: str) -> Plan:
    """How the job fits into the memory that is free now."""
    devices = pick_devices(device)
    skeleton = make_skeleton(config, pick_dtype(config, options.dtype, devices[0]))
    free = min(free_memory(d) for d in devices)
    plan = plan_scoring(skeleton, names, devices[0].type, free, longest, options.most_tokens, len(devices))
    say(f"score: plan: {plan}")
    return plan


def score_model(
    model: PreTrainedModel,
    names: Sequence[str],
    batches: Sequence[Batch],
    keep: float,
    passes: Iterable[Iterable[int]] | None = None,
) -> tuple[dict[str, Top], dict[str, dict[str, Any]]]:
    """Scores of a loaded model's weights on packed batches.

    Args:
        names: full names of linear layers.
        batches: list of `packing.Batch`.
        keep: share of each matrix's weights that is kept.
        passes: lists of decoder layers that share a pass over the batches; by default all do.

    Returns:
        (dict of name to what `top_entries` gives, dict of name to the matrix's record in a shard's metadata).

    Raises:
        UncoupleError: a score is not finite; names the matrix.
    """
    tops, matrices = {}, {}
    for layers in passes or [{split_name(name)[1] for name in names}]:
        part = [name for name in names if split_name(name)[1] in layers]
        gradients = accumulate_gradients(model, part, batches)
        for name, layer in find_linear_layers(model, part).items():
            scores = gradients.pop(name).mul_(layer.weight.abs().to(ACCUMULATOR_DTYPE)).contiguous()
            total = float(scores.sum(dtype=torch.float64))
            if not math.isfinite(total):
                raise UncoupleError(f"{name}: a score is not finite. Score in float32 (--dtype), or mend its weights.")
            levels = count_levels(scores)
            tops[name] = top_entries(scores, keep, levels)
            matrices[name] = {"shape": list(scores.shape), "sum": total, "quantiles": find_quantiles(levels)}
    # A shard does not depend on its passes.
    return {name: tops[name] for name in names}, {name: matrices[name] for name in names}
