"""Each verb that runs a model, on the CPU and on a GPU: seconds, and how far their results agree.

    python -m benchmarks.gpu_stages MODEL_FOLDER --output benchmarks/results

What is run first, the CPU in float32, is what the others are held against. With --folder the results stay, and what is
there is not made again: the CPU's half may be made on another machine. A verb's seconds hold the loading of the model,
not the start of Python. Samples are the project's own, in resources/.
"""

import argparse
import datetime
import shutil
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.common import describe_machine, format_table, stopwatch
from uncouple.commands import main as uncouple
from uncouple.tuning.methods import METHODS

DIMENSIONS = ("fairness", "privacy")
SETS = (*DIMENSIONS, "general")
VARIANTS = ("origin", "spin")
PLACES = ["cpu,float32", "cuda,float32", "cuda,bfloat16"]


def run(*arguments):
    """Run a verb."""
    if uncouple([str(argument) for argument in arguments]):
        raise SystemExit(f"failed: {arguments}")


def draw(folder, n):
    """Sample sets and questions."""
    for name in SETS:
        raw = f"resources/samples/{name}.jsonl" if name == "general" else f"resources/samples/{name}_safe.jsonl"
        of = ("--dimension", name, "--n", n, "--seed", 0)
        run("samples", "--path", raw, "--label", "safe", *of, "--output", folder / f"{name}.parquet")
        if name in DIMENSIONS:
            raw = f"resources/questions/{name}.jsonl"
            run("samples", "--path", raw, "--questions", *of, "--output", folder / f"ask-{name}.parquet")


def verbs(samples, folder, ratio):
    """(name, arguments but for the model and the device) of each verb, whose results go into a folder."""
    shards = [folder / f"score-{name}.parquet" for name in SETS]
    for name, shard in zip(SETS, shards, strict=True):
        yield f"score {name}", ("score", samples / f"{name}.parquet", "--output", shard)
    mask = folder / "mask.parquet"
    selected = ("--scores", *shards, "--dimensions", *DIMENSIONS, "--ratio", ratio)
    yield "mask", ("mask", *selected, "--output", mask)
    variants = ("--variant", "origin", "--variant", f"spin={mask}")
    asked = [samples / f"ask-{name}.parquet" for name in DIMENSIONS]
    answers = folder / "ask-{variant}-{dimension}.parquet"
    yield "ask", ("ask", *asked, *variants, "--max-new-tokens", 64, "--output", answers)
    text = ("--path", "resources/samples/general.jsonl", "--window", 256, "--windows", 16)
    pair = [samples / f"{name}.parquet" for name in DIMENSIONS]
    measures = {"perplexity": text, "divergence": (samples / "general.parquet",), "hsic": pair}
    for name, of in measures.items():
        yield name, (name, *of, *variants, "--output", folder / f"{name}-{{variant}}.parquet")
    for method in METHODS:
        what = (samples / "privacy.parquet", "--method", method, "--epochs", 2, "--output", folder / method)
        yield f"tune {method}", ("tune", *what)


def difference(name, folder, truth):
    """How far a verb's results are from the truth's, as text."""
    verb, _, what = name.partition(" ")

    def both(file):
        return [pq.read_table(f"{place / file}.parquet").to_pylist() for place in (folder, truth)]

    if verb == "score":
        found, right = ({(r["module"], r["index"]): r["score"] for r in rows} for rows in both(f"score-{what}"))
        shared = found.keys() & right.keys()
        off = sum((found[key] - right[key]) ** 2 for key in shared) / sum(right[key] ** 2 for key in shared)
        return f"{len(shared) / len(right):.2%} of the kept weights are the same, scores differ by {off**0.5:.1e}"
    if verb == "mask":
        found, right = ({(r["module"], r["index"]) for r in rows} for rows in both("mask"))
        return f"{len(found & right)} weights are the same of {len(found)} and {len(right)}"
    if verb == "ask":
        pairs = [
            (found["answer"], right["answer"])
            for variant in VARIANTS
            for dimension in DIMENSIONS
            for found, right in zip(*both(f"ask-{variant}-{dimension}"), strict=True)
        ]
        return f"{sum(a == b for a, b in pairs)} of {len(pairs)} answers are the same"
    files = [f"{what}/uncouple/curve"] if verb == "tune" else [f"{verb}-{variant}" for variant in VARIANTS]
    pairs = [(a["value"], b["value"]) for file in files for a, b in zip(*both(file), strict=True)]
    off, value = max((abs(a - b), b) for a, b in pairs if b is not None)
    return f"{len(pairs)} values differ by {off:.1e} at most, {value:.3g} there"


def measure(model, samples, folder, truth, place, ratio):
    """A row of each verb on one device, of which `place` is the device and the dtype."""
    device, dtype = place
    for name, arguments in verbs(samples, folder, ratio):
        where = ["--model", model] + ["--device", device] * (name != "mask")
        # Fine-tuning takes no dtype: it multiplies in float32 on a CPU and in bfloat16 on a GPU.
        where += ["--dtype", dtype] * (name != "mask" and not name.startswith("tune"))
        seconds = stopwatch(device, run, *arguments, *where)[1]
        agrees = "" if folder == truth else difference(name, folder, truth)
        for weights in folder.glob("*/model*.safetensors"):
            weights.unlink()
        print(f"{device} {dtype} {name}: {seconds:.1f} s; {agrees}", flush=True)
        yield {"verb": name, "device": device, "dtype": dtype, "seconds": seconds, "against the first": agrees}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--on", nargs="+", default=PLACES, metavar="DEVICE,DTYPE")
    parser.add_argument("--n", type=int, default=32, help="samples of a set, questions of a dimension (%(default)s)")
    parser.add_argument("--ratio", type=float, default=1e-4, help="of the mask (%(default)s)")
    parser.add_argument("--folder", help="where the results stay; by default they go")
    parser.add_argument("--output", help="folder to write a table to, named by the card and the date")
    arguments = parser.parse_args()
    top = Path(arguments.folder or tempfile.mkdtemp())
    samples, places, table = top / "samples", [text.split(",") for text in arguments.on], []
    if not samples.exists():
        draw(samples, arguments.n)
    truth = top / "-".join(places[0])
    for place in places:
        folder = top / "-".join(place)
        if not folder.exists():
            folder.mkdir()
            table += measure(arguments.model, samples, folder, truth, place, arguments.ratio)
    if not arguments.folder:
        shutil.rmtree(top)
    print(format_table(table))
    if arguments.output:
        machine, today = describe_machine(places[-1][0]), datetime.date.today().isoformat()
        path = Path(arguments.output) / f"stages-{machine.replace(' ', '-')}-{today}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# The verbs that run a model on {machine}, {today}\n\n{format_table(table)}\n")


if __name__ == "__main__":
    main()
