"""float16 holds 6e-8 to 65504: each sample's gradient is kept within by powers of two on its way back.

Gradients of a mean loss shrink as responses grow, and with depth. The way back is linear and a packed sample's is its
own, so a sample's gradient may be multiplied anywhere, and its product divided again: exactly, by powers of two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from uncouple.scoring.packing import Batch

# Exponents of what the largest number of a sample's gradient is brought below at each decoder layer, tried in turn
# until those of all linear layers fit. In SmolLM2 these are 2**-2 to 2**5 times as large as the decoder layer's own.
# The last is the first again: what is nothing there, and higher up fits no better, is taken for nothing.
REACHES = (6, 14, -2, -8, 6)
# Softmax less one at the target sums up to 2 at most, so that head weights up to 16 cannot overflow.
HEAD_REACH = 10
# A gradient whose largest number is below this has lost too many of its smaller ones.
FAINTEST = 2.0**-10
# And one below this is but rounding: at the last of REACHES 2**-22 of the sample's gradient in that decoder layer,
# where float32, in which products are summed up, rounds to 2**-24. Some CPUs give zero there, and others do not.
NOTHING = 2.0**-16
# 2**-exponent is a float32.
_MOST = 120


class Scaling:
    """By how much each sample's gradient is multiplied, at the place that the way back has come to.

    Args:
        batch: `packing.Batch`.
        attempt: which of REACHES to try.
    """

    def __init__(self, batch: Batch, attempt: int = 0) -> None:
        self.attempt, self.reach = attempt, REACHES[attempt]
        lengths = torch.tensor(batch.ragged.lengths)
        self._owner = torch.arange(len(lengths)).repeat_interleave(lengths)
        responses = [len(row.ids) - row.start for row in batch.rows]
        # The mean over a response divides by its length.
        self._exponents = torch.tensor([HEAD_REACH + n.bit_length() - 1 for n in responses], dtype=torch.int32)
        self.head_factors = [2.0**exponent for exponent in self._exponents.tolist()]

    @property
    def is_last(self) -> bool:
        return self.attempt == len(REACHES) - 1

    def fit(self, gradient: Tensor) -> Tensor:
        """The gradient with each sample's largest number at 2**(reach - 1) or more, below 2**reach.

        Args:
            gradient: float16 (..., tokens, width).
        """
        self._owner, self._exponents = self._owner.to(gradient.device), self._exponents.to(gradient.device)
        largest = self._largest(largest_of_each(gradient).flatten())
        step = torch.where(largest > 0, self.reach - torch.frexp(largest).exponent, 0)
        step = (self._exponents + step).clamp(-_MOST, _MOST) - self._exponents
        self._exponents = self._exponents + step
        return (gradient.float() * _power(step)[self._owner, None]).to(gradient.dtype)

    def find_misfits(self, largest: Tensor) -> Tensor:
        """Which tokens belong to a sample whose gradient is not finite or so faint that float16 has lost much of it.

        Args:
            largest: what `largest_of_each` gives, (tokens,).

        Returns:
            bool (tokens,).
        """
        each = self._largest(largest)
        fits = torch.isfinite(each) & (each >= FAINTEST)
        # Some are nothing indeed, such as that of a query which sees one key alone.
        if self.is_last:
            fits |= each < NOTHING
        return ~fits[self._owner]

    def undo(self, largest: Tensor) -> Tensor:
        """What to multiply each sample's product by, float32 (samples,); 0 where its gradient is nothing.

        Args:
            largest: see `find_misfits`, of a gradient that fits.
        """
        return torch.where(self._largest(largest) < NOTHING, 0, _power(-self._exponents))

    def _largest(self, of_tokens: Tensor) -> Tensor:
        zeros = torch.zeros(len(self._exponents), device=of_tokens.device)
        return zeros.scatter_reduce(0, self._owner, of_tokens.float(), "amax")


def largest_of_each(gradient: Tensor) -> Tensor:
    """The largest absolute number of each token's gradient, (..., tokens)."""
    return torch.linalg.vector_norm(gradient, torch.inf, -1)


def _power(exponent: Tensor) -> Tensor:
    """2**exponent as float32, made of its bits: a GPU's own powers need not be exact."""
    return ((exponent + 127) << 23).view(torch.float32)
