"""How many of the top weights, and of the coupled ones, another precision finds again.

    python benchmarks/agreement.py --model MODEL --samples FAIRNESS PRIVACY GENERAL --dtypes bfloat16 float16

Each sample set is scored in float32 and in each of the dtypes; a table says which share of float32's weights is found.
"""

import argparse
import functools
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import report, stopwatch  # noqa: E402
from uncouple.coupling import select_weights  # noqa: E402
from uncouple.files import read_table  # noqa: E402
from uncouple.scoring import score_layers  # noqa: E402
from uncouple.shards import read_scores, top_count  # noqa: E402


def tops_at(scores, dimension, ratio):
    return {name: index[: top_count(ratio, scores.size(name))] for name, (index, _) in scores.tops[dimension].items()}


def share_found(truth, found):
    """(share of the weights of `truth` that are in `found`, weights of `truth`), all matrices together."""
    both = sum(len(np.intersect1d(truth[name], found[name], assume_unique=True)) for name in truth)
    count = sum(map(len, truth.values()))
    return both / count if count else None, count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--samples", nargs="+", required=True, help="tables of two dimensions and of the general set")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"])
    parser.add_argument("--module", default="mlp")
    parser.add_argument("--ratios", type=float, nargs="+", default=[1e-5, 1e-4, 1e-3])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", help="file to write the rows to")
    arguments = parser.parse_args()
    keep, scores, rows = max(arguments.ratios), {}, []
    with tempfile.TemporaryDirectory() as scratch:
        for dtype in ("float32", *arguments.dtypes):
            shards, total = [], 0.0
            for samples in arguments.samples:
                shards.append(Path(scratch) / f"{Path(samples).stem}-{dtype}.parquet")
                job = {"first": 0, "last": None, "module": arguments.module, "prompt": "auto", "keep": keep}
                job |= {"batch_tokens": None, "dtype": dtype, "device": arguments.device}
                work = functools.partial(score_layers, arguments.model, samples, shards[-1], **job)
                total += stopwatch("cpu", work)[1]
            print(f"{dtype}: {total:.0f} s", flush=True)
            dimensions = [read_table(path, "score shard")[1]["samples"]["dimension"] for path in shards]
            scores[dtype] = read_scores(shards, [d for d in dimensions if d != "general"])
    for dtype in arguments.dtypes:
        for ratio in arguments.ratios:
            row = {"dtype": dtype, "ratio": ratio}
            for dimension in scores["float32"].tops:
                row[dimension], row["top"] = share_found(
                    tops_at(scores["float32"], dimension, ratio), tops_at(scores[dtype], dimension, ratio)
                )
            coupled = [
                select_weights(scores[d], list(scores[d].shapes), "coupled", ratio, ratio, 0)
                for d in ("float32", dtype)
            ]
            row["coupled"], row["coupled_count"] = share_found(*coupled)
            rows.append(row)
    report(rows, arguments.json)


if __name__ == "__main__":
    main()
