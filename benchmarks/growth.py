"""How the cost of scoring grows: seconds over tokens (samples x1, x2, x4) and over scored weights (layers x1, x2, x4).

    python benchmarks/growth.py --model results/models/SmolLM2-135M-Instruct --samples TABLE --plot growth.png

Each point is the fastest of `--repeats` runs; the lines are least squares, whose R2 and intercepts are printed.
"""

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import describe_machine, report, stopwatch  # noqa: E402
from uncouple.models.families import find_linear_layers, target_names  # noqa: E402
from uncouple.models.folders import check_folder  # noqa: E402
from uncouple.models.load import load_model, load_tokenizer  # noqa: E402
from uncouple.models.prompts import encode_samples  # noqa: E402
from uncouple.records.files import read_table  # noqa: E402
from uncouple.records.formats import SAMPLES  # noqa: E402
from uncouple.scoring.gradients import accumulate_gradients  # noqa: E402
from uncouple.scoring.packing import pack_samples  # noqa: E402


def measure(arguments):
    folder = Path(arguments.model)
    config = check_folder(folder)
    tokenizer, prompt = load_tokenizer(folder, "auto")
    samples = read_table(arguments.samples, SAMPLES)[0].to_pylist()
    encoded = encode_samples(tokenizer, samples, prompt, config["max_position_embeddings"])
    model = load_model(folder, "float32", "cpu")
    layers, n = config["num_hidden_layers"], len(encoded) // 4

    def run(samples, layers_scored):
        names = target_names(config, "all", layers - layers_scored)
        batches = pack_samples(encoded[:samples], [str(i) for i in range(samples)], arguments.batch_tokens)
        repeats = range(arguments.repeats)
        return {
            "samples": samples,
            "layers": layers_scored,
            "tokens": sum(batch.ragged.tokens for batch in batches),
            "scored_weights": sum(layer.weight.numel() for layer in find_linear_layers(model, names).values()),
            "seconds": min(stopwatch("cpu", accumulate_gradients, model, names, batches)[1] for _ in repeats),
        }

    run(2, layers)
    tokens = [run(times * n, layers // 4) for times in (1, 2, 4)]
    weights = [run(n, times * (layers // 4)) for times in (1, 2, 4)]
    return tokens, weights


def draw(tokens, weights, path):
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for axis, rows, key, label in (
        (axes[0], tokens, "tokens", "tokens"),
        (axes[1], weights, "scored_weights", "scored weights"),
    ):
        x, y = np.array([row[key] for row in rows]), np.array([row["seconds"] for row in rows])
        slope, start = np.polyfit(x, y, 1)
        r2 = 1 - np.sum((y - slope * x - start) ** 2) / np.sum((y - y.mean()) ** 2)
        print(
            f"{label}: {start:.2f} s + {slope:.3g} s each; R2 {r2:.4f}; seconds x{y[1] / y[0]:.2f}, x{y[2] / y[0]:.2f}"
        )
        axis.plot([0, x.max()], [start, start + slope * x.max()], color="0.6")
        axis.plot(x, y, "o", color="C0")
        axis.set(xlabel=label, ylabel="seconds", xlim=0, ylim=0)
    # The forward pass is through the whole model, however few layers are scored.
    axes[0].set_title(f"{tokens[0]['layers']} layers scored", fontsize="medium")
    axes[1].set_title(f"{weights[0]['tokens']:,} tokens", fontsize="medium")
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a model folder")
    parser.add_argument("--samples", required=True, help="a samples table")
    parser.add_argument("--batch-tokens", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--plot", required=True, help="file to draw to")
    parser.add_argument("--json", help="file to write the rows to")
    arguments = parser.parse_args()
    tokens, weights = measure(arguments)
    print(describe_machine("cpu"))
    draw(tokens, weights, arguments.plot)
    report(tokens + weights, arguments.json)


if __name__ == "__main__":
    main()
