"""Let a model answer questions, greedily; with --mask, under the mask, without a checkpoint.

example:
  python -m uncouple ask questions.parquet --model base --mask mask.parquet --output answers.parquet
"""

from argparse import ArgumentParser, Namespace

from uncouple.commands import flags
from uncouple.evaluation.options import Asking
from uncouple.models.places import Running
from uncouple.options import add_flags as add_options
from uncouple.options import from_flags

SUMMARY = "let a model, or a model under a mask, answer questions"


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("questions", help="a questions table")
    flags.add_variant(parser)
    add_options(parser, Asking)
    parser.add_argument(
        "--noise",
        action="store_true",
        help="ask in other batches than without it, to see what arithmetic alone changes",
    )
    add_options(parser, Running)
    flags.add_output(parser, "the answers to write (.parquet)")


def run(a: Namespace) -> None:
    from uncouple.evaluation import answers

    options = dict(from_flags(Asking, a)) | {"template_options": from_flags(Running, a).template_options}
    answers.answer_questions(a.model, a.questions, a.output, noise=a.noise, **flags.variant_of(a), **options)
