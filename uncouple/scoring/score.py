"""Importance scores: abs(W) x sum over samples of abs(dL_s/dW), for all layers of a shard in one pass."""

import math

import numpy as np
import torch

from uncouple.errors import UncoupleError
from uncouple.models.attention import pack_attention
from uncouple.models.batching import make_batches
from uncouple.models.devices import fixed_order, free_memory, is_out_of_memory, pick_devices, release_memory
from uncouple.models.families import find_linear_layers, split_name, target_names
from uncouple.models.folders import check_folder, model_record
from uncouple.models.head import check_head
from uncouple.models.load import load_model, load_tokenizer, pick_dtype
from uncouple.models.prompts import encode_samples
from uncouple.models.rope import longest_together
from uncouple.models.skeleton import make_skeleton, read_config
from uncouple.progress import Progress, say
from uncouple.records.files import read_table
from uncouple.scoring.kernels import ACCUMULATOR_DTYPE, add_abs_products, new_sums
from uncouple.scoring.memory import plan_scoring
from uncouple.scoring.packing import NOT_FINITE, Batch, backward, sample_at
from uncouple.scoring.recompute import Recipe, lighten, make_again
from uncouple.scoring.scaling import Scaling, largest_of_each
from uncouple.scoring.shards import about_model, about_samples, top_count, write_shard

QUANTILES = (0.5, 0.9, 0.99, 0.999, 0.9999)
OTHER_DTYPE = "Score in float32 or bfloat16 (--dtype)."
_LEVEL_BITS = 12


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
    table, samples_record = read_table(samples_path, "samples")
    samples = table.to_pylist()
    tokenizer, prompt = load_tokenizer(model_folder, prompt, template_options)
    encoded = encode_samples(tokenizer, samples, prompt, config["max_position_embeddings"])
    # A tokenizer takes as much as a hundred tokens of a batch.
    del tokenizer
    release_memory()
    lengths = [len(e.ids) for e in encoded]
    devices = pick_devices(device)
    skeleton = make_skeleton(read_config(model_folder), pick_dtype(config, dtype, devices[0]))
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
        "model": about_model(record),
        "samples": about_samples(samples_record),
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


def score_model(model, names, batches, keep, passes=None):
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


def pack_samples(encoded, ids, batch_tokens, together=None):
    """Encoded samples as a list of `packing.Batch`.

    Args:
        ids: the samples' ids.
        batch_tokens: the most tokens of a batch of several samples.
        together: the most tokens of a sample that may share a batch; see `packing.longest_together`.
    """
    # A sample that must be alone is made as long as a batch for the count.
    lengths = [max(n, batch_tokens) if together and n > together else n for n in (len(e.ids) for e in encoded)]
    groups = make_batches(lengths, batch_tokens)
    return [Batch(tuple(encoded[i] for i in group), tuple(ids[i] for i in group)) for group in groups]


def accumulate_gradients(model, names, batches):
    """Sum over samples of the absolute gradient of each sample's loss, for each named linear layer.

    One forward and one backward pass a batch serve all layers. The loss of a sample depends on its own tokens
    alone, so with a layer's input X_s and the gradient G_s of its output, dL_s/dW = G_s^T X_s.

    Where memory runs out, the batch is halved, and so is each later one of its size; what was added stays. In float16
    gradients are scaled, and a batch is done again for the layers whose gradients did not fit; see `scaling.Scaling`.

    Args:
        model: a causal language model whose parameters need no gradient.
        names: full names of linear layers.
        batches: `packing.Batch`es.

    Returns:
        dict of name to float32 (out, in), on the device of its layer.

    Raises:
        UncoupleError: a loss or gradient is not finite: names layer and sample; or one sample alone does not fit.
    """
    layers = find_linear_layers(model, names)
    total = sum(batch.ragged.tokens for batch in batches)
    blocks = model.get_submodule(split_name(names[0])[0].rpartition(".")[0])
    # A batch that ran out of memory on its way back has been added to the layers that it had come through.
    waiting, limit = [(batch, frozenset(), 0) for batch in reversed(batches)], None
    progress = Progress(total, "tokens", "score")
    with fixed_order(model.device), pack_attention(model), _Hooks(layers, blocks) as hooks, progress:
        while waiting:
            batch, added, attempt = waiting.pop()
            if limit and batch.ragged.tokens > limit and len(batch.rows) > 1:
                waiting += [(half, added, attempt) for half in reversed(batch.halves())]
                continue
            hooks.start(batch, added, Scaling(batch, attempt) if model.dtype == torch.float16 else None)
            try:
                backward(model, batch, hooks.scaling)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch.rows) == 1:
                    raise UncoupleError(
                        f"sample {batch.ids[0]} alone ({batch.ragged.tokens} tokens) does not fit in memory ({error}). "
                        "Score fewer layers at once (--layers), in half precision (--dtype), or remove the sample."
                    ) from None
                # Not here: the error holds the frames, and so the tensors, of the pass that failed.
                failed = True
            else:
                failed = False
            if failed:
                limit = batch.ragged.tokens // 2
                say(f"score: out of memory at {batch.ragged.tokens} tokens; goes on with {limit} and less")
                hooks.forget()
                release_memory()
                waiting.append((batch, hooks.added, attempt))
                continue
            hooks.check()
            if left := [name for name in layers if name not in hooks.added]:
                if not hooks.scaling or hooks.scaling.is_last:
                    raise UncoupleError(f"{left[0]}: no gradient reaches it. Score other layers (--layers, --module).")
                waiting.append((batch, hooks.added, attempt + 1))
                continue
            progress.add(batch.ragged.tokens)
    if model.dtype == torch.float16 and (nothing := [name for name, sums in hooks.sums.items() if not sums.any()]):
        raise UncoupleError(f"{nothing[0]}: its gradients vanish in float16. {OTHER_DTYPE}")
    return hooks.sums


def count_levels(scores):
    """How many entries of a matrix are on each level: what their leading 20 bits say, a step of 2**-11 of the value.

    Floats that are not negative have the order of their bits, so one count serves the top entries and the quantiles.

    Args:
        scores: float32 tensor, on the CPU, finite and not negative.

    Returns:
        int64 array, by level: how many entries are on it or below.
    """
    return torch.bincount(scores.reshape(-1).view(torch.int32) >> _LEVEL_BITS).numpy().cumsum()


def top_entries(scores, keep, levels):
    """The top floor(keep * N) entries of a matrix.

    Args:
        scores: float32 tensor of N entries, on the CPU, finite and not negative.
        keep: share of the entries.
        levels: what `count_levels` gives for them.

    Returns:
        (int64 (k,), float32 (k,)): flat row-major indices and scores, by score descending, ties by index ascending.
    """
    flat = scores.reshape(-1).numpy()
    count = top_count(keep, flat.size)
    # The level of the least of the top; what lies above its floor is little more than the top.
    floor = _floor_of(np.searchsorted(levels, flat.size - count, side="right")) if count else math.inf
    index = np.flatnonzero(flat >= floor)
    order = np.argsort(-flat[index], kind="stable")[:count]
    return index[order], flat[index[order]]


def find_quantiles(levels):
    """Quantiles, rounded down to their level, of the scores that `count_levels` has counted: dict of text to float."""
    places = [int(q * (levels[-1] - 1)) for q in QUANTILES]
    floors = _floor_of(np.searchsorted(levels, places, side="right"))
    return {str(q): float(floor) for q, floor in zip(QUANTILES, floors, strict=True)}


def _floor_of(level):
    """The least float32 on a level."""
    return (np.asarray(level, np.int32) << _LEVEL_BITS).view(np.float32)


class _Hooks:
    """Catches each layer's input and the gradient of its output, and adds each sample's product to the layer's sums."""

    def __init__(self, layers, blocks):
        self.layers, self.blocks = layers, blocks
        self.sums = {name: new_sums(layer.weight) for name, layer in layers.items()}
        self.handles, self.scratch = [], {}

    def __enter__(self):
        self.handles = [layer.register_forward_hook(self._catch(name)) for name, layer in self.layers.items()]
        self.handles += [block.register_forward_hook(self._catch_block) for block in self.blocks]
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()

    def start(self, batch, added, scaling):
        """Get ready for a batch that has been added to some layers already."""
        self.batch, self.ragged, self.added, self.scaling = batch, batch.ragged, added, scaling
        self.inputs, self.finite = {}, {}
        self.made = None, None

    def forget(self):
        self.inputs.clear()
        self.finite.clear()
        self.made = None, None

    def check(self):
        """An error if a gradient of the batch was not finite. Once a batch, since a GPU must be waited for."""
        for name, marks in self.finite.items():
            if not bool(torch.isfinite(marks).all()):
                place = int((~torch.isfinite(marks)).nonzero()[0])
                sample = sample_at(self.batch, place)
                raise UncoupleError(f"{name}, sample {sample}: a gradient is not finite. {NOT_FINITE}")

    def _catch_block(self, _, inputs, output):
        states = output[0] if isinstance(output, tuple) else output
        if self.scaling and states.requires_grad:
            states.register_hook(self.scaling.fit)

    def _catch(self, name):
        def catch_input(_, inputs, output):
            # Nothing below the lowest scored layers needs a gradient: the graph, and the way back, begin there.
            if not output.requires_grad:
                output.requires_grad_()
            self.inputs[name] = lighten(inputs[0])
            output.register_hook(lambda g: self._add(name, g))

        return catch_input

    def _add(self, name, g):
        kept, g = self.inputs.pop(name), g.flatten(0, -2)
        if not self.scaling:
            self.finite[name] = g.sum(-1, dtype=ACCUMULATOR_DTYPE)
        if name in self.added or (self.scaling and not self._fits(name, g)):
            return
        if isinstance(kept, Recipe):
            # Layers that share an input share its recipe, and their gradients come one after another.
            if kept != self.made[0]:
                self.made = kept, make_again(kept)
            kept = self.made[1]
        factors = self.scaling.undo() if self.scaling else None
        add_abs_products(self.sums[name], g, kept.flatten(0, -2), self.ragged, self.scratch, factors)
        self.added |= {name}

    def _fits(self, name, g):
        """Whether a scaled gradient may be added, or the batch is to be tried again; an error where that was the last.

        A GPU is waited for here, which takes little beside the layer's product.
        """
        misfits = self.scaling.find_misfits(largest_of_each(g))
        if not bool(misfits.any()):
            return True
        if self.scaling.is_last:
            sample = sample_at(self.batch, int(misfits.nonzero()[0]))
            raise UncoupleError(
                f"{name}, sample {sample}: its gradient does not fit into float16, however it is scaled. {OTHER_DTYPE}"
            )
        return False
