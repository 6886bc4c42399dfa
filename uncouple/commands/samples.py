"""Draw samples (prompt and response) or questions from raw data and write them as a checked table.

Raw data is a .csv, .jsonl or .parquet file with the columns prompt and response (or question), or a
Hub data set. Drawing n rows with a seed takes the rows that datasets' shuffle(seed) and
select(range(n)) take.

example:
  python -m uncouple samples --path resources/samples/fairness_safe.jsonl --dimension fairness --label safe \\
      --n 64 --seed 0 --output fairness.parquet
"""

from argparse import ArgumentParser, ArgumentTypeError, Namespace

from uncouple.commands import flags
from uncouple.data.sources import Source
from uncouple.options import Count, Whole, from_flags, read_as
from uncouple.options import add_flags as add_options
from uncouple.records.formats import LABELS

SUMMARY = "draw samples or questions from raw data"


def count_and_seed(text: str) -> tuple[int, int]:
    """(n, seed) of N:SEED."""
    n, _, seed = text.partition(":")
    if not (n.isdecimal() and seed.isdecimal()):
        raise ArgumentTypeError(f"{text!r}: write N:SEED, such as 64:0")
    return int(n), int(seed)


def add_flags(parser: ArgumentParser) -> None:
    add_options(parser, Source)
    parser.add_argument("--questions", action="store_true", help="draw questions instead of samples")
    parser.add_argument(
        "--dimension", type=flags.name, required=True, help="the concern that the rows are about, or `general`"
    )
    parser.add_argument("--label", choices=LABELS, default=LABELS[0], help="of all rows (default: %(default)s)")
    parser.add_argument(
        "--n", type=read_as(Count), help="how many rows to draw; all, in their order, where it is left out"
    )
    parser.add_argument("--seed", type=read_as(Whole), default=0, help="of the draw (default: %(default)s)")
    parser.add_argument(
        "--apart",
        nargs="+",
        default=[],
        type=count_and_seed,
        metavar="N:SEED",
        help="of samples: other draws from this source, none of whose rows is to be taken",
    )
    flags.add_output(parser, "the table to write (.parquet)")


def run(a: Namespace) -> None:
    from uncouple.data import samples

    source = from_flags(Source, a)
    if a.questions:
        samples.make_questions(source, a.dimension, a.n, a.seed, a.output)
    else:
        samples.make_samples(source, a.dimension, a.label, a.n, a.seed, a.output, apart=a.apart)
