"""Divergence against its formula: both models whole, one sample at a time, over the full logits."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from conftest import CHAT_TEMPLATE, FAMILY_CONFIGS, TEXTS, encode_all, write_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from uncouple.commands import main
from uncouple.data.samples import make_samples
from uncouple.data.sources import Source
from uncouple.errors import UncoupleError
from uncouple.evaluation import divergence
from uncouple.evaluation.divergence import (
    Before,
    mean_of_tokens,
    measure_divergence,
    response_states,
    token_divergences,
)
from uncouple.models.families import target_names
from uncouple.models.head import HEAD_BYTES, loss_head
from uncouple.models.load import load_model, load_tokenizer
from uncouple.models.rope import longest_together
from uncouple.records.files import read_table
from uncouple.records.formats import METRICS, SAMPLES
from uncouple.records.store import Store
from uncouple.variants.variant import suppressed

UP = "model.layers.0.mlp.up_proj"
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8, "long_factor": [8.0] * 8}
SPUN = {UP: list(range(0, 6144, 3))}


def slow_log_probabilities(model, encoded):
    """The truth: of each sample alone, the whole model's log-probabilities where a response token is predicted."""
    found = []
    for sample in encoded:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([sample.ids])).logits[0].double()
        found.append([torch.log_softmax(logits[t], 0) for t in range(sample.start - 1, len(sample.ids) - 1)])
    return found


def slow_divergences(before, after):
    """sum p (log p - log q) of each token of each sample, a list of lists of float."""
    return [
        [float((p.exp() * (p - q)).sum()) for p, q in zip(*sample, strict=True)]
        for sample in zip(before, after, strict=True)
    ]


def entries_of(module, index):
    return {module: (np.array(index), np.zeros(len(index), np.float32))}


def load(folder):
    return load_model(folder, "float32", "cpu"), encode_all(load_tokenizer(folder)[0])


def keep(model, encoded, *batch_tokens):
    return Before("", loss_head(model), response_states(model, encoded, *batch_tokens))


@pytest.fixture
def samples(write_jsonl, tmp_path):
    """A samples table of all TEXTS."""
    raw = write_jsonl("general.jsonl", [{"prompt": p, "response": r} for p, r in TEXTS])
    make_samples(Source(path=str(raw)), "general", "safe", None, 0, tmp_path / "samples.parquet")
    return tmp_path / "samples.parquet"


def measure(model, samples, output, **changes):
    """(row of the whole, rows of the samples by id, the record)."""
    options = {"prompt": "chat", "dtype": "float32", "device": "cpu"} | changes
    measure_divergence(model, samples, output, **options)
    table, record = read_table(output, METRICS)
    whole, *rows = table.to_pylist()
    return whole, {row["item"]: row for row in rows}, record


def refused(model, samples, tmp_path, match, **changes):
    with pytest.raises(UncoupleError, match=match):
        measure(model, samples, tmp_path / "out.parquet", **changes)
    assert not (tmp_path / "out.parquet").exists()


def truth_by_id(samples, before, after):
    """What `slow_divergences` gives of two models, by sample; the order of the table is not that of TEXTS."""
    rows, tokenizer = read_table(samples, SAMPLES)[0].to_pylist(), load_tokenizer(before)[0]
    by_prompt = {text[0]: sample for text, sample in zip(TEXTS, encode_all(tokenizer), strict=True)}
    encoded = [by_prompt[row["prompt"]] for row in rows]
    probabilities = [
        slow_log_probabilities(load_model(m, "float32", "cpu") if m == before else m, encoded) for m in (before, after)
    ]
    return dict(zip([row["id"] for row in rows], slow_divergences(*probabilities), strict=True))


def spun(folder):
    """The model with the weights of SPUN at zero."""
    model = load_model(folder, "float32", "cpu")
    weight = model.get_submodule(UP).weight
    for place in SPUN[UP]:
        weight[place // 64, place % 64] = 0
    return model


# Tokens


@pytest.mark.parametrize("family", FAMILY_CONFIGS)
def test_divergences_are_those_of_full_logits_one_sample_at_a_time(make_model, monkeypatch, family):
    folder = make_model(family)
    model, encoded = load(folder)
    (name,) = target_names(json.loads((folder / "config.json").read_text()), "mlp", 0, 0)[-1:]
    entries, before = entries_of(name, range(0, 6144, 3)), slow_log_probabilities(model, encoded)
    with suppressed(model, entries):
        truth = np.concatenate(slow_divergences(before, slow_log_probabilities(model, encoded)))
    assert len(truth) == sum(len(sample.ids) - sample.start for sample in encoded)
    assert truth.mean() > 1e-4
    # Each sample alone, some together, and all of them; then parts of 5 tokens, which end with no sample.
    for batch_tokens, head in ((1, None), (60, None), (None, None), (60, 5)):
        if head:
            monkeypatch.setitem(HEAD_BYTES, "cpu", head * 4 * model.config.vocab_size)
        kept = keep(model, encoded, batch_tokens)
        with suppressed(model, entries):
            found = token_divergences(kept, model, response_states(model, encoded, batch_tokens))
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, truth, rtol=1e-5, atol=1e-7)


def test_of_nothing_there_is_no_divergence_whatever_shares_a_batch(model_folder):
    """A variant whose weights are the origin's is run for itself here, and gives the same numbers."""
    model, encoded = load(model_folder)
    model.get_submodule(UP).weight.view(-1)[SPUN[UP]] = 0
    for batch_tokens in (1, 60, None):
        kept = keep(model, encoded, batch_tokens)
        with suppressed(model, entries_of(UP, SPUN[UP])):
            assert not token_divergences(kept, model, response_states(model, encoded, batch_tokens)).any()
    # What arithmetic in other batches moves is far below what anything else does.
    assert token_divergences(kept, model, response_states(model, encoded, 1)).max() < 1e-9


def test_a_wrecked_model_is_far_away_and_not_infinitely(model_folder):
    model, encoded = load(model_folder)
    kept = keep(model, encoded)
    found = token_divergences(kept, model, -1e4 * kept.states)
    head = model.get_output_embeddings().weight
    p, q = ((factor * kept.states @ head.T).double().log_softmax(1) for factor in (1, -1e4))
    assert (q.float().exp() == 0).any()
    np.testing.assert_allclose(found, (p.exp() * (p - q)).sum(1), rtol=1e-5)
    assert np.isfinite(found).all()
    assert found.min() > 1e3


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_a_long_sample_does_not_change_the_positions_of_short_ones(make_model, kind):
    rope = {
        "longrope": {"rope_parameters": LONGROPE | {"original_max_position_embeddings": 39}}
        | {"original_max_position_embeddings": 39},
        "dynamic": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}}
        | {"max_position_embeddings": 39},
    }[kind]
    folder = make_model("phi3" if kind == "longrope" else "llama", **rope)
    model, encoded = load(folder)
    assert 1 < sum(len(e.ids) <= longest_together(model.config) for e in encoded) < len(encoded) - 1
    states = [  # of a fresh model each: one with `dynamic` positions remembers the longest text that it saw
        load_model(folder, "float32", "cpu").base_model(input_ids=torch.tensor([e.ids])).last_hidden_state[0]
        for e in encoded
    ]
    truth = torch.cat([part[e.start - 1 : -1] for part, e in zip(states, encoded, strict=True)])
    for batch_tokens in (1, None):
        np.testing.assert_allclose(response_states(model, encoded, batch_tokens), truth, rtol=1e-4, atol=1e-4)


# The table


def test_the_table_is_what_the_formula_comes_to(model_folder, samples, tmp_path):
    mask = write_mask(tmp_path / "mask.parquet", model_folder, SPUN)
    whole, rows, record = measure(model_folder, samples, tmp_path / "out.parquet", variants=[("spin", mask)])
    truth = truth_by_id(samples, model_folder, spun(model_folder))
    assert list(rows) == list(truth)
    assert {name: row["value"] for name, row in rows.items()} == pytest.approx(
        {name: sum(values) / len(values) for name, values in truth.items()}, rel=1e-5
    )
    assert [(row["n"], row["of"]) for row in rows.values()] == [(1, len(values)) for values in truth.values()]
    tokens = sum(truth.values(), [])
    assert whole["value"] == pytest.approx(sum(tokens) / len(tokens), rel=1e-5)
    assert whole["value"] > 1e-3
    assert 0 < whole["low"] < whole["value"] < whole["high"]
    assert (whole["n"], whole["of"]) == (len(TEXTS), len(tokens))
    assert {row["metric"] for row in rows.values()} == {"sample_divergence"}
    named = {(row["model"], row["variant"], row["dimension"]) for row in (whole, *rows.values())}
    assert (whole["metric"], named) == ("divergence", {(model_folder.name, "spin", "general")})
    assert record["origin"] == record["fingerprints"]["weights"]
    assert record["samples"]["fingerprint"] == read_table(samples, SAMPLES)[1]["fingerprint"]
    assert (record["prompt"]["name"], record["measured"], record["mask"]["variant"]) == ("chat", "divergence", "v")


def test_the_origin_diverges_by_nothing_at_all_whatever_it_is_called(model_folder, samples, tmp_path):
    shutil.copytree(model_folder, tmp_path / "copy")
    for number, (model, options) in enumerate(
        [
            (model_folder, {}),
            (model_folder, {"variants": [("again", None)]}),
            (tmp_path / "copy", {"origin": model_folder}),
        ]
    ):
        whole, rows, _ = measure(model, samples, tmp_path / f"{number}.parquet", **options)
        assert (whole["value"], whole["low"], whole["high"]) == (0.0, None, None)
        assert {row["value"] for row in rows.values()} == {0.0}


def test_the_base_is_loaded_once_and_the_store_knows_the_origin(make_model, samples, tmp_path, monkeypatch):
    loads, folder, load = [], make_model("llama"), divergence.load_base
    monkeypatch.setattr(divergence, "load_base", lambda v, *a: (loads.append(v.folder), load(v, *a))[1])
    mask = write_mask(tmp_path / "mask.parquet", folder, SPUN)
    several = {"variants": [("origin", None), ("spin", mask)], "store": Store(tmp_path / "store")}
    output, options = tmp_path / "{variant}.parquet", {"prompt": "chat", "dtype": "float32", "device": "cpu"}
    for origin, expected in (
        (None, [folder]),
        (None, []),
        (make_model("llama", seed=1), [make_model("llama", seed=1)]),
    ):
        loads.clear()
        measure_divergence(folder, samples, output, origin=origin, **several, **options)
        assert loads == expected + ([folder] if origin else [])
        value = read_table(tmp_path / "origin.parquet", METRICS)[0].to_pylist()[0]["value"]
        assert (value > 0) == bool(origin)
    alone, _, _ = measure(folder, samples, tmp_path / "alone.parquet", variants=several["variants"][1:])
    measure_divergence(folder, samples, output, **several, **options)
    assert read_table(tmp_path / "spin.parquet", METRICS)[0].to_pylist()[0] == alone


def test_another_origin_is_the_one_that_is_compared_with(make_model, samples, tmp_path):
    """The variants of a tuned model, say, and the model that it was tuned from, which is of another seed here."""
    folder, origin = make_model("llama"), make_model("llama", seed=1)
    mask = write_mask(tmp_path / "mask.parquet", folder, SPUN)
    command = ["divergence", str(samples), "--model", str(folder), "--origin", str(origin), "--device", "cpu"]
    command += ["--variant", f"spin={mask}", "--variant", "tuned", "--output", str(tmp_path / "{variant}.parquet")]
    assert main(command) == 0
    for name, model in (("spin", spun(folder)), ("tuned", load_model(folder, "float32", "cpu"))):
        table, record = read_table(tmp_path / f"{name}.parquet", METRICS)
        found = {row["item"]: row["value"] for row in table.to_pylist()[1:]}
        truth = truth_by_id(samples, origin, model)
        assert found == pytest.approx({k: sum(values) / len(values) for k, values in truth.items()}, rel=1e-5)
        assert record["origin"] != record["fingerprints"]["weights"]


# What is refused


def copy_with(folder, target, name, content):
    shutil.copytree(folder, target)
    (target / name).write_text(content)
    return target


def test_an_origin_that_reads_other_tokens_is_refused(make_model, model_folder, samples, tmp_path):
    other = copy_with(
        model_folder, tmp_path / "template", "chat_template.jinja", CHAT_TEMPLATE.replace("|end|", "|user|")
    )
    refused(model_folder, samples, tmp_path, "template reads the samples as other tokens than .*--origin", origin=other)
    # The template is of no matter where it is not used.
    measure(model_folder, samples, tmp_path / "bare.parquet", origin=other, prompt="bare")
    tokenizer = json.loads((model_folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    # Two bytes that no sample has: its tokens are the same, and what is predicted is not.
    vocabulary["þ"], vocabulary["ÿ"] = vocabulary["ÿ"], vocabulary["þ"]
    other = copy_with(model_folder, tmp_path / "swapped", "tokenizer.json", json.dumps(tokenizer))
    refused(model_folder, samples, tmp_path, "swapped reads the samples as other tokens", origin=other)
    wider = make_model("llama", vocab_size=512)
    refused(model_folder, samples, tmp_path, "predicts 512 tokens and .* 400.*--origin", origin=wider)


@pytest.mark.parametrize(
    ("pair", "prompt", "match"),
    [
        (("why " * 300, "Yes."), "chat", r"sample 1 \(\S+\): its prompt has \d+ tokens, and the model's window is 256"),
        (("why?", "a"), "published", r"sample 1 \(\S+\): no response token is left in the prompt format published"),
    ],
)
def test_a_sample_with_nothing_to_predict_is_refused(model_folder, write_jsonl, tmp_path, pair, prompt, match):
    raw = write_jsonl("raw.jsonl", [dict(zip(("prompt", "response"), pair, strict=True))])
    make_samples(Source(path=str(raw)), "general", "safe", None, 0, tmp_path / "samples.parquet")
    folder = model_folder
    if prompt == "published":
        # Of a tokenizer that puts nothing in front, the response's own first token is what is lost.
        tokenizer = json.loads((model_folder / "tokenizer.json").read_text()) | {"post_processor": None}
        folder = copy_with(model_folder, tmp_path / "plain", "tokenizer.json", json.dumps(tokenizer))
    refused(folder, tmp_path / "samples.parquet", tmp_path, match, prompt=prompt)


def test_a_response_is_cut_where_the_window_ends(model_folder, write_jsonl, tmp_path, capsys):
    raw = write_jsonl("raw.jsonl", [{"prompt": "why?", "response": "so " * 300}])
    make_samples(Source(path=str(raw)), "general", "safe", None, 0, tmp_path / "samples.parquet")
    whole, _, _ = measure(model_folder, tmp_path / "samples.parquet", tmp_path / "out.parquet")
    assert 200 < whole["of"] < 256
    assert "1 responses were longer than the model's window and were cut" in capsys.readouterr().err


def test_what_is_not_finite_names_its_sample(model_folder, samples, tmp_path, monkeypatch):
    def spoil(*_):
        values = np.zeros(lengths.sum())
        values[lengths[:2].sum()] = math.nan
        return values

    encoded = {text[0]: sample for text, sample in zip(TEXTS, encode_all(load_tokenizer(model_folder)[0]), strict=True)}
    rows = read_table(samples, SAMPLES)[0].to_pylist()
    lengths = np.array([len(encoded[row["prompt"]].ids) - encoded[row["prompt"]].start for row in rows])
    monkeypatch.setattr(divergence, "token_divergences", spoil)
    refused(model_folder, samples, tmp_path, f"sample {rows[2]['id']}: its divergence is not finite.*float32")


def test_an_architecture_that_is_not_known_is_refused_before_anything_is_loaded(
    model_folder, samples, tmp_path, monkeypatch
):
    config = json.loads((model_folder / "config.json").read_text()) | {"model_type": "nemotron"}
    other = copy_with(model_folder, tmp_path / "model", "config.json", json.dumps(config))
    monkeypatch.setattr(divergence, "load_base", lambda *_: pytest.fail("a model is loaded"))
    for model, origin in ((other, None), (other, model_folder), (model_folder, other)):
        refused(model, samples, tmp_path, "'nemotron' is not known", origin=origin)


# The interval


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.floats(1e-6, 10), min_size=1, max_size=8), min_size=2, max_size=12))
def test_the_interval_is_that_of_a_ratio(samples):
    """Its variance as the sum of the squares of what each sample adds, written as a loop."""
    found = mean_of_tokens([np.array(values) for values in samples])
    tokens, n = sum(map(len, samples)), len(samples)
    mean = sum(map(sum, samples)) / tokens
    squares = 0.0
    for values in samples:
        squares += sum(value - mean for value in values) ** 2
    half = stats.t.ppf(0.975, n - 1) * math.sqrt(n / (n - 1) * squares) / tokens / mean
    assert found["value"] == pytest.approx(mean, rel=1e-9)
    assert math.log(found["low"]) == pytest.approx(math.log(mean) - half, rel=1e-6, abs=1e-6)
    assert math.log(found["high"]) == pytest.approx(math.log(mean) + half, rel=1e-6, abs=1e-6)


def test_of_one_sample_there_is_no_interval():
    assert mean_of_tokens([np.array([1.0, 3.0])]) == {"value": 2.0, "low": None, "high": None}
