"""What a sweep of ten ratios costs besides its answers: ten masks, and one loading of the model.

    python -m benchmarks.sweep --model results/models/SmolLM2-135M-Instruct \\
        --scores results/scores/SmolLM2-135M-Instruct/origin/*/*.parquet --questions results/samples/questions/*.parquet

The whole is timed as the workflow does it: a `mask` for each ratio, and one `ask` of all. Against it stands the time of
the answers alone, in one process that has the model already. With --apart each ratio is asked in a job of its own as
well.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import describe_machine, report, stopwatch
from uncouple.evaluation.engines import answer_in_batches
from uncouple.models.load import load_model, load_tokenizer
from uncouple.models.prompts import encode_question
from uncouple.records.files import read_table
from uncouple.records.formats import QUESTIONS
from uncouple.variants.masks import read_mask
from uncouple.variants.variant import suppressed

RATIOS = (3e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3)


def run(*arguments):
    subprocess.run([sys.executable, "-m", "uncouple", *map(str, arguments)], check=True, capture_output=True)


def make_masks(arguments, folder):
    """Paths of a mask for each ratio, and their seconds."""
    of = ("--model", arguments.model, "--scores", *arguments.scores, "--dimensions", *arguments.dimensions)
    paths = [folder / f"{ratio:g}.parquet" for ratio in RATIOS]

    def make():
        for ratio, path in zip(RATIOS, paths, strict=True):
            run("mask", *of, "--ratio", ratio, "--variant", path.stem, "--output", path)

    return paths, stopwatch("cpu", make)[1]


def time_asking(arguments, masks, folder):
    """Seconds of one `ask` of all masks."""
    variants = [flag for path in masks for flag in ("--variant", f"r{path.stem}={path}")]
    # {variant} is in the name only where there are several.
    output = folder / ("answers-{variant}-{dimension}.parquet" if len(masks) > 1 else "answers-{dimension}.parquet")
    how = ("--max-new-tokens", arguments.max_new_tokens, "--output", output)
    return stopwatch("cpu", run, "ask", *arguments.questions, "--model", arguments.model, *variants, *how)[1]


def time_answers(arguments, masks):
    """Seconds of the answers alone."""
    model, (tokenizer, prompt) = load_model(arguments.model, "auto", "auto"), load_tokenizer(arguments.model, "auto")
    tables = [read_table(path, QUESTIONS)[0].column("question").to_pylist() for path in arguments.questions]
    sets = [[encode_question(tokenizer, question, prompt) for question in questions] for questions in tables]

    def answer():
        for path in masks:
            with suppressed(model, read_mask(path)[0]):
                for encoded in sets:
                    answer_in_batches(model, tokenizer, encoded, arguments.max_new_tokens, 64)

    return stopwatch(model.device, answer)[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a model folder")
    parser.add_argument("--scores", required=True, nargs="+", help="its score shards")
    parser.add_argument("--questions", required=True, nargs="+", help="questions tables")
    parser.add_argument("--dimensions", nargs="+", default=["fairness", "privacy"])
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--apart", action="store_true", help="time an `ask` for each ratio too")
    parser.add_argument("--json", help="file to write the rows to")
    arguments = parser.parse_args()
    print(describe_machine("cpu"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        masks, making = make_masks(arguments, folder)
        asking = time_asking(arguments, masks, folder)
        alone = time_answers(arguments, masks)
        apart = sum(time_asking(arguments, [path], folder) for path in masks if arguments.apart)
    seconds = {"masks": making, "ask": asking, "sweep": making + asking, "answers": alone}
    seconds |= {"apart": making + apart} if apart else {}
    rows = [{"what": what, "seconds": value, "ratio": value / alone} for what, value in seconds.items()]
    report(rows, arguments.json)


if __name__ == "__main__":
    main()
