"""How many of the top weights, and of the coupled ones, another precision finds again.

    python benchmarks/agreement.py --model MODEL --samples FAIRNESS PRIVACY GENERAL --dtypes bfloat16 float16
    python benchmarks/agreement.py --model MODEL --samples FAIRNESS PRIVACY GENERAL --lengths 300 1300 --n 2

Each sample set is scored in float32 and in each of the dtypes; a table says which share of float32's weights is found,
in all layers and in the worst one. With --lengths a set's responses are joined until they have so many tokens.
"""

import argparse
import contextlib
import functools
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import report, stopwatch  # noqa: E402
from uncouple.models.families import split_name  # noqa: E402
from uncouple.models.load import load_tokenizer  # noqa: E402
from uncouple.records.columns import top_count  # noqa: E402
from uncouple.records.files import read_table, write_table  # noqa: E402
from uncouple.records.formats import SAMPLES, SCORE_SHARD  # noqa: E402
from uncouple.scoring.options import Scoring  # noqa: E402
from uncouple.scoring.score import score_layers  # noqa: E402
from uncouple.scoring.shards import read_scores  # noqa: E402
from uncouple.selection.options import Selection  # noqa: E402
from uncouple.selection.select import select_weights  # noqa: E402


class FloatProducts(TorchDispatchMode):
    """Half-precision products made in float32 and rounded, as a GPU makes them: a CPU's own are many times slower."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        products = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default)
        if function not in products or arguments[0].dtype.itemsize > 2:
            return function(*arguments, **options or {})
        return function(*(a.float() for a in arguments), **options or {}).to(arguments[0].dtype)


def join_responses(model, samples, length, n, scratch):
    """A table of n samples whose responses are those of the samples joined, of `length` tokens each."""
    tokenizer, _ = load_tokenizer(model)
    table, metadata = read_table(samples, SAMPLES)
    rows, ids, joined = table.to_pylist(), [], []
    for row in rows:
        ids += tokenizer(row["response"] + "\n\n", add_special_tokens=False)["input_ids"]
        if len(ids) >= length and len(joined) < n:
            joined.append(rows[len(joined)] | {"response": tokenizer.decode(ids[:length])})
            ids = []
    path = Path(scratch) / f"{Path(samples).stem}-{length}.parquet"
    write_table(joined, path, SAMPLES, metadata | {"n": len(joined)})
    return path


def tops_at(scores, dimension, ratio):
    return {name: index[: top_count(ratio, scores.size(name))] for name, (index, _) in scores.tops[dimension].items()}


def share_found(truth, found):
    """(share of the weights of `truth` that are in `found`, weights of `truth`), all matrices together."""
    both = sum(len(np.intersect1d(truth[name], found[name], assume_unique=True)) for name in truth)
    count = sum(map(len, truth.values()))
    return both / count if count else None, count


def score_all(arguments, samples, dtype, scratch):
    """`shards.Scores` of all sample tables in a dtype."""
    shards, total = [], 0.0
    on_cpu = dtype != "float32" and not torch.cuda.is_available()
    for table in samples:
        shards.append(Path(scratch) / f"{Path(table).stem}-{dtype}.parquet")
        options = Scoring(module=arguments.module, keep=max(arguments.ratios), dtype=dtype)
        job = functools.partial(score_layers, arguments.model, table, shards[-1], options, device=arguments.device)
        with FloatProducts() if on_cpu else contextlib.nullcontext():
            total += stopwatch("cpu", job)[1]
    print(f"{dtype}: {total:.0f} s", flush=True)
    dimensions = [read_table(path, SCORE_SHARD)[1]["samples"]["dimension"] for path in shards]
    return read_scores(shards, [d for d in dimensions if d != "general"])


def compare(truth, found, ratio):
    """Shares of the truth's tops and coupled weights that are found again, and the share in the worst layer."""
    row, layers = {}, {}
    for dimension in truth.tops:
        tops = [tops_at(scores, dimension, ratio) for scores in (truth, found)]
        row[dimension], row["top"] = share_found(*tops)
        for name, top in tops[0].items():
            layers.setdefault(split_name(name)[1], []).append(share_found({name: top}, {name: tops[1][name]}))
    shares = {layer: sum(s * n for s, n in pairs if n) / sum(n for _, n in pairs) for layer, pairs in layers.items()}
    row["worst_layer"] = min(shares.values())
    if len(truth.dimensions) > 1:
        coupled = [select_weights(scores, list(scores.shapes), Selection(ratio=ratio)) for scores in (truth, found)]
        row["coupled"], row["coupled_count"] = share_found(*coupled)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument(
        "--samples", nargs="+", required=True, help="tables of the general set and of two dimensions or of none"
    )
    parser.add_argument("--dtypes", nargs="+", default=["float16", "bfloat16"])
    parser.add_argument("--module", default="mlp")
    parser.add_argument("--ratios", type=float, nargs="+", default=[1e-5, 1e-4, 1e-3])
    parser.add_argument("--lengths", type=int, nargs="+", default=[None], help="tokens of a response")
    parser.add_argument("--n", type=int, default=4, help="joined responses a set")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", help="file to write the rows to")
    arguments = parser.parse_args()
    rows = []
    for length in arguments.lengths:
        with tempfile.TemporaryDirectory() as scratch:
            samples = arguments.samples
            if length:
                samples = [join_responses(arguments.model, table, length, arguments.n, scratch) for table in samples]
            scores = {d: score_all(arguments, samples, d, scratch) for d in ("float32", *arguments.dtypes)}
        for dtype in arguments.dtypes:
            for ratio in arguments.ratios:
                about = {"response": length, "dtype": dtype, "ratio": ratio}
                rows.append(about | compare(scores["float32"], scores[dtype], ratio))
    report(rows, arguments.json)


if __name__ == "__main__":
    main()
