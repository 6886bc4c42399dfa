"""Attention of a packed batch: each sample sees itself alone."""

import functools
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel

from uncouple.models.families import family_of
from uncouple.models.head import HEAD_BYTES
from uncouple.models.prompt_places import packed_prompts, prompts_at

ATTENTION, META_ATTENTION = "uncouple_packed", "uncouple_skeleton_{kind}"


@contextmanager
def pack_attention(model: PreTrainedModel, kind: str = "cpu") -> Iterator[None]:
    """Make a model's attention see each sample of a packed batch alone; on the meta device, only take up the room that
    it takes up on a device of a kind, `cpu` or `cuda`.

    Raises:
        UncoupleError: the architecture is not declared: what its attention does besides would be lost.
    """
    family_of(model)
    before = model.config._attn_implementation
    model.set_attn_implementation(META_ATTENTION.format(kind=kind) if model.device.type == "meta" else ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def run_packed(
    model: PreTrainedModel,
    texts: Sequence[list[int]],
    prefix: Sequence[tuple[Tensor, Tensor]] = (),
    shared: int = 0,
    prompts: Sequence[int] = (),
) -> Tensor:
    """The last hidden states of texts behind one another, (tokens, hidden); see `pack_attention`, which must hold.

    Args:
        model: a causal language model.
        texts: lists of token ids, without the prefix.
        prefix: keys and values of what all texts go on from, by layer; see `decoding.compute_prefix`.
        shared: tokens of the prefix.
        prompts: how many of each text's first tokens are a prompt's, for what acts on prompts; none where nothing is
            said.
    """
    lengths, cache = [len(text) for text in texts], DynamicCache()
    for layer, states in enumerate(prefix):
        cache.update(*states, layer)
    device = model.get_input_embeddings().weight.device
    ids = torch.tensor([[token for text in texts for token in text]], device=device)
    positions = torch.cat([torch.arange(shared, shared + length, device=device) for length in lengths])[None]
    with prompts_at(model, lambda: packed_prompts(texts, prompts)) if prompts else nullcontext():
        return model.base_model(
            input_ids=ids, position_ids=positions, cu_seq_lens_q=lengths, past_key_values=cache, use_cache=True
        ).last_hidden_state[0]


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    cu_seq_lens_q: list[int],
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of transformers, sample by sample; an attention function in its sense.

    Args:
        query: (1, heads, tokens, head size).
        key, value: the same, behind those of a prefix that all samples go on from, if there is one.
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
    window, outputs, before = options.get("sliding_window"), [], key.shape[2] - query.shape[2]
    parts = (query.split(cu_seq_lens_q, 2), *(_split_behind(states, before, cu_seq_lens_q) for states in (key, value)))
    for q, k, v in zip(*parts, strict=True):
        mask, tokens = None, k.shape[2]
        if softcap or before or (window and tokens > window):
            mask = _make_mask(q.shape[2], tokens, window or tokens, q.dtype, q.device)
        outputs.append(attend(module, q, k, v, mask, **options)[0])
    return (outputs[0] if len(outputs) == 1 else Join.apply(*outputs)), None


def _needs_a_head_each(query: Tensor, key: Tensor, kind: str) -> bool:
    """Whether keys must be repeated for a fused kernel to serve: a GPU's only one for float32 takes no grouped heads in
    many versions of torch, which then keep the weights of all pairs of tokens."""
    return kind == "cuda" and query.dtype == torch.float32 and key.shape[1] != query.shape[1]


def _repeat_heads(query: Tensor, key: Tensor, value: Tensor) -> Iterator[Tensor]:
    """Keys and values for each head of the queries."""
    return (repeat_kv(states, query.shape[1] // key.shape[1]) for states in (key, value))


def _split_behind(states: Tensor, before: int, lengths: list[int]) -> Sequence[Tensor]:
    """States of each sample, each time behind the first `before`, which are those of the prefix."""
    if not before:
        return states.split(lengths, 2)
    prefix, *own = states.split([before, *lengths], 2)
    return [torch.cat([prefix, part], 2) for part in own]


# Every layer of a batch asks for the same masks, and attention keeps them for the way back.
@functools.lru_cache(maxsize=16)
def _make_mask(queries: int, tokens: int, window: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What is added to attention's logits so that each of a text's last tokens sees itself and the `window - 1` before,
    (1, 1, queries, tokens)."""
    place = torch.arange(tokens, device=device)
    behind = place[-queries:, None] - place[None, :]
    seen = (behind >= 0) & (behind < window)
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)[None, None]


class Join(torch.autograd.Function):
    """Samples' results behind one another. It keeps the parts, as attention does, and so the whole need not be kept."""

    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(*parts)
        ctx.lengths = [part.shape[1] for part in parts]
        return torch.cat(parts, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Sequence[Tensor]:
        return gradient.split(ctx.lengths, 1)


class _KeepsWhatAttentionKeeps(torch.autograd.Function):
    """Attention without its numbers: a fused kernel keeps queries, keys, values and its result."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
        ctx.save_for_backward(query, key, value, result)
        return result


def _meta_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, *, kind: str, **options: Any
) -> tuple[Tensor, None]:
    if options.get("softcap"):
        return packed_attention(module, query, key, value, attention_mask, **options)
    if _needs_a_head_each(query, key, kind):
        key, value = _repeat_heads(query, key, value)
    return _KeepsWhatAttentionKeeps.apply(query, key, value), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, packed_attention)
for _kind in HEAD_BYTES:
    ALL_ATTENTION_FUNCTIONS.register(META_ATTENTION.format(kind=_kind), functools.partial(_meta_attention, kind=_kind))
