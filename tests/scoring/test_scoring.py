"""Scores are held to the slow, obvious loop: one sample at a time, autograd's own gradient of each weight."""

import math
import shutil

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from conftest import (
    DEVICE,
    FAMILY_CONFIGS,
    TEXTS,
    batch_samples,
    encode_all,
    relative_error,
    score_with,
    slow_gradients,
)
from hypothesis import given, settings

from uncouple.data.samples import make_samples
from uncouple.data.sources import Source
from uncouple.errors import UncoupleError
from uncouple.models.families import FAMILIES, target_names
from uncouple.models.folders import read_config
from uncouple.models.load import load_model, load_tokenizer
from uncouple.models.prompts import encode_sample
from uncouple.records.formats import SCORE_SHARD
from uncouple.scoring.gradients import accumulate_gradients
from uncouple.scoring.shards import read_scores
from uncouple.scoring.tops import count_levels, find_quantiles, top_entries


def test_every_family_has_a_tiny_model():
    assert set(FAMILY_CONFIGS) == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILY_CONFIGS)
@pytest.mark.parametrize("batch_tokens", [1, 90, 10_000])
def test_gradients_equal_the_slow_loop(make_model, family, batch_tokens):
    folder = make_model(family)
    model, tokenizer = load_model(folder, "float32", "cpu"), load_tokenizer(folder)[0]
    names = target_names(read_config(folder), "all")
    encoded = encode_all(tokenizer)
    found = accumulate_gradients(model, names, batch_samples(encoded, batch_tokens))
    truth = slow_gradients(model, names, encoded)
    assert min(float(t.sum()) for t in truth.values()) > 0
    errors = {name: relative_error(found[name], truth[name]) for name in names}
    worst = max(errors, key=errors.get)
    assert errors[worst] < 1e-5, f"{worst}: {errors[worst]}"


def test_only_the_asked_layers_are_scored_and_equal_the_whole(model_folder):
    model, tokenizer = load_model(model_folder, "float32", "cpu"), load_tokenizer(model_folder)[0]
    config, encoded = read_config(model_folder), encode_all(tokenizer)
    batches = batch_samples(encoded, 200)
    whole = accumulate_gradients(model, target_names(config, "mlp"), batches)
    last = accumulate_gradients(model, target_names(config, "mlp", 1, 1), batches)
    assert set(last) == {f"model.layers.1.mlp.{n}_proj" for n in ("gate", "up", "down")}
    for name in last:
        assert torch.equal(last[name], whole[name])


def test_scoring_leaves_no_hook_and_no_gradient_behind(model_folder):
    model, tokenizer = load_model(model_folder, "float32", "cpu"), load_tokenizer(model_folder)[0]
    encoded = encode_all(tokenizer)
    names = target_names(read_config(model_folder), "mlp")
    accumulate_gradients(model, names, batch_samples(encoded, 200))
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.floats(0.001, 1))
@settings(max_examples=200)
def test_top_entries_break_ties_by_the_lower_index(values, keep):
    scores = torch.tensor(values, dtype=torch.float32, device=DEVICE)
    index, score = top_entries(scores, keep, count_levels(scores))
    count = math.floor(keep * len(values))
    assert abs(len(index) - count) <= 1  # floats such as 0.29 * 100 fall short; see test_top_count
    truth = sorted(range(len(values)), key=lambda i: (-values[i], i))[: len(index)]
    assert index.tolist() == truth
    assert score.tolist() == [values[i] for i in truth]


def test_quantiles_of_scores():
    quantiles = find_quantiles(count_levels(torch.arange(1000, dtype=torch.float32).reshape(10, 100).flip(0)))
    assert quantiles["0.5"] == 499
    assert quantiles["0.99"] == 989
    scores = torch.rand(300, 700) ** 9
    quantiles = find_quantiles(count_levels(scores))
    exact = np.quantile(scores.numpy(), [float(q) for q in quantiles], method="lower")
    assert np.all((exact * (1 - 2**-11) <= list(quantiles.values())) & (list(quantiles.values()) <= exact))


@given(st.integers(0, 2**32 - 1), st.integers(1, 3000), st.sampled_from([1e-4, 1e-3, 0.01, 0.1, 1.0]))
@settings(max_examples=100, deadline=None)
def test_top_entries_of_scores_of_all_sizes_equal_a_sort(seed, size, keep):
    values = np.float32(10.0) ** np.random.default_rng(seed).uniform(-40, 30, size).astype(np.float32)
    scores = torch.from_numpy(values).to(DEVICE)
    index, score = top_entries(scores, keep, count_levels(scores))
    truth = np.lexsort((np.arange(size), -values))[: len(index)]
    assert len(index) == math.floor(round(keep * size, 6))
    assert np.array_equal(index, truth)
    assert np.array_equal(score, values[truth])


def test_shards_by_layers_equal_one_shard_and_hold_weight_times_gradient(model_folder, tmp_path, write_jsonl):
    raw = write_jsonl("raw.jsonl", [{"prompt": p, "response": r} for p, r in TEXTS])
    make_samples(Source(path=str(raw)), "general", "safe", 5, 1, tmp_path / "samples.parquet")
    common = {"module": "all", "prompt": "bare", "keep": 0.05, "batch_tokens": 100, "dtype": "float32", "device": "cpu"}
    for first, last in ((0, None), (0, 0), (1, 1)):
        path = tmp_path / f"{first}-{last}.parquet"
        score_with(model_folder, tmp_path / "samples.parquet", path, first=first, last=last, **common)
    whole = read_scores([tmp_path / "0-None.parquet"], [])
    parts = read_scores([tmp_path / "1-1.parquet", tmp_path / "0-0.parquet"], [])
    model, tokenizer = load_model(model_folder, "float32", "cpu"), load_tokenizer(model_folder)[0]
    drawn = [TEXTS[i] for i in np.random.default_rng(1).permutation(len(TEXTS))[:5]]
    encoded = [encode_sample(tokenizer, p, r, "bare", 256) for p, r in drawn]
    truth = slow_gradients(model, list(whole.shapes), encoded)
    assert set(whole.tops["general"]) == set(parts.tops["general"])
    for name, (index, score) in whole.tops["general"].items():
        assert np.array_equal(parts.tops["general"][name][0], index)
        assert np.array_equal(parts.tops["general"][name][1], score)
        dense = (truth[name] * model.get_submodule(name).weight.abs()).flatten()
        assert len(index) == int(0.05 * dense.numel())
        assert np.allclose(score, dense.detach().numpy()[index], rtol=1e-4)
        assert float(dense.sort(descending=True).values[len(index) - 1]) == pytest.approx(score[-1], rel=1e-4)


def test_a_response_longer_than_the_window_is_cut_and_counted(model_folder, tmp_path, write_jsonl, capsys):
    from uncouple.records.files import read_table

    raw = write_jsonl("raw.jsonl", [{"prompt": "Count.", "response": "one two three " * 200}])
    make_samples(Source(path=str(raw)), "general", "safe", 1, 0, tmp_path / "samples.parquet")
    common = {"module": "mlp", "prompt": "chat", "keep": 0.05, "batch_tokens": 100, "dtype": "float32", "device": "cpu"}
    score_with(model_folder, tmp_path / "samples.parquet", tmp_path / "s.parquet", first=0, last=None, **common)
    metadata = read_table(tmp_path / "s.parquet", SCORE_SHARD)[1]
    assert (metadata["responses_cut"], metadata["tokens"]) == (1, 256)
    assert "1 responses were longer than the model's window" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj", "model.layers.0.mlp.down_proj"])
def test_a_gradient_that_is_not_finite_names_layer_and_sample(model_folder, name):
    model, tokenizer = load_model(model_folder, "float32", "cpu"), load_tokenizer(model_folder)[0]
    encoded, ids = encode_all(tokenizer), [f"sample-{i}" for i in range(len(TEXTS))]
    longest = max(range(len(encoded)), key=lambda i: len(encoded[i].ids))

    def spoil(_, inputs, output):
        # The longest sample is the first row of its batch.
        output.register_hook(lambda g: torch.cat([g[:1] * math.nan, g[1:]]))

    handle = model.get_submodule(name).register_forward_hook(spoil)
    names = target_names(read_config(model_folder), "mlp")
    with pytest.raises(UncoupleError) as error:
        accumulate_gradients(model, names, batch_samples(encoded, 10_000, ids))
    handle.remove()
    assert name in str(error.value)
    assert f"sample-{longest}:" in str(error.value)


def test_a_loss_that_is_not_finite_names_the_sample(model_folder):
    model, tokenizer = load_model(model_folder, "float32", "cpu"), load_tokenizer(model_folder)[0]
    encoded = encode_all(tokenizer)
    with torch.no_grad():
        model.model.embed_tokens.weight[encoded[3].ids[-2]] = math.nan
    broken = {i for i, e in enumerate(encoded) if encoded[3].ids[-2] in e.ids}
    names = target_names(read_config(model_folder), "mlp")
    with pytest.raises(UncoupleError, match=r"sample s\d: its loss is not finite") as error:
        accumulate_gradients(model, names, batch_samples(encoded, 1))
    assert int(str(error.value)[8]) in broken


def test_half_precision_inputs_are_multiplied_and_summed_in_float32(make_model):
    """Held to float64 products of the very bf16 inputs and gradients that the layer saw."""
    folder = make_model("llama", torch.bfloat16)
    model, tokenizer = load_model(folder, "bfloat16", "cpu"), load_tokenizer(folder)[0]
    encoded, name = encode_all(tokenizer), "model.layers.1.mlp.up_proj"
    truth = torch.zeros(model.get_submodule(name).weight.shape, dtype=torch.float64)

    def catch(_, inputs, output):
        x = inputs[0].detach().double()

        def add(g):
            truth.add_(torch.einsum("bto,bti->boi", g.double(), x).abs().sum(0))

        output.register_hook(add)

    handle = model.get_submodule(name).register_forward_hook(catch)
    found = accumulate_gradients(model, ["model.layers.0.mlp.up_proj", name], batch_samples(encoded, 1))[name]
    handle.remove()
    assert found.dtype == torch.float32
    assert relative_error(found.double(), truth) < 1e-6


@given(st.integers(0, 10**6), st.integers(1, 400))
@settings(max_examples=15, deadline=None)
def test_gradients_do_not_depend_on_the_batches(model_folder, seed, batch_tokens):
    model, tokenizer = load_model(model_folder, "float32", "cpu"), load_tokenizer(model_folder)[0]
    encoded = encode_all(tokenizer)
    order = np.random.default_rng(seed).permutation(len(encoded))
    names = ["model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj"]
    alone = accumulate_gradients(model, names, batch_samples(encoded, 1))
    mixed = [encoded[i] for i in order]
    found = accumulate_gradients(model, names, batch_samples(mixed, batch_tokens))
    for name in names:
        assert relative_error(found[name], alone[name]) < 1e-5


def test_a_score_that_is_not_finite_names_its_matrix(make_model, tmp_path, write_jsonl):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(make_model("llama"), folder)
    weights = load_file(folder / "model.safetensors")
    # Of an input that is always zero the output, and so the loss and every gradient, stays finite.
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = math.inf
    weights["model.layers.1.post_attention_layernorm.weight"][5] = 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    raw = write_jsonl("raw.jsonl", [{"prompt": p, "response": r} for p, r in TEXTS])
    make_samples(Source(path=str(raw)), "general", "safe", 2, 0, tmp_path / "samples.parquet")
    common = {"module": "mlp", "prompt": "chat", "keep": 0.05, "batch_tokens": 100, "dtype": "float32", "device": "cpu"}
    with pytest.raises(UncoupleError, match="not finite"):
        score_with(folder, tmp_path / "samples.parquet", tmp_path / "s.parquet", first=0, last=None, **common)
