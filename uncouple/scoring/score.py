"""Importance scores: abs(W) x sum over samples of abs(dL_s/dW), for all layers of a shard in one pass."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from uncouple.errors import UncoupleError
from uncouple.models.devices import free_memory, pick_devices, release_memory
from uncouple.models.families import find_linear_layers, split_name, target_names
from uncouple.models.folders import check_folder, model_record
from uncouple.models.head import check_head
from uncouple.models.load import load_model, load_tokenizer, pick_dtype
from uncouple.models.prompts import encode_samples
from uncouple.models.rope import longest_together
from uncouple.models.skeleton import make_skeleton
from uncouple.progress import say
from uncouple.records.files import read_table
from uncouple.records.formats import SAMPLES
from uncouple.scoring.gradients import accumulate_gradients
from uncouple.scoring.kernels import ACCUMULATOR_DTYPE
from uncouple.scoring.memory import plan_scoring
from uncouple.scoring.packing import Batch, pack_samples
from uncouple.scoring.shards import Top, write_shard
from uncouple.scoring.tops import count_levels, find_quantiles, top_entries


def score_layers(
    model_folder,
    samples_path,
    output,
    *,
    first,
    last,
    module,
    prompt,
    keep,
    batch_tokens,
    dtype,
    device,
    template_options=None,
):
    """Score one range of layers on one sample set and write the top weights as a score shard.

    Args:
        model_folder: the base model.
        samples_path: a samples table.
        output: the shard to write.
        first, last: decoder layers, both included; `last` None means the model's last.
        module: `mlp`, `attention` or `all`.
        prompt: one of `terms.PROMPTS`.
        template_options: of the chat template; see `prompts.bind_options`.
        keep: share of each matrix's weights that the shard keeps.
        batch_tokens: the most tokens of a batch; None takes what fits into memory.
        dtype, device: see `models.load_model`.

    Raises:
        UncoupleError: bad input, a loss head that is not known, one layer that does not fit into memory, or a gradient
            that is not finite (names layer and sample).
    """
    record, config = model_record(model_folder), check_folder(model_folder)
    names = target_names(config, module, first, last)
    table, samples_record = read_table(samples_path, SAMPLES)
    samples = table.to_pylist()
    tokenizer, prompt = load_tokenizer(model_folder, prompt, template_options)
    encoded = encode_samples(tokenizer, samples, prompt, config["max_position_embeddings"])
    # A tokenizer takes as much as a hundred tokens of a batch.
    del tokenizer
    release_memory()
    lengths = [len(e.ids) for e in encoded]
    devices = pick_devices(device)
    skeleton = make_skeleton(config, pick_dtype(config, dtype, devices[0]))
    plan = plan_scoring(
        skeleton,
        names,
        devices[0].type,
        min(free_memory(d) for d in devices),
        max(lengths),
        batch_tokens,
        len(devices),
    )
    say(f"score: plan: {plan}")
    model = load_model(model_folder, dtype, device)
    check_head(model)
    together = longest_together(model.config)
    batches = pack_samples(encoded, [sample["id"] for sample in samples], plan.batch_tokens, together)
    cut = sum(e.cut > 0 for e in encoded)
    say(
        f"score: {len(encoded)} samples, {sum(lengths):,} tokens in {len(batches)} batches, {len(names)} matrices, "
        f"{model.dtype} on {model.device}"
    )
    if cut:
        say(f"score: {cut} responses were longer than the model's window and were cut")
    tops, matrices = score_model(model, names, batches, keep, plan.passes)
    metadata = {
        "model": {k: record[k] for k in ("name", "source", "fingerprint", "tokenizer")},
        "samples": {k: samples_record.get(k) for k in ("dimension", "label", "n", "seed", "source", "fingerprint")},
        "layers": [split_name(names[0])[1], split_name(names[-1])[1]],
        "module": module,
        "prompt": vars(prompt),
        "keep": keep,
        "dtype": str(model.dtype).removeprefix("torch."),
        "tokens": sum(lengths),
        "responses_cut": cut,
        "matrices": matrices,
    }
    write_shard(output, tops, metadata)


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
            scores = gradients.pop(name).mul_(layer.weight.abs().to(ACCUMULATOR_DTYPE)).cpu().contiguous()
            total = float(scores.sum(dtype=torch.float64))
            if not math.isfinite(total):
                raise UncoupleError(f"{name}: a score is not finite. Score in float32 (--dtype), or mend its weights.")
            levels = count_levels(scores)
            tops[name] = top_entries(scores, keep, levels)
            matrices[name] = {"shape": list(scores.shape), "sum": total, "quantiles": find_quantiles(levels)}
    # A shard does not depend on its passes.
    return {name: tops[name] for name in names}, {name: matrices[name] for name in names}
