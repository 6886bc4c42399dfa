"""A mask for a new ratio from the score shards of a model of Qwen2-7B's shape: seconds to read, select and write.

    python benchmarks/shards.py

Scores are random and the model's file is sparse (zeros that take no room on the disk), since neither changes the work.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import describe_machine, report, stopwatch  # noqa: E402
from uncouple.models.families import target_names  # noqa: E402
from uncouple.models.fingerprints import RECORD_NAME, SETTLED_NS  # noqa: E402
from uncouple.models.folders import model_record  # noqa: E402
from uncouple.records.columns import top_count  # noqa: E402
from uncouple.records.files import write_record  # noqa: E402
from uncouple.records.formats import MODEL  # noqa: E402
from uncouple.scoring.shards import read_scores, write_shard  # noqa: E402
from uncouple.selection.select import make_mask  # noqa: E402

CONFIG = {"model_type": "qwen2", "num_hidden_layers": 28, "max_position_embeddings": 32768}
HIDDEN, INTERMEDIATE, KEYS = 3584, 18944, 512
INNER = {
    "q_proj": (HIDDEN, HIDDEN),
    "k_proj": (KEYS, HIDDEN),
    "v_proj": (KEYS, HIDDEN),
    "o_proj": (HIDDEN, HIDDEN),
    "gate_proj": (INTERMEDIATE, HIDDEN),
    "up_proj": (INTERMEDIATE, HIDDEN),
    "down_proj": (HIDDEN, INTERMEDIATE),
}


def make_model(folder, names):
    """A model folder with config, a word for a tokenizer, and bfloat16 zeros that take no room on the disk."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    header, end = {}, 0
    for name in names:
        shape = INNER[name.rpartition(".")[2]]
        start, end = end, end + 2 * shape[0] * shape[1]
        header[f"{name}.weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def make_shards(folder, names, keep, layers_per_shard, record):
    """Shards of three sample sets, half of whose top weights they have in common, as real sets do."""
    generator = np.random.default_rng(0)
    paths, common = [], {}
    for name in names:
        rows, columns = INNER[name.rpartition(".")[2]]
        common[name] = np.unique(generator.integers(rows * columns, size=2 * top_count(keep, rows * columns)))
    for dimension in ("fairness", "privacy", "general"):
        for first in range(0, CONFIG["num_hidden_layers"], layers_per_shard):
            last = first + layers_per_shard - 1
            tops, matrices = {}, {}
            for name in target_names(CONFIG, "all", first, last):
                rows, columns = INNER[name.rpartition(".")[2]]
                count = top_count(keep, rows * columns)
                index = generator.permutation(common[name])[:count]
                tops[name] = (index, np.sort(generator.exponential(size=count).astype(np.float32))[::-1])
                matrices[name] = {"shape": [rows, columns], "sum": 1.0, "quantiles": {"0.5": 0.5}}
            paths.append(folder / f"{dimension}-{first}.parquet")
            metadata = {
                "model": {"name": "7B", "source": {}} | {key: record[key] for key in ("fingerprint", "tokenizer")},
                "samples": {"dimension": dimension, "label": "safe", "n": 128, "seed": 0},
                "layers": [first, last],
                "module": "all",
                "prompt": "chat",
                "keep": keep,
                "dtype": "bfloat16",
                "tokens": 1,
                "responses_cut": 0,
                "code": "",
                "matrices": matrices,
            }
            write_shard(paths[-1], tops, metadata)
    return paths


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=float, default=1e-3)
    parser.add_argument("--ratios", type=float, nargs="+", default=[5e-7, 1e-5, 1e-4, 1e-3])
    parser.add_argument("--layers-per-shard", type=int, default=7)
    parser.add_argument("--json", help="file to write the rows to")
    arguments = parser.parse_args()
    names = target_names(CONFIG, "all")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_model(folder / "model", names)
        record, _ = stopwatch("cpu", model_record, folder / "model")
        # What fetch and the first step after it leave behind, so that the files are not hashed again.
        write_record(folder / "model" / RECORD_NAME, MODEL, record)
        time.sleep(SETTLED_NS / 1e9)
        model_record(folder / "model")
        paths = make_shards(folder, names, arguments.keep, arguments.layers_per_shard, record)
        size = sum(path.stat().st_size for path in paths)
        _, seconds = stopwatch("cpu", read_scores, paths, ["fairness", "privacy"])
        print(
            f"{describe_machine('cpu')}: {len(paths)} shards, {size / 1e6:.0f} MB; reading them alone {seconds:.2f} s"
        )
        for ratio in arguments.ratios:
            job = {"dimensions": ["fairness", "privacy"], "select": "coupled", "module": "all", "seed": 0}
            job |= {"ratio": ratio, "general_ratio": ratio, "variant": "v"}
            _, seconds = stopwatch("cpu", make_mask, folder / "model", paths, folder / "m.parquet", **job)
            rows.append({"ratio": ratio, "seconds": seconds, "shards": len(paths), "shard_bytes": size})
    report(rows, arguments.json)


if __name__ == "__main__":
    main()
