"""What acts on prompts alone, and is told where they are before each forward pass that has some.

A forward pass sees tokens, and not which of them are a prompt's. Whoever runs one over prompts says so by `prompts_at`;
a model that nothing acts on has no use for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class OnPrompts(Protocol):
    """What acts on the prompts of a model's forward passes."""

    def on(self, prompt: Tensor) -> AbstractContextManager[None]:
        """Act in the forward passes of the block.

        Args:
            prompt: bool (batch, tokens), which tokens of each of them are a prompt's.
        """
        ...


_ACTING: WeakKeyDictionary[PreTrainedModel, OnPrompts] = WeakKeyDictionary()


@contextmanager
def acting(model: PreTrainedModel, what: OnPrompts) -> Iterator[None]:
    """Have `prompts_at` tell something of a model's prompts, in the block."""
    _ACTING[model] = what
    try:
        yield
    finally:
        del _ACTING[model]


def acts_on_prompts(model: PreTrainedModel) -> bool:
    """Whether something does, so that each prompt must be run as a whole: a beginning that many share is none."""
    return model in _ACTING


def prompts_at(model: PreTrainedModel, find: Callable[[], Tensor]) -> AbstractContextManager[None]:
    """Say for the forward passes of the block where their prompts are.

    Args:
        model: a causal language model.
        find: gives bool (batch, tokens), see `OnPrompts.on`; asked where something acts on prompts.
    """
    return _ACTING[model].on(find()) if model in _ACTING else nullcontext()


def packed_prompts(texts: Sequence[Sequence[int]], prompts: Sequence[int]) -> Tensor:
    """Which tokens of texts behind one another, bool (1, tokens), are of prompts, each a text's first ones.

    Args:
        texts: lists of token ids.
        prompts: how many of each are its prompt's.
    """
    marks = [place < prompt for text, prompt in zip(texts, prompts, strict=True) for place in range(len(text))]
    return torch.tensor([marks])
