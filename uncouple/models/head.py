"""The loss head: logits of some tokens at a time, as the model itself makes them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from uncouple.errors import UncoupleError
from uncouple.models.families import family_of

# The head's output for one token is as wide as the vocabulary, so it is made for this many bytes of tokens at a time.
HEAD_BYTES = {"cpu": 16 * 10**6, "cuda": 256 * 10**6}


@dataclass(frozen=True)
class LossHead:
    """How a model makes logits of its last hidden states, as its family declares it.

    Attributes:
        product: the head's linear layer.
        factor: its results are multiplied by this.
        cap: and then capped softly, or None.
    """

    product: nn.Module
    factor: float
    cap: float | None

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits, float32 (tokens, vocabulary), of hidden states (tokens, hidden)."""
        logits = self.product(hidden).float()
        if self.factor != 1:
            logits = logits.mul_(self.factor)
        if self.cap:
            logits = logits.div_(self.cap).tanh_().mul_(self.cap)
        return logits


def loss_head(model: PreTrainedModel) -> LossHead:
    """The loss head of a causal language model.

    Raises:
        UncoupleError: the architecture is not declared.
    """
    declared = family_of(model).head
    keys = (declared.factor, declared.divisor, declared.cap)
    factor, divisor, cap = (getattr(model.config, key) if key else None for key in keys)
    return LossHead(model.get_output_embeddings(), (factor or 1) / (divisor or 1), cap)


def logits_in_parts(
    model: PreTrainedModel, hidden: Tensor, positions: Tensor, *others: Tensor
) -> Iterator[tuple[Tensor, ...]]:
    """Logits for as many tokens at a time as `HEAD_BYTES` takes.

    Args:
        model: a causal language model of a family that is declared.
        hidden: its last hidden states, (tokens, hidden).
        positions: int64 (n,), the tokens whose logits are wanted.
        others: tensors (n, ...) that go with the positions.

    Yields:
        (logits float32 (part, vocabulary), positions (part,), and each of the others (part, ...), on the logits'
        device). The logits may be written over.
    """
    head = loss_head(model)
    weight = head.product.weight
    count = math.ceil(4 * weight.shape[0] * len(positions) / HEAD_BYTES[weight.device.type])
    for part, *along in zip(*(values.tensor_split(count) for values in (positions, *others)), strict=True):
        logits = head.logits(hidden[part])
        yield logits, part, *(values.to(logits.device) for values in along)


def check_head(model: PreTrainedModel) -> None:
    """That `logits_in_parts` gives the model's own logits, tried on a few tokens: a second look at what is declared.

    Raises:
        UncoupleError: it does not: the model's head does something else than its family declares.
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
            f"architecture {model.config.model_type!r}: its loss head does more than is declared, such as to scale or "
            f"to cap the logits: those made here are off by {error:.1%}, and so would be scores and perplexity. "
            "Declare what it does in uncouple/models/families.py, or take another model."
        )
