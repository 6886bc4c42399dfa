"""Write a table (.md, .html) of one model.

example:
  python -m uncouple tables summary metrics.parquet --model base --output summary.md summary.html
"""

from argparse import ArgumentParser, Namespace

from uncouple.commands import flags

SUMMARY = "write tables for reading from tidy tables"
# What is written, each with what it shows.
TABLES = {
    "summary": "a table of the variants, from metrics",
    "selections": "a table of what each rule selects, from a coupling table",
    "examples": "answers side by side where verdicts differ, from answers and verdicts",
}


def add_flags(parser: ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name, help_text in TABLES.items():
        one = what.add_parser(name, help=help_text)
        if name == "examples":
            one.add_argument("--answers", nargs="+", required=True, help="answers tables")
            one.add_argument("--verdicts", nargs="+", required=True, help="files of verdicts")
        else:
            one.add_argument("table", help="the tidy table")
        one.add_argument("--model", required=True, help="name of the model whose rows are shown")
        if name == "summary":
            flags.add_noise(one)
            one.add_argument("--placement", help="placement table, for the number of suppressed weights")
        one.add_argument("--output", required=True, nargs="+", help="the files to write")


def run(a: Namespace) -> None:
    from uncouple.reporting import tables

    if a.what == "summary":
        tables.write_summary(a.table, a.placement, a.output, model=a.model, noise=a.noise)
    elif a.what == "examples":
        tables.write_examples(a.answers, a.verdicts, a.output, model=a.model)
    else:
        tables.write_selections(a.table, a.output, model=a.model)
