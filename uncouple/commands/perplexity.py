"""Measure perplexity per token over windows of a text that do not overlap.

example:
  python -m uncouple perplexity --path wiki.test.raw --model base --mask mask.parquet --output perplexity.parquet
"""

from argparse import ArgumentParser, Namespace

from uncouple.commands import flags
from uncouple.evaluation.options import Perplexity, Precision
from uncouple.models.places import Placed
from uncouple.options import Count, from_flags, read_as
from uncouple.options import add_flags as add_options

SUMMARY = "measure a variant's perplexity on a text"


def add_flags(parser: ArgumentParser) -> None:
    add_options(parser, Perplexity)
    flags.add_variants(parser)
    parser.add_argument("--batch-size", type=read_as(Count), default=1, help="windows at once (default: %(default)s)")
    add_options(parser, Precision)
    add_options(parser, Placed)
    flags.add_output(parser, "the metrics to write (.parquet)", "variant")


def run(a: Namespace) -> None:
    from uncouple.evaluation import perplexity

    options = from_flags(Perplexity, a)
    size = {"window": options.window, "windows": options.windows, "batch_size": a.batch_size}
    run = {"dtype": a.dtype, "device": a.device}
    perplexity.measure_perplexity(a.model, a.output, source=options, **size, **run, **flags.variants_of(a))
