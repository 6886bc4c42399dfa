"""What a batch keeps for its way back: tensors that are cheap to make again are not kept."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu


def _make_product(node: Any) -> Tensor:
    factors = [node._saved_self, node._saved_other]
    for place, factor in enumerate(factors):
        if factor is None:
            factors[place] = _make(node.next_functions[place][0])
    return factors[0] * factors[1]


# Results that are as quickly made again, bit for bit, from what their node of the graph keeps anyway. In a decoder
# layer with a gated MLP these are both norms' outputs, attention's result, the activation and its product with the
# other half: every third byte that a batch would keep.
_MAKE_AGAIN: dict[str, Callable[[Any], Tensor]] = {
    "MulBackward0": _make_product,
    "SiluBackward0": lambda node: silu(node._saved_self),
    "GeluBackward0": lambda node: gelu(node._saved_self, approximate=node._saved_approximate),
    "JoinBackward": lambda node: torch.cat(node.saved_tensors, 1),
}


def _make(node: Any) -> Tensor:
    return _MAKE_AGAIN[type(node).__name__](node)


def _can_make(node: Any) -> bool:
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
    shape: torch.Size


def lighten(tensor: Tensor) -> Tensor | Recipe:
    """The recipe of a tensor that is cheap to make again, else the tensor, detached: attached, a result that its own
    node keeps would keep the node, and neither would ever be freed after a failure."""
    node = tensor.grad_fn
    while type(node).__name__ == "ViewBackward0":
        node = node.next_functions[0][0]
    return Recipe(node, tensor.shape) if _can_make(node) else tensor.detach()


def make_again(kept: Tensor | Recipe) -> Tensor:
    """The tensor that `lighten` was given, detached."""
    if isinstance(kept, torch.Tensor):
        return kept
    with torch.no_grad():
        return _make(kept.node).view(kept.shape)
