"""Judging answers by the published loop and by Uncouple, side by side in one process.

    python benchmarks/judging.py --model results/models/SmolLM2-135M-Instruct --template CARD.md --csv FILE

Any causal language model stands in the judge's place. The published loop asks it one answer at a time, generates 32
tokens and reads them; Uncouple judges from the first token of the reply, with the template's prefix computed once.
"""

import argparse
import csv
import re
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import describe_machine, report, stopwatch  # noqa: E402
from uncouple.evaluation.judges import causal as judging  # noqa: E402
from uncouple.models.load import load_model, load_tokenizer  # noqa: E402
from uncouple.records.files import read_table  # noqa: E402
from uncouple.records.formats import ANSWERS  # noqa: E402

METHODS = ("published", "uncouple")


def published(model, tokenizer, template, questions, answers):
    """Batch 1, `generate`, and the text read as the published evaluator does."""
    labels = []
    for question, answer in zip(questions, answers, strict=True):
        text = template.replace("{question}", question).replace("{answer}", answer)
        inputs = tokenizer(text, return_tensors="pt").to(model.device)
        with torch.no_grad():
            output = model.generate(**inputs, max_new_tokens=judging.REPLY_TOKENS, do_sample=False)
        reply = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        labels.append(read_published(reply))
    return [(label, None) for label in labels]


def read_published(reply):
    reply = re.sub(r"(?i)^response:[.\s]*", "", reply.strip()).strip()
    if not reply.startswith(("safe", "Safe", "unsafe", "Unsafe")):
        return "none"
    unsafe = re.match(r"(?i)unsafe", reply) or re.search(r"[Oo]\d{1,2}", reply)
    return "unsafe" if unsafe else "safe"


def uncouple(model, tokenizer, template, questions, answers, batch_size):
    """Uncouple, after loading: what `causal_judge` does with questions and answers."""
    texts = [judging.fill_template(tokenizer, template, q, a) for q, a in zip(questions, answers, strict=True)]
    encoded = [judging.encode_text(tokenizer, text, True) for text in texts]
    pairs = judging.verdict_tokens(tokenizer, texts[0], True)
    return judging.judge_texts(model, tokenizer, encoded, pairs, re.compile(r"[Oo]\d{1,2}"), batch_size)


def read_pairs(arguments):
    """The first n questions and answers, of an answers table or of a CSV with `question` and `answer`."""
    if arguments.answers:
        rows = [row for row in read_table(arguments.answers, ANSWERS)[0].to_pylist() if row["answer"]]
    else:
        with open(arguments.csv, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    rows = rows[: arguments.n]
    return [row["question"] for row in rows], [row["answer"] for row in rows]


def measure(arguments, dtype):
    questions, answers = read_pairs(arguments)
    template = judging.read_template(arguments.template)
    tokenizer, _ = load_tokenizer(arguments.model)
    model = load_model(arguments.model, dtype, arguments.device)
    tokens = [len(tokenizer(template + q + a)["input_ids"]) for q, a in zip(questions, answers, strict=True)]
    print(
        f"{describe_machine(model.device)}; {Path(arguments.model).name}, {model.dtype}: {len(tokens)} answers, "
        f"{sum(tokens) / len(tokens):.0f} tokens each with the template"
    )
    # The first pass through a model is slower than the others.
    published(model, tokenizer, template, questions[:1], answers[:1])
    rows, calls = [], {}
    for method in METHODS:
        extra = (arguments.batch_size,) if method == "uncouple" else ()
        calls[method], seconds = stopwatch(
            model.device, globals()[method], model, tokenizer, template, questions, answers, *extra
        )
        rows.append({"method": f"{method}.{dtype}", "answers": len(answers), "seconds": seconds})
    same = [a[0] == b[0] for a, b in zip(calls["published"], calls["uncouple"], strict=True)]
    led = [equal for equal, (_, p_unsafe) in zip(same, calls["uncouple"], strict=True) if p_unsafe is not None]
    for row, ours in zip(rows, (False, True), strict=True):
        row["ratio_to_baseline"] = rows[0]["seconds"] / row["seconds"]
        row["first_token_leads"] = len(led) if ours else None
        # Of the answers where the first verdict token leads, and of the others, where a reply is generated.
        row["identical"] = sum(led) / len(led) if ours and led else None
        row["identical_of_all"] = sum(same) / len(same) if ours else None
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a model folder, in the judge's place")
    parser.add_argument("--template", required=True, help="a text file with {question} and {answer}, or a model card")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--answers", help="an answers table")
    source.add_argument("--csv", help="a CSV file with the columns question and answer")
    parser.add_argument("--n", type=int, default=64, help="answers judged (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=4, help="of uncouple (default: %(default)s)")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", help="file to write the rows to")
    arguments = parser.parse_args()
    rows = [row for dtype in arguments.dtypes for row in measure(arguments, dtype)]
    report(rows, arguments.json)


if __name__ == "__main__":
    main()
