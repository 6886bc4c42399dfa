"""GGUF: a model in one file, quantised, read and written as a folder of full weights."""

import math
import os
import re
from pathlib import Path
from typing import BinaryIO

from uncouple.errors import UncoupleError
from uncouple.models.load import quiet_transformers
from uncouple.progress import say
from uncouple.records.limits import bounded

# Addresses that reading may take: so many, and more for each thread and for each byte of the file, whose weights have
# four bits.
ROOM, THREAD, GROWTH = 4 * 10**9, 2 * 10**8, 40
SECONDS = 2 * 60 * 60
# Bytes of a value by its type in the file; a text and a list say themselves how long they are.
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
TEXT, LIST = 8, 9
MOST_DIMENSIONS = 4


def check_gguf(path: Path) -> tuple[int, int]:
    """That the header of a GGUF file promises no more than the file can hold.

    The libraries that read it believe its lengths: a list of 2^60 numbers is begun and never ended.

    Returns:
        how many tensors and how many weights there are.

    Raises:
        UncoupleError: not GGUF, or a header that lies.

    Source: the format's own description (ggml, docs/gguf.md), versions 2 and 3.
    """
    try:
        with open(path, "rb") as file:
            return _Header(file, path.stat().st_size).walk()
    except ValueError as error:
        raise UncoupleError(f"{path.name}: not a GGUF model that can be read ({error}). Do not use it.") from None


class _Header:
    """A walk through a header, in which each step is within the file, or a ValueError."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def walk(self) -> tuple[int, int]:
        if self.file.read(4) != b"GGUF" or self.number(4) not in (2, 3):
            raise ValueError("it does not begin as version 2 or 3 does")
        tensors, keys = self.number(8), self.number(8)
        # Each has some bytes, so that both loops end with the file.
        for _ in range(keys):
            self.skip(self.number(8))
            self.value(self.number(4))
        weights = 0
        for _ in range(tensors):
            self.skip(self.number(8))
            if (dimensions := self.number(4)) > MOST_DIMENSIONS:
                raise ValueError(f"a tensor of {dimensions} dimensions")
            weights += math.prod(self.number(8) for _ in range(dimensions))
            self.skip(12)
        # No quantisation is below a bit a weight.
        if weights > 8 * self.size:
            raise ValueError(f"{weights:,} weights in {self.size:,} bytes")
        return tensors, weights

    def number(self, length: int) -> int:
        data = self.file.read(length)
        if len(data) < length:
            raise ValueError("it ends within its header")
        return int.from_bytes(data, "little")

    def skip(self, length: int) -> None:
        if self.file.tell() + length > self.size:
            raise ValueError("a length goes beyond the file")
        self.file.seek(length, os.SEEK_CUR)

    def value(self, kind: int, is_inner: bool = False) -> None:
        if kind in SIZES:
            self.skip(SIZES[kind])
        elif kind == TEXT:
            self.skip(self.number(8))
        elif kind == LIST and not is_inner:
            inner, count = self.number(4), self.number(8)
            if inner in SIZES:
                self.skip(SIZES[inner] * count)
            for _ in range(0 if inner in SIZES else count):
                self.value(inner, is_inner=True)
        else:
            raise ValueError(f"a value of the type {kind}")


def convert_gguf(folder: str | Path, name: str, output: str | Path) -> None:
    """Write a GGUF model as config, tokenizer and float32 safetensors, its values exactly as dequantised.

    Raises:
        UncoupleError: it cannot be read.
    """
    path = Path(folder) / name
    held = check_gguf(path)
    # Their libraries take addresses, and so does each thread that they start: the bound is of what comes after.
    import torch  # noqa: F401
    from transformers import AutoModelForCausalLM  # noqa: F401

    room = ROOM + THREAD * (os.cpu_count() or 1)
    with bounded(name, room + GROWTH * path.stat().st_size, SECONDS):
        try:
            _convert(folder, name, output, *held)
        except MemoryError:
            raise
        # What a broken file makes the libraries raise has no class in common.
        except Exception as error:
            raise UncoupleError(f"{name}: not a GGUF model that can be read ({error!r}). Do not use it.") from error


def _convert(folder: str | Path, name: str, output: str | Path, tensors: int, weights: int) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    quiet_transformers()
    say(f"fetch: dequantising {name} to float32 safetensors")
    from_file = {"gguf_file": name, "trust_remote_code": False}
    # What the file does not hold would be drawn at random, in as much memory as its config asks for.
    config = AutoConfig.from_pretrained(folder, **from_file)
    if config.num_hidden_layers > tensors:
        raise ValueError(f"{config.num_hidden_layers:,} layers in {tensors:,} tensors")
    with torch.device("meta"):
        needed = AutoModelForCausalLM.from_config(config).num_parameters()
    if needed > weights:
        raise ValueError(f"its config is of a model of {needed:,} weights, and it holds {weights:,}")
    tokenizer = AutoTokenizer.from_pretrained(folder, clean_up_tokenization_spaces=False, **from_file)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **from_file)
    # It would close up spaces before punctuation that the model wrote.
    tokenizer.clean_up_tokenization_spaces = tokenizer.init_kwargs["clean_up_tokenization_spaces"] = False
    config = loaded.config
    # The special tokens' names come out wrong of the GGUF; its ids, in the config, are right.
    for token in ("bos", "eos", "pad", "unk"):
        if (number := getattr(config, f"{token}_token_id", None)) is not None:
            setattr(tokenizer, f"{token}_token", tokenizer.convert_ids_to_tokens(number))
    # transformers saves no model that remembers being quantised, so a fresh one takes the weights over.
    del config.quantization_config
    config._name_or_path = re.sub(r"\W+", "-", str(config._name_or_path))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    # Some writers make files that their owner alone can read, which a cluster's other users could not.
    for path in Path(output).iterdir():
        path.chmod(0o666 & ~_umask())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
