"""Let variants of a model answer questions, greedily: the model as it is or under a mask, without a checkpoint.
The model is loaded once for all of them, and each answers all sets of questions.

examples:
  python -m uncouple ask questions.parquet --model base --mask mask.parquet --output answers.parquet
  python -m uncouple ask fairness.parquet privacy.parquet --model base --variant origin --noise noise \\
      --variant spin=mask.parquet --output "answers/{variant}/{dimension}.parquet"
"""

from argparse import ArgumentParser, Namespace

from uncouple.commands import flags
from uncouple.evaluation.options import Questioning
from uncouple.options import add_flags as add_options
from uncouple.options import from_flags

SUMMARY = "let a model, and the model under masks, answer questions"


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("questions", nargs="+", help="questions tables")
    flags.add_variants(parser)
    parser.add_argument(
        "--noise",
        action="append",
        default=[],
        type=flags.name,
        metavar="NAME",
        help="a variant of this name: the model as it is, asked in other batches, to see what arithmetic alone changes",
    )
    add_options(parser, Questioning)
    flags.add_output(parser, "the answers to write (.parquet)", "variant", "dimension")


def run(a: Namespace) -> None:
    from uncouple.evaluation import answers

    options = dict(from_flags(Questioning, a))
    answers.answer_questions(a.model, a.questions, a.output, noises=a.noise, **flags.variants_of(a), **options)
