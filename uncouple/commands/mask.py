"""Select weights by their scores on several sample sets, and write them with their original values.

example:
  python -m uncouple mask --model base --scores fairness-scores.parquet privacy-scores.parquet \\
      general-scores.parquet --dimensions fairness privacy --ratio 1e-4 --output mask.parquet
"""

from argparse import ArgumentParser, Namespace

from uncouple.commands import flags
from uncouple.options import add_flags as add_options
from uncouple.options import from_flags
from uncouple.selection.options import Selection

SUMMARY = "select weights by their scores and keep their values"


def add_flags(parser: ArgumentParser) -> None:
    flags.add_model(parser)
    flags.add_scores(parser)
    add_options(parser, Selection, required=("dimensions", "ratio"))
    parser.add_argument(
        "--variant", type=flags.name, default="suppressed", help="name for the record (default: %(default)s)"
    )
    flags.add_output(parser, "the mask to write (.parquet)")


def run(a: Namespace) -> None:
    from uncouple.selection import select

    select.make_mask(a.model, a.scores, a.output, from_flags(Selection, a), variant=a.variant)
