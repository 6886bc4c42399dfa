"""Samples behind one another in one sequence, so that no token of a batch is padding, and the loss of each."""

import functools
import math
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch.nn.functional import gelu, silu
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from uncouple.errors import UncoupleError
from uncouple.kernels import Ragged

# The head's output for one token is as wide as the vocabulary, so it is made for this many bytes of tokens at a time.
HEAD_BYTES = {"cpu": 16 * 10**6, "cuda": 256 * 10**6}
ATTENTION, META_ATTENTION = "uncouple_packed", "uncouple_skeleton_{kind}"
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
    return min((limit for limit, _ in _stretches(config)), default=None)


def is_stretched_anew(config, length):
    """Whether the positions of a text of so many tokens are others than they were when it had one token less.

    With longrope they change once, past the original window, and with `dynamic` from there on at each token. Keys that
    were kept from before are wrong then.
    """
    return any(length == limit + 1 or (kind == "dynamic" and length > limit) for limit, kind in _stretches(config))


def _stretches(config):
    """(tokens up to which positions are as they are, kind) of each rotary embedding that stretches them."""
    parameters = getattr(config, "rope_parameters", None) or {}
    # Some models have one set a kind of layer.
    sets = parameters.values() if all(isinstance(value, dict) for value in parameters.values()) else [parameters]
    return [
        (rope.get("original_max_position_embeddings") or config.max_position_embeddings, rope["rope_type"])
        for rope in sets
        if rope.get("rope_type") in ("longrope", "dynamic")
    ]


@contextmanager
def pack_attention(model, kind="cpu"):
    """Make a model's attention see each sample of a packed batch alone; on the meta device, only take up the room that
    it takes up on a device of a kind, `cpu` or `cuda`."""
    before = model.config._attn_implementation
    model.set_attn_implementation(META_ATTENTION.format(kind=kind) if model.device.type == "meta" else ATTENTION)
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
    elif _needs_a_head_each(query, key, query.device.type):
        key, value = _repeat_heads(query, key, value)
        module = SimpleNamespace(is_causal=module.is_causal)
    # Attention's result is laid out as its queries are: in the order that is wanted next, it is never copied.
    query = query.transpose(1, 2).contiguous().transpose(1, 2)
    window, outputs = options.get("sliding_window"), []
    for q, k, v in zip(*(states.split(cu_seq_lens_q, 2) for states in (query, key, value)), strict=True):
        mask, tokens = None, q.shape[2]
        if softcap or (window and tokens > window):
            mask = _make_mask(tokens, window or tokens, q.dtype, q.device)
        outputs.append(attend(module, q, k, v, mask, **options)[0])
    return (outputs[0] if len(outputs) == 1 else Join.apply(*outputs)), None


def _needs_a_head_each(query, key, kind):
    """Whether keys must be repeated for a fused kernel to serve: a GPU's only one for float32 takes no grouped heads in
    many versions of torch, which then keep the weights of all pairs of tokens."""
    return kind == "cuda" and query.dtype == torch.float32 and key.shape[1] != query.shape[1]


def _repeat_heads(query, key, value):
    """Keys and values for each head of the queries."""
    return (repeat_kv(states, query.shape[1] // key.shape[1]) for states in (key, value))


# Every layer of a batch asks for the same masks, and attention keeps them for the way back.
@functools.lru_cache(maxsize=16)
def _make_mask(tokens, window, dtype, device):
    """What is added to attention's logits so that a token sees itself and the `window - 1` before, (1, 1, n, n)."""
    place = torch.arange(tokens, device=device)
    behind = place[:, None] - place[None, :]
    seen = (behind >= 0) & (behind < window)
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)[None, None]


class Join(torch.autograd.Function):
    """Samples' results behind one another. It keeps the parts, as attention does, and so the whole need not be kept."""

    @staticmethod
    def forward(ctx, *parts):
        ctx.save_for_backward(*parts)
        ctx.lengths = [part.shape[1] for part in parts]
        return torch.cat(parts, 1)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.split(ctx.lengths, 1)


class _KeepsWhatAttentionKeeps(torch.autograd.Function):
    """Attention without its numbers: a fused kernel keeps queries, keys, values and its result."""

    @staticmethod
    def forward(ctx, query, key, value):
        result = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
        ctx.save_for_backward(query, key, value, result)
        return result


def _meta_attention(module, query, key, value, attention_mask, *, kind, **options):
    if options.get("softcap"):
        return packed_attention(module, query, key, value, attention_mask, **options)
    if _needs_a_head_each(query, key, kind):
        key, value = _repeat_heads(query, key, value)
    return _KeepsWhatAttentionKeeps.apply(query, key, value), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, packed_attention)
for _kind in HEAD_BYTES:
    ALL_ATTENTION_FUNCTIONS.register(META_ATTENTION.format(kind=_kind), functools.partial(_meta_attention, kind=_kind))


def _make_product(node):
    factors = [node._saved_self, node._saved_other]
    for place, factor in enumerate(factors):
        if factor is None:
            factors[place] = _make(node.next_functions[place][0])
    return factors[0] * factors[1]


# Results that are as quickly made again, bit for bit, from what their node of the graph keeps anyway. In a decoder
# layer with a gated MLP these are both norms' outputs, attention's result, the activation and its product with the
# other half: every third byte that a batch would keep.
_MAKE_AGAIN = {
    "MulBackward0": _make_product,
    "SiluBackward0": lambda node: silu(node._saved_self),
    "GeluBackward0": lambda node: gelu(node._saved_self, approximate=node._saved_approximate),
    "JoinBackward": lambda node: torch.cat(node.saved_tensors, 1),
}


def _make(node):
    return _MAKE_AGAIN[type(node).__name__](node)


def _can_make(node):
    kind = type(node).__name__
    if kind == "MulBackward0":
        # Beside a factor that needs no gradient, the other one is not kept: it must be made again as well.
        parents = [parent for parent, _ in node.next_functions]
        return None not in parents or any(_can_make(parent) for parent in parents if parent)
    return kind in _MAKE_AGAIN


@dataclass(frozen=True)
class Recipe:
    """A tensor that is not kept but made again: the node of the graph that can do it, and the tensor's shape."""

    node: object
    shape: tuple


def lighten(tensor):
    """The recipe of a tensor that is cheap to make again, else the tensor, detached: attached, a result that its own
    node keeps would keep the node, and neither would ever be freed after a failure."""
    node = tensor.grad_fn
    while type(node).__name__ == "ViewBackward0":
        node = node.next_functions[0][0]
    return Recipe(node, tensor.shape) if _can_make(node) else tensor.detach()


def make_again(kept):
    """The tensor that `lighten` was given, detached."""
    if isinstance(kept, torch.Tensor):
        return kept
    with torch.no_grad():
        return _make(kept.node).view(kept.shape)


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


def backward(model, batch, scaling=None):
    """Forward and backward pass of the sum, over the batch's samples, of their mean response loss.

    The loss head sees the positions that predict response tokens alone, and a part of them at a time.

    Args:
        batch: `Batch`.
        scaling: `scaling.Scaling` of the batch, or None to multiply no gradient.

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
    hidden.backward(_loss_gradient(model, hidden.detach(), batch, scaling))


def _loss_gradient(model, hidden, batch, scaling):
    """Gradient of the batch's loss with respect to the last hidden states, (tokens, hidden).

    That of cross-entropy is softmax less one at the target: made in the place of the logits, which are the widest
    tensor of all.
    """
    head, softcap = model.get_output_embeddings(), _softcap(model)
    picked, targets, share, start = [], [], [], 0
    factors = scaling.head_factors if scaling else [1] * len(batch.rows)
    for row, factor in zip(batch.rows, factors, strict=True):
        # Position t predicts token t + 1.
        picked += range(start + row.start - 1, start + len(row.ids) - 1)
        targets += row.ids[row.start :]
        share += [factor / (len(row.ids) - row.start)] * (len(row.ids) - row.start)
        start += len(row.ids)
    gradient = torch.zeros_like(hidden)
    finite = []
    values = (torch.tensor(values, device=hidden.device) for values in (picked, targets, share))
    for logits, positions, tokens, weights in logits_in_parts(model, hidden, *values):
        tokens, weights = tokens[:, None], weights[:, None]
        if softcap:
            slope = 1 - (logits / softcap).square()
        finite.append(logits.gather(1, tokens).isfinite())
        torch.softmax(logits, 1, out=logits)
        finite[-1] &= logits.gather(1, tokens).isfinite()
        logits.mul_(weights).scatter_add_(1, tokens, -weights)
        if softcap:
            logits.mul_(slope)
        gradient[positions] = (logits.to(head.weight.dtype) @ head.weight).to(gradient.device)
    if not (finite := torch.cat(finite)).all():
        place = picked[int((~finite).nonzero()[0, 0])]
        raise UncoupleError(f"sample {sample_at(batch, place)}: its loss is not finite. {NOT_FINITE}")
    return scaling.fit(gradient) if scaling else gradient


def logits_in_parts(model, hidden, positions, *others):
    """Logits for as many tokens at a time as `HEAD_BYTES` takes.

    Args:
        model: a causal language model.
        hidden: its last hidden states, (tokens, hidden).
        positions: int64 (n,), the tokens whose logits are wanted.
        others: tensors (n, ...) that go with the positions.

    Yields:
        (logits float32 (part, vocabulary), positions (part,), and each of the others (part, ...), on the logits'
        device). The logits may be written over.
    """
    head, softcap = model.get_output_embeddings(), _softcap(model)
    count = math.ceil(4 * head.weight.shape[0] * len(positions) / HEAD_BYTES[head.weight.device.type])
    for part, *along in zip(*(values.tensor_split(count) for values in (positions, *others)), strict=True):
        logits = head(hidden[part]).float()
        if softcap:
            logits = logits.div_(softcap).tanh_().mul_(softcap)
        yield logits, part, *(values.to(logits.device) for values in along)


def check_head(model):
    """That `logits_in_parts` gives the model's own logits, tried on a few tokens.

    Raises:
        UncoupleError: it does not: the model's head does more than multiply and cap.
    """
    embeddings = model.get_input_embeddings().weight
    ids = torch.linspace(0, len(embeddings) - 1, 8, device=embeddings.device).long()
    with torch.no_grad():
        truth = model(input_ids=ids[None], use_cache=False).logits[0].float()
        hidden = model.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0]
        # A model that is spread over several GPUs gives these on another one than it takes the tokens on.
        positions = torch.arange(len(ids), device=hidden.device)
        found = torch.cat([logits for logits, _ in logits_in_parts(model, hidden, positions)])
    error = float(torch.linalg.norm(found.to(truth.device) - truth) / torch.linalg.norm(truth))
    # Logits that are not finite are another fault, which is told with its sample or window.
    if error > 4 * torch.finfo(model.dtype).eps + 1e-5:
        raise UncoupleError(
            f"architecture {model.config.model_type!r}: its loss head does more than its weights say, such as to scale "
            f"or to cap the logits: those made here are off by {error:.1%}, and so would be scores and perplexity. "
            "Declare what it does in uncouple/packing.py, or take another model."
        )


def _softcap(model):
    return getattr(model.config, "final_logit_softcapping", None)


def sample_at(batch, place):
    """The id of the sample whose token stands at a place of a packed batch."""
    for number, length in enumerate(batch.ragged.lengths):
        if place < length:
            return batch.ids[number]
        place -= length
    raise IndexError(place)
