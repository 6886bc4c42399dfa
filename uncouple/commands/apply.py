"""Write a checkpoint: the base model's files with the mask's weights set to zero.

example:
  python -m uncouple apply --model base --mask mask.parquet --output suppressed
"""

from argparse import ArgumentParser, Namespace

from uncouple.commands import flags

SUMMARY = "write a checkpoint with a mask's weights set to zero"


def add_flags(parser: ArgumentParser) -> None:
    flags.add_model(parser)
    parser.add_argument("--mask", required=True, help="a mask that was made from this model")
    flags.add_output(parser, "the checkpoint folder to make")


def run(a: Namespace) -> None:
    from uncouple.variants import checkpoints

    checkpoints.apply_mask(a.model, a.mask, a.output)
