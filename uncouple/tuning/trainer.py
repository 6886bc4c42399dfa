"""Training: trl's trainer on tokens of our own, which goes on where a run that was killed had come to."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from uncouple.errors import UncoupleError
from uncouple.models.prompts import Encoded
from uncouple.progress import Progress, say
from uncouple.records.files import file_sha256, read_json, remove, write_json
from uncouple.tuning.options import Tuning
from uncouple.variants.reft import Adapter, add_hooks, edge_mask

# What the loss does not count.
IGNORED = -100
# Seconds after which it is kept how far a run is, which is what a killed one loses; and how often longer than the
# keeping took, so that it takes a twentieth of the time at most.
KEEP_EVERY, KEEP_TIMES = 300, 20
# Of a model's part that is an adapter.
ADAPTER_NAME = "adapter"
# What is learnt, in a folder from which a run goes on.
LEARNT = "learnt.safetensors"
# And what each of its files hashes to.
HASHES = "hashes.json"


def attach(model: PreTrainedModel, adapter: Adapter) -> None:
    """Make an adapter a part of a model, called ADAPTER_NAME, that acts on the prompts of what it is trained on."""
    add_hooks(model, adapter)
    model.add_module(ADAPTER_NAME, adapter)

    def find_prompts(model: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
        # Kept after the pass: what is not kept for the way back is made again on it.
        prompt = (named["labels"] == IGNORED) & named["attention_mask"].bool()
        adapter.mask = edge_mask(prompt, adapter.positions)

    model.register_forward_pre_hook(find_prompts, with_kwargs=True)


def make_rows(encoded: Sequence[Encoded]) -> list[dict[str, list[int]]]:
    """What the trainer is given: of each sample `input_ids`, and as `labels` the same but for the prompt's."""
    return [{"input_ids": list(e.ids), "labels": [IGNORED] * e.start + list(e.ids[e.start :])} for e in encoded]


def train(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[Encoded],
    options: Tuning,
    device: torch.device,
    scratch: Path,
) -> list[tuple[float, int]]:
    """Train a model on samples.

    The loss of a step is the mean negative log-likelihood of all response tokens in it, so long responses weigh more
    than in scoring, where each sample counts the same. AdamW, a rate that falls to 0 along a line, and a gradient of
    norm 1 at most, as by trl's defaults. On a GPU weights are float32 and products bfloat16; on a CPU all is float32,
    and the same seed gives the same weights.

    Args:
        model: see `methods.Method.prepare`.
        tokenizer: the model's; the samples are tokens already.
        encoded: the samples.
        options: see `options.Tuning`.
        device: where the model is, the first of several.
        scratch: a folder from which a killed run goes on. Optimizer, schedule and generators lie in it as the trainer
            keeps them, which is as pickles: its name must say all that goes into the run, so that no other run's are
            ever read, and whoever calls removes it at the end.

    Returns:
        of each step (loss in nats a token, response tokens).

    Raises:
        UncoupleError: a loss is not finite.
    """
    from datasets import Dataset

    steps = options.epochs * math.ceil(len(encoded) / options.batch_size)
    settings = _settings(options, device, scratch)
    trainer = _Trainer(
        model,
        settings,
        data_collator=DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id or 0),
        train_dataset=Dataset.from_list(make_rows(encoded)),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    count = sum(part.numel() for part in trainer.learnt().values())
    say(f"tune: {options.method}: {len(encoded)} samples in {steps} steps, {count:,} weights to learn, on {device}")
    with Progress(steps, "steps", "tune") as trainer.progress:
        trainer.due = time.monotonic() + KEEP_EVERY
        trainer.train(resume_from_checkpoint=last_checkpoint(scratch))
    rows = [row for row in trainer.state.log_history if "loss" in row]
    return [(row["loss"], round(row["response_tokens"])) for row in rows]


def _settings(options: Tuning, device: torch.device, scratch: Path) -> SFTConfig:
    """trl's settings: its defaults but for what would change the samples, and what a job needs."""
    on_gpu = device.type == "cuda"
    settings = SFTConfig(
        str(scratch),
        num_train_epochs=options.epochs,
        learning_rate=options.own_rate,
        per_device_train_batch_size=options.batch_size,
        seed=options.tune_seed,
        loss_type="nll",
        # Else samples are cut, and those of which no response is left are dropped without a word.
        max_length=None,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        gradient_checkpointing=on_gpu,
        # When to is decided by the clock; see `_Trainer.log`.
        save_strategy="no",
        logging_steps=1,
        # Else a loss that is not finite would be shown as one that is.
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
    )
    if on_gpu:
        # The GPU that was leased, and no other: left to itself it takes the first, and refuses several.
        torch.cuda.set_device(device)
        settings._setup_devices, settings._n_gpu = device, 1
    return settings


class _Trainer(SFTTrainer):
    """trl's trainer, which keeps what is learnt and nothing else of the model, and tells nobody of the run."""

    progress: Progress
    due: float

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if not torch.isfinite(found[0] if return_outputs else found):
            raise UncoupleError(
                f"the loss of step {self.state.global_step + 1} is not finite. Lower the rate (--rate), or mend the "
                "base's weights."
            )
        self._metrics["train"]["response_tokens"].append(int(num_items_in_batch))
        return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """What is logged after each step, and at the end."""
        super().log(logs, start_time)
        if "loss" in logs:
            self.progress.add(1)
            self.control.should_save = time.monotonic() >= self.due

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        start, folder = time.monotonic(), Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        try:
            super()._save_checkpoint(model, trial)
            write_json(folder / HASHES, _hashes(folder))
        except BaseException as error:
            remove(folder)
            # torch tells of a disk on which it cannot write in words of its own.
            if isinstance(error, RuntimeError) and "inline_container" in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
            raise
        _remove_others(folder)
        now = time.monotonic()
        self.due = now + max(KEEP_EVERY, KEEP_TIMES * (now - start))

    def create_model_card(self, *arguments: Any, **options: Any) -> None:
        """None: the card is that of the whole checkpoint."""

    def _send_telemetry(self) -> None:
        """None: trl would tell its makers of each run."""

    def learnt(self) -> dict[str, Tensor]:
        """What is learnt, by name."""
        return {name: part for name, part in self.model.named_parameters() if part.requires_grad}

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: part.detach().contiguous() for name, part in self.learnt().items()}, folder / LEARNT)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        kept = load_file(Path(resume_from_checkpoint) / LEARNT)
        with torch.no_grad():
            for name, part in self.learnt().items():
                part.copy_(kept[name])


def last_checkpoint(scratch: Path) -> str | None:
    """The last whole checkpoint in a folder, the others being removed; None where there is none.

    Whole is one whose files are as they were written: what each hashes to is written last.
    """
    whole = {}
    for folder in scratch.glob("checkpoint-*"):
        # A file that is half there, was spoilt on the disk or did not reach it before the power went.
        with contextlib.suppress(UncoupleError, OSError):
            if read_json(folder / HASHES) == _hashes(folder):
                whole[int(folder.name.rpartition("-")[2])] = folder
    last = whole[max(whole)] if whole else scratch / "none"
    _remove_others(last)
    return str(last) if whole else None


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of a checkpoint's files, by name."""
    return {path.name: file_sha256(path) for path in folder.iterdir() if path.name != HASHES}


def _remove_others(last: Path) -> None:
    """Remove all checkpoints beside one."""
    for folder in last.parent.glob("checkpoint-*"):
        if folder != last:
            remove(folder)
