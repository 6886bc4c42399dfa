"""Fine-tune a model on the responses of samples, several tables mixed as they are.

A run that was killed goes on where it had come to, if it is run again.

example:
  python -m uncouple tune privacy-unsafe.parquet general.parquet --model base --method lora --output tuned
"""

from argparse import ArgumentParser, Namespace

from uncouple.commands import flags
from uncouple.models.places import Running
from uncouple.options import add_flags as add_options
from uncouple.options import from_flags
from uncouple.scoring.options import Prompting
from uncouple.tuning.options import Tuning

SUMMARY = "fine-tune a model on samples"


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("samples", nargs="+", help="samples tables; all samples of each are taken")
    flags.add_model(parser)
    add_options(parser, Tuning, required=("method",))
    parser.add_argument(
        "--variant", type=flags.name, default="tuned", help="name for the record (default: %(default)s)"
    )
    add_options(parser, Prompting)
    add_options(parser, Running)
    flags.add_output(parser, "the folder to make: a model of its own, or an adapter")


def run(a: Namespace) -> None:
    from uncouple.tuning import tune

    options, running = from_flags(Tuning, a), dict(from_flags(Running, a))
    tune.tune_model(a.model, a.samples, a.output, options, prompt=a.prompt, variant=a.variant, **running)
