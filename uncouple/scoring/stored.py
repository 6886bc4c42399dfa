"""Score shards that the store has, of whichever experiment: scoring itself, and torch, are not even imported then."""

from uncouple.models.devices import device_kind
from uncouple.models.families import target_names
from uncouple.models.folders import check_folder, model_record
from uncouple.models.load import dtype_name
from uncouple.records.files import read_table
from uncouple.records.store import Store, code_of, versions
from uncouple.scoring.shards import ENCODING, about_model, about_samples


def score_once(model_folder, samples_path, output, *, store=None, **options):
    """Write the score shard that `score.score_layers` makes, made anew only where the store has none.

    Args:
        model_folder, samples_path, output: see `score.score_layers`.
        store: `store.Store`; none by default.
        options: of `score.score_layers`.

    Raises:
        UncoupleError: see `score.score_layers`.
    """
    store = store or Store()
    record, samples = model_record(model_folder), read_table(samples_path, "samples")[1]
    key = shard_key(record, check_folder(model_folder), samples["fingerprint"], **options)
    names = {"model": about_model(record), "samples": about_samples(samples)}
    if store.take("score shard", key, output, names, **ENCODING):
        return
    from uncouple.scoring.score import score_layers

    score_layers(model_folder, samples_path, output, **options)
    store.put("score shard", key, output)


def shard_key(
    record, config, samples, *, first, last, module, prompt, keep, batch_tokens, dtype, device, template_options=None
):
    """What a shard hangs on, for the store. Scores do not hang on the tokens of a batch, which are what memory allows.

    Args:
        record, config: of the model, see `folders.model_record`.
        samples: fingerprint of the samples.
        first, last, module, prompt, keep, batch_tokens, dtype, device, template_options: see `score.score_layers`.
    """
    kind = device_kind(device)
    return {
        "model": {key: record[key] for key in ("fingerprint", "tokenizer")},
        "samples": samples,
        "matrices": target_names(config, module, first, last),
        "module": module,
        "prompt": prompt,
        "template_options": template_options or {},
        "keep": keep,
        "dtype": dtype_name(config, dtype, kind.partition(" ")[0]),
        "device": kind,
        "versions": versions(),
        "code": code_of("scoring.score:score_layers"),
    }
