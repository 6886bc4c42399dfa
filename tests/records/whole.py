"""A small results folder, laid out as the workflow lays it out, and made by the steps themselves."""

import json
from pathlib import Path

import pytest

from uncouple.data.samples import make_questions, make_samples
from uncouple.data.sources import Source
from uncouple.evaluation.awareness import measure_awareness
from uncouple.evaluation.judges.judge import judge_answers
from uncouple.evaluation.judges.phrases import Phrases
from uncouple.experiment.sweeps import Sweep, write_sweeps
from uncouple.models.fetch import fetch_model
from uncouple.models.folders import model_record
from uncouple.records.files import read_any, write_table
from uncouple.records.formats import ANSWERS
from uncouple.selection.options import Selection
from uncouple.selection.placement import measure_placement
from uncouple.selection.select import count_selected, make_mask
from uncouple.variants.checkpoints import apply_mask

SCORING = {"module": "mlp", "prompt": "chat", "keep": 0.05, "batch_tokens": 300, "dtype": "float32", "device": "cpu"}
SELECTION = Selection(ratio=0.01, dimensions=["fairness", "privacy"])
PHRASES = Path(__file__).parents[2] / "resources/phrases/privacy.txt"


def write_answers(path, model, questions, variant, texts):
    """Answers as `ask` writes them, without asking: decoding is not what is tested here."""
    table, asked = read_any(questions)
    record, rows = model_record(model), table.to_pylist()
    about = {"model": record["name"], "variant": variant, "base": "origin", "mask": None, "adapter": None}
    about |= {"dtype": "float32", "noise": False}
    about |= {"device": "cpu", "versions": {}}
    about["fingerprints"] = {"weights": record["fingerprint"]} | {k: record[k] for k in ("tokenizer", "generation")}
    about |= {"dimension": asked["dimension"], "questions": asked["fingerprint"], "prompt": {}, "max_new_tokens": 8}
    about |= {"engine": "transformers", "batches": {"most": 8, "count": 1, "fingerprint": "b"}}
    answers = [row | {"answer": text, "tokens": 3, "truncated": False} for row, text in zip(rows, texts, strict=True)]
    write_table(answers, path, ANSWERS, about)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model_folder):
    """A small results folder, as the workflow lays it out."""
    from conftest import TEXTS, score_with

    results = tmp_path_factory.mktemp("whole") / "results"
    raw = results.with_name("raw.jsonl")
    raw.write_text("".join(json.dumps({"prompt": p, "response": r, "question": p}) + "\n" for p, r in TEXTS))
    source, base, shards = Source(path=str(raw)), results / "models/m", []
    fetch_model(base, path=model_folder)
    for number, dimension in enumerate((*SELECTION.dimensions, "general")):
        samples = results / f"samples/{dimension}-safe-n{number + 3}-seed0.parquet"
        make_samples(source, dimension, "safe", number + 3, 0, samples)
        for layer in (0, 1):
            shards.append(results / f"scores/m/origin/{samples.stem}/layers-{layer:03d}-{layer:03d}.parquet")
            score_with(base, samples, shards[-1], first=layer, last=layer, **SCORING)
    # Of one dimension, and alike but for what they are for.
    for name in ("fairness-safe-all", "fairness-refusals-all", "fairness-test0", "general-ordinary"):
        make_samples(source, name.partition("-")[0], "safe", None, 0, results / f"samples/{name}.parquet")
    for variant, select in (("spin", "intersection"), ("union", "union")):
        mask = results / f"masks/m/{variant}.parquet"
        make_mask(base, shards, mask, SELECTION.model_copy(update={"select": select}), variant=variant)
    apply_mask(base, mask, results / "checkpoints/m/union")
    measure_placement([mask], results / "metrics/m/placement.parquet")
    write_sweeps([Sweep("n", "", {"spin": 1})], results / "metrics/sweeps.parquet")
    count_selected(base, shards, results / "metrics/m/coupling.parquet", SELECTION, ratios=[0.02])
    questions, verdicts = results / "samples/questions/privacy.parquet", []
    make_questions(source, "privacy", None, 0, questions)
    for variant in ("origin", "spin"):
        answers = results / f"answers/m/{variant}/privacy.parquet"
        write_answers(answers, base, questions, variant, [f"{variant} {i}." for i in range(len(TEXTS))])
        verdicts.append(results / f"verdicts/m/{variant}/privacy.phrases.parquet")
        judge_answers([answers], verdicts[-1], Phrases(), {"phrases": {None: str(PHRASES)}})
    measure_awareness(verdicts, results / "metrics/m/awareness.parquet")
    return results
