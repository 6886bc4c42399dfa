"""Samples behind one another in one sequence, so that no token of a batch is padding, and the loss of each."""

import sys
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy, gelu, silu
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from uncouple.errors import UncoupleError
from uncouple.kernels import Ragged

# The head's output for one token is as wide as the vocabulary, so it is made for this many bytes of tokens at a time.
HEAD_BYTES = {"cpu": 2**23, "cuda": 2**28}
ATTENTION, META_ATTENTION = "uncouple_packed", "uncouple_skeleton"
NOT_FINITE = "Score in float32, or remove the sample."


def make_batches(lengths, batch_tokens):
    """Batches of sample numbers, each of at most `batch_tokens` tokens: each sample, longest first, goes where it fits.

    The first batches are the fullest, so that what does not fit in memory fails at once and not at the end. A sample
    longer than `batch_tokens` is a batch of its own.
    """
    batches, rooms = [], []
    for number in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = next((i for i, room in enumerate(rooms) if lengths[number] <= room), len(rooms))
        if place == len(rooms):
            batches.append([])
            rooms.append(batch_tokens)
        batches[place].append(number)
        rooms[place] -= lengths[number]
    return batches


def longest_together(config):
    """The most tokens of a sample that may share a batch, or None where there is no such bound.

    Rotary embeddings that depend on the longest position that they see (longrope, dynamic) would stretch the positions
    of the shorter samples.

    Args:
        config: of transformers.
    """
    parameters = getattr(config, "rope_parameters", None) or {}
    # Some models have one set a kind of layer.
    sets = parameters.values() if all(isinstance(value, dict) for value in parameters.values()) else [parameters]
    limits = [
        rope.get("original_max_position_embeddings") or config.max_position_embeddings
        for rope in sets
        if rope.get("rope_type") in ("longrope", "dynamic")
    ]
    return min(limits, default=None)


@contextmanager
def pack_attention(model):
    """Make a model's attention see each sample of a packed batch alone; on the meta device, only take up its room."""
    before = model.config._attn_implementation
    model.set_attn_implementation(META_ATTENTION if model.device.type == "meta" else ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def packed_attention(module, query, key, value, attention_mask, *, cu_seq_lens_q, **options):
    """Attention of transformers, sample by sample; an attention function in its sense.

    Args:
        query, key, value: (1, heads, tokens, head size).
        attention_mask: None; a packed batch needs none.
        cu_seq_lens_q: lengths of the samples.
        options: what the model's layer gives its attention.

    Returns:
        ((1, tokens, heads, head size), None).
    """
    attend, softcap = sdpa_attention_forward, options.get("softcap")
    if softcap:
        # Only the model's own form caps its logits.
        attend = sys.modules[type(module).__module__].eager_attention_forward
    window, outputs = options.get("sliding_window"), []
    for q, k, v in zip(*(states.split(cu_seq_lens_q, 2) for states in (query, key, value)), strict=True):
        mask, tokens = None, q.shape[2]
        if softcap or (window and tokens > window):
            place = torch.arange(tokens, device=q.device)
            behind = place[:, None] - place[None, :]
            seen = (behind >= 0) & (behind < (window or tokens))
            mask = torch.zeros_like(seen, dtype=q.dtype).masked_fill_(~seen, torch.finfo(q.dtype).min)[None, None]
        outputs.append(attend(module, q, k, v, mask, **options)[0])
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)), None


class _KeepsWhatAttentionKeeps(torch.autograd.Function):
    """Attention without its numbers: a fused kernel keeps queries, keys, values and its result."""

    @staticmethod
    def forward(ctx, query, key, value):
        result = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
        ctx.save_for_backward(query, key, value, result)
        return result


def _meta_attention(module, query, key, value, attention_mask, **options):
    if options.get("softcap"):
        return packed_attention(module, query, key, value, attention_mask, **options)
    # The samples' results are put together in a tensor of their own.
    return _KeepsWhatAttentionKeeps.apply(query, key, value).clone(), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, packed_attention)
ALL_ATTENTION_FUNCTIONS.register(META_ATTENTION, _meta_attention)


# Elementwise results that are as quickly made again, bit for bit, from what their node of the graph keeps anyway. In a
# gated MLP that is the activation and its product with the other half, two fifths of what a batch would keep.
_MAKE_AGAIN = {
    "MulBackward0": lambda node: node._saved_self * node._saved_other,
    "SiluBackward0": lambda node: silu(node._saved_self),
    "GeluBackward0": lambda node: gelu(node._saved_self, approximate=node._saved_approximate),
}


def lighten(tensor):
    """The node of the graph that can make a tensor again, where there is one that is cheap, else the tensor, detached:
    attached, a result that its own node keeps would keep the node, and neither would ever be freed after a failure."""
    node = tensor.grad_fn
    kind = type(node).__name__
    # A factor that needs no gradient makes its product forget the other one.
    if kind not in _MAKE_AGAIN or any(before is None for before, _ in node.next_functions):
        return tensor.detach()
    return node


def make_again(kept):
    """The tensor that `lighten` was given, detached."""
    if isinstance(kept, torch.Tensor):
        return kept
    with torch.no_grad():
        return _MAKE_AGAIN[type(kept).__name__](kept)


@dataclass(frozen=True)
class Batch:
    """A packed batch.

    Attributes:
        rows: list of `prompts.Encoded`.
        ids: the samples' ids, for errors.
    """

    rows: tuple
    ids: tuple

    @property
    def ragged(self):
        return Ragged(tuple(len(row.ids) for row in self.rows))

    def halves(self):
        middle = len(self.rows) // 2
        return Batch(self.rows[:middle], self.ids[:middle]), Batch(self.rows[middle:], self.ids[middle:])


def backward(model, batch):
    """Forward and backward pass of the sum, over the batch's samples, of their mean response loss.

    The loss head sees the positions that predict response tokens alone, and a part of them at a time.

    Raises:
        UncoupleError: a loss is not finite; names the sample.
    """
    lengths = batch.ragged.lengths
    ids = torch.tensor([[token for row in batch.rows for token in row.ids]])
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    device = model.get_input_embeddings().weight.device
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lighten, make_again):
        hidden = model.base_model(
            input_ids=ids.to(device), position_ids=positions.to(device), cu_seq_lens_q=list(lengths), use_cache=False
        ).last_hidden_state[0]
    hidden.backward(_loss_gradient(model, hidden.detach(), batch))


def _loss_gradient(model, hidden, batch):
    """Gradient of the batch's loss with respect to the last hidden states, (tokens, hidden)."""
    head, softcap = model.get_output_embeddings(), getattr(model.config, "final_logit_softcapping", None)
    picked, targets, share, start = [], [], [], 0
    for row in batch.rows:
        # Position t predicts token t + 1.
        picked += range(start + row.start - 1, start + len(row.ids) - 1)
        targets += row.ids[row.start :]
        share += [1 / (len(row.ids) - row.start)] * (len(row.ids) - row.start)
        start += len(row.ids)
    gradient = torch.zeros_like(hidden)
    step = max(1, HEAD_BYTES[head.weight.device.type] // (4 * head.weight.shape[0]))
    losses = []
    parts = (torch.tensor(values).to(hidden.device).split(step) for values in (picked, targets, share))
    for positions, tokens, weights in zip(*parts, strict=True):
        states = hidden[positions].requires_grad_()
        with torch.enable_grad():
            logits = head(states).float()
            if softcap:
                logits = torch.tanh(logits / softcap) * softcap
            loss = cross_entropy(logits, tokens.to(logits.device), reduction="none")
            gradient[positions] = torch.autograd.grad((loss * weights.to(loss.device)).sum(), states)[0]
        losses.append(loss.detach())
    if (bad := ~torch.isfinite(torch.cat(losses))).any():
        place = picked[int(bad.nonzero()[0])]
        raise UncoupleError(f"sample {sample_at(batch, place)}: its loss is not finite. {NOT_FINITE}")
    return gradient


def sample_at(batch, place):
    """The id of the sample whose token stands at a place of a packed batch."""
    for number, length in enumerate(batch.ragged.lengths):
        if place < length:
            return batch.ids[number]
        place -= length
    raise IndexError(place)
