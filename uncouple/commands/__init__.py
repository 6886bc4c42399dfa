"""The command: `python -m uncouple VERB`. Each verb is a file here, and heavy packages are imported when it runs."""

import argparse
import sys
from types import ModuleType

from uncouple.errors import UncoupleError
from uncouple.progress import say
from uncouple.records.fingerprint import load_part

# In the order in which they follow each other by hand; a verb's file is called as it is, with _ for -.
VERBS: tuple[str, ...] = (
    *(
        "pin",
        "cost",
        "samples",
        "fetch",
        "memory",
        "score",
        "mask",
        "apply",
        "restore",
        "tune",
        "ask",
        "train-judge",
        "judge",
    ),
    *("perplexity", "divergence", "ability", "hsic", "measure", "figures", "tables", "verify", "store"),
)


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; the exit status is 0, or 1 after an error of the user's, told in one line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    chosen = arguments[0] if arguments and arguments[0] in VERBS else None
    parsed = build_parser(chosen).parse_args(arguments)
    try:
        command(parsed.verb).run(parsed)
    except UncoupleError as error:
        return _fail(parsed.verb, str(error))
    except Exception as error:
        # torch's own class, known by name so that torch need not be imported; it tells sizes and not what to do.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        return _fail(parsed.verb, f"out of memory ({error}). {_less_memory(parsed)}")
    return 0


def command(verb: str) -> ModuleType:
    """The file of a verb: its docstring is the help; SUMMARY, `add_flags` of a parser, `run` of what is parsed."""
    return load_part("commands", verb.replace("-", "_"))


def build_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """The parser of the command.

    Args:
        chosen: the one verb whose flags are wanted; by default all are.
    """
    parser = argparse.ArgumentParser(
        prog="python -m uncouple",
        description="Find the weights of a language model that serve two concerns at once, and suppress them.",
        epilog="`python -m uncouple VERB --help` explains a verb. By hand, the verbs follow each other as above.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in VERBS:
        if chosen not in (None, verb):
            verbs.add_parser(verb)
            continue
        its = command(verb)
        how = argparse.RawDescriptionHelpFormatter
        its.add_flags(verbs.add_parser(verb, help=its.SUMMARY, description=its.__doc__, formatter_class=how))
    return parser


def _less_memory(parsed: argparse.Namespace) -> str:
    if hasattr(parsed, "batch_tokens"):
        return "Lower --batch-tokens, or score fewer layers at once (--layers)."
    return "Lower --batch-size." if hasattr(parsed, "batch_size") else "End what else runs, or take a larger machine."


def _fail(verb: str, message: str) -> int:
    say(f"uncouple {verb}: error: {message}")
    return 1
