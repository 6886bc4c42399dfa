"""Model folders into memory: tokenizer and model, ready to run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uncouple.errors import UncoupleError
from uncouple.models.devices import device_kind, pick_devices
from uncouple.models.families import needs_own_attention
from uncouple.models.fingerprints import hashed_meanwhile
from uncouple.models.folders import check_folder
from uncouple.models.prompts import PromptFormat, bind_options
from uncouple.records.formats import Record
from uncouple.records.store import versions

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def quiet_transformers() -> None:
    """Our own progress lines say what goes on; the bars and advice of the library would only hide them in a log."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def load_tokenizer(
    folder: str | Path, prompt: str = "bare", options: dict[str, Any] | None = None
) -> tuple[PreTrainedTokenizerBase, PromptFormat]:
    """The tokenizer of a model folder, and the prompt format that it is used with.

    Args:
        folder: model folder.
        prompt: one of `prompts.PROMPTS`; `auto` is `chat` where the model has a template, else `bare`.
        options: of the chat template, dict of name to value; see `prompts.bind_options`. Of `chat` alone.

    Returns:
        (tokenizer, `prompts.PromptFormat`).

    Raises:
        UncoupleError: it cannot be read, or has no chat template and `chat` or an option is asked for, or an option is
            not known.
    """
    from transformers import AutoTokenizer

    quiet_transformers()
    try:
        # A model's own code is never run: left out, transformers would ask whoever sits at the terminal.
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    # What a broken file makes the libraries raise has no class in common.
    except Exception as error:
        raise UncoupleError(f"{folder}: the tokenizer cannot be read: {error}") from error
    if prompt == "auto":
        prompt = "chat" if tokenizer.chat_template or options else "bare"
    if prompt != "chat":
        return tokenizer, PromptFormat(prompt)
    if not tokenizer.chat_template:
        raise UncoupleError(
            f"{folder}: its tokenizer has no chat template. Use the prompt format `auto` or `bare`, without template "
            "options."
        )
    return tokenizer, PromptFormat(prompt, bind_options(tokenizer, options or {}))


def machine(dtype: str | torch.dtype, device: str | torch.device) -> Record:
    """What a record says of where a model ran: a dict of `formats.MACHINE_KEYS`.

    Args:
        dtype, device: the model's.
    """
    return {"dtype": str(dtype).removeprefix("torch."), "device": device_kind(device), "versions": versions()}


def dtype_name(config: Mapping[str, Any], dtype: str | torch.dtype, kind: str) -> str:
    """Name of the dtype that a model is to have; see `pick_dtype`.

    Args:
        kind: of the device, `cpu` or `cuda`.
    """
    if dtype == "auto":
        # Older files of transformers call it torch_dtype.
        named = config.get("dtype") or config.get("torch_dtype") or "float32"
        dtype = "float32" if kind == "cpu" else named
    return str(dtype).removeprefix("torch.")


def pick_dtype(config: Mapping[str, Any], dtype: str | torch.dtype, device: str | torch.device) -> torch.dtype:
    """The torch.dtype that a model is to have.

    Args:
        config: config.json as a dict.
        dtype: `float32`, `bfloat16`, `float16`, or `auto`: the checkpoint's own on a GPU, and float32 on
            a CPU, where alone answers do not depend on the batch.
        device: torch.device, or its type.
    """
    import torch

    return getattr(torch, dtype_name(config, dtype, getattr(device, "type", device)))


def load_model(
    folder: str | Path, dtype: str | torch.dtype = "auto", device: str | torch.device = "auto"
) -> PreTrainedModel:
    """A causal language model from a folder, ready to run: no dropout and no gradient of any weight.

    Args:
        folder: model folder.
        dtype: see `pick_dtype`.
        device: see `devices.pick_devices`; over several the layers are spread.
    """
    from transformers import AutoModelForCausalLM

    config = check_folder(folder)
    device, *others = pick_devices(device)
    model = read_weights(
        AutoModelForCausalLM,
        folder,
        dtype=pick_dtype(config, dtype, device),
        **({"attn_implementation": "eager"} if needs_own_attention(config) else {}),
        **({"device_map": "balanced"} if others else {}),
    )
    return (model if others else model.to(device)).eval().requires_grad_(False)


def read_weights(kind: Any, folder: str | Path, unused: str | None = None, **options: Any) -> PreTrainedModel:
    """A model of transformers with each of its weights from the folder's files.

    Args:
        kind: an auto class of transformers.
        folder: model folder.
        unused: beginning of the names of tensors that may be missing.
        options: of the class's `from_pretrained`.

    Raises:
        UncoupleError: it cannot be loaded, its files are not those of the folder's record, or a tensor is missing or of
            another shape: transformers would draw it.
    """
    import torch

    quiet_transformers()
    # Else an environment variable (TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, which vendors' images set) or a library loaded
    # before has a GPU round the factors of float32 products to 10 bits.
    torch.set_float32_matmul_precision("highest")
    try:
        safe = {"use_safetensors": True, "trust_remote_code": False}
        with hashed_meanwhile(folder):
            model, report = kind.from_pretrained(str(folder), output_loading_info=True, **safe, **options)
    # What a broken config makes the libraries raise has no class in common.
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError) as error:
        raise UncoupleError(f"{folder}: the model cannot be loaded: {error}") from error
    lacking = sorted({str(key) for what in ("missing_keys", "mismatched_keys") for key in report[what]})
    if lacking := [name for name in lacking if not (unused and name.startswith(unused))]:
        raise UncoupleError(
            f"{folder}: its weights lack tensors of the model, which would be random: {', '.join(lacking[:5])}. "
            "Fetch it again."
        )
    return model
