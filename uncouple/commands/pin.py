"""Write the commits of all that an experiment takes from the Hugging Face Hub into its file, so that a run can be
repeated: wherever `revision` is missing beside `hub`, or is `...`, a branch or a tag. Nothing else in the file changes.

example:
  python -m uncouple pin experiments/paper.yaml
"""

from argparse import ArgumentParser, Namespace

SUMMARY = "write the Hub's commits into an experiment's file"


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the experiment's file")
    parser.add_argument("--check", action="store_true", help="only say which are missing; needs no network")


def run(a: Namespace) -> None:
    from uncouple.experiment import pins

    if a.check:
        pins.check_pins(a.file)
    else:
        pins.pin(a.file)
