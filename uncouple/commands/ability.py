"""Measure accuracy on tasks of lm-evaluation-harness, from the Hub or from local files of their rows.

example:
  python -m uncouple ability boolq=boolq_validation.jsonl hellaswag --limit 100 --model base \\
      --output ability.parquet
"""

from argparse import ArgumentParser, Namespace

from uncouple.commands import flags
from uncouple.evaluation.options import HUB, Ability, Precision
from uncouple.models.places import Placed
from uncouple.options import add_flags as add_options
from uncouple.options import from_flags

SUMMARY = "measure a variant's accuracy on common tasks"


def task_and_file(text: str) -> tuple[str, str]:
    return flags.named_file(text) if "=" in text else (text, HUB)


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "tasks",
        nargs="+",
        type=task_and_file,
        metavar="TASK[=FILE]",
        help="a task of lm-evaluation-harness from the Hub, or from a local file of its rows",
    )
    flags.add_variants(parser)
    add_options(parser, Ability, but=("tasks",))
    add_options(parser, Precision)
    add_options(parser, Placed)
    flags.add_output(parser, "the metrics to write (.parquet)", "variant")


def run(a: Namespace) -> None:
    from uncouple.evaluation import ability

    options = from_flags(Ability, a, tasks=dict(a.tasks))
    ability.measure_ability(
        a.model,
        a.output,
        tasks=options.files(),
        limit=options.limit,
        batch_size=options.batch_size,
        dtype=a.dtype,
        device=a.device,
        **flags.variants_of(a),
    )
