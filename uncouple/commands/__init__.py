"""The command: `python -m uncouple VERB`. Each verb is a file here, and heavy packages are imported when it runs."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from uncouple import progress
from uncouple.errors import SpoiltFile, UncoupleError
from uncouple.models.devices import failed_device
from uncouple.models.fingerprints import RECORD_NAME
from uncouple.records.files import read_any
from uncouple.records.fingerprint import load_part
from uncouple.records.layout import is_place, parts_in_workflow, put_aside
from uncouple.records.plan import check_plan

# Endings of the files that tell what they are.
TOLD = (".parquet", ".json", ".safetensors")

# In the order in which they follow each other by hand; a verb's file is called as it is, with _ for -.
VERBS: tuple[str, ...] = (
    *(
        "pin",
        "cost",
        "status",
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
        progress.log_to(parsed.json_log, verb=parsed.verb, output=getattr(parsed, "output", None))
        # Of a verb with verbs of its own, the function of the one.
        function = parsed.run_it.__name__ if hasattr(parsed, "run_it") else "run"
        check_plan(f"commands.{parsed.verb.replace('-', '_')}:{function}")
        command(parsed.verb).run(parsed)
    except UncoupleError as error:
        return _fail(parsed.verb, " ".join([str(error), *_put_aside(arguments)]))
    except Exception as error:
        # torch's own class, known by name so that torch need not be imported; it tells sizes and not what to do.
        if type(error).__name__ == "OutOfMemoryError":
            return _fail(parsed.verb, f"out of memory ({error}). {_less_memory(parsed)}")
        if told := failed_device(error):
            return _fail(parsed.verb, told)
        # Weights of another user's, which libraries open.
        if isinstance(error, PermissionError):
            return _fail(parsed.verb, f"{error}. Check its permissions, or take a copy of your own.")
        raise
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
        its, how = command(verb), argparse.RawDescriptionHelpFormatter
        sub = verbs.add_parser(verb, help=its.SUMMARY, description=its.__doc__, formatter_class=how)
        its.add_flags(sub)
        told = f"write progress to this file too, as lines of JSON (default: what {progress.JSON_LOG} names)"
        sub.add_argument("--json-log", metavar="FILE", default=os.environ.get(progress.JSON_LOG), help=told)
    return parser


def _put_aside(arguments: list[str]) -> Iterator[str]:
    """Give other names to those of a workflow's files that a command was given and that are spoilt, bytes and all, so
    that the next run makes them again; a sentence of each. All are looked at, for a disk seldom spoils one alone."""
    from uncouple.models.folders import model_record

    for path in (Path(part) for word in arguments for part in {word, word.partition("=")[2]}):
        # Of a model's folder the record is what the workflow looks at.
        file = path / RECORD_NAME if path.is_dir() else path
        if not is_place(parts_in_workflow(file)) or file.suffix not in TOLD or not file.is_file():
            continue
        try:
            read_any(file)
            if path.is_dir():
                model_record(path)
        except SpoiltFile:
            with contextlib.suppress(OSError):
                yield f"{file} is {put_aside(file).name} now, and the next run makes it again."
        except (UncoupleError, OSError):
            continue


def _less_memory(parsed: argparse.Namespace) -> str:
    if hasattr(parsed, "batch_tokens"):
        return "Lower --batch-tokens, or score fewer layers at once (--layers)."
    return "Lower --batch-size." if hasattr(parsed, "batch_size") else "End what else runs, or take a larger machine."


def _fail(verb: str, message: str) -> int:
    progress.say(f"uncouple {verb}: error: {message}")
    return 1
