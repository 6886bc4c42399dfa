"""Each reader of others' files, given thousands of wrong ones. Run in a process of its own, which may die of it:

    python -m security.fuzzing READER COUNT SEED FOLDER

FOLDER has valid files in a folder for each reader, and what they belong to.
"""

import json
import random
import re
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from security.mutating import (
    mutate_bytes,
    mutate_header,
    mutate_json,
    mutate_record,
    mutate_table,
    mutate_value,
    reseal,
)

from uncouple.errors import UncoupleError

ROOT = Path(__file__).parents[2]
DIMENSIONS = ["fairness", "privacy"]


@dataclass(frozen=True)
class Reader:
    """What reads a file, and how it is made wrong besides in its bytes.

    Attributes:
        read: function of (the file, the folder of all that it belongs to).
        change: function of (random numbers, valid bytes) to bytes that say something else.
    """

    read: Callable[[Path, Path], object]
    change: Callable[[random.Random, bytes], bytes] | None = None


def read_samples(path, folder):
    from uncouple.tuning.tune import read_samples

    read_samples([path])


def read_answers(path, folder):
    """As `judge` and `measure language` do."""
    from uncouple.evaluation.judges.judge import judge_answers
    from uncouple.evaluation.judges.phrases import Phrases
    from uncouple.evaluation.language import measure_language

    phrases = ROOT / "resources/phrases/privacy.txt"
    judge_answers([path], folder / "out/{variant}-{dimension}", Phrases(), {"phrases": {None: phrases}})
    measure_language([path], folder / "out/language", phrases={"privacy": phrases})


def read_verdicts(path, folder):
    from uncouple.evaluation.awareness import measure_awareness

    measure_awareness([path], folder / "out/metrics", min_judged=0)


def read_metrics(path, folder):
    from uncouple.evaluation.collect import collect_metrics

    collect_metrics([path], folder / "out/metrics")


def read_shard(path, folder):
    from uncouple.selection.options import Selection
    from uncouple.selection.select import make_mask

    others = [folder / f"shards/{name}" for name in ("privacy", "general")]
    options = Selection(select="intersection", ratio=0.01, dimensions=DIMENSIONS)
    make_mask(folder / "model", [path, *others], folder / "out/mask", options, variant="v")


def read_mask(path, folder):
    """As `measure placement`, `apply` and all that measures a variant do."""
    from uncouple.models.folders import model_record
    from uncouple.selection.placement import measure_placement
    from uncouple.variants import checkpoints, masks, variant

    measure_placement([path], folder / "out/placement")
    entries, metadata = masks.read_mask(path, model_record(folder / "model"))
    checkpoints._model_card(metadata, 1)
    if not hasattr(read_mask, "model"):
        read_mask.model = variant.load_model(folder / "model", "float32", "cpu")
    with variant.suppressed(read_mask.model, entries):
        pass
    copy = shutil.copytree(folder / "model", folder / "out/copy", dirs_exist_ok=True)
    checkpoints._write_entries(copy, entries, suppress=True)


def read_adapter(path, folder):
    from uncouple.variants.reft import read_adapter

    read_adapter(path)


def read_header(path, folder):
    from uncouple.models.weights import read_header

    read_header(path)


def read_model_record(path, folder):
    from uncouple.models.fingerprints import missing_files
    from uncouple.models.folders import model_record

    shutil.copyfile(path, folder / "recorded/uncouple.json")
    missing_files(folder / "recorded")
    model_record(folder / "recorded")


def read_config(path, folder):
    """config.json and an index of weights, in a model folder."""
    from uncouple.models.families import find_family, target_names
    from uncouple.models.folders import check_folder

    place = folder / "plain" / ("config.json" if b"model_type" in path.read_bytes() else "model.safetensors.index.json")
    try:
        shutil.copyfile(path, place)
        config = check_folder(folder / "plain")
        find_family(config)
        target_names(config, "all")
    finally:
        if place.name == "config.json":
            shutil.copyfile(folder / "model/config.json", place)
        else:
            place.unlink()


def read_judge(path, folder):
    from uncouple.evaluation.judges.classifier import embedding_judge

    call = embedding_judge(path, folder / "encoder", batch_size=4)
    call.call(["What is it?"], ["I cannot say."])


def read_template(path, folder):
    from uncouple.evaluation.judges.causal import read_template

    read_template(path)


def read_gguf(path, folder):
    from uncouple.models.gguf import convert_gguf

    out = folder / "out/gguf"
    try:
        convert_gguf(path.parent, path.name, out)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def read_experiment(path, folder):
    """As Snakemake's rules do, and the verbs; what YAML takes for no text is a fault of the config."""
    from uncouple.experiment.config import ROOT, load
    from uncouple.experiment.paths import Paths
    from uncouple.experiment.yaml_text import parse_yaml

    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    config = parse_yaml(text, path)
    if isinstance(config, dict):
        Paths(load(config, ROOT)).records()


def read_raw(path, folder):
    from uncouple.data.samples import make_samples
    from uncouple.data.sources import Source

    make_samples(Source(path=str(path)), "privacy", "safe", None, 0, folder / "out/samples")


def read_reply(path, folder):
    """A causal judge's reply, token by token."""
    from uncouple.evaluation.judges.causal import Reply, read_reply

    if not hasattr(read_reply, "tokenizer"):
        from transformers import AutoTokenizer

        read_reply.tokenizer = AutoTokenizer.from_pretrained(folder / "model", trust_remote_code=False)
    text, category = path.read_bytes().decode("utf-8", "replace"), re.compile(r"[Oo]\d{1,2}")
    assert read_reply(text, category) in ("safe", "unsafe", "none")
    reply = Reply(read_reply.tokenizer, [(3, 4)], {1}, category)
    for token in read_reply.tokenizer(text)["input_ids"][:40]:
        if not reply.take(token, None, True):
            break
    assert reply.verdict in ("safe", "unsafe", "none")


def change_yaml(rng, data):
    import yaml

    return yaml.safe_dump(mutate_value(rng, yaml.safe_load(data)), sort_keys=False).encode("utf-8", "replace")


READERS = {
    "samples": Reader(read_samples, mutate_table),
    "answers": Reader(read_answers, mutate_table),
    "verdicts": Reader(read_verdicts, mutate_table),
    "metrics": Reader(read_metrics, mutate_table),
    "shard": Reader(read_shard, mutate_table),
    "mask": Reader(read_mask, mutate_table),
    "adapter": Reader(read_adapter, mutate_header),
    "header": Reader(read_header, mutate_header),
    "record": Reader(read_model_record, mutate_record),
    "config": Reader(read_config, mutate_json),
    "judge": Reader(read_judge, mutate_record),
    "template": Reader(read_template),
    "gguf": Reader(read_gguf),
    "experiment": Reader(read_experiment, change_yaml),
    "raw": Reader(read_raw, None),
    "reply": Reader(read_reply),
}


def fuzz(name, count, seed, folder):
    """Read wrong files: dict of how many were refused, the seconds, and the MB that reading took besides."""
    reader, rng = READERS[name], random.Random(f"{name} {seed}")
    valid = [(path.suffix, path.read_bytes()) for path in sorted((folder / "valid" / name).iterdir())]
    (folder / "out").mkdir(exist_ok=True)
    # Nothing is printed for each of thousands.
    sys.stderr = open("/dev/null", "w")  # noqa: SIM115
    sys.excepthook = lambda *told: print("".join(traceback.format_exception(*told)))
    for suffix, data in valid:
        reader.read(_put(folder, suffix, data), folder)
    before, begun, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic(), 0
    for _ in range(count):
        suffix, data = rng.choice(valid)
        wrong = _wrong(rng, reader, data, [other for _, other in valid])
        path = _put(folder, suffix, wrong)
        try:
            reader.read(path, folder)
        except UncoupleError:
            refused += 1
        except BaseException:
            print(traceback.format_exc(), f"{path} of {name}", sep="\n")
            shutil.copyfile(path, folder / f"found-{name}{suffix}")
            return None
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"count": count, "refused": refused, "seconds": round(time.monotonic() - begun), "mb": round(added)}


def _wrong(rng, reader, data, others):
    kind = rng.random()
    if reader.change and kind < 0.5:
        return reader.change(rng, data)
    wrong = mutate_bytes(rng, data, others)
    # A stranger can seal a file as well.
    return reseal(wrong) if kind < 0.9 else wrong


def _put(folder, suffix, data):
    path = folder / f"out/wrong{suffix}"
    path.write_bytes(data)
    return path


if __name__ == "__main__":
    found = fuzz(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
    print(json.dumps(found))
    sys.exit(found is None)
