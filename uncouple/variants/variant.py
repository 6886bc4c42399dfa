"""Variants: a model as it is or under a mask, in memory, and what a record says of it."""

from dataclasses import dataclass

from uncouple.models.folders import check_folder, model_record
from uncouple.models.load import load_model
from uncouple.progress import say
from uncouple.variants.masks import read_mask, suppress_in_memory


@dataclass(frozen=True)
class Variant:
    """A model whose masked weights are to be zero, if any.

    Attributes:
        name: for the record.
        folder: the base model's.
        config: the base's config.json, a dict.
        model: the base's record, see `models.model_record`.
        entries: see `masks.suppress_in_memory`.
        mask: the mask's metadata without the shapes, or None.
    """

    name: str
    folder: str
    config: dict
    model: dict
    entries: dict
    mask: dict | None

    def load(self, dtype, device):
        """The model, ready to run; see `models.load_model`."""
        model = load_model(self.folder, dtype, device)
        suppress_in_memory(model, self.entries)
        say(f"{self.name}: {model.dtype} on {model.device}")
        return model

    def who(self):
        """Whose row of a table it is: dict of model and variant, by name."""
        return {"model": self.model["name"], "variant": self.name}

    def about(self, dtype):
        """What the record of all that is measured of a variant says.

        Returns:
            dict of model, variant, mask, dtype, and the base's three `fingerprints` by what they are of.
        """
        prints = {"weights": "fingerprint", "tokenizer": "tokenizer", "generation": "generation"}
        about = {"mask": self.mask, "dtype": str(dtype).removeprefix("torch.")}
        return self.who() | about | {"fingerprints": {name: self.model[key] for name, key in prints.items()}}


def open_variant(folder, mask, name):
    """A `Variant`, checked before anything is loaded.

    Args:
        folder: the base model's.
        mask: a mask file, or None for the base as it is.
        name: for the record.

    Raises:
        UncoupleError: not a whole model, or a mask of another one.
    """
    record, config = model_record(folder), check_folder(folder)
    entries, metadata = read_mask(mask, record) if mask else ({}, None)
    if metadata:
        metadata = {key: value for key, value in metadata.items() if key != "shapes"}
    return Variant(name, folder, config, record, entries, metadata)
