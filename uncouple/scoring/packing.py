"""Samples behind one another in one sequence, so that no token of a batch is padding, and the loss of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from uncouple.errors import UncoupleError
from uncouple.models.batching import make_batches
from uncouple.models.head import logits_in_parts, loss_head
from uncouple.models.prompts import Encoded
from uncouple.scoring.kernels import Ragged
from uncouple.scoring.recompute import lighten, make_again

if TYPE_CHECKING:
    from uncouple.scoring.scaling import Scaling

NOT_FINITE = "Score in float32, or remove the sample."


@dataclass(frozen=True)
class Batch:
    """A packed batch.

    Attributes:
        rows: list of `prompts.Encoded`.
        ids: the samples' ids, for errors.
    """

    rows: tuple[Encoded, ...]
    ids: tuple[str, ...]

    @property
    def ragged(self) -> Ragged:
        return Ragged(tuple(len(row.ids) for row in self.rows))

    def halves(self) -> "tuple[Batch, Batch]":
        middle = len(self.rows) // 2
        return Batch(self.rows[:middle], self.ids[:middle]), Batch(self.rows[middle:], self.ids[middle:])


def pack_samples(
    encoded: Sequence[Encoded], ids: Sequence[str], batch_tokens: int, together: int | None = None
) -> list[Batch]:
    """Encoded samples as a list of `packing.Batch`.

    Args:
        ids: the samples' ids.
        batch_tokens: the most tokens of a batch of several samples.
        together: the most tokens of a sample that may share a batch; see `rope.longest_together`.
    """
    groups = make_batches([len(e.ids) for e in encoded], batch_tokens, together)
    return [Batch(tuple(encoded[i] for i in group), tuple(ids[i] for i in group)) for group in groups]


def backward(model: PreTrainedModel, batch: Batch, scaling: "Scaling | None" = None) -> None:
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


def _loss_gradient(model: PreTrainedModel, hidden: Tensor, batch: Batch, scaling: "Scaling | None") -> Tensor:
    """Gradient of the batch's loss with respect to the last hidden states, (tokens, hidden).

    That of cross-entropy is softmax less one at the target: made in the place of the logits, which are the widest
    tensor of all.
    """
    head = loss_head(model)
    matrix = head.product.weight
    picked: list[int] = []
    targets: list[int] = []
    share: list[float] = []
    start = 0
    factors = scaling.head_factors if scaling else [1] * len(batch.rows)
    for row, factor in zip(batch.rows, factors, strict=True):
        # Position t predicts token t + 1.
        picked += range(start + row.start - 1, start + len(row.ids) - 1)
        targets += row.ids[row.start :]
        share += [factor * head.factor / (len(row.ids) - row.start)] * (len(row.ids) - row.start)
        start += len(row.ids)
    gradient = torch.zeros_like(hidden)
    finite = []
    values = (torch.tensor(values, device=hidden.device) for values in (picked, targets, share))
    for logits, positions, tokens, weights in logits_in_parts(model, hidden, *values):
        tokens, weights = tokens[:, None], weights[:, None]
        if head.cap:
            slope = 1 - (logits / head.cap).square()
        finite.append(logits.gather(1, tokens).isfinite())
        torch.softmax(logits, 1, out=logits)
        finite[-1] &= logits.gather(1, tokens).isfinite()
        logits.mul_(weights).scatter_add_(1, tokens, -weights)
        if head.cap:
            logits.mul_(slope)
        gradient[positions] = (logits.to(matrix.dtype) @ matrix).to(gradient.device)
    if not (finite := torch.cat(finite)).all():
        place = picked[int((~finite).nonzero()[0, 0])]
        raise UncoupleError(f"sample {sample_at(batch, place)}: its loss is not finite. {NOT_FINITE}")
    return scaling.fit(gradient) if scaling else gradient


def sample_at(batch: Batch, place: int) -> str:
    """The id of the sample whose token stands at a place of a packed batch."""
    for number, length in enumerate(batch.ragged.lengths):
        if place < length:
            return batch.ids[number]
        place -= length
    raise IndexError(place)
