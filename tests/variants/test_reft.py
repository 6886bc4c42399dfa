"""LoReFT is held to its definition, one position after another; without positions it does nothing at all."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from conftest import FAMILY_CONFIGS
from hypothesis import given

from uncouple.errors import UncoupleError
from uncouple.models.families import family_of
from uncouple.models.folders import model_record
from uncouple.models.load import load_model
from uncouple.variants.reft import Adapter, adapted, edge_mask, read_adapter, write_adapter

RECORD = dict.fromkeys(
    ("variant", "samples", "n", "prompt", "dtype", "device", "versions", "method", "epochs", "rate", "batch_size")
)
RECORD |= {"variant": "v"} | dict.fromkeys(("rank", "tune_seed", "steps"))


def make_adapter(layers=(0, 1), hidden=64, rank=3, seed=0):
    """An adapter that is far from doing nothing."""
    torch.manual_seed(seed)
    adapter = Adapter(layers, hidden, rank, 2)
    with torch.no_grad():
        for one in adapter.layers.values():
            one.target.weight.normal_()
            one.target.bias.normal_()
    return adapter.requires_grad_(False)


def slow_states(hidden, mask, tensors, layer):
    """The definition, for one position at a time, in float64."""
    rotation, weight, bias = (tensors[f"{layer}.{name}"].double().numpy() for name in ("rotation", "weight", "bias"))
    states = hidden.double().numpy().copy()
    for row, column in zip(*np.nonzero(mask.numpy()), strict=True):
        h = states[row, column].copy()
        for r, w, b in zip(rotation, weight, bias, strict=True):
            states[row, column] += r * (w @ h + b - r @ h)
    return states


def layer_inputs(model, number, ids):
    """What a decoder layer is given, (batch, tokens, hidden)."""
    seen = []
    layer = model.get_submodule(f"{family_of(model).layers}.{number}")
    hook = layer.register_forward_pre_hook(
        lambda _, inputs, named: seen.append(inputs[0] if inputs else named["hidden_states"]), with_kwargs=True
    )
    model(input_ids=ids, use_cache=False)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("family", FAMILY_CONFIGS)
def test_a_layer_gives_on_what_the_definition_says(make_model, family):
    model, adapter = load_model(make_model(family), "float32", "cpu"), make_adapter([0])
    ids = torch.arange(24).reshape(2, 12) + 6
    mask = torch.zeros(2, 12, dtype=torch.bool)
    mask[0, [0, 1, 7]] = mask[1, [3, 11]] = True
    plain = layer_inputs(model, 1, ids)
    with adapted(model, adapter), adapter.at(mask):
        found = layer_inputs(model, 1, ids)
    truth = slow_states(plain, mask, adapter.tensors(), 0)
    assert not np.allclose(truth, plain, atol=0.1)
    np.testing.assert_allclose(found.numpy(), truth, rtol=1e-6, atol=1e-6 * np.abs(truth).max())


def test_without_positions_and_after_the_block_nothing_is_changed(model_folder):
    model, adapter = load_model(model_folder, "float32", "cpu"), make_adapter()
    ids = torch.arange(12)[None] + 6
    mask = edge_mask(torch.ones(1, 12, dtype=torch.bool), 2)
    plain = model(input_ids=ids).logits
    with adapted(model, adapter):
        assert torch.equal(model(input_ids=ids).logits, plain)
        with adapter.at(mask):
            prompt = model(input_ids=ids, use_cache=True)
            assert not torch.equal(prompt.logits, plain)
            # A step of decoding goes on from what the prompt left, and is changed by nothing more.
            with adapter.at(None):
                step = model(input_ids=ids[:, :1], past_key_values=prompt.past_key_values).logits
        longer = torch.cat([ids, ids[:, :1]], 1)
        with adapter.at(torch.cat([mask, torch.zeros(1, 1, dtype=torch.bool)], 1)):
            torch.testing.assert_close(step, model(input_ids=longer).logits[:, -1:], rtol=1e-4, atol=1e-4)
        assert torch.equal(model(input_ids=ids).logits, plain)
    with adapter.at(mask):
        assert torch.equal(model(input_ids=ids).logits, plain)


def slow_edges(row, positions):
    """Places of the first and last tokens of each run of True, by walking along."""
    found, run = set(), []
    for place, is_prompt in enumerate([*row, False]):
        if is_prompt:
            run.append(place)
        else:
            found |= {*run[:positions], *run[max(0, len(run) - positions) :]}
            run = []
    return [place in found for place in range(len(row))]


@given(
    rows=st.integers(1, 30).flatmap(lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1)),
    positions=st.integers(1, 4),
)
def test_edges_are_the_ends_of_each_prompt_whatever_the_padding_and_packing(rows, positions):
    truth = torch.tensor([slow_edges(row, positions) for row in rows])
    assert torch.equal(edge_mask(torch.tensor(rows), positions), truth)


def test_an_adapter_in_half_precision_keeps_the_models_dtype(make_model):
    model, adapter = load_model(make_model("llama", torch.bfloat16), "bfloat16", "cpu"), make_adapter()
    ids = torch.arange(12)[None] + 6
    with adapted(model, adapter), adapter.at(torch.ones(1, 12, dtype=torch.bool)):
        assert model(input_ids=ids).logits.dtype == torch.bfloat16
    assert {part.dtype for part in adapter.parameters()} == {torch.float32}


@pytest.fixture
def written(model_folder, tmp_path):
    """(an adapter, the file it was written to)."""
    adapter, path = make_adapter(), tmp_path / "adapter.safetensors"
    record = model_record(model_folder)
    write_adapter(adapter, path, RECORD | {"model": record})
    return adapter, path


def test_an_adapter_that_is_read_is_the_one_that_was_written(written, model_folder):
    adapter, path = written
    found, _ = read_adapter(path, model_record(model_folder))
    assert found.positions == adapter.positions
    assert found.tensors().keys() == adapter.tensors().keys()
    for name, part in adapter.tensors().items():
        assert torch.equal(found.tensors()[name], part), name


def test_an_adapter_of_another_model_is_refused(written, make_model):
    with pytest.raises(UncoupleError, match="made from another model"):
        read_adapter(written[1], model_record(make_model("llama", seed=1)))


@pytest.mark.parametrize("place", [12, 300, -5])
def test_an_adapter_with_another_byte_is_refused(written, place):
    path = written[1]
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(UncoupleError, match="not those that were written|no seal"):
        read_adapter(path)


def test_a_record_is_no_adapter(model_folder, tmp_path):
    from uncouple.records.files import write_record
    from uncouple.records.formats import MODEL

    write_record(tmp_path / "r.json", MODEL, model_record(model_folder))
    with pytest.raises(UncoupleError, match="kind `adapter` was expected"):
        read_adapter(tmp_path / "r.json")
