"""Say what scoring a model would take, and how it would be cut to fit, from the model's config alone.

example:
  python -m uncouple memory --model Qwen/Qwen2-7B-Instruct --gpu-memory 80GB --module all
"""

from argparse import ArgumentParser, Namespace

from uncouple.commands import flags
from uncouple.options import Count, Size, from_flags, read_as
from uncouple.options import add_flags as add_options
from uncouple.progress import tell
from uncouple.scoring.options import Scoring

SUMMARY = "say how scoring a model would fit into memory"


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, help="a model folder, or a model id on the Hub; its config alone is read"
    )
    parser.add_argument(
        "--gpu-memory",
        type=read_as(Size),
        metavar="SIZE",
        help="of each GPU, such as 80GB (default: what this machine has free)",
    )
    parser.add_argument(
        "--gpus", type=read_as(Count), default=1, help="the model is spread over so many (default: %(default)s)"
    )
    parser.add_argument(
        "--longest", type=read_as(Count), default=512, help="tokens of the longest sample (default: %(default)s)"
    )
    flags.add_layers(parser)
    add_options(parser, Scoring, only=("module", "batch_tokens", "dtype"))


def run(a: Namespace) -> None:
    from uncouple.scoring import memory

    options = from_flags(Scoring, a)
    machine = {"gpu_memory": a.gpu_memory, "gpus": a.gpus}
    tell(str(memory.plan_for_machine(a.model, options, layers=a.layers, longest=a.longest, **machine)))
