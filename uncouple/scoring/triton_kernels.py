"""The GPU form of `kernels.add_abs_products`: one kernel, sums in registers, the accumulator touched once a batch."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from uncouple.scoring.kernels import Ragged


@dataclass(frozen=True)
class Tile:
    """Shape of the work of one program: rows and columns of the weight, tokens of one step, and how it is scheduled."""

    rows: int
    columns: int
    tokens: int
    warps: int
    stages: int


# Fixed, not tuned at run time: the order of a sum depends on it, and two runs must give the same shard.
# benchmarks/gpu_scoring.py --tiles measures others.
HALF = Tile(128, 128, 64, 8, 3)
# float32 products are exact and so do without the matrix units; smaller tiles keep both sums in registers.
FULL = Tile(64, 64, 32, 4, 3)


@triton.jit
def _add_abs_products(
    total,
    g,
    x,
    blocks,
    factors,
    count,
    rows,
    columns,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TOKENS: tl.constexpr,
    GROUP: tl.constexpr,
):
    # Programs that run at the same time share rows of g and columns of x, so that both stay in the L2 cache.
    program = tl.program_id(0)
    down, across = tl.cdiv(rows, ROWS), tl.cdiv(columns, COLUMNS)
    group = program // (GROUP * across)
    height = tl.minimum(down - group * GROUP, GROUP)
    within = program % (GROUP * across)
    m = (group * GROUP + within % height) * ROWS + tl.arange(0, ROWS)
    n = (within // height) * COLUMNS + tl.arange(0, COLUMNS)
    step = tl.arange(0, TOKENS)
    product = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    result = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    # One loop over the blocks of all samples, not one per sample: loads of the next sample start while this one ends.
    for block in range(count):
        first = tl.load(blocks + 4 * block)
        end = tl.load(blocks + 4 * block + 1)
        is_last = tl.load(blocks + 4 * block + 2)
        token = (first + step).to(tl.int64)
        inside = first + step < end
        left = tl.load(g + token[None, :] * rows + m[:, None], mask=inside[None, :] & (m < rows)[:, None], other=0.0)
        right = tl.load(
            x + token[:, None] * columns + n[None, :], mask=inside[:, None] & (n < columns)[None, :], other=0.0
        )
        # ieee: float32 inputs are not rounded to TF32.
        product = tl.dot(left, right, product, input_precision="ieee")
        if is_last:
            result += tl.abs(product) * tl.load(factors + tl.load(blocks + 4 * block + 3))
            product = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    place = total + m.to(tl.int64)[:, None] * columns + n[None, :]
    fits = (m < rows)[:, None] & (n < columns)[None, :]
    tl.store(place, tl.load(place, mask=fits) + result, mask=fits)


def launch(
    total: Tensor, g: Tensor, x: Tensor, ragged: Ragged, factors: Tensor | None = None, tile: Tile | None = None
) -> None:
    """Add every sample's abs(G_s^T X_s), times its factor, to `total`; see `kernels.add_abs_products`.

    Args:
        tile: shape of the work, for measurements; by default the one for the dtype of `g`.
    """
    tile = tile or (FULL if g.dtype == torch.float32 else HALF)
    rows, columns = total.shape
    blocks = ragged.blocks(tile.tokens, total.device)
    if factors is None:
        factors = torch.ones(len(ragged.lengths), device=total.device)
    grid = (triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns),)
    # A kernel is launched on the current GPU, whichever its tensors are on.
    with torch.cuda.device_of(total):
        _add_abs_products[grid](
            total,
            g.contiguous(),
            x.contiguous(),
            blocks,
            factors,
            len(blocks),
            rows,
            columns,
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            TOKENS=tile.tokens,
            GROUP=8,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
