"""PyTorch's own weight files, which are pickles: read by the reader that runs nothing, and kept as safetensors."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uncouple.errors import UncoupleError
from uncouple.models.fingerprints import PICKLED
from uncouple.models.weights import INDEX_NAME, indexed_names
from uncouple.progress import Progress
from uncouple.records.files import file_sha256

if TYPE_CHECKING:
    from torch import Tensor

PICKLED_NAME = re.compile(r"pytorch_model[\w-]*\.bin")
PICKLED_INDEX = "pytorch_model.bin.index.json"
# Of earlier versions the reader could be made to run code (CVE-2025-32434).
SAFE_SINCE = (2, 6)


def convert_pickled(source: str | Path, folder: str | Path) -> dict[str, str]:
    """Write a model's pickled weights as safetensors, with an index where there are several files.

    They are written file by file, and a file's tensors are mapped and not read before they are written: memory stays
    at one file. Tensors that share their values are written each with its own.

    Args:
        source: a model folder.
        folder: where they are written.

    Returns:
        dict of the name of each pickled file to its SHA-256.

    Raises:
        UncoupleError: there are none, the reader refuses one, it holds anything but tensors, or a tensor is in two.
    """
    hashes: dict[str, str] = {}
    places: dict[str, str] = {}
    size = 0
    paths = _pickled_files(Path(source))
    with Progress(sum(path.stat().st_size for path in paths) / 1e6, "MB", "fetch: to safetensors") as progress:
        for path in paths:
            hashes[path.name] = file_sha256(path)
            name = path.with_suffix(".safetensors").name.removeprefix("pytorch_")
            tensors = _read(path)
            if twice := sorted(tensors.keys() & places.keys()):
                raise UncoupleError(f"{path}: {twice[0]} is in another file as well. Get the model's weights again.")
            places |= dict.fromkeys(tensors, name)
            size += _write(tensors, Path(folder) / name)
            progress.add(path.stat().st_size / 1e6)
    if len(hashes) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
        (Path(folder) / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return hashes


def _pickled_files(source: Path) -> list[Path]:
    """In the order in which transformers looks for them."""
    if (one := source / "pytorch_model.bin").is_file():
        return [one]
    if not (index := source / PICKLED_INDEX).is_file():
        raise UncoupleError(f"{source}: there is no {PICKLED} in it. Leave out `convert_bin` (--convert-bin).")
    # A name from an index must lead nowhere else.
    return [source / name for name in indexed_names(index, PICKLED_NAME)]


def _read(path: Path) -> "dict[str, Tensor]":
    """The tensors of a file by name; nothing in it is run, whatever it is."""
    import torch

    if tuple(map(int, torch.__version__.split(".")[:2])) < SAFE_SINCE:
        raise UncoupleError(f"{path}: torch {torch.__version__} does not read pickles safely. Install 2.6 or newer.")
    try:
        found = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except Exception as error:
        # What a broken or hostile file makes the reader raise is anything.
        raise UncoupleError(f"{path}: refused, and nothing of it was run: {_reason(error)}") from None
    others = [key for key, value in found.items() if not _is_weight(value)] if isinstance(found, dict) else [path.stem]
    if others or not all(isinstance(key, str) for key in found):
        raise UncoupleError(f"{path}: {', '.join(map(str, others[:3]))} is no tensor; only weights by name are taken.")
    return found


def _reason(error: Exception) -> str:
    # The library's own words say how to read it unsafely.
    if asked := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it asks for {asked[1]}, which no weights need. Do not use this model, or find it as safetensors."
    return f"it is no whole file of weights of torch 1.6 or newer ({type(error).__name__}). Get it again."


def _is_weight(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.layout is torch.strided and value.device.type == "cpu"


def _write(tensors: "dict[str, Tensor]", path: Path) -> int:
    """Write tensors, and tell their bytes."""
    import torch
    from safetensors.torch import save_file

    seen: set[int] = set()
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone(memory_format=torch.contiguous_format) if place in seen else tensor.contiguous()
        seen.add(place)
    save_file(tensors, path, metadata={"format": "pt"})
    return sum(tensor.nbytes for tensor in tensors.values())
