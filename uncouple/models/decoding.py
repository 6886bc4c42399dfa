"""Greedy decoding of many prompts at once: what they share is computed once, and what has ended is left out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from uncouple.models.batching import batches_by_length
from uncouple.models.prompt_places import acts_on_prompts, prompts_at
from uncouple.models.rope import is_stretched_anew, longest_together
from uncouple.progress import Progress

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# Keys and values of each layer.
Prefix = list[tuple[Tensor, Tensor]]
GROUPED = "uncouple_grouped"
# Logits nearer than this share of the largest are in doubt: another order of sums may swap them. With SmolLM2-135M two
# orders differ by at most a seventh of it.
NEAR = 1e-5


class Reply(Protocol):
    """What `decode` tells a reply of."""

    def take(self, token: int, logits: Tensor | None, sure: bool) -> bool:
        """Take the likeliest token, and say whether the reply goes on.

        Args:
            token: its id.
            logits: those of all tokens (vocabulary,), None where it is known without.
            sure: whether it is likeliest `beyond_doubt`.
        """
        ...


def decode(
    model: PreTrainedModel,
    encoded: Sequence[list[int]],
    replies: Sequence[Reply],
    max_new_tokens: int,
    batch_size: int,
    unit: str,
    label: str,
) -> int:
    """Reply to prompts with the likeliest token, again and again.

    In float32 a reply does not depend on what else is in the batch, and is that of one prompt at a time.

    Args:
        model: a causal language model.
        encoded: the prompts, lists of token ids, none of them empty.
        replies: one for each.
        max_new_tokens: after so many tokens no reply goes on.
        batch_size: prompts at once.
        unit, label: of the progress.

    Returns:
        how many tokens, at the beginning of all prompts, were computed once.
    """
    if not encoded:
        return 0
    bound = _longest_prompt(model.config, max_new_tokens)
    # Positions of a longer prompt are stretched from its first token on.
    is_stretched = bool(bound and max(map(len, encoded)) > bound)
    shared = 0 if is_stretched or acts_on_prompts(model) else shared_length(encoded)
    with torch.inference_mode(), _ready(model), Progress(len(encoded), unit, label) as progress:
        prefix = compute_prefix(model, encoded[0][:shared])
        for batch in batches_of(model.config, encoded, max_new_tokens, batch_size):
            prompts, waiting = [encoded[i] for i in batch], [replies[i] for i in batch]
            if bound and len(batch) == 1:
                # With `dynamic` positions a model keeps those of its longest text until it sees a short one.
                compute_prefix(model, prompts[0][:1])
            _decode_batch(model, prompts, waiting, prefix, shared, max_new_tokens)
            progress.add(len(batch))
    return shared


def batches_of(
    config: PreTrainedConfig, encoded: Sequence[Sequence[int]], max_new_tokens: int, batch_size: int
) -> list[list[int]]:
    """The batches that `decode` makes: lists of places in `encoded`.

    Args:
        config: of the model.
        encoded, max_new_tokens, batch_size: see `decode`.
    """
    return batches_by_length(encoded, batch_size, _longest_prompt(config, max_new_tokens))


def _longest_prompt(config: PreTrainedConfig, max_new_tokens: int) -> int | None:
    """The most tokens of a prompt that may share a batch, with room for its reply; None where there is no bound."""
    bound = longest_together(config)
    return bound and max(1, bound - max_new_tokens)


def stop_tokens(generation_config: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end a reply: those of the model's own generation config and the tokenizer's, a set of int."""
    stops = generation_config.eos_token_id
    return {*(stops if isinstance(stops, list) else [stops]), tokenizer.eos_token_id} - {None}


def shared_length(encoded: Sequence[list[int]]) -> int:
    """How many tokens all of some texts begin with, less one where a text would have none left to ask after."""
    return min(len(os.path.commonprefix(encoded)), min(map(len, encoded)) - 1)


def beyond_doubt(logits: Tensor, tokens: Tensor) -> Tensor:
    """Which tokens no other order of sums would replace.

    Args:
        logits: (n, vocabulary).
        tokens: int64 (n,).

    Returns:
        bool (n,), whether each is the likeliest by more than `NEAR` of the row's largest logit.
    """
    own = logits.gather(1, tokens[:, None])[:, 0]
    other = logits.scatter(1, tokens[:, None], float("-inf")).amax(1)
    return own - other > NEAR * logits.abs().amax(1)


@contextmanager
def _ready(model: PreTrainedModel) -> Iterator[None]:
    """The model with attention in groups, and without a detour that the loss head makes on a CPU."""
    before = model.config._attn_implementation
    # Only a model's own form of attention caps its logits.
    if before == "sdpa":
        model.set_attn_implementation(GROUPED)
    # Of the last position of many, a strided view, torch would multiply the weights once a row.
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: inputs[0].contiguous())
    try:
        yield
    finally:
        handle.remove()
        model.set_attn_implementation(before)


def grouped_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention where several heads share keys and values, which are not repeated for it; a function in transformers'
    sense.

    The queries of a group's heads are made one longer row of queries. With one new token a row, attention is mostly the
    reading of keys and values.

    Args:
        query: (batch, heads, tokens, head size).
        key, value: (batch, groups, all tokens, head size).
        attention_mask: bool (batch, 1, tokens, all tokens).

    Returns:
        ((batch, tokens, heads, head size), None).
    """
    batch, heads, tokens, _ = query.shape
    groups = key.shape[1]
    query = query.reshape(batch, groups, heads // groups * tokens, -1)
    mask = attention_mask.repeat(1, 1, heads // groups, 1)
    result = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return result.reshape(batch, heads, tokens, -1).transpose(1, 2).contiguous(), None


def _whole_mask(*arguments: Any, **options: Any) -> Tensor:
    # Groups hide from torch which tokens come after which, so the mask must say it.
    return sdpa_mask(*arguments, **options | {"allow_is_causal_skip": False})


ALL_ATTENTION_FUNCTIONS.register(GROUPED, grouped_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(GROUPED, _whole_mask)


def compute_prefix(model: PreTrainedModel, ids: list[int]) -> Prefix:
    """Keys and values of a prefix by layer, (1, heads, tokens, head size) each."""
    if not ids:
        return []
    # Without a config the cache keeps the whole prefix, also where a layer sees only a sliding window of it.
    cache = DynamicCache()
    model(input_ids=torch.tensor([ids], device=model.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return [(layer.keys, layer.values) for layer in cache.layers]


def _repeat_prefix(prefix: Prefix, gaps: list[int], shared: int) -> DynamicCache:
    """A cache with the prefix in each row of a batch, as far to the right as the row's padding; that part is masked."""
    cache = DynamicCache()
    places = (torch.arange(shared)[None, :] - torch.tensor(gaps)[:, None]).clamp_(min=0)
    for number, states in enumerate(prefix):
        moved = (state[0][:, places.to(state.device)].transpose(0, 1) for state in states)
        cache.update(*moved, number)
    return cache


def _decode_batch(
    model: PreTrainedModel,
    batch: list[list[int]],
    waiting: list[Reply],
    prefix: Prefix,
    shared: int,
    max_new_tokens: int,
) -> None:
    """Replies to a few prompts whose first `shared` tokens are the prefix's.

    The prompts are padded on the left, before the prefix: then every row ends in the same column, no padding is inside
    a row to upset a sliding window, and in place of padding the end of the prefix is computed again.

    A text that may grow past where its positions are stretched is alone, without a prefix; there it is computed again.
    """
    width = max(map(len, batch))
    gaps = [width - len(ids) for ids in batch]
    cache = _repeat_prefix(prefix, gaps, shared)
    # Padding is masked, so any token does.
    ids = torch.tensor([[0] * gap + row for gap, row in zip(gaps, batch, strict=True)], device=model.device)
    mask = torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps], device=model.device)
    positions = (mask.cumsum(1) - 1).clamp_(min=0)[:, shared:]
    whole, ids, prompts = ids, ids[:, shared:], mask[:, shared:].bool()
    for step in range(max_new_tokens):
        options = {"attention_mask": mask, "position_ids": positions, "past_key_values": cache, "use_cache": True}
        # Later passes are of one new token; or, of a text that is alone, of all its tokens again.
        has_prompts, after = not step or ids.shape[1] > 1, ids.shape[1] - prompts.shape[1]
        with prompts_at(model, partial(pad, prompts, (0, after))) if has_prompts else nullcontext():
            logits = model(input_ids=ids, logits_to_keep=1, **options).logits[:, -1]
        likeliest = logits.argmax(-1)
        tokens, sure = likeliest.tolist(), beyond_doubt(logits, likeliest).tolist()
        places = [i for i, reply in enumerate(waiting) if reply.take(tokens[i], logits[i], sure[i])]
        if not places:
            break
        if len(places) < len(waiting):
            chosen = torch.tensor(places)
            cache.batch_select_indices(chosen)
            mask, positions, waiting = mask[chosen], positions[chosen], [waiting[i] for i in places]
        ids = torch.tensor([[tokens[i]] for i in places], device=model.device)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        positions = positions[:, -1:] + 1
        if len(batch) == 1:
            whole = torch.cat([whole, ids], 1)
            if is_stretched_anew(model.config, whole.shape[1]):
                cache, ids, positions = DynamicCache(), whole, mask.cumsum(1) - 1
