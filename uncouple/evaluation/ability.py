"""General ability: how a variant does on tasks of lm-evaluation-harness, with the Hub's data or local files."""

import functools
import importlib.metadata
import importlib.util
import json
import logging
import random
import tempfile
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uncouple.errors import UncoupleError
from uncouple.evaluation.collect import MODEL, write_metrics
from uncouple.evaluation.options import TASKS
from uncouple.evaluation.statistics import rate, standard_errors
from uncouple.evaluation.task_files import TASK_KINDS, read_documents
from uncouple.hub import from_hub
from uncouple.models.load import load_tokenizer
from uncouple.progress import Progress, say
from uncouple.records.files import digest, file_sha256, write_json
from uncouple.records.fingerprint import fingerprint
from uncouple.records.formats import Record
from uncouple.records.store import Store, code_of
from uncouple.variants.each import Result, make_each, variant_results
from uncouple.variants.kinds import ORIGIN
from uncouple.variants.variant import edited, load_base, open_variants

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What must be equal in the records of two variants for them to be compared.
ALIKE = (*MODEL, "tasks", "limit", "harness")
# The seeds that the harness's command line takes, for what it shuffles and for the examples that it draws.
SHUFFLE_SEED, EXAMPLES_SEED = 0, 1234


def measure_ability(
    model_folder: str | Path,
    output: str | Path,
    *,
    variants: Iterable[tuple[str, str | Path | None]] = ((ORIGIN, None),),
    tasks: Mapping[str, str | Path | None],
    limit: int,
    batch_size: int,
    dtype: str,
    device: str,
    store: Store | None = None,
) -> None:
    """Write how many rows of some tasks variants of a model get right.

    Metrics of each `task`, of the dimension `general`: `acc` (the likeliest choice is the right one) and, where the
    task has it, `acc_norm` (the likeliest for its length in characters). Prompts and scores are the harness's.

    Args:
        model_folder: the model to measure.
        output: the metrics to write, with {variant} in it where there are several.
        variants: see `answers.answer_questions`.
        tasks: dict of task, one of `options.TASKS`, to a local file (see `task_files`), or to None: the Hub's data.
        limit: the most rows of a task (of each subject, where MMLU is from the Hub); 0 takes all.
        batch_size: prompts scored at once.
        dtype, device: see `models.load_model`.
        store: none by default. What is asked of the Hub's data is not kept: they may change there.

    Raises:
        UncoupleError: an unknown task, a file that is not what its task needs, or no data from the Hub.
    """
    if limit < 0:
        raise UncoupleError(f"limit is {limit}. Set it to 1 or more, or to 0 to take all rows.")
    opened = open_variants(model_folder, variants)
    with tempfile.TemporaryDirectory(prefix="uncouple-ability-") as folder:
        sources = write_tasks(tasks, folder)
        about: Record = {"tasks": sources, "limit": limit, "batch_size": batch_size}
        about |= {"harness": importlib.metadata.version("lm_eval"), "code": fingerprint("evaluation.ability")}
        results = variant_results(opened, output, "ability", _made_of(about), dtype, device)

        def prepare(_: list[Result]) -> Callable[[Result], None]:
            loaded = {name: load_task(name, path, folder) for name, path in tasks.items()}
            tokenizer = load_tokenizer(model_folder)[0]
            say(f"ability: {', '.join(tasks)}")
            model = load_base(opened[0], dtype, device)
            harness = wrap_model(model, tokenizer, batch_size)

            def make(result: Result) -> None:
                with edited(model, result.work):
                    rows = [result.work.who() | row for row in ability_rows(harness, loaded, limit)]
                ran = result.work.about(model.dtype, model.device)
                write_metrics(rows, result.output, measured="ability", alike=ALIKE, **ran, **about)

            return make

        make_each(results, store or Store(), "ability", prepare)


def _made_of(about: Record) -> Record | None:
    """What accuracies hang on besides the variant; None where the Hub's data are asked for."""
    tasks = about["tasks"]
    if any("hub" in source for source in tasks.values()):
        return None
    own = {name: file_sha256(path) for name in tasks if isinstance(path := TASK_KINDS[name].definition, Path)}
    made_of = {key: about[key] for key in ("limit", "batch_size", "harness")}
    made_of |= {"tasks": {name: source["fingerprint"] for name, source in tasks.items()}, "definitions": own}
    return made_of | {"code": code_of("evaluation.ability:measure_ability")}


def ability_rows(harness: Any, loaded: Mapping[str, Any], limit: int) -> list[Record]:
    """Rows of a metrics table, as `measure_ability` tells them, without model and variant.

    Args:
        harness: what `wrap_model` gives.
        loaded: dict of a task's name to what `load_task` gives.
        limit: see `measure_ability`.
    """
    return [
        {"dimension": "general", "metric": metric, "task": name} | found
        for name, task in loaded.items()
        for metric, found in score_task(harness, name, task, limit).items()
    ]


def write_tasks(tasks: Mapping[str, str | Path | None], folder: str | Path) -> dict[str, Record]:
    """Write a folder that the harness finds tasks in: a definition each, and the rows of those that have a local file.

    It serves the harness's command line as well (`--include_path`).

    Args:
        tasks: see `measure_ability`.
        folder: an empty folder.

    Returns:
        dict of task to `{file, rows, fingerprint}`, or to `{hub}`: what it is asked of.

    Raises:
        UncoupleError: an unknown task, or a file that is not what its task needs.
    """
    if unknown := [name for name in tasks if name not in TASKS]:
        raise UncoupleError(f"task {unknown[0]!r}: not one that is known. Use one of {', '.join(TASKS)}.")
    if not tasks:
        raise UncoupleError(f"there is no task to measure. Name one or more of {', '.join(TASKS)}.")
    folder = Path(folder)
    sources: dict[str, Record] = {}
    documents = {name: read_documents(name, path) for name, path in tasks.items() if path}
    for name, path in tasks.items():
        definition = {"include": str(harness_tasks() / TASK_KINDS[name].definition), "task": name}
        sources[name] = {"hub": True}
        if path:
            lines = [json.dumps(document) for document in documents[name]]
            (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
            definition |= _local_data(folder, name)
            sources[name] = {"file": str(path), "rows": len(lines), "fingerprint": digest(*lines)}
        # JSON is YAML.
        if path or not TASK_KINDS[name].group:
            write_json(folder / f"{name}.yaml", definition)
    return sources


def _local_data(folder: Path, name: str) -> Record:
    """What a definition needs changed for its data to be `NAME.jsonl`, read without a trace in the user's own cache."""
    data = {"test": str(folder / f"{name}.jsonl")}
    changes: Record = {"dataset_path": "json", "dataset_name": None}
    changes["dataset_kwargs"] = {"data_files": data, "cache_dir": str(folder / "cache")}
    changes |= {"training_split": None, "validation_split": None, "test_split": "test"}
    changes |= {"fewshot_split": None, "fewshot_config": None, "num_fewshot": 0}
    description = TASK_KINDS[name].description
    return changes | ({"description": description} if description else {})


def harness_tasks() -> Path:
    """The harness's folder of tasks, found without importing it."""
    found = importlib.util.find_spec("lm_eval")
    if found is None or found.origin is None:
        raise UncoupleError("ability is measured with the package `lm_eval`, which is missing (pip install lm_eval).")
    return Path(found.origin).parent / "tasks"


def load_task(name: str, path: str | Path | None, folder: str | Path) -> Any:
    """A task as the harness has it, its data loaded.

    Args:
        name, path: of `measure_ability`'s tasks.
        folder: what `write_tasks` filled.

    Returns:
        the harness's dict of tasks and groups.

    Raises:
        UncoupleError: the data are not to be had.
    """
    import datasets

    datasets.disable_progress_bars()
    # It advises on each definition of its own.
    logging.getLogger("lm_eval.api").setLevel(logging.ERROR)
    from lm_eval.tasks import TaskManager

    group = None if path else TASK_KINDS[name].group
    folders = [folder] + ([harness_tasks() / group] if group else [])
    # Seeded for each task alone: what one shuffles does not depend on which others are measured.
    random.seed(SHUFFLE_SEED)
    manager = TaskManager(include_path=folders, include_defaults=False)
    if path:
        try:
            loaded = manager.load([name])
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise UncoupleError(f"{path}: the harness cannot read it for the task {name}: {error}") from error
    else:
        with from_hub(f"the data of the task {name}", f"give a local file of its rows ({name}=FILE)"):
            loaded = manager.load([name])
    for task in loaded["tasks"].values():
        # Where a definition leaves it open, the harness's command line takes no examples.
        task.set_config(key="num_fewshot", value=task.get_config("num_fewshot") or 0)
    return loaded


def wrap_model(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", batch_size: int) -> Any:
    """A loaded model as the harness wants it."""
    from lm_eval.models.huggingface import HFLM

    logger = logging.getLogger("lm_eval.models.huggingface")
    level = logger.level
    # It warns of every model that is loaded already, and later of prompts that it cuts, which a user should see.
    logger.setLevel(logging.ERROR)
    try:
        harness = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size)
    finally:
        logger.setLevel(level)
    harness.loglikelihood = functools.partial(harness.loglikelihood, disable_tqdm=True)
    return harness


def score_task(harness: Any, name: str, loaded: Any, limit: int) -> dict[str, Record]:
    """How a model does on one task.

    Args:
        harness: what `wrap_model` gives.
        name, loaded: a task's name, and what `load_task` gives.
        limit: see `measure_ability`.

    Returns:
        dict of metric (`acc`, `acc_norm`) to dict of value, low, high, n, of.
    """
    from lm_eval.evaluator import evaluate

    choices = 0
    for task in loaded["tasks"].values():
        # Each variant is shown the same examples.
        task.set_fewshot_seed(seed=EXAMPLES_SEED)
        rows = len(task.task_docs)
        choices += len(task.doc_to_choice(task.task_docs[0])) * min(limit or rows, rows)
    settings = {"limit": limit or None, "cache_requests": False, "log_samples": False}
    with Progress(choices, "choices", f"ability: {name}") as progress:
        # The harness tells this hook of every choice that it has scored; nothing is kept.
        harness.set_cache_hook(types.SimpleNamespace(add_partial=lambda *_: progress.add(1)))
        # Bootstraps are for metrics that we do not take; the error of a mean is a formula, and 0 would leave it out.
        found = evaluate(harness, loaded, bootstrap_iters=1, **settings)
    scores = found["results"][name]
    return {
        metric: interval(scores[f"{metric},none"], scores[f"{metric}_stderr,none"], scores["sample_len"])
        for metric in ("acc", "acc_norm")
        if f"{metric},none" in scores
    }


def interval(value: float, error: float | str, of: int) -> Record:
    """A share of right answers with its 95% interval.

    Args:
        value: the share.
        error: its standard error as the harness gives it, "N/A" for a single row.
        of: how many rows.

    Returns:
        dict of value, low, high, n, of. Where all or none is right the standard error is 0, which is no interval:
        there, and for a single row, it is Wilson's.
    """
    n = round(value * of)
    if isinstance(error, str) or error == 0:
        return rate(n, of)
    half = standard_errors() * error
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half), "n": n, "of": of}
