"""Variants: a model as it is or under a mask, in memory, and what a record says of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uncouple.errors import UncoupleError
from uncouple.models.devices import device_kind
from uncouple.models.folders import check_folder, model_record
from uncouple.models.load import dtype_name, load_model, machine
from uncouple.progress import say
from uncouple.records.files import digest
from uncouple.records.formats import Record
from uncouple.records.store import versions
from uncouple.variants.kinds import ORIGIN, base_name
from uncouple.variants.masks import Entries, check_places, read_mask

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from uncouple.variants.reft import Adapter

# By which an adapter is told from a mask.
ADAPTER_SUFFIX = ".safetensors"
# The base's fingerprints by what they are of.
PRINTS = {"weights": "fingerprint", "tokenizer": "tokenizer", "generation": "generation"}


@dataclass(frozen=True)
class Variant:
    """A model whose masked weights are to be zero, if any.

    Attributes:
        name: for the record.
        folder: the base model's.
        config: the base's config.json, a dict.
        model: the base's record, see `models.model_record`.
        entries: see `masks.read_mask`.
        mask: the mask's metadata without the shapes, or None.
        adapter, adapter_record: what moves its hidden states, if anything; see `reft`.
        fault: why there is none, where its mask cannot be used.
    """

    name: str
    folder: str | Path
    config: dict[str, Any]
    model: Record
    entries: Entries
    mask: Record | None
    adapter: Adapter | None = None
    adapter_record: Record | None = None
    fault: UncoupleError | None = None

    @property
    def is_edited(self) -> bool:
        """Whether it is another than the base."""
        return bool(self.entries) or self.adapter is not None

    def who(self) -> dict[str, str]:
        """Whose row of a table it is: dict of model and variant, by name."""
        return {"model": self.model["name"], "variant": self.name}

    def names(self) -> Record:
        """What a record says that is this experiment's alone: two experiments may call one variant by two names."""
        return self.who() | {"base": base_name(self.model), "mask": self.mask, "adapter": self.adapter_record}

    def about(self, dtype: str | torch.dtype, device: str | torch.device) -> Record:
        """What the record of all that is measured of a variant says.

        Returns:
            dict of model, variant, base (see `kinds.base_name`), mask, what `load.machine` gives, and the base's three
            `fingerprints` by what they are of.
        """
        return self.names() | machine(dtype, device) | {"fingerprints": self._prints()}

    def key(self, dtype: str, device: str) -> dict[str, Any]:
        """What a measurement of this variant hangs on, whatever is measured, for the store.

        Args:
            dtype, device: see `models.load_model`.
        """
        kind = device_kind(device)
        entries = [(name, index.astype("<i8").tobytes()) for name, (index, _) in sorted(self.entries.items())]
        return {
            "model": self._prints(),
            "mask": digest(*(part for entry in entries for part in entry)) if entries else None,
            "adapter": self.adapter and self.adapter.digest(),
            "dtype": dtype_name(self.config, dtype, kind.partition(" ")[0]),
            "device": kind,
            "versions": versions(),
        }

    def _prints(self) -> dict[str, str]:
        """The base's fingerprints by what they are of."""
        return {name: self.model[key] for name, key in PRINTS.items()}


def open_variants(folder: str | Path, wanted: Iterable[tuple[str, str | Path | None]]) -> list[Variant]:
    """`Variant`s of one base, all of them checked before anything is loaded.

    Args:
        folder: the base model's.
        wanted: pairs of a name for the record and a mask or an adapter, None for the base as it is. The origin of a
            checkpoint's folder is the variant that it holds.

    Raises:
        UncoupleError: not a whole model, two variants of one name, or none whose file can be used.
    """
    record, config = model_record(folder), check_folder(folder)
    found: dict[str, Variant] = {}
    for name, edit in wanted:
        name = base_name(record) if name == ORIGIN and not edit else name
        if name in found:
            raise UncoupleError(f"variant {name!r} is named twice. Give each a name of its own.")
        base = Variant(name, folder, config, record, {}, None)
        try:
            found[name] = _with_edit(base, Path(edit)) if edit else base
        except UncoupleError as fault:
            found[name] = replace(base, fault=fault)
    faults = [variant.fault for variant in found.values() if variant.fault]
    if faults and len(faults) == len(found):
        raise faults[0]
    return list(found.values())


def _with_edit(base: Variant, path: Path) -> Variant:
    """The base with a mask, or with an adapter."""
    if path.suffix == ADAPTER_SUFFIX:
        from uncouple.variants.reft import read_adapter

        adapter, told = read_adapter(path, base.model)
        return replace(base, adapter=adapter, adapter_record=told)
    entries, metadata = read_mask(path, base.model)
    return replace(base, entries=entries, mask={key: value for key, value in metadata.items() if key != "shapes"})


def load_base(variant: Variant, dtype: str, device: str) -> PreTrainedModel:
    """The base of variants, ready to run; see `models.load_model`."""
    model = load_model(variant.folder, dtype, device)
    say(f"{variant.model['name']}: {model.dtype} on {model.device}")
    return model


@contextmanager
def edited(model: PreTrainedModel, variant: Variant) -> Iterator[PreTrainedModel]:
    """A loaded base as one of its variants, and as it was after the block; see `suppressed` and `reft.adapted`."""
    with suppressed(model, variant.entries), ExitStack() as stack:
        if variant.adapter:
            from uncouple.variants.reft import adapted

            stack.enter_context(adapted(model, variant.adapter))
        yield model


def _weight(model: PreTrainedModel, name: str) -> torch.Tensor:
    """The weight of a module that a mask names."""
    try:
        return model.get_submodule(name).get_parameter("weight")
    except AttributeError:
        raise UncoupleError(f"{model.name_or_path}: there is no matrix {name!r} in it, which the mask names.") from None


@contextmanager
def suppressed(model: PreTrainedModel, entries: Entries) -> Iterator[PreTrainedModel]:
    """A loaded model with a mask's weights at zero. Their values are put back, bit for bit, however the block ends.

    Args:
        model: a causal language model.
        entries: dict of module to (index, value), as `masks.read_mask` gives them. The values put back are the
            model's own: the mask's are float32.
    """
    import torch

    kept = []
    try:
        with torch.no_grad():
            for name, (index, _) in entries.items():
                weight = _weight(model, name).view(-1)
                check_places(model.name_or_path, name, index, weight.numel())
                places = torch.tensor(index, device=weight.device)
                kept.append((weight, places, weight[places]))
                weight[places] = 0
        yield model
    finally:
        with torch.no_grad():
            for weight, places, values in kept:
                weight[places] = values
