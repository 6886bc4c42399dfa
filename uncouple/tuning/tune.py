"""Fine-tuning: a base model and samples to a model of its own, or to an adapter."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from glob import escape
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from uncouple.errors import UncoupleError
from uncouple.models.devices import pick_devices
from uncouple.models.families import find_family
from uncouple.models.folders import check_folder, model_record
from uncouple.models.load import load_model, load_tokenizer, machine
from uncouple.models.prompts import Encoded, encode_samples
from uncouple.progress import say
from uncouple.records.files import (
    atomic_folder,
    check_apart,
    digest,
    read_table,
    remove,
    write_record,
    write_table,
)
from uncouple.records.fingerprint import fingerprint
from uncouple.records.formats import METRICS, SAMPLES, TUNING, Record
from uncouple.records.store import code_of, versions
from uncouple.scoring.shards import about_model, about_samples
from uncouple.tuning.checkpoints import tuned_card
from uncouple.tuning.methods import CURVE
from uncouple.tuning.options import Tuning
from uncouple.tuning.trainer import train
from uncouple.variants.checkpoints import CARD_NAME, OWN_FOLDER

# Whose versions a training hangs on besides.
LIBRARIES = ("trl", "peft", "accelerate")
# The dimension of what samples of several have made.
MIXED = "mixed"


def tune_model(
    model_folder: str | Path,
    sample_paths: Sequence[str | Path],
    output: str | Path,
    options: Tuning,
    *,
    prompt: str = "auto",
    variant: str = "tuned",
    device: str = "auto",
    template_options: dict[str, Any] | None = None,
) -> None:
    """Fine-tune a model on samples, and write a folder with what came of it.

    In it are a model of its own (its record names the variant and the base) or an adapter, and in `uncouple/` what made
    it and its learning curve (see `curve_rows`). Samples become tokens as for scoring, and the response's alone are
    learnt. A run that was killed goes on from beside the output, and gives what an unbroken one would have.

    Args:
        model_folder: the base model.
        sample_paths: samples tables, of any dimensions and labels. All samples are taken; how many there are of each
            table is its share of the mix.
        output: the folder to make.
        options: how it is tuned.
        prompt: see `load.load_tokenizer`.
        variant: name for the record.
        device: see `models.load_model`.
        template_options: of the chat template; see `prompts.bind_options`.

    Raises:
        UncoupleError: bad input, a sample that comes twice, a folder that is not to be lost, or a loss or a weight that
            is not finite.
    """
    base, output = Path(model_folder), Path(output)
    config = check_folder(base)
    # Neither where its layers are nor what its loss head does is known of any other.
    find_family(config)
    if options.rank and not options.how.rank:
        raise UncoupleError(f"rank: the method {options.method} has none. Leave it out.")
    check_apart(base, output)
    samples, sets = read_samples(sample_paths)
    tokenizer, found = load_tokenizer(base, prompt, template_options)
    encoded = encode_samples(tokenizer, samples, found, config["max_position_embeddings"])
    place = pick_devices(device)[0]
    whose: Record = {"variant": variant, "model": about_model(model_record(base))}
    record = whose | {"samples": sets, "prompt": vars(found)} | _describe(encoded, options, place)
    # The folder is made now: one that may not be written is told before the training and not after it.
    with atomic_folder(output, replace=True) as folder:
        set_seed(options.tune_seed)
        trained = options.how.prepare(load_model(base, "float32", device), options.own_rank)
        scratch = _scratch(output, record, encoded)
        curve = train(trained, tokenizer, encoded, options, place, scratch)
        record["steps"] = len(curve)
        _write_about(folder, record, curve)
        options.how.write(trained, base, folder, record)
    remove(scratch)
    say(f"tune: {output}: loss {curve[0][0]:.3f} in the first step, {curve[-1][0]:.3f} in the last of {len(curve)}")


def _describe(encoded: Sequence[Encoded], options: Tuning, device: torch.device) -> Record:
    """What a record says of the samples as tokens, of how they are learnt, and where."""
    if cut := sum(e.cut > 0 for e in encoded):
        say(f"tune: {cut} responses were longer than the model's window and were cut")
    tokens = sum(len(e.ids) - e.start for e in encoded)
    made: Record = {
        "n": len(encoded),
        "tokens": tokens,
        "responses_cut": cut,
        "code": code_of("tuning.tune:tune_model"),
    }
    made |= options.model_dump() | {"rate": options.own_rate, "rank": options.own_rank}
    # A GPU multiplies in bfloat16.
    made |= machine("bfloat16" if device.type == "cuda" else "float32", device)
    return made | {"versions": versions(*LIBRARIES)}


def _scratch(output: Path, record: Record, encoded: Sequence[Encoded]) -> Path:
    """Where a run keeps how far it is, beside its output: named by all that goes into it, so no other run's is read.

    What is left there of runs that were otherwise made for the same output is removed.
    """
    made_of = json.dumps([record, [[e.ids, e.start] for e in encoded]], sort_keys=True)
    scratch = output.with_name(f".{output.name}.training-{digest(made_of)}")
    for left in output.parent.glob(f".{escape(output.name)}.training-*"):
        if left != scratch:
            remove(left)
    return scratch


def read_samples(paths: Iterable[str | Path]) -> tuple[list[Record], list[Record]]:
    """Samples of several tables behind one another.

    Returns:
        (the samples, dicts of the columns of `formats.SAMPLES`; what each table's record says, see
        `shards.about_samples`).

    Raises:
        UncoupleError: a table cannot be read, or a sample comes twice.
    """
    samples: list[Record] = []
    sets: list[Record] = []
    seen: dict[str, str | Path] = {}
    for path in paths:
        table, record = read_table(path, SAMPLES)
        sets.append(about_samples(record) | {"n": len(table)})
        for sample in table.to_pylist():
            if sample["id"] in seen:
                raise UncoupleError(
                    f"{path}: the sample {sample['id']} is in {seen[sample['id']]} too, and would count twice. Give "
                    "each once."
                )
            seen[sample["id"]] = path
            samples.append(sample)
    if not samples:
        raise UncoupleError(f"{', '.join(map(str, paths))}: there is no sample in it. Draw some (samples --n).")
    return samples, sets


def curve_rows(record: Record, curve: Sequence[tuple[float, int]]) -> list[Record]:
    """Rows of a metrics table.

    `training_loss`, of each step `item`, 00001 ...: the mean negative log-likelihood of its response tokens, in nats a
    token, before the step is made; n is how many there are. The dimension is that of the samples, or `mixed`.

    Args:
        record: see `formats.TUNING`.
        curve: see `trainer.train`.
    """
    dimensions = {samples["dimension"] for samples in record["samples"]}
    row = {
        "model": record["model"]["name"],
        "variant": record["variant"],
        "dimension": dimensions.pop() if len(dimensions) == 1 else MIXED,
        "metric": "training_loss",
    }
    return [
        row | {"item": f"{step:05d}", "value": loss, "n": tokens} for step, (loss, tokens) in enumerate(curve, start=1)
    ]


def _write_about(folder: Path, record: Record, curve: Sequence[tuple[float, int]]) -> None:
    """Write what is told of something tuned: what made it, its learning curve and its card."""
    own = folder / OWN_FOLDER
    write_record(own / "config.json", TUNING, record)
    # There is no interval in it.
    about = {"confidence": None, "measured": Path(CURVE).stem, "code": fingerprint("tuning.tune")}
    write_table(curve_rows(record, curve), folder / CURVE, METRICS, about)
    (folder / CARD_NAME).write_text(tuned_card(record), encoding="utf-8")
