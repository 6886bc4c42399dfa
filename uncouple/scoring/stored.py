"""Score shards that the store has, of whichever experiment: scoring itself, and torch, are not even imported then."""

from pathlib import Path
from typing import Any

from uncouple.models.devices import device_kind
from uncouple.models.families import target_names
from uncouple.models.folders import check_folder, model_record
from uncouple.models.load import dtype_name
from uncouple.records.files import read_table
from uncouple.records.formats import SAMPLES, SCORE_SHARD
from uncouple.records.store import Store, code_of, versions
from uncouple.scoring.options import Scoring
from uncouple.scoring.shards import ENCODING, about_model, about_samples


def score_once(
    model_folder: str | Path,
    samples_path: str | Path,
    output: str | Path,
    options: Scoring,
    *,
    store: Store | None = None,
    **where: Any,
) -> None:
    """Write the score shard that `score.score_layers` makes, made anew only where the store has none.

    Args:
        model_folder, samples_path, output, options: see `score.score_layers`.
        store: none by default.
        where: what else `score.score_layers` takes.

    Raises:
        UncoupleError: see `score.score_layers`.
    """
    store = store or Store()
    record, samples = model_record(model_folder), read_table(samples_path, SAMPLES)[1]
    key = shard_key(record, check_folder(model_folder), samples["fingerprint"], options, **where)
    names = {"model": about_model(record), "samples": about_samples(samples)}
    if store.take(SCORE_SHARD, key, output, names, **ENCODING):
        return
    from uncouple.scoring.score import score_layers

    score_layers(model_folder, samples_path, output, options, **where)
    store.put(SCORE_SHARD, key, output, **ENCODING)


def shard_key(
    record: dict[str, Any],
    config: dict[str, Any],
    samples: str,
    options: Scoring,
    *,
    first: int,
    last: int | None,
    device: str,
    template_options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What a shard hangs on, for the store. Scores do not hang on the tokens of a batch, which are what memory allows.

    Args:
        record, config: of the model, see `folders.model_record`.
        samples: fingerprint of the samples.
        options, first, last, device, template_options: see `score.score_layers`.
    """
    kind = device_kind(device)
    return options.model_dump(exclude={"batch_tokens", "layers_per_shard"}) | {
        "model": {key: record[key] for key in ("fingerprint", "tokenizer")},
        "samples": samples,
        "matrices": target_names(config, options.module, first, last),
        "template_options": template_options or {},
        "dtype": dtype_name(config, options.dtype, kind.partition(" ")[0]),
        "device": kind,
        "versions": versions(),
        "code": code_of("scoring.score:score_layers"),
    }
