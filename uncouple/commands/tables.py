"""Write tables for people (.md, .html, .tex, .csv) of one model, each of those of some files that it needs.

example:
  python -m uncouple tables summary --from metrics.parquet placement.parquet --model base \\
      --output summary.md summary.html
"""

from argparse import ArgumentParser, Namespace

from uncouple.commands import flags

SUMMARY = "write tables for reading from tidy tables"


def add_flags(parser: ArgumentParser) -> None:
    flags.add_parts(parser, "tables", "tidy tables, answers and verdicts; each says itself what it is")
    parser.add_argument("--model", help="name of the model that they are about; a table of all models needs none")
    parser.add_argument("--output", required=True, nargs="+", help="the files to write; {table} stands for its name")


def run(a: Namespace) -> None:
    from uncouple.reporting import pages

    pages.write_tables(a.names, a.sources, a.output, model=a.model)
