"""Give back the base model that a suppressed checkpoint was made from, bit for bit.

example:
  python -m uncouple restore suppressed --output base-again
"""

from argparse import ArgumentParser, Namespace

from uncouple.commands import flags

SUMMARY = "give back the base that a checkpoint was made from"


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="a checkpoint folder that `apply` made")
    flags.add_output(parser, "the model folder to make")


def run(a: Namespace) -> None:
    from uncouple.variants import checkpoints

    checkpoints.restore_base(a.checkpoint, a.output)
