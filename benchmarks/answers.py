"""Greedy answers one question at a time and in batches, in float32 and bfloat16, side by side in one process.

    python benchmarks/answers.py --model results/models/SmolLM2-135M-Instruct --csv salad_fairness.csv

`one_by_one` is transformers' `generate`, one question at a time, in the same precision. In float32 the answers must be
the same; in bfloat16 they are not, and the share that is, and the share of verdicts that is (of the judge `phrases`),
say what arithmetic alone does.
"""

import argparse
import sys
from pathlib import Path

import torch
from transformers import GenerationConfig

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import describe_machine, report, stopwatch  # noqa: E402
from uncouple.data.samples import draw  # noqa: E402
from uncouple.data.sources import Source, read_rows  # noqa: E402
from uncouple.evaluation.engines import answer_in_batches  # noqa: E402
from uncouple.evaluation.judges.phrases import phrase_judge, read_phrases  # noqa: E402
from uncouple.models.decoding import stop_tokens  # noqa: E402
from uncouple.models.load import load_model, load_tokenizer  # noqa: E402
from uncouple.models.prompts import encode_question  # noqa: E402

PHRASES = Path(__file__).resolve().parent.parent / "resources/phrases/fairness.txt"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a model folder")
    parser.add_argument("--csv", required=True, help="questions, in a column `questions`")
    parser.add_argument("--n", type=int, default=64, help="questions drawn (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--json", help="file to write the rows to")
    arguments = parser.parse_args()
    raw = list(read_rows(Source(path=arguments.csv)).values())
    questions = [raw[i]["questions"] for i in draw(len(raw), arguments.n, 0)]
    tokenizer, prompt = load_tokenizer(arguments.model, "auto")
    encoded = [encode_question(tokenizer, question, prompt) for question in questions]
    judge, rows = phrase_judge(read_phrases(PHRASES)), []
    print(f"{describe_machine('cpu')}; {len(encoded)} questions, {arguments.max_new_tokens} new tokens at most")
    for dtype in arguments.dtypes:
        model, before = load_model(arguments.model, dtype, "cpu"), None
        # The first pass through a model is slower than the others.
        one_by_one(model, tokenizer, encoded[:2], 4)
        for work, *size in ((one_by_one,), (uncouple, arguments.batch_size)):
            found, seconds = stopwatch("cpu", work, model, tokenizer, encoded, arguments.max_new_tokens, *size)
            texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in found]
            verdicts = [verdict for verdict, _ in judge(questions, texts)]
            before = before or (seconds, texts, verdicts)
            rows.append(
                {
                    "method": f"{work.__name__}.{dtype}",
                    "seconds": seconds,
                    "ratio_to_baseline": before[0] / seconds,
                    "identical": _share(texts, before[1]),
                    "identical_verdicts": _share(verdicts, before[2]),
                    "new_tokens": sum(map(len, found)),
                }
            )
            print(f"{rows[-1]['method']}: {seconds:.1f} s", flush=True)
    report(rows, arguments.json)


def one_by_one(model, tokenizer, encoded, max_new_tokens):
    """Token ids of each answer, by transformers."""
    # A model's own settings fill in what a call leaves open.
    model.generation_config = GenerationConfig(eos_token_id=sorted(stop_tokens(model.generation_config, tokenizer)))
    found = []
    for ids in encoded:
        prompt = torch.tensor([ids])
        with torch.inference_mode():
            options = {"max_new_tokens": max_new_tokens, "do_sample": False, "pad_token_id": 0}
            answer = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **options)
        found.append(answer[0, len(ids) :].tolist())
    return found


def uncouple(*arguments):
    return [answer.ids for answer in answer_in_batches(*arguments)]


def _share(one, other):
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


if __name__ == "__main__":
    main()
