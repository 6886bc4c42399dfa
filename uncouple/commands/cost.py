"""Say what an experiment would take before it runs: jobs, hours of a card, disk and memory by stage, of what is not yet
made. A file that is there counts as made; what only the store has does not. Nothing is run, and of a model nothing is
read but its config.

With P weights, T tokens and the card's rate, of which two fifths are reckoned with, scoring and tuning take 6 P T
operations and all that is measured 2 P T; a step of decoding reads all weights at half the memory's rate, or multiplies
for the batch where that takes longer. Each job starts in 10 seconds and reads its weights at 1 GB a second. Samples,
figures and an encoder that judges take seconds and count for none. Scoring
takes as much memory as makes its batches large.

example:
  python -m uncouple cost --experiment experiments/paper.yaml --card h100
"""

from argparse import ArgumentParser, Namespace

from uncouple.experiment.sizes import CARDS, GB, Assumed
from uncouple.options import add_flags as add_options
from uncouple.options import from_flags
from uncouple.progress import tell

SUMMARY = "say what an experiment would take before it runs"


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("--experiment", metavar="FILE", help="laid over config.yaml (default: that alone)")
    add_options(parser, Assumed)


def run(a: Namespace) -> None:
    from uncouple.experiment.config import read_experiment
    from uncouple.experiment.cost import Estimate, cost_table
    from uncouple.experiment.paths import Paths

    estimate = Estimate(Paths(read_experiment(a.experiment)), from_flags(Assumed, a))
    tell("\n".join(cost_table(estimate.jobs)))
    card = CARDS[a.card]
    if wide := dict.fromkeys(job.stage for job in estimate.jobs if job.memory > card.memory):
        tell(f"\nMore memory than the card has: {', '.join(wide)}.")
    tell(f"\n{a.card}: {card.rate / 1e12:g} TFLOP/s, {card.memory / GB:g} GB at {card.bandwidth / GB:g} GB/s.")
    for what, places in estimate.notes.items():
        tell(f"Assumed: {what} ({', '.join(sorted(places)[:4])}{', ...' if len(places) > 4 else ''}).")
