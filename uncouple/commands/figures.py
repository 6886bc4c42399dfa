"""Draw a figure (.png, .svg, .pdf) of one model.

example:
  python -m uncouple figures awareness metrics.parquet --model base --style resources/figures.mplstyle \\
      --output awareness.png awareness.svg
"""

from argparse import ArgumentParser, Namespace

from uncouple.commands import flags

SUMMARY = "draw figures from tidy tables"
# What is drawn, each with what it shows.
FIGURES = {
    "awareness": "awareness and mean p(unsafe) by variant and their differences from the origin, from metrics",
    "ability": "perplexity and accuracy on tasks by variant, from metrics",
    "hsic": "HSIC between two dimensions' representations by layer, from metrics",
    "language": "how often cautionary phrases occur, from metrics",
    "agreement": "how often judges agree, from metrics",
    "placement": "where the suppressed weights are, from a placement table",
    "coupling": "how many weights couple, from a coupling table",
    "judge": "how good a trained judge is, from the files that `train-judge` made",
}


def add_flags(parser: ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name, help_text in FIGURES.items():
        one = what.add_parser(name, help=help_text)
        if name == "judge":
            one.add_argument("classifiers", nargs="+", help="files that `train-judge` made, one a dimension")
        else:
            one.add_argument("table", help="the tidy table")
            one.add_argument("--model", required=True, help="name of the model whose rows are drawn")
        if name == "awareness":
            flags.add_noise(one)
        one.add_argument("--style", required=True, help="a matplotlib style file")
        one.add_argument("--output", required=True, nargs="+", help="the files to write")


def run(a: Namespace) -> None:
    from uncouple.reporting import figures

    if a.what == "judge":
        figures.draw_judge(a.classifiers, a.output, style=a.style)
    elif a.what == "awareness":
        figures.draw_awareness(a.table, a.output, style=a.style, model=a.model, noise=a.noise)
    else:
        getattr(figures, f"draw_{a.what}")(a.table, a.output, style=a.style, model=a.model)
