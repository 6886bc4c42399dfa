"""Weights on disk: single entries of safetensors files read and found without loading a model."""

import math
import mmap
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uncouple.errors import UncoupleError
from uncouple.records.files import read_json
from uncouple.records.parsing import parse_json

# Bytes an entry, and how numpy reads one. bfloat16 is the upper half of a float32.
DTYPES = {"F32": (4, "<f4"), "F16": (2, "<f2"), "BF16": (2, "<u2")}
WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
PICKLE_HINT = (
    "a pickle, which is not read as it is: `convert_bin: true` of the model in a config (`uncouple fetch "
    "--convert-bin`) has it written as safetensors."
)


# A name of a weights file, which leads nowhere else.
WEIGHTS_FILE = re.compile(r"[\w][\w.-]*\.safetensors")
# As of the safetensors library, which loads what is read here.
MOST_HEADER = 10**8
MOST_BYTES = 2**63


def indexed_names(index: Path, pattern: re.Pattern[str]) -> list[str]:
    """Names of the files that an index of weights says there are, each beside it.

    Raises:
        UncoupleError: it names anything else: a model's folder would lead out of itself.
    """
    places = read_json(index, "weights index").get("weight_map")
    names = sorted(set(map(str, places.values()))) if isinstance(places, dict) else []
    if strange := [name for name in names if not (pattern.fullmatch(name) and (index.parent / name).is_file())]:
        raise UncoupleError(f"{index}: it names {strange[0]!r}, and there is no such weights file beside it.")
    return names


class WeightFiles:
    """The safetensors files of a model folder, by tensor.

    Reads their headers alone. A tensor `name` is a `(path, dtype, shape, start)`, `start` being the
    offset of its first byte in the file.

    Raises:
        UncoupleError: no weights, a truncated or corrupt file, or an index that names what is not there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        names = sorted(p.name for p in self.folder.glob("*.safetensors"))
        # The order in which transformers looks, so that what is changed here is what is loaded there.
        if WEIGHTS_NAME in names:
            names = [WEIGHTS_NAME]
        elif (index := self.folder / INDEX_NAME).exists():
            names = indexed_names(index, WEIGHTS_FILE)
        elif len(names) > 1:
            raise UncoupleError(
                f"{self.folder}: {', '.join(names)} and no {INDEX_NAME} that says what is in them. Add it, or keep one."
            )
        if not names:
            pickled = sorted(p.name for p in self.folder.glob("*.bin"))
            raise UncoupleError(
                f"{self.folder}: there are no *.safetensors weights in this folder."
                + (f" It has {pickled[0]}, {PICKLE_HINT}" if pickled else "")
            )
        self.paths = [self.folder / name for name in names]
        self.tensors = {}
        for path in self.paths:
            for name, entry in read_header(path).items():
                self.tensors[name] = (path, *entry)

    def find(self, name: str) -> tuple[Path, str, tuple[int, ...], int]:
        """`(path, dtype, shape, start)` of one tensor."""
        if name not in self.tensors:
            raise UncoupleError(f"{self.folder}: no tensor {name!r} in its safetensors files.")
        return self.tensors[name]

    def read(self, name: str, index: ArrayLike) -> NDArray[np.float32]:
        """Values of single entries of a tensor.

        Args:
            name: the tensor.
            index: int64 (k,), flat row-major.

        Returns:
            float32 (k,): exact, as each known dtype fits in float32.
        """
        path, dtype, shape, start = self.find(name)
        _, code = entry_format(path, name, dtype)
        index = np.asarray(index, dtype=np.int64)
        if len(index) and (index.min() < 0 or index.max() >= math.prod(shape)):
            raise UncoupleError(f"{path}: {name} has the shape {shape}; an index {index.max()} is outside of it.")
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            if hasattr(mmap, "MADV_RANDOM"):
                # Only the pages that hold one of the entries are read, and not their neighbours.
                view.madvise(mmap.MADV_RANDOM)
            raw = np.frombuffer(view, code, math.prod(shape), start)[index]
        return decode(raw, dtype)


def entry_format(path: Path, name: str, dtype: str) -> tuple[int, str]:
    """(bytes, numpy code) of one entry."""
    if dtype not in DTYPES:
        raise UncoupleError(f"{path}: {name} is {dtype}; only {', '.join(DTYPES)} weights are known.")
    return DTYPES[dtype]


def decode(raw: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """float32 values of raw entries (numpy, as DTYPES says)."""
    if dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)


def encode(values: ArrayLike, dtype: str) -> NDArray[Any]:
    """Raw entries of float32 values: undoes `decode` exactly."""
    values = np.asarray(values, dtype=np.float32)
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype("<u2")
    return values.astype(DTYPES[dtype][1])


def read_header(path: str | Path) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Header of a safetensors file.

    What the safetensors library refuses is refused here too, so that both see the same tensors in it.

    Returns:
        dict of tensor name to (dtype, shape, absolute offset of its first byte).

    Raises:
        UncoupleError: the file is missing, truncated or not safetensors.

    Source: the format's own description: 8 bytes of length, a JSON header, then the tensors' bytes.
    """
    path = Path(path)
    broken = f"{path}: not a whole safetensors file"
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(8)
            if len(head) < 8 or (length := struct.unpack("<Q", head)[0]) > size - 8:
                raise UncoupleError(f"{broken} (its header does not fit in its {size} bytes). Fetch it again.")
            if length > MOST_HEADER:
                raise UncoupleError(f"{broken} (its header has {length:,} bytes). Do not use it.")
            header = parse_json(file.read(length), object_pairs_hook=_each_once)
        header.pop("__metadata__", None)
        entries = {name: _header_entry(entry) for name, entry in header.items()}
        end = _end_of(entries)
    except FileNotFoundError:
        raise UncoupleError(f"{path}: no such file. The model folder is not whole: fetch it again.") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        told = repr(error)[:200]
        raise UncoupleError(f"{broken} (its header is not as it should be: {told}). Fetch it again.") from None
    start = 8 + length
    if start + end != size:
        raise UncoupleError(f"{broken} (it should have {start + end} bytes and has {size}). Fetch it again.")
    return {name: (dtype, shape, start + first) for name, (dtype, shape, first, _) in entries.items()}


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a name comes twice")
    return found


def _header_entry(entry: dict[str, Any]) -> tuple[str, tuple[int, ...], int, int]:
    """(dtype, shape, first byte, byte after the last) of a tensor, or a ValueError."""
    dtype, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if not isinstance(dtype, str) or not all(type(n) is int and 0 <= n < MOST_BYTES for n in (*shape, first, last)):
        raise ValueError(entry)
    count = 0 if 0 in shape else 1
    for length in shape if count else ():
        count *= length
        if count >= MOST_BYTES:
            raise ValueError("a tensor of more weights than any file can have")
    if first > last or (dtype in DTYPES and last - first != count * DTYPES[dtype][0]):
        raise ValueError(entry)
    return dtype, shape, first, last


def _end_of(entries: dict[str, tuple[str, tuple[int, ...], int, int]]) -> int:
    """The byte after the last tensor, or a ValueError where two share a byte or one is no tensor's."""
    end = 0
    for first, last in sorted(entry[2:] for entry in entries.values()):
        if first != end:
            raise ValueError(f"its tensors overlap or leave a hole at byte {min(first, end)}")
        end = last
    return end
