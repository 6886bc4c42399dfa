"""Train a judge of each dimension: a logistic regression of the embeddings and words of labelled answers.

How good it is, on answers to questions that it was not trained on, is in the file that it writes.

example:
  python -m uncouple train-judge safe.parquet unsafe.parquet --replies refusals.parquet compliances.parquet \\
      --encoder encoder --output fairness.json
"""

from argparse import ArgumentParser, Namespace

from uncouple.commands import flags
from uncouple.models.places import Placed
from uncouple.options import add_flags as add_options

SUMMARY = "train a judge on labelled answers"


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("samples", nargs="+", help="samples tables, both labels of each dimension")
    parser.add_argument("--encoder", required=True, help="an encoder folder (fetch --encoder)")
    parser.add_argument(
        "--replies",
        nargs="+",
        default=[],
        help="samples tables of short refusals (labelled safe) and compliances (unsafe), of this and other dimensions: "
        "half of this one's are tested on and not trained on",
    )
    parser.add_argument("--test", nargs="+", default=[], help="samples tables of other origin, to test the judge on")
    add_options(parser, Placed)
    flags.add_output(parser, "the classifier to write (.json)", "dimension")


def run(a: Namespace) -> None:
    from uncouple.evaluation.judges import training

    training.train_judges(a.samples, a.encoder, a.output, replies=a.replies, test=a.test, device=a.device)
