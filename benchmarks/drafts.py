"""What a variant's answers cost where the origin's are known, against the origin's own, in one process.

    python benchmarks/drafts.py --model results/models/SmolLM2-135M-Instruct \\
        --questions results/samples/questions/*.parquet --masks results/masks/SmolLM2-135M-Instruct/*.parquet

`ratio` is of seconds to the origin's, and `cpu_ratio` of seconds of computing, which others on the machine change less.
`noise` is the origin again. With --fresh each variant answers from scratch as well, and `identical` is the share of its
answers that are the same.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import describe_machine, report, stopwatch  # noqa: E402
from uncouple.evaluation.engines import answer_in_batches  # noqa: E402
from uncouple.models.drafts import Draft  # noqa: E402
from uncouple.models.load import load_model, load_tokenizer  # noqa: E402
from uncouple.models.prompts import encode_question  # noqa: E402
from uncouple.records.files import read_table  # noqa: E402
from uncouple.records.formats import QUESTIONS  # noqa: E402
from uncouple.variants.masks import read_mask  # noqa: E402
from uncouple.variants.variant import suppressed  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a model folder")
    parser.add_argument("--questions", required=True, nargs="+", help="questions tables")
    parser.add_argument("--masks", nargs="*", default=[], help="masks of the variants")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--fresh", action="store_true", help="answer from scratch too")
    parser.add_argument("--json", help="file to write the rows to")
    arguments = parser.parse_args()
    model, (tokenizer, prompt) = load_model(arguments.model, "float32", "cpu"), load_tokenizer(arguments.model, "auto")
    variants, rows = {"noise": {}} | {Path(path).stem: read_mask(path)[0] for path in arguments.masks}, []
    print(describe_machine("cpu"))
    for path in arguments.questions:
        questions = read_table(path, QUESTIONS)[0].column("question").to_pylist()
        encoded = [encode_question(tokenizer, question, prompt) for question in questions]

        def ask(drafts=None, encoded=encoded):
            began = time.process_time()
            options = arguments.max_new_tokens, arguments.batch_size, drafts
            found, seconds = stopwatch("cpu", answer_in_batches, model, tokenizer, encoded, *options)
            return found, seconds, time.process_time() - began

        origin = ask()
        for name, entries in variants.items():
            drafts = [Draft(answer.taken, None if entries else answer.sure) for answer in origin[0]]
            with suppressed(model, entries):
                found = ask(drafts)
                fresh = ask()[0] if arguments.fresh else None
            rows.append(
                {
                    "questions": Path(path).stem,
                    "variant": name,
                    "origin_seconds": origin[1],
                    "seconds": found[1],
                    "ratio": found[1] / origin[1],
                    "cpu_ratio": found[2] / origin[2],
                    "the_origins": _share(found[0], origin[0]),
                    "identical": fresh and _share(found[0], fresh),
                }
            )
            print(rows[-1], flush=True)
    report(rows, arguments.json)


def _share(one, other):
    return sum(a.taken == b.taken for a, b in zip(one, other, strict=True)) / len(one)


if __name__ == "__main__":
    main()
