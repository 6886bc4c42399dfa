"""The sums that scores are made of: over samples, abs(dL_s/dW) of all layers in one pass over each batch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from uncouple.errors import UncoupleError
from uncouple.models.attention import pack_attention
from uncouple.models.devices import fixed_order, is_out_of_memory, release_memory
from uncouple.models.families import find_linear_layers, split_name
from uncouple.progress import Progress, say
from uncouple.scoring.kernels import ACCUMULATOR_DTYPE, add_abs_products, new_sums
from uncouple.scoring.packing import NOT_FINITE, Batch, backward, sample_at
from uncouple.scoring.recompute import Recipe, lighten, make_again
from uncouple.scoring.scaling import Scaling, largest_of_each

OTHER_DTYPE = "Score in float32 or bfloat16 (--dtype)."


def accumulate_gradients(model: nn.Module, names: Sequence[str], batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Sum over samples of the absolute gradient of each sample's loss, for each named linear layer.

    One forward and one backward pass a batch serve all layers. The loss of a sample depends on its own tokens
    alone, so with a layer's input X_s and the gradient G_s of its output, dL_s/dW = G_s^T X_s.

    Where memory runs out, the batch is halved, and so is each later one of its size; what was added stays. In float16
    gradients are scaled, and a batch is done again for the layers whose gradients did not fit; see `scaling.Scaling`.

    Args:
        model: a causal language model whose parameters need no gradient.
        names: full names of linear layers.
        batches: `packing.Batch`es.

    Returns:
        dict of name to float32 (out, in), on the device of its layer.

    Raises:
        UncoupleError: a loss or gradient is not finite: names layer and sample; or one sample alone does not fit.
    """
    layers = find_linear_layers(model, names)
    total = sum(batch.ragged.tokens for batch in batches)
    blocks = model.get_submodule(split_name(names[0])[0].rpartition(".")[0])
    # A batch that ran out of memory on its way back has been added to the layers that it had come through.
    waiting: list[tuple[Batch, frozenset[str], int]] = [(batch, frozenset(), 0) for batch in reversed(batches)]
    limit = None
    progress = Progress(total, "tokens", "score")
    with fixed_order(model.device), pack_attention(model), _Hooks(layers, blocks) as hooks, progress:
        while waiting:
            batch, added, attempt = waiting.pop()
            if limit and batch.ragged.tokens > limit and len(batch.rows) > 1:
                waiting += [(half, added, attempt) for half in reversed(batch.halves())]
                continue
            hooks.start(batch, added, Scaling(batch, attempt) if model.dtype == torch.float16 else None)
            if not _fits_in_memory(model, batch, hooks.scaling):
                limit = batch.ragged.tokens // 2
                say(f"score: out of memory at {batch.ragged.tokens} tokens; goes on with {limit} and less")
                hooks.forget()
                release_memory()
                waiting.append((batch, hooks.added, attempt))
                continue
            hooks.check()
            if left := [name for name in layers if name not in hooks.added]:
                if not hooks.scaling or hooks.scaling.is_last:
                    raise UncoupleError(f"{left[0]}: no gradient reaches it. Score other layers (--layers, --module).")
                waiting.append((batch, hooks.added, attempt + 1))
                continue
            progress.add(batch.ragged.tokens)
    if model.dtype == torch.float16 and (nothing := [name for name, sums in hooks.sums.items() if not sums.any()]):
        raise UncoupleError(f"{nothing[0]}: its gradients vanish in float16. {OTHER_DTYPE}")
    return hooks.sums


def _fits_in_memory(model: nn.Module, batch: Batch, scaling: Scaling | None) -> bool:
    """Go through a batch and back, and say whether there was memory for it.

    With this function's end the error is gone, which holds the frames, and so the tensors, of the pass that failed.
    """
    try:
        backward(model, batch, scaling)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if len(batch.rows) == 1:
            raise UncoupleError(
                f"sample {batch.ids[0]} alone ({batch.ragged.tokens} tokens) does not fit in memory ({error}). "
                "Score fewer layers at once (--layers), in half precision (--dtype), or remove the sample."
            ) from None
        return False
    return True


class _Hooks:
    """Catches each layer's input and the gradient of its output, and adds each sample's product to the layer's sums."""

    def __init__(self, layers: Mapping[str, nn.Linear], blocks: Iterable[nn.Module]) -> None:
        self.layers, self.blocks = layers, blocks
        self.sums = {name: new_sums(layer.weight) for name, layer in layers.items()}
        self.handles: list[Any] = []
        self.scratch: dict[torch.Size, Tensor] = {}

    def __enter__(self) -> "_Hooks":
        self.handles = [layer.register_forward_hook(self._catch(name)) for name, layer in self.layers.items()]
        self.handles += [block.register_forward_hook(self._catch_block) for block in self.blocks]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()
        # What the last batch left leads to its graph, and the graph's hooks lead here: neither would ever be freed.
        self.forget()

    def start(self, batch: Batch, added: frozenset[str], scaling: Scaling | None) -> None:
        """Get ready for a batch that has been added to some layers already."""
        self.batch, self.ragged, self.added, self.scaling = batch, batch.ragged, added, scaling
        self.inputs: dict[str, Tensor | Recipe] = {}
        self.finite: dict[str, Tensor] = {}
        self.made: tuple[Recipe | None, Any] = (None, None)

    def forget(self) -> None:
        self.inputs.clear()
        self.finite.clear()
        self.made = None, None

    def check(self) -> None:
        """An error if a gradient of the batch was not finite. Once a batch, since a GPU must be waited for."""
        for name, marks in self.finite.items():
            if not bool(torch.isfinite(marks).all()):
                place = int((~torch.isfinite(marks)).nonzero()[0])
                sample = sample_at(self.batch, place)
                raise UncoupleError(f"{name}, sample {sample}: a gradient is not finite. {NOT_FINITE}")

    def _catch_block(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        if self.scaling and states.requires_grad:
            states.register_hook(self.scaling.fit)

    def _catch(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def catch_input(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # Nothing below the lowest scored layers needs a gradient: the graph, and the way back, begin there.
            if not output.requires_grad:
                output.requires_grad_()
            self.inputs[name] = lighten(inputs[0])
            output.register_hook(lambda g: self._add(name, g))

        return catch_input

    def _add(self, name: str, g: Tensor) -> None:
        kept, g = self.inputs.pop(name), g.flatten(0, -2)
        if not self.scaling:
            self.finite[name] = g.sum(-1, dtype=ACCUMULATOR_DTYPE)
        if name in self.added:
            return
        factors = None
        if self.scaling:
            largest = largest_of_each(g)
            if not self._fits(self.scaling, name, largest):
                return
            factors = self.scaling.undo(largest)
        if isinstance(kept, Recipe):
            # Layers that share an input share its recipe, and their gradients come one after another.
            if kept != self.made[0]:
                self.made = kept, make_again(kept)
            kept = self.made[1]
        add_abs_products(self.sums[name], g, kept.flatten(0, -2), self.ragged, self.scratch, factors)
        self.added |= {name}

    def _fits(self, scaling: Scaling, name: str, largest: Tensor) -> bool:
        """Whether a scaled gradient may be added, or the batch is to be tried again; an error where that was the last.

        A GPU is waited for here, which takes little beside the layer's product.
        """
        misfits = scaling.find_misfits(largest)
        if not bool(misfits.any()):
            return True
        if scaling.is_last:
            sample = sample_at(self.batch, int(misfits.nonzero()[0]))
            raise UncoupleError(
                f"{name}, sample {sample}: its gradient does not fit into float16, however it is scaled. {OTHER_DTYPE}"
            )
        return False
