"""Scoring on a GPU: the published loop, one backward pass a sample, and Uncouple, for models of known shapes.

    python benchmarks/gpu_scoring.py --output benchmarks/results

Weights and tokens are random, so that it needs torch, transformers, pyarrow and no download. The published loop and the
single backward passes are timed on a few samples (the loop on its first, middle and last layer) and scaled up: the
tables say so. --tiles measures other shapes of the kernel's work.
"""

import argparse
import datetime
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import (  # noqa: E402
    backward_alone,
    describe_machine,
    format_table,
    matmul_rate,
    peak_memory,
    report,
    start_peak,
    stopwatch,
)
from uncouple.models.devices import free_memory  # noqa: E402
from uncouple.models.families import find_linear_layers, split_name, target_names  # noqa: E402
from uncouple.models.prompts import Encoded  # noqa: E402
from uncouple.models.skeleton import make_skeleton  # noqa: E402
from uncouple.scoring import kernels  # noqa: E402
from uncouple.scoring.memory import plan_scoring  # noqa: E402
from uncouple.scoring.packing import pack_samples  # noqa: E402
from uncouple.scoring.score import score_model  # noqa: E402

# From the models' published config.json.
SHAPES = {
    "SmolLM2-135M": ("llama", 576, 1536, 30, 9, 3, 49152, True),
    "Qwen2-0.5B": ("qwen2", 896, 4864, 24, 14, 2, 151936, True),
    "Qwen2-7B": ("qwen2", 3584, 18944, 28, 28, 4, 152064, False),
    # Runs on any machine in seconds, to see that the benchmark works.
    "tiny": ("llama", 64, 160, 4, 4, 2, 512, True),
}
TIMED_SAMPLES = 4


def make_config(shape):
    kind, hidden, intermediate, layers, heads, kv_heads, vocabulary, tied = SHAPES[shape]
    return AutoConfig.for_model(
        kind,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=2048,
    )


def draw_samples(count, vocabulary):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(50, 401, (count,), generator=generator).tolist()
    # A third of each sample is its prompt.
    return [Encoded(torch.randint(vocabulary, (n,), generator=generator).tolist(), n // 3) for n in lengths]


def time_backward(model, names, samples):
    """Seconds a token with gradients of the named layers' weights; sums are in the model's dtype, as published."""
    layers = find_linear_layers(model, names)
    sums = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}
    for layer in layers.values():
        layer.weight.requires_grad_(True)
    backward_alone(model, layers, samples[0], sums)

    def each():
        for sample in samples:
            backward_alone(model, layers, sample, sums)

    _, seconds = stopwatch(model.device, each)
    model.requires_grad_(False)
    return seconds / sum(len(s.ids) for s in samples)


def time_kernel(model, names, ragged, rate, tile=None):
    """Share of the matrix rate that the kernel reaches over one decoder layer's matrices."""
    work, seconds, scratch = 0, 0.0, {}
    for name, layer in find_linear_layers(model, names).items():
        if split_name(name)[1] != 0:
            continue
        rows, columns = layer.weight.shape
        g, x = (torch.randn(ragged.tokens, n, device=model.device).to(model.dtype) for n in (rows, columns))
        total = kernels.new_sums(layer.weight)
        if tile:
            from uncouple.scoring.triton_kernels import launch

            call = (launch, total, g, x, ragged, None, tile)
        else:
            call = (kernels.add_abs_products, total, g, x, ragged, scratch)
        # The first call compiles.
        seconds += min(stopwatch(model.device, *call)[1] for _ in range(6))
        work += 2 * ragged.tokens * rows * columns
    return work / seconds / rate


def check_kernel(device, dtype):
    """Relative error of the kernel against float64 products of the same inputs."""
    ragged = kernels.Ragged((1, 50, 64, 65, 130))
    g, x = (torch.randn(ragged.tokens, n, device=device).to(dtype) for n in (200, 136))
    total = kernels.new_sums(torch.empty(200, 136, device=device))
    kernels.add_abs_products(total, g, x, ragged, {})
    pairs = zip(g.double().split(ragged.lengths), x.double().split(ragged.lengths), strict=True)
    truth = sum((a.T @ b).abs() for a, b in pairs)
    return float(torch.linalg.norm(total - truth) / torch.linalg.norm(truth))


def measure(shape, arguments):
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    config = make_config(shape)
    names = target_names(config.to_dict(), arguments.module)
    samples = draw_samples(arguments.n, config.vocab_size)
    lengths = [len(sample.ids) for sample in samples]
    tokens = sum(lengths)
    free = free_memory(device)
    plan = plan_scoring(
        make_skeleton(config.to_dict(), dtype), names, device.type, free, max(lengths), arguments.batch_tokens
    )
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval().requires_grad_(False)
    scored = sum(layer.weight.numel() for layer in find_linear_layers(model, names).values())
    rate = matmul_rate(dtype, device, arguments.square, 10)
    print(f"\n{shape}: plan: {plan}", flush=True)

    few = samples[:TIMED_SAMPLES]
    depth = config.num_hidden_layers
    picked = sorted({0, depth // 2, depth - 1})
    by_layer = [time_backward(model, target_names(config.to_dict(), "all", i, i), few) for i in picked]
    seconds = {"published": sum(by_layer) / len(by_layer) * depth * tokens}
    peaks = {}
    start_peak(device)
    seconds["one_backward"] = time_backward(model, names, few) * tokens
    peaks["one_backward"] = peak_memory(device)

    batches = pack_samples(samples, [str(i) for i in range(len(samples))], plan.batch_tokens)
    # The kernel is compiled at its first call.
    score_model(model, names, batches[-1:], 1e-3, plan.passes)
    start_peak(device)
    _, seconds["uncouple"] = stopwatch(device, score_model, model, names, batches, 1e-3, plan.passes)
    peaks["uncouple"] = peak_memory(device)

    rows = [
        {
            "shape": shape,
            "method": method,
            "seconds": value,
            "tokens_per_second": tokens / value,
            "ratio_to_published": seconds["published"] / value,
            "share_of_matmul_rate": 6 * scored * tokens / value / rate,
            "peak_bytes": peaks.get(method),
            "planned_bytes": plan.peak if method == "uncouple" else None,
            "scaled_up": method != "uncouple",
        }
        for method, value in seconds.items()
    ]
    ragged = batches[0].ragged
    print(f"matrix rate {rate / 1e12:.1f} TFLOP/s; kernel alone: {time_kernel(model, names, ragged, rate):.2f} of it")
    if arguments.tiles:
        from uncouple.scoring.triton_kernels import Tile

        for text in arguments.tiles:
            tile = Tile(*map(int, text.split(",")))
            print(f"  {tile}: {time_kernel(model, names, ragged, rate, tile):.2f}", flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES)[:3])
    parser.add_argument("--n", type=int, default=128, help="samples of 50 to 400 tokens (default: %(default)s)")
    parser.add_argument("--module", default="all", choices=("mlp", "attention", "all"))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch-tokens", type=int)
    parser.add_argument("--square", type=int, default=8192, help="side of the matrices whose product gives the rate")
    parser.add_argument("--tiles", nargs="*", metavar="ROWS,COLUMNS,TOKENS,WARPS,STAGES")
    parser.add_argument("--json", help="file to write the rows to")
    parser.add_argument("--output", help="folder to write a table to, named by the card and the date")
    arguments = parser.parse_args()
    machine = describe_machine(arguments.device)
    error = check_kernel(torch.device(arguments.device), getattr(torch, arguments.dtype))
    print(f"{machine}, {arguments.dtype}; kernel against float64: relative error {error:.1e}")
    rows = [row for shape in arguments.shapes for row in measure(shape, arguments)]
    report(rows, arguments.json)
    if arguments.output:
        today = datetime.date.today().isoformat()
        path = Path(arguments.output) / f"scoring-{machine.replace(' ', '-')}-{today}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# Scoring on {machine}, {arguments.dtype}, {today}\n\n{format_table(rows)}\n")


if __name__ == "__main__":
    main()
