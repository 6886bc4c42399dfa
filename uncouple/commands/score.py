"""Score the weights of a range of layers on one sample set and keep the top ones as a score shard.

The importance score of a weight is its absolute value times the sum, over the samples, of the absolute
gradient of each sample's mean response loss.

example:
  python -m uncouple score fairness.parquet --model base --output fairness-scores.parquet
"""

from argparse import ArgumentParser, Namespace

from uncouple.commands import flags
from uncouple.models.places import Running
from uncouple.options import add_flags as add_options
from uncouple.options import from_flags
from uncouple.scoring.options import Scoring

SUMMARY = "score the weights of a range of layers on a sample set"


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("samples", help="a samples table")
    flags.add_model(parser)
    flags.add_layers(parser)
    add_options(parser, Scoring)
    add_options(parser, Running)
    flags.add_store(parser)
    flags.add_output(parser, "the score shard to write (.parquet)")


def run(a: Namespace) -> None:
    from uncouple.scoring import stored

    first, last = a.layers
    where = {"first": first, "last": last, "store": flags.store_of(a)} | dict(from_flags(Running, a))
    stored.score_once(a.model, a.samples, a.output, from_flags(Scoring, a), **where)
