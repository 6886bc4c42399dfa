"""Count into tidy tables: what the verdicts come to, compared with the origin's (awareness); how often phrases
occur in answers (language); several metrics tables as one (collect); which matrices the masks' weights are in
(placement); how many weights each selection takes as the ratio grows (coupling).

examples:
  python -m uncouple measure awareness verdicts-*.parquet --output metrics.parquet
  python -m uncouple measure coupling --model base --scores *-scores.parquet --dimensions fairness privacy \\
      --ratios 1e-5 1e-4 1e-3 --output coupling.parquet
"""

from argparse import ArgumentParser, Namespace

from uncouple.commands import flags
from uncouple.evaluation.options import Evaluation
from uncouple.options import Share, from_flags, read_as
from uncouple.options import add_flags as add_options
from uncouple.selection.options import Selection

SUMMARY = "count verdicts and weights into tidy tables"


def add_flags(parser: ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    awareness = what.add_parser("awareness", help="rates of verdicts, and variants compared with the origin")
    awareness.add_argument("verdicts", nargs="+", help="files of verdicts")
    add_options(awareness, Evaluation, only=("min_judged",))
    language = what.add_parser("language", help="how often cautionary phrases occur in answers")
    language.add_argument("answers", nargs="+", help="answers tables")
    language.add_argument(
        "--phrases",
        nargs="+",
        type=flags.named_file,
        required=True,
        metavar="DIMENSION=FILE",
        help="phrases, one a line",
    )
    collect = what.add_parser("collect", help="several metrics tables as one")
    collect.add_argument("tables", nargs="+", help="metrics tables")
    placement = what.add_parser("placement", help="suppressed weights by layer and module")
    placement.add_argument("masks", nargs="+", help="masks")
    coupling = what.add_parser("coupling", help="weights that each selection takes, by ratio")
    flags.add_model(coupling)
    flags.add_scores(coupling)
    add_options(coupling, Selection, only=("dimensions", "module"), required=("dimensions",))
    coupling.add_argument("--ratios", nargs="+", type=read_as(Share), required=True, help="ratios to count at")
    for sub in (awareness, language, collect, placement, coupling):
        flags.add_output(sub, "the table to write (.parquet)")


def run(a: Namespace) -> None:
    from uncouple.evaluation import awareness, collect, language
    from uncouple.selection import placement, select

    if a.what == "awareness":
        awareness.measure_awareness(a.verdicts, a.output, min_judged=from_flags(Evaluation, a).min_judged)
    elif a.what == "language":
        language.measure_language(a.answers, a.output, phrases=dict(a.phrases))
    elif a.what == "collect":
        collect.collect_metrics(a.tables, a.output)
    elif a.what == "placement":
        placement.measure_placement(a.masks, a.output)
    else:
        select.count_selected(a.model, a.scores, a.output, from_flags(Selection, a), ratios=a.ratios)
