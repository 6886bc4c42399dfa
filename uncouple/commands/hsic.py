"""Measure the HSIC between two dimensions' representations at every layer.

example:
  python -m uncouple hsic fairness.parquet privacy.parquet --model base --output hsic.parquet
"""

from argparse import ArgumentParser, Namespace

from uncouple.commands import flags
from uncouple.evaluation.options import Pairing, Precision
from uncouple.models.places import Running
from uncouple.options import add_flags as add_options
from uncouple.options import from_flags
from uncouple.scoring.options import Prompting

SUMMARY = "measure how two dimensions' representations depend on each other"


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("samples", nargs=2, help="samples tables of two dimensions")
    flags.add_variants(parser)
    add_options(parser, Prompting)
    add_options(parser, Pairing)
    add_options(parser, Precision)
    add_options(parser, Running)
    flags.add_output(parser, "the metrics to write (.parquet)", "variant")


def run(a: Namespace) -> None:
    from uncouple.evaluation import hsic

    samples_a, samples_b = a.samples
    hsic.measure_hsic(
        a.model,
        samples_a,
        samples_b,
        a.output,
        prompt=a.prompt,
        permutations=from_flags(Pairing, a).permutations,
        dtype=a.dtype,
        **dict(from_flags(Running, a)),
        **flags.variants_of(a),
    )
