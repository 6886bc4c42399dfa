"""Sum of absolute per-sample products, the inner loop of scoring: total += sum over samples s of abs(G_s^T X_s)."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

# Sums over samples are kept in this precision whatever the model computes in: bf16 sums would lose
# every addend below 1/256 of the running total.
ACCUMULATOR_DTYPE = torch.float32


@dataclass(frozen=True)
class Ragged:
    """Samples that stand behind one another in a packed batch.

    Attributes:
        lengths: tokens of each sample.
    """

    lengths: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def blocks(self, size: int, device: torch.device) -> Tensor:
        """The samples in blocks of at most `size` tokens, in order, none of which spans two samples.

        Returns:
            int32 tensor (blocks, 4) on the device: first token, token after the sample's last, 1 if it ends here, and
            the sample's number.
        """
        return _make_blocks(self.lengths, size, device)


# Every layer of a batch asks for the same table.
@functools.lru_cache(maxsize=8)
def _make_blocks(lengths: tuple[int, ...], size: int, device: torch.device) -> Tensor:
    rows, start = [], 0
    for sample, length in enumerate(lengths):
        end = start + length
        rows += [(first, end, first + size >= end, sample) for first in range(start, end, size)]
        start = end
    return torch.tensor(rows, dtype=torch.int32).to(device)


def new_sums(weight: Tensor) -> Tensor:
    """Zeros to add to, float32 (out, in), on the device of a layer's weight.

    On a CPU a wide matrix is kept as its transpose: the library multiplies a tall one up to half faster.
    """
    rows, columns = weight.shape
    if weight.is_cuda or columns <= rows:
        return torch.zeros(rows, columns, dtype=ACCUMULATOR_DTYPE, device=weight.device)
    return torch.zeros(columns, rows, dtype=ACCUMULATOR_DTYPE, device=weight.device).T


def add_abs_products(
    total: Tensor,
    g: Tensor,
    x: Tensor,
    ragged: Ragged,
    scratch: dict[torch.Size, Tensor],
    factors: Tensor | None = None,
) -> None:
    """Add every sample's abs(G_s^T X_s), times its factor, to `total`, in place.

    Products and sums are float32 whatever the inputs are: half-precision inputs are exact in float32, and a
    half-precision product would be rounded before it is added.

    Args:
        total: float32 (out, in), as `new_sums` makes it.
        g: (tokens, out), gradient of a linear layer's output; float32, bfloat16 or float16.
        x: (tokens, in), the layer's input; dtype and device of `g`.
        ragged: `Ragged`, which rows are which sample's.
        scratch: dict in which the PyTorch form keeps its buffers from call to call.
        factors: float32 (samples,), powers of two; see `scaling.Scaling.undo`. None is 1 for each.

    On a GPU one Triton kernel does it all in registers; elsewhere PyTorch does, a sample at a time.
    """
    if total.is_cuda:
        from uncouple.scoring.triton_kernels import launch

        launch(total, g, x, ragged, factors)
    else:
        _add_with_pytorch(total, g, x, ragged, scratch, factors)


def _add_with_pytorch(
    total: Tensor, g: Tensor, x: Tensor, ragged: Ragged, scratch: dict[torch.Size, Tensor], factors: Tensor | None
) -> None:
    # Everything is allocated before the first sum, so that running out of memory leaves the sums as they were.
    g, x = g.to(ACCUMULATOR_DTYPE), x.to(ACCUMULATOR_DTYPE)
    if not total.is_contiguous():
        total, g, x = total.T, x, g
    if total.shape not in scratch:
        scratch[total.shape] = torch.empty_like(total)
    product = scratch[total.shape]
    factors = [1] * len(ragged.lengths) if factors is None else factors.tolist()
    for left, right, factor in zip(g.split(ragged.lengths), x.split(ragged.lengths), factors, strict=True):
        total.add_(torch.mm(left.T, right, out=product).abs_(), alpha=factor)
