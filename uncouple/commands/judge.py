"""Call each answer safe or unsafe, or tell refusals from answers. An empty one gets no verdict. The judge is loaded
once for all tables.

examples:
  python -m uncouple judge answers.parquet --phrases resources/phrases/fairness.txt --output verdicts.parquet
  python -m uncouple judge answers.parquet --judge embedding --classifier fairness.json --model encoder \\
      --output verdicts.parquet
  python -m uncouple judge answers.parquet --judge causal --model MD-Judge-v0.1 \\
      --template MD-Judge-v0.1/README.md --output verdicts.parquet
"""

from argparse import ArgumentParser, Namespace
from typing import Any

from uncouple.commands import flags
from uncouple.errors import UncoupleError
from uncouple.evaluation.judges.kinds import JudgeKind
from uncouple.evaluation.judges.registry import ALL_JUDGES
from uncouple.models.places import Place, Placed
from uncouple.options import add_flags as add_options
from uncouple.options import from_flags, kinds_told

# Of judges in an experiment; here a flag names the folder.
PLACE = set(Place.model_fields)
SUMMARY = "call each answer safe or unsafe, a refusal or an answer"


def dimension_and_file(text: str) -> tuple[str | None, str]:
    """(dimension, path) of [DIMENSION=]FILE; None stands for all dimensions."""
    dimension, equals, path = text.partition("=")
    return (dimension, path) if equals and dimension.isidentifier() else (None, text)


def add_flags(parser: ArgumentParser) -> None:
    default = next(iter(ALL_JUDGES))
    parser.add_argument("answers", nargs="+", help="answers tables")
    parser.add_argument(
        "--judge",
        choices=ALL_JUDGES,
        default=default,
        help=f"{kinds_told(ALL_JUDGES.values()).rstrip('.')} (default: {default})",
    )
    parser.add_argument("--name", type=flags.name, help="name for the record (default: the kind of judge)")
    told: dict[str, list[str]] = {}
    for name, kind in ALL_JUDGES.items():
        for flag, text in kind.inputs.items():
            told.setdefault(flag, []).append(f"for {name}: {text}")
    for flag, texts in told.items():
        parser.add_argument(
            f"--{flag}",
            nargs="+",
            default=[],
            type=dimension_and_file,
            metavar="[DIMENSION=]FILE",
            help="; ".join(texts),
        )
    added = {*told, *PLACE}
    for kind in ALL_JUDGES.values():
        add_options(parser, kind, but=added)
        added |= set(kind.model_fields)
    add_options(parser, Placed)
    flags.add_store(parser)
    flags.add_output(parser, "the verdicts to write (.parquet)", "variant", "dimension")


def refuse_others(a: Namespace, kind: type[JudgeKind]) -> None:
    """That no flag is given which other kinds of judges have and this one does not."""
    for other in ALL_JUDGES.values():
        its: dict[str, Any] = {name: field.default for name, field in other.model_fields.items() if name not in PLACE}
        for flag, default in (its | dict.fromkeys(other.inputs, [])).items():
            is_ours = flag in kind.inputs or flag in kind.model_fields
            if not is_ours and getattr(a, flag, default) != default:
                named = flag.replace("_", "-")
                raise UncoupleError(f"--{named}: the judge `{a.judge}` has no use for it. Leave it out.")


def run(a: Namespace) -> None:
    from uncouple.evaluation.judges import judge

    kind = ALL_JUDGES[a.judge]
    refuse_others(a, kind)
    files = {flag: dict(getattr(a, flag)) for flag in kind.inputs}
    # A key of the kind that names a file in an experiment: here its flag has done so.
    chosen = from_flags(kind, a, **{flag: None for flag in kind.inputs if flag in kind.model_fields})
    store = flags.store_of(a)
    judge.judge_answers(a.answers, a.output, chosen, files, name=a.name, device=a.device, store=store)
