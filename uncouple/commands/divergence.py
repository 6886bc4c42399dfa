"""Measure how far a variant's predictions of the responses of ordinary samples are from the origin's.

example:
  python -m uncouple divergence general.parquet --model base --mask mask.parquet --output divergence.parquet
"""

from argparse import ArgumentParser, Namespace

from uncouple.commands import flags
from uncouple.evaluation.options import Precision
from uncouple.models.places import Running
from uncouple.options import add_flags as add_options
from uncouple.options import from_flags
from uncouple.scoring.options import Prompting

SUMMARY = "measure how far a variant's predictions are from the origin's"


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("samples", help="a samples table")
    flags.add_variants(parser)
    parser.add_argument("--origin", help="the origin's model folder, where it is not the one of --model")
    add_options(parser, Prompting)
    add_options(parser, Precision)
    add_options(parser, Running)
    flags.add_output(parser, "the metrics to write (.parquet)", "variant")


def run(a: Namespace) -> None:
    from uncouple.evaluation import divergence

    options = {"origin": a.origin, "prompt": a.prompt, "dtype": a.dtype} | dict(from_flags(Running, a))
    divergence.measure_divergence(a.model, a.samples, a.output, **options, **flags.variants_of(a))
