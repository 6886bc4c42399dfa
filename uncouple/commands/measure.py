"""Count into tidy tables: what the verdicts come to, compared with the origin's (awareness); how often phrases
occur in answers (language); several metrics tables as one (collect); which matrices the masks' weights are in
(placement); how many weights each selection takes as the ratio grows (coupling); which variants are alike but for one
key (sweeps), which of them one half of the questions picks (choice), and how far their masks take the same weights
(stability); what each step of a workflow took (times).

examples:
  python -m uncouple measure awareness verdicts-*.parquet --output metrics.parquet
  python -m uncouple measure coupling --model base --scores *-scores.parquet --dimensions fairness privacy \\
      --ratios 1e-5 1e-4 1e-3 --output coupling.parquet
"""

from argparse import ArgumentParser, Namespace

from uncouple.commands import flags
from uncouple.evaluation.options import Comparing, Counting
from uncouple.options import Share, from_flags, key_value, read_as
from uncouple.options import add_flags as add_options
from uncouple.selection.options import Selection

SUMMARY = "count verdicts and weights into tidy tables"


def add_flags(parser: ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name, (add, run_it, told) in WHAT.items():
        one = what.add_parser(name, help=told)
        add(one)
        one.set_defaults(run_it=run_it)


def run(a: Namespace) -> None:
    a.run_it(a)


def add_awareness(sub: ArgumentParser) -> None:
    sub.add_argument("verdicts", nargs="+", help="files of verdicts")
    add_options(sub, Comparing)
    flags.add_output(sub, "the table to write (.parquet)")


def run_awareness(a: Namespace) -> None:
    from uncouple.evaluation.awareness import measure_awareness

    options = from_flags(Comparing, a)
    measure_awareness(a.verdicts, a.output, min_judged=options.min_judged, primary=options.primary)


def add_language(sub: ArgumentParser) -> None:
    sub.add_argument("answers", nargs="+", help="answers tables")
    sub.add_argument(
        "--phrases",
        nargs="+",
        type=flags.named_file,
        required=True,
        metavar="DIMENSION=FILE",
        help="phrases, one a line",
    )
    flags.add_output(sub, "the table to write (.parquet)")


def run_language(a: Namespace) -> None:
    from uncouple.evaluation.language import measure_language

    measure_language(a.answers, a.output, phrases=dict(a.phrases))


def add_collect(sub: ArgumentParser) -> None:
    sub.add_argument("tables", nargs="+", help="metrics tables")
    flags.add_output(sub, "the table to write (.parquet)")


def run_collect(a: Namespace) -> None:
    from uncouple.evaluation.collect import collect_metrics

    collect_metrics(a.tables, a.output)


def add_placement(sub: ArgumentParser) -> None:
    sub.add_argument("masks", nargs="+", help="masks")
    flags.add_output(sub, "the table to write (.parquet)")


def run_placement(a: Namespace) -> None:
    from uncouple.selection.placement import measure_placement

    measure_placement(a.masks, a.output)


def add_sweeps(sub: ArgumentParser) -> None:
    sub.add_argument(
        "--sweep",
        action="append",
        nargs="+",
        required=True,
        metavar=("KEY", "SERIES VARIANT=VALUE"),
        help="variants that are alike but for the key, each with its value of it; the series, which may be empty, "
        "tells several sweeps of a key apart",
    )
    flags.add_output(sub, "the table to write (.parquet)")


def run_sweeps(a: Namespace) -> None:
    from uncouple.experiment.sweeps import Sweep, write_sweeps

    write_sweeps([Sweep(key, series, dict(map(key_value, values))) for key, series, *values in a.sweep], a.output)


def add_choice(sub: ArgumentParser) -> None:
    sub.add_argument("verdicts", nargs="+", help="files of verdicts")
    sub.add_argument("--sweeps", required=True, help="which variants make a sweep (measure sweeps)")
    add_options(sub, Counting)
    flags.add_output(sub, "the table to write (.parquet)")


def run_choice(a: Namespace) -> None:
    from uncouple.evaluation.choice import measure_choice

    measure_choice(a.verdicts, a.sweeps, a.output, min_judged=from_flags(Counting, a).min_judged)


def add_stability(sub: ArgumentParser) -> None:
    sub.add_argument("masks", nargs="+", help="masks")
    sub.add_argument("--sweeps", required=True, help="which variants make a sweep (measure sweeps)")
    flags.add_output(sub, "the table to write (.parquet)")


def run_stability(a: Namespace) -> None:
    from uncouple.evaluation.stability import measure_stability

    measure_stability(a.masks, a.sweeps, a.output)


def add_coupling(sub: ArgumentParser) -> None:
    flags.add_model(sub)
    flags.add_scores(sub)
    add_options(sub, Selection, only=("dimensions", "module"), required=("dimensions",))
    sub.add_argument("--ratios", nargs="+", type=read_as(Share), required=True, help="ratios to count at")
    flags.add_output(sub, "the table to write (.parquet)")


def run_coupling(a: Namespace) -> None:
    from uncouple.selection.select import count_selected

    count_selected(a.model, a.scores, a.output, from_flags(Selection, a), ratios=a.ratios)


def add_times(sub: ArgumentParser) -> None:
    sub.add_argument(
        "steps",
        nargs="+",
        type=flags.named_file,
        metavar="STEP=FILE",
        help="the verb of a step, and what Snakemake wrote of its time (.tsv), which need not be there",
    )
    sub.add_argument("--model", required=True, help="name of the model that they are of")
    flags.add_output(sub, "the table to write (.parquet)")


def run_times(a: Namespace) -> None:
    from uncouple.experiment.times import measure_times

    measure_times(a.steps, a.output, model=a.model)


# What is counted: its flags, what is done, and what it is.
WHAT = {
    "awareness": (add_awareness, run_awareness, "rates of verdicts, and variants compared with the origin"),
    "language": (add_language, run_language, "how often cautionary phrases occur in answers"),
    "collect": (add_collect, run_collect, "several metrics tables as one"),
    "placement": (add_placement, run_placement, "suppressed weights by layer and module"),
    "sweeps": (add_sweeps, run_sweeps, "which variants are alike but for one key"),
    "choice": (add_choice, run_choice, "which value of a sweep half the questions pick, on the other half"),
    "stability": (add_stability, run_stability, "weights that the masks of a sweep share"),
    "times": (add_times, run_times, "time and memory of a workflow's steps"),
    "coupling": (add_coupling, run_coupling, "weights that each selection takes, by ratio"),
}
