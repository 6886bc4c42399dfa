"""Draw figures (.png, .svg, .pdf) of one model, each from the one of some tables that it needs.

example:
  python -m uncouple figures awareness language --from metrics.parquet --model base \\
      --style resources/figures.mplstyle --output {figure}.png {figure}.svg
"""

from argparse import ArgumentParser, Namespace

from uncouple.commands import flags

SUMMARY = "draw figures from tidy tables"


def add_flags(parser: ArgumentParser) -> None:
    flags.add_parts(
        parser, "figures", "the tidy tables, and files that `train-judge` made; each says itself what it is"
    )
    parser.add_argument("--model", help="name of the model whose rows are drawn; a judge's figure needs none")
    parser.add_argument("--style", required=True, help="a matplotlib style file")
    parser.add_argument("--output", required=True, nargs="+", help="the files to write; {figure} stands for its name")


def run(a: Namespace) -> None:
    from uncouple.reporting import drawing

    drawing.draw_figures(a.names, a.sources, a.output, style=a.style, model=a.model)
