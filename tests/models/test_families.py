"""What a family declares, and that a new one is one line: made here by a real edit of a copy of the package."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, TEXTS, encode_all, relative_error, slow_gradients

from uncouple.data.samples import make_samples
from uncouple.data.sources import Source
from uncouple.errors import UncoupleError
from uncouple.models.attention import pack_attention
from uncouple.models.families import FAMILIES, Family, Head, needs_own_attention
from uncouple.models.head import check_head, loss_head
from uncouple.models.load import load_model, load_tokenizer
from uncouple.scoring import score
from uncouple.scoring.options import Scoring
from uncouple.scoring.shards import read_scores

NEW = """    "starcoder2": Family(*_SPLIT[:2], ("mlp.c_fc", "mlp.c_proj"), Head(), None),
"""


@pytest.fixture
def samples(tmp_path, write_jsonl):
    """A table of all texts."""
    raw = write_jsonl("raw.jsonl", [{"prompt": p, "response": r} for p, r in TEXTS])
    make_samples(Source(path=str(raw)), "general", "safe", None, 0, tmp_path / "samples.parquet")
    return tmp_path / "samples.parquet"


def test_a_new_family_is_one_line_in_one_file(make_model, samples, tmp_path):
    folder, clone = make_model("starcoder2", sliding_window=24), tmp_path / "clone"
    shutil.copytree(ROOT / "uncouple", clone / "uncouple", ignore=shutil.ignore_patterns("__pycache__"))
    families = clone / "uncouple/models/families.py"

    def run(output):
        command = [sys.executable, "-m", "uncouple", "score", samples, "--model", folder, "--module", "all"]
        command += ["--keep", "0.05", "--device", "cpu", "--dtype", "float32", "--output", output]
        environment = os.environ | {"PYTHONPATH": str(clone), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        return subprocess.run([*map(str, command)], cwd=clone, env=environment, capture_output=True, text=True)

    refused = run(tmp_path / "refused")
    assert refused.returncode == 1
    assert "architecture 'starcoder2' is not known: neither its linear layers" in refused.stderr
    families.write_text(families.read_text().replace('    "gpt_neox": Family(', NEW + '    "gpt_neox": Family(', 1))
    done = run(tmp_path / "scores")
    assert done.returncode == 0, done.stderr
    files = [path for path in clone.rglob("*.*") if path.is_file()]
    changed = [path for path in files if path.read_bytes() != (ROOT / path.relative_to(clone)).read_bytes()]
    assert changed == [families]

    scores = read_scores([tmp_path / "scores"], [])
    model, tokenizer = load_model(folder, "float32", "cpu"), load_tokenizer(folder)[0]
    truth = slow_gradients(model, list(scores.shapes), encode_all(tokenizer))
    assert len(scores.shapes) == 2 * 6
    for name, (index, found) in scores.tops["general"].items():
        dense = (truth[name] * model.get_submodule(name).weight.abs()).flatten().detach()
        assert relative_error(torch.tensor(found), dense[torch.tensor(index)]) < 1e-5, name


def test_a_family_whose_head_or_attention_is_not_declared_cannot_be_made():
    with pytest.raises(TypeError, match="'head' and 'attention_cap'"):
        Family("model.layers", ("self_attn.o_proj",), ("mlp.up_proj",))


@pytest.mark.parametrize("kind", ["starcoder2", "vaultgemma"])
def test_scoring_refuses_an_architecture_that_is_not_declared_before_anything_is_loaded(
    make_model, samples, tmp_path, monkeypatch, kind
):
    for name in ("load_tokenizer", "load_model", "make_skeleton"):
        monkeypatch.setattr(score, name, None)
    options = Scoring(module="mlp", prompt="chat", keep=0.1, batch_tokens=100, dtype="float32")
    with pytest.raises(UncoupleError, match=f"architecture '{kind}' is not known.*nor what its loss head does"):
        score.score_layers(make_model(kind), samples, tmp_path / "scores", options, first=0, last=None, device="cpu")


def test_neither_head_nor_attention_of_a_model_that_is_not_declared_is_guessed(make_model):
    model = load_model(make_model("starcoder2"), "float32", "cpu")
    for ask in (loss_head, check_head, lambda model: pack_attention(model).__enter__()):
        with pytest.raises(UncoupleError, match="architecture 'starcoder2' is not known"):
            ask(model)


@pytest.mark.parametrize("key", ["final_logit_softcapping", "logit_scale", "logits_scaling"])
def test_a_key_that_the_architecture_does_not_read_changes_nothing(make_model, key):
    """A Llama caps and scales no logits, whatever its config holds besides."""
    model = load_model(make_model("llama", **{key: 0.5}), "float32", "cpu")
    assert getattr(model.config, key) == 0.5
    check_head(model)


@pytest.mark.parametrize(
    ("config", "own"),
    [
        ({"model_type": "llama"}, False),
        ({"model_type": "llama", "attn_logit_softcapping": 50.0}, False),
        ({"model_type": "gemma3_text", "attn_logit_softcapping": 50.0}, False),
        ({"model_type": "gemma2", "attn_logit_softcapping": 50.0}, True),
        ({"model_type": "gemma2", "attn_logit_softcapping": None}, False),
        ({"model_type": "gemma2"}, True),
        ({"model_type": "starcoder2"}, True),
        ({}, True),
    ],
)
def test_a_model_has_its_own_attention_where_a_faster_one_would_do_something_else(config, own):
    assert needs_own_attention(config) is own


def test_a_cap_that_is_left_to_the_architecture_holds(make_model, tmp_path):
    """transformers caps at 50 where config.json says nothing."""
    shutil.copytree(make_model("gemma2"), tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    del config["attn_logit_softcapping"]
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    model = load_model(tmp_path / "model")
    assert (model.config.attn_logit_softcapping, model.config._attn_implementation) == (50.0, "eager")


@pytest.mark.parametrize(
    ("family", "changes", "truth"),
    [
        ("llama", {}, (1, None)),
        ("granite", {"logits_scaling": 6.0}, (1 / 6, None)),
        ("cohere", {"logit_scale": 0.3}, (0.3, None)),
        ("gemma2", {"final_logit_softcapping": 5.0}, (1, 5.0)),
        ("gemma2", {"final_logit_softcapping": None}, (1, None)),
    ],
)
def test_a_head_reads_its_numbers_under_the_declared_keys(make_model, family, changes, truth):
    head = loss_head(load_model(make_model(family, **changes), "float32", "cpu"))
    assert (head.factor, head.cap) == truth


def test_heads_are_declared_for_the_architectures_that_do_more_than_multiply():
    assert {kind for kind, family in FAMILIES.items() if family.head != Head()} == {
        "cohere",
        "cohere2",
        "gemma2",
        "gemma3_text",
        "granite",
    }
