"""Scoring by the published loop, by autograd, by per-sample gradients and by Uncouple, side by side in one process.

    python benchmarks/scoring.py --model results/models/SmolLM2-135M-Instruct --samples TABLE --json rows.json

Each method gives the summed absolute gradients (times the weights) of the same linear layers on the same samples, and
all are compared with the published loop's. `vmap` and `opacus` need packages and memory: see --methods.
"""

import argparse
import gc
import pickle
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import (  # noqa: E402
    backward_alone,
    describe_machine,
    matmul_rate,
    peak_memory,
    report,
    start_peak,
    stopwatch,
)
from uncouple.models.families import find_linear_layers, split_name, target_names  # noqa: E402
from uncouple.models.folders import check_folder  # noqa: E402
from uncouple.models.load import load_model, load_tokenizer  # noqa: E402
from uncouple.models.prompts import encode_samples  # noqa: E402
from uncouple.models.skeleton import make_skeleton  # noqa: E402
from uncouple.records.files import read_table  # noqa: E402
from uncouple.records.formats import SAMPLES  # noqa: E402
from uncouple.scoring.gradients import accumulate_gradients  # noqa: E402
from uncouple.scoring.memory import plan_scoring  # noqa: E402
from uncouple.scoring.packing import pack_samples  # noqa: E402
from uncouple.scoring.score import score_model  # noqa: E402
from uncouple.scoring.shards import write_shard  # noqa: E402

METHODS = ("published", "one_backward", "opacus", "vmap", "uncouple")


def published(model, names, encoded, folder):
    """The published loop: for each layer, for each sample, one pass with gradients of that layer's weights alone.

    Loss over the whole sequence's logits, sums by layer, each matrix's scores pickled.
    """
    layers = find_linear_layers(model, names)
    for number in sorted({split_name(name)[1] for name in names}):
        model.zero_grad()
        model.requires_grad_(False)
        # All linear layers of the decoder layer have gradients, whichever of them are wanted later.
        block = model.get_submodule(next(split_name(name)[0] for name in names if split_name(name)[1] == number))
        linear = {name: module for name, module in block.named_modules() if isinstance(module, torch.nn.Linear)}
        sums = {name: torch.zeros_like(module.weight) for name, module in linear.items()}
        for module in linear.values():
            module.requires_grad_(True)
        for sample in encoded:
            backward_alone(model, linear, sample, sums)
        for name, module in linear.items():
            whole = next((n for n, m in layers.items() if m is module), None)
            if whole:
                with (folder / f"{whole}.pkl").open("wb") as file:
                    pickle.dump(module.weight.detach().abs() * sums[name], file)
    model.zero_grad()
    model.requires_grad_(False)


def one_backward(model, names, encoded, folder):
    """One pass a sample for all layers: autograd's weight gradients, batch 1."""
    layers = find_linear_layers(model, names)
    sums = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}
    for layer in layers.values():
        layer.weight.requires_grad_(True)
    for sample in encoded:
        backward_alone(model, layers, sample, sums)
    model.requires_grad_(False)
    return sums


def padded(group):
    """Right-padded ids and labels; attention is causal, so padding changes nothing before it."""
    width = max(len(sample.ids) for sample in group)
    ids = torch.zeros(len(group), width, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, sample in enumerate(group):
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        labels[row, sample.start : len(sample.ids)] = torch.tensor(sample.ids[sample.start :])
    return ids, labels


def sum_of_losses(logits, labels):
    wanted = labels[:, 1:]
    losses = cross_entropy(logits[:, :-1].flatten(0, 1).float(), wanted.flatten(), reduction="none", ignore_index=-100)
    return (losses.view(wanted.shape).sum(1) / (wanted != -100).sum(1)).sum()


def opacus(model, names, encoded, folder, at_once=2):
    """Per-sample gradients by opacus, a few samples at once."""
    from opacus import GradSampleModule

    layers = find_linear_layers(model, names)
    sums = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}
    for layer in layers.values():
        layer.weight.requires_grad_(True)
    # It watches models in training mode alone; these have no dropout.
    wrapped = GradSampleModule(model.train(), loss_reduction="sum", strict=False)
    order = sorted(encoded, key=lambda sample: -len(sample.ids))
    for start in range(0, len(order), at_once):
        ids, labels = padded(order[start : start + at_once])
        sum_of_losses(wrapped(input_ids=ids, use_cache=False).logits, labels).backward()
        for name, layer in layers.items():
            sums[name] += layer.weight.grad_sample.abs().sum(0)
            layer.weight.grad_sample = layer.weight.grad = None
    wrapped.to_standard_module()
    model.eval()
    model.requires_grad_(False)
    return sums


def vmap(model, names, encoded, folder, at_once=2):
    """Per-sample gradients by torch.func, a few samples at once."""
    layers = find_linear_layers(model, names)
    sums = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}
    weights = {f"{name}.weight": layer.weight.detach() for name, layer in layers.items()}

    def loss(weights, ids, labels):
        # An attention mask of the padded shape would depend on the data, which vmap cannot do; causal needs none.
        output = torch.func.functional_call(model, weights, (), {"input_ids": ids[None], "use_cache": False})
        return sum_of_losses(output.logits, labels[None])

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    order = sorted(encoded, key=lambda sample: -len(sample.ids))
    for start in range(0, len(order), at_once):
        found = gradients(weights, *padded(order[start : start + at_once]))
        for name in names:
            sums[name] += found.pop(f"{name}.weight").abs_().sum(0)
    return sums


def uncouple(model, names, encoded, folder, batch_tokens, keep):
    """Uncouple, from encoded samples to the written shard."""
    batches = pack_samples(encoded, [str(i) for i in range(len(encoded))], batch_tokens)
    tops, matrices = score_model(model, names, batches, keep)
    write_shard(folder / "shard.parquet", tops, {"matrices": matrices})


def compare(folder, tops_or_sums, model):
    """Largest relative error of scores against the published loop's pickles."""
    worst = 0.0
    for name, sums in tops_or_sums.items():
        truth = pickle.loads((folder / f"{name}.pkl").read_bytes())
        found = sums * model.get_submodule(name).weight.abs()
        worst = max(worst, float(torch.linalg.norm(found - truth) / torch.linalg.norm(truth)))
    return worst


def measure(arguments):
    folder = Path(arguments.model)
    config = check_folder(folder)
    names = target_names(config, arguments.module)
    tokenizer, prompt = load_tokenizer(folder, "auto")
    samples = read_table(arguments.samples, SAMPLES)[0].to_pylist()[: arguments.n]
    encoded = encode_samples(tokenizer, samples, prompt, config["max_position_embeddings"])
    del tokenizer
    lengths = [len(sample.ids) for sample in encoded]
    model = load_model(folder, arguments.dtype, "cpu")
    plan = plan_scoring(make_skeleton(config, model.dtype), names, "cpu", 10**12, max(lengths), arguments.batch_tokens)
    scored = sum(layer.weight.numel() for layer in find_linear_layers(model, names).values())
    print(
        f"{describe_machine('cpu')}; {folder.name}, {arguments.module}, {model.dtype}: {len(encoded)} samples, "
        f"{sum(lengths):,} tokens; {scored:,} scored weights; uncouple: {plan}"
    )
    rates, rows = [matmul_rate(model.dtype, "cpu")], []
    with tempfile.TemporaryDirectory() as scratch:
        truth = Path(scratch) / "published"
        for method in arguments.methods:
            work = Path(scratch) / method
            work.mkdir(exist_ok=True)
            extra = (plan.batch_tokens, 1e-3) if method == "uncouple" else ()
            start_peak("cpu")
            sums, seconds = stopwatch("cpu", globals()[method], model, names, encoded, work, *extra)
            peak = peak_memory("cpu")
            rates.append(matmul_rate(model.dtype, "cpu"))
            if method == "uncouple" and truth.exists():
                batches = pack_samples(encoded, [str(i) for i in range(len(encoded))], plan.batch_tokens)
                sums = accumulate_gradients(model, names, batches)
            rows.append(
                {
                    "method": method,
                    "seconds": seconds,
                    "tokens_per_second": sum(lengths) / seconds,
                    "ratio_to_published": None,
                    "share_of_matmul_rate": None,
                    "peak_bytes": peak,
                    "bytes_written": sum(path.stat().st_size for path in work.iterdir()),
                    "relative_error": compare(truth, sums, model) if sums and truth.exists() else None,
                }
            )
            print(f"{method}: {seconds:.1f} s", flush=True)
            del sums
            gc.collect()
    rate = statistics.median(rates)
    reference = next((row["seconds"] for row in rows if row["method"] == "published"), None)
    for row in rows:
        row["ratio_to_published"] = reference and reference / row["seconds"]
        row["share_of_matmul_rate"] = 6 * scored * sum(lengths) / row["seconds"] / rate
    print(f"matrix rate: {rate / 1e9:.0f} GFLOP/s (median of {', '.join(f'{r / 1e9:.0f}' for r in rates)})")
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a model folder")
    parser.add_argument("--samples", required=True, help="a samples table")
    parser.add_argument("--n", type=int, default=16, help="samples taken (default: %(default)s)")
    parser.add_argument("--module", default="all", choices=("mlp", "attention", "all"))
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch-tokens", type=int, help="of uncouple (default: what its plan says)")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS, help="in this order (default: all)")
    parser.add_argument("--json", help="file to write the rows to")
    arguments = parser.parse_args()
    rows = measure(arguments)
    report(rows, arguments.json)


if __name__ == "__main__":
    main()
