"""What the benchmarks share: time, peak memory, the machine's matrix rate, a table and its JSON."""

import json
import os
import statistics
import time
from pathlib import Path

import torch

from uncouple.models.devices import release_memory


def matmul_rate(dtype, device, size=4096, repeats=3):
    """Floating-point operations a second of a large square product, the median of a few."""
    a, b, c = (torch.randn(size, size, device=device).to(dtype) for _ in range(3))
    torch.mm(a, b, out=c)
    seconds = [stopwatch(device, torch.mm, a, b, out=c)[1] for _ in range(repeats)]
    return 2 * size**3 / statistics.median(seconds)


def stopwatch(device, work, *arguments, **options):
    """(what `work` returns, its seconds), a GPU waited for."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    result = work(*arguments, **options)
    wait()
    return result, time.perf_counter() - start


def start_peak(device):
    """Begin to watch peak memory: of the GPU, or of the whole process on a CPU."""
    release_memory()
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        # Linux sets the process's high-water mark back to what it has now.
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device):
    """Peak bytes since `start_peak`."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated()
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def describe_machine(device):
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name()
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{len(names)} cores of {names[0].partition(':')[2].strip()}, {memory:.0f} GiB"


def backward_alone(model, layers, sample, sums):
    """One sample, autograd's gradients of the given layers' weights, added as absolute values."""
    ids = torch.tensor([sample.ids], device=model.device)
    labels = ids.clone()
    labels[:, : sample.start] = -100
    model(input_ids=ids, labels=labels).loss.backward()
    for name, layer in layers.items():
        sums[name] += layer.weight.grad.abs()
        layer.weight.grad = None


def format_table(rows):
    """A Markdown table of dicts that have the same keys."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_format(v) for v in row.values()] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _format(value):
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def report(rows, path):
    """Print rows as a table, and write them as JSON where a path is given."""
    print(format_table(rows))
    if path:
        Path(path).write_text(json.dumps(rows, indent=1) + "\n")
