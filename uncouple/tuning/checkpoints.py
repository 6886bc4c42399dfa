"""Checkpoints of fine-tuned models: the base's files with the weights that were learnt, and what made them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from uncouple.errors import UncoupleError
from uncouple.models.folders import model_files, weight_files
from uncouple.models.weights import read_header
from uncouple.records.formats import Record
from uncouple.variants.checkpoints import OWN_FOLDER, STANDING_ASIDE, copy_file

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def write_tuned(base: Path, folder: Path, model: PreTrainedModel) -> None:
    """Write a base's files with other weights: the same tensors of the same dtypes in the same files.

    Args:
        base: the base model's folder.
        folder: an empty folder to fill.
        model: loaded from the base, its weights of any dtype; each is cast once. One that shares another's values may
            be missing in the files.

    Raises:
        UncoupleError: a weight is not finite in the base's dtype, or the files name their tensors otherwise than the
            model does.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file
    from transformers.core_model_loading import revert_weight_conversion

    # By each name of weights that are shared, and by the names that the files had when they were loaded.
    weights = revert_weight_conversion(model, dict(model.named_parameters(remove_duplicate=False)))
    written = set()
    paths = weight_files(base).paths
    for path in paths:
        tensors = {}
        with safe_open(path, "pt") as file:
            for name in read_header(path):
                tensor = file.get_tensor(name)
                if name in weights:
                    # A copy, for names that share it would share it here.
                    new = weights[name].detach().to("cpu", tensor.dtype, copy=True)
                    if not torch.isfinite(new).all():
                        raise UncoupleError(
                            f"{path}: {name} is not finite in {tensor.dtype} as tuned. Lower the rate (--rate)."
                        )
                    written.add(weights[name].data_ptr())
                    tensor = new.contiguous()
                tensors[name] = tensor
            save_file(tensors, folder / path.name, metadata=file.metadata())
    if lost := [name for name, weight in weights.items() if weight.data_ptr() not in written]:
        raise UncoupleError(
            f"{base}: its files have no tensor {lost[0]}, which the model has. Save it by a newer version of "
            "transformers, and tune that."
        )
    for path in set(model_files(base)) - set(paths):
        if path.name not in STANDING_ASIDE:
            copy_file(path, folder / path.relative_to(base))


def tuned_card(record: Record) -> str:
    """The model card of what was fine-tuned; see `formats.TUNING`."""
    base = record["model"]
    sets = "\n".join(f"| {s['dimension']} | {s['n']} | {s['label']} | {s['seed']} |" for s in record["samples"])
    rank = f", rank {record['rank']}" if record["rank"] else ""
    return f"""---
tags: [uncouple]
base_model: {base["name"]}
---
# {base["name"]}, {record["variant"]}

{base["name"]}, fine-tuned on the responses of {record["n"]:,} samples by `{record["method"]}`{rank}: {record["epochs"]}
epochs in {record["steps"]:,} steps of up to {record["batch_size"]} samples at a rate of {record["rate"]:g}.

- base: fingerprint `{base["fingerprint"]}`

| sample set | samples | label | seed |
| --- | --- | --- | --- |
{sets}

Everything that made it is in `{OWN_FOLDER}/config.json`, the loss of each step in `{OWN_FOLDER}/curve.parquet`. The
base's licence and limits hold.
"""
