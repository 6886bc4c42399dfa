"""Rot: a bit that flips in any file that Uncouple writes is noticed, whatever it stands for.

The files are made by the steps themselves. Figures and pages, which are for people and which no step reads, are not
among them.
"""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
from conftest import ROOT, TEXTS, score_with

from uncouple.data.samples import make_questions, make_samples
from uncouple.data.sources import Source
from uncouple.errors import UncoupleError
from uncouple.evaluation.answers import answer_questions
from uncouple.evaluation.awareness import measure_awareness
from uncouple.evaluation.judges.judge import judge_answers
from uncouple.evaluation.judges.phrases import Phrases
from uncouple.evaluation.judges.training import train_judge
from uncouple.experiment.sweeps import Sweep, write_sweeps
from uncouple.experiment.times import measure_times
from uncouple.models import fingerprints as records
from uncouple.models.fetch import fetch_model
from uncouple.models.fingerprints import HASHES_NAME
from uncouple.models.folders import model_record
from uncouple.records.files import read_json, read_record, read_table, read_tensors
from uncouple.records.formats import ADAPTER, CHECKPOINT, FORMATS
from uncouple.records.store import Store
from uncouple.selection.options import Selection
from uncouple.selection.placement import measure_placement
from uncouple.selection.select import count_selected, make_mask
from uncouple.tuning.options import Tuning
from uncouple.tuning.tune import tune_model
from uncouple.variants.checkpoints import apply_mask, restore_base

SCORING = {"first": 0, "last": None, "module": "mlp", "prompt": "chat", "keep": 0.05, "batch_tokens": 300}
DIMENSIONS = ["fairness", "privacy"]
SELECTION = Selection(select="intersection", ratio=0.01, dimensions=DIMENSIONS)
RUN = {"dtype": "float32", "device": "cpu"}
ASKING = {"mask": None, "variant": "origin", "prompt": "chat", "max_new_tokens": 4, "batch_size": 8} | RUN
ASKING = {"prompt": "chat", "max_new_tokens": 4, "batch_size": 8} | RUN
DIMENSIONS = ["fairness", "privacy"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, model_folder, encoder):
    """The folder of a small run that every step took part in."""
    folder = tmp_path_factory.mktemp("run")
    raw = folder / "raw.jsonl"
    raw.write_text("".join(json.dumps({"prompt": p, "response": r, "question": p}) + "\n" for p, r in TEXTS))
    source, shards, base = Source(path=str(raw)), [], folder / "base"
    shutil.copytree(model_folder, folder / "source")
    (folder / "source/README.md").write_text("the base's own card")
    fetch_model(base, path=folder / "source")
    for dimension in (*DIMENSIONS, "general"):
        make_samples(source, dimension, "safe", None, 0, folder / f"{dimension}.samples")
        shards.append(folder / f"{dimension}.score-shard")
        score_with(base, folder / f"{dimension}.samples", shards[-1], **SCORING, **RUN)
    make_mask(base, shards, folder / "m.mask", SELECTION, variant="v")
    apply_mask(base, folder / "m.mask", folder / "checkpoint")
    make_questions(source, "privacy", None, 0, folder / "q.questions")
    answer_questions(base, [folder / "q.questions"], folder / "a.answers", **ASKING, store=Store(folder / "store"))
    shutil.move(next((folder / "store/replies").iterdir()), folder / "r.replies")
    shutil.rmtree(folder / "store")
    phrases = ROOT / "resources/phrases/privacy.txt"
    judge_answers([folder / "a.answers"], folder / "v.verdicts", Phrases(), {"phrases": {None: phrases}})
    measure_awareness([folder / "v.verdicts"], folder / "m.metrics", min_judged=0)
    measure_placement([folder / "m.mask"], folder / "p.placement")
    measure_times([("score", str(folder / "none.tsv"))], folder / "w.times", model="m")
    write_sweeps([Sweep("n", "", {"a": 1, "b": 2})], folder / "s.sweeps")
    options = Tuning(method="reft", epochs=1, batch_size=64)
    tune_model(base, [folder / "privacy.samples"], folder / "tuned", options, device="cpu")
    shutil.move(folder / "tuned/adapter.safetensors", folder / "t.adapter")
    shutil.move(folder / "tuned/uncouple/config.json", folder / "t.tuning")
    shutil.rmtree(folder / "tuned")
    count_selected(base, shards, folder / "c.coupling", SELECTION, ratios=[0.01, 0.05])
    make_samples(source, "privacy", "unsafe", None, 0, folder / "unsafe.samples")
    train_judge([folder / "privacy.samples", folder / "unsafe.samples"], encoder, folder / "j.judge")
    return folder


def read_restored(checkpoint):
    """Every file of the base that a checkpoint gives back."""
    again = checkpoint.with_name("again")
    try:
        restore_base(checkpoint, again)
        return {p.name: p.read_bytes() for p in again.iterdir()}
    finally:
        shutil.rmtree(again, ignore_errors=True)


def read_plain(path):
    """The tensors of an adapter as lists, and its record."""
    tensors, record = read_tensors(path, ADAPTER)
    return [{name: values.tolist() for name, values in tensors.items()}, record]


def readers(folder):
    """dict of each file of a run that is not empty to a function that gives what is read of it."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size):
        top, *inner = path.relative_to(folder).parts
        if top in ("source", "raw.jsonl"):
            continue
        if top == "base" or (top == "checkpoint" and inner[0] != "uncouple"):
            found[path] = lambda top=top: model_record(folder / top)
        elif top == "checkpoint" and inner[1] == "config.json":
            found[path] = lambda path=path: read_record(path, CHECKPOINT)
        elif top == "checkpoint":
            found[path] = lambda: read_restored(folder / "checkpoint")
        elif path.suffix == ".adapter":
            found[path] = lambda path=path: read_plain(path)
        else:
            form = FORMATS[path.suffix[1:].replace("-", " ")]
            read = read_table if form.columns else read_record
            found[path] = lambda path=path, form=form, read=read: read(path, form)
    return found


def same(found, expected):
    if isinstance(expected, tuple):
        return found[0].equals(expected[0]) and found[0].schema.equals(expected[0].schema) and found[1] == expected[1]
    return found == expected


def flip_bits(folder, count, seed):
    """Flip one bit after another, in each file of a run in turn.

    Returns:
        Counter of (file, what came of it): `refused`, `same` (what is read is the same), `other`, or an exception.
    """
    files, outcomes, rng = readers(folder), Counter(), np.random.default_rng(seed)
    expected = {path: read() for path, read in files.items()}
    for number in range(count):
        path = list(files)[number % len(files)]
        content = path.read_bytes()
        place, bit = int(rng.integers(len(content))), int(rng.integers(8))
        with path.open("r+b") as file:
            file.seek(place)
            file.write(bytes([content[place] ^ 1 << bit]))
        try:
            outcome = "same" if same(files[path](), expected[path]) else "other"
        except UncoupleError as error:
            outcome = "refused" if path.name in str(error) or "checkpoint" in str(error) else f"not named: {error}"
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        outcomes[str(path.relative_to(folder)), outcome] += 1
        with path.open("r+b") as file:
            file.seek(place)
            file.write(content[place : place + 1])
    return outcomes


@pytest.mark.parametrize("count", [2_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_no_flipped_bit_is_wrong_without_a_word(run, count, monkeypatch):
    # With hashes kept, as after a while.
    monkeypatch.setattr(records, "SETTLED_NS", 0)
    for folder in (run / "base", run / "checkpoint"):
        model_record(folder)
    monkeypatch.undo()
    outcomes = flip_bits(run, count, seed=count)
    assert sum(outcomes.values()) == count
    # Of all bytes, those alone do not count that only say what need not be hashed.
    wrong = {key: n for key, n in outcomes.items() if key[1] != ("same" if HASHES_NAME in key[0] else "refused")}
    assert not wrong


def test_every_kind_of_file_is_tried(run):
    tried = {path.suffix[1:].replace("-", " ") for path in readers(run) if path.parent == run}
    tried |= {read_json(path)["kind"] for path in readers(run) if path.suffix == ".json" and "seal" in path.read_text()}
    assert tried | {"hashes"} == FORMATS.keys()
    assert {".safetensors", ".parquet", ".jinja"} <= {path.suffix for path in readers(run)}
