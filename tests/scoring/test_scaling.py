"""float16 gradients are held to float32's own of the same model, where unscaled ones underflow."""

import math

import hypothesis.strategies as st
import pytest
import torch
from conftest import TEXTS, batch_samples, relative_error
from hypothesis import given, settings

from uncouple.errors import UncoupleError
from uncouple.models.families import target_names
from uncouple.models.folders import read_config
from uncouple.models.load import load_model, load_tokenizer
from uncouple.models.prompts import Encoded, encode_question
from uncouple.scoring import gradients
from uncouple.scoring.gradients import accumulate_gradients
from uncouple.scoring.packing import Batch
from uncouple.scoring.scaling import FAINTEST, HEAD_REACH, NOTHING, REACHES, Scaling, largest_of_each

DOWN = "model.layers.1.mlp.down_proj"


@pytest.fixture
def both(make_model):
    """A function of (dtype, powers of two for weights, tokens of the longest response) to a model in float32, the same
    weights in that dtype, names of layers and samples, a long one and short ones.
    """

    def make(dtype, changes=None, longest=60):
        folder = make_model("llama", torch.float16, max_position_embeddings=2048)
        models = [load_model(folder, name, "cpu") for name in ("float32", dtype)]
        for model in models:
            for name, power in ({"lm_head": -8} | (changes or {})).items():
                model.get_submodule(name).weight.mul_(2.0**power)
        tokenizer, _ = load_tokenizer(folder)
        long = [
            i for _ in range(10) for _, text in TEXTS for i in tokenizer(text, add_special_tokens=False)["input_ids"]
        ]
        encoded = []
        for number, (question, answer) in enumerate(TEXTS):
            ids = encode_question(tokenizer, question, "chat")
            response = tokenizer(answer)["input_ids"] if number else long[:longest]
            encoded.append(Encoded(ids + response, len(ids)))
        assert len(encoded[0].ids) - encoded[0].start == longest
        return *models, target_names(read_config(folder), "all"), encoded

    return make


def worst_error(found, truth):
    return max(relative_error(found[name], truth[name]) for name in truth)


@pytest.mark.parametrize(("dtype", "bar"), [("float16", 0.01), ("bfloat16", 0.05)])
def test_half_precision_gradients_are_float32s_at_long_responses(both, dtype, bar):
    full, half, names, encoded = both(dtype, longest=1300)
    # Nearly all of the sum is the short samples', so that the long one's own is compared as well.
    for samples in (encoded, encoded[:1]):
        truth = accumulate_gradients(full, names, batch_samples(samples, 2000))
        assert worst_error(accumulate_gradients(half, names, batch_samples(samples, 2000)), truth) < bar


def test_unscaled_float16_underflows_here(both, monkeypatch):
    """Without this the test above could not fail."""
    full, half, names, encoded = both("float16", longest=1300)
    monkeypatch.setattr(gradients, "Scaling", lambda *_: None)
    monkeypatch.setattr(gradients._Hooks, "check", lambda hooks: None)
    found, truth = (accumulate_gradients(model, names, batch_samples(encoded[:1], 1)) for model in (half, full))
    assert worst_error(found, truth) > 0.3


@pytest.fixture
def attempts(monkeypatch):
    """Which of REACHES were tried, batch by batch."""
    tried = []

    class Watched(Scaling):
        def __init__(self, batch, attempt=0):
            tried.append(attempt)
            super().__init__(batch, attempt)

    monkeypatch.setattr(gradients, "Scaling", Watched)
    return tried


@pytest.mark.parametrize(
    ("changes", "truth"),
    [({}, [0]), ({DOWN: 11}, [0, 1, 2]), ({DOWN: -17}, [0, 1])],
    ids=["fits", "overflows", "underflows"],
)
def test_a_batch_is_done_again_for_the_layers_whose_gradients_did_not_fit(both, attempts, changes, truth):
    """A layer that were added twice would be off by a half."""
    full, half, names, encoded = both("float16", changes)
    found = accumulate_gradients(half, names, batch_samples(encoded, 10_000))
    assert attempts == truth
    assert worst_error(found, accumulate_gradients(full, names, batch_samples(encoded, 10_000))) < 0.02


def test_scaled_batches_are_halved_where_memory_runs_out(both):
    from test_gradients_memory import little_memory

    _, half, names, encoded = both("float16", {DOWN: -17})
    truth = accumulate_gradients(half, names, batch_samples(encoded, 1))
    with little_memory(half, names[3], 150, torch.OutOfMemoryError("full"), "backward"):
        found = accumulate_gradients(half, names, batch_samples(encoded, 10_000))
    assert worst_error(found, truth) < 0.01


def test_where_no_scaling_serves_layer_and_sample_are_named(both):
    """What overflows in one decoder layer where another's gradients are too faint."""
    _, half, names, encoded = both("float16", {DOWN: 13, DOWN.replace("1", "0"): -12})
    with pytest.raises(UncoupleError, match=r"layers.0.mlp.*, sample s\d: .*does not fit into float16.*or bfloat16"):
        accumulate_gradients(half, names, batch_samples(encoded, 10_000))


def test_gradients_that_vanish_are_told(both):
    _, half, names, encoded = both("float16")
    half.get_submodule(DOWN).weight.zero_()
    with pytest.raises(UncoupleError, match="model.layers.1.mlp.gate_proj: its gradients vanish in float16.*bfloat16"):
        accumulate_gradients(half, names, batch_samples(encoded, 10_000))


lengths = st.lists(st.integers(2, 6), min_size=1, max_size=4)


@given(lengths, st.integers(0, 10**6), st.integers(0, len(REACHES) - 1))
@settings(deadline=None)
def test_a_gradient_is_fitted_by_powers_of_two_a_sample_and_undone_exactly(lengths, seed, attempt):
    draw = torch.Generator().manual_seed(seed)
    batch = Batch(tuple(Encoded([0] * n, 1) for n in lengths), tuple(map(str, lengths)))
    found = Scaling(batch, attempt)
    ones = torch.ones(sum(lengths))
    first = found.undo(ones)
    assert [1 / f for f in found.head_factors] == first.tolist()
    # The loss divides by the length, and so each token's share of the gradient at the head is at most 2**HEAD_REACH.
    for factor, n in zip(found.head_factors, lengths, strict=True):
        assert 2 ** (HEAD_REACH - 1) < factor / (n - 1) <= 2**HEAD_REACH
    sizes = 2.0 ** torch.randint(-6, 8, (len(lengths), 1, 1), generator=draw)
    parts = [size * (1 + torch.rand(n, 3, generator=draw)) for size, n in zip(sizes, lengths, strict=True)]
    gradient = torch.cat([part.view(-1, 3) for part in parts]).half()
    fitted = found.fit(gradient[None])[0]
    assert fitted.dtype == torch.float16
    for before, after, was, factor in zip(
        gradient.split(lengths), fitted.split(lengths), first, found.undo(ones), strict=True
    ):
        assert 2.0 ** (found.reach - 1) <= after.max() < 2.0**found.reach
        assert torch.equal(after.double() * factor.double(), before.double() * was.double())
    assert not found.find_misfits(largest_of_each(fitted)).any()


@pytest.mark.parametrize(
    ("number", "fits", "fits_at_last"),
    [(1, True, True), (FAINTEST, True, True), (FAINTEST / 2, False, False), (0, False, True), (math.inf, False, False),
     (math.nan, False, False)],
)  # fmt: skip
def test_what_fits(number, fits, fits_at_last):
    batch = Batch((Encoded([0] * 3, 1), Encoded([0] * 2, 1)), ("a", "b"))
    largest = torch.tensor([1, 1, 1, 0, number], dtype=torch.float16)
    for attempt, truth in ((0, fits), (len(REACHES) - 1, fits_at_last)):
        assert Scaling(batch, attempt).find_misfits(largest).tolist() == [False] * 3 + [not truth] * 2


def test_float32_and_bfloat16_are_not_scaled(both, monkeypatch):
    monkeypatch.setattr(gradients, "Scaling", None)
    full, half, names, encoded = both("bfloat16")
    for model in (full, half):
        assert accumulate_gradients(model, names, batch_samples(encoded, 10_000))


def test_rounding_in_place_of_nothing_adds_nothing():
    """At the last attempt alone: before it a fainter gradient may yet be brought nearer."""
    batch = Batch((Encoded([0] * 2, 1), Encoded([0] * 3, 1)), ("a", "b"))
    largest = torch.tensor([0.0, NOTHING / 2, 0.0, 1.0, 1.0])
    for attempt in range(len(REACHES)):
        is_last = attempt == len(REACHES) - 1
        scaling = Scaling(batch, attempt)
        assert scaling.find_misfits(largest).tolist() == [not is_last] * 2 + [False] * 3
    assert [bool(factor) for factor in scaling.undo(largest)] == [False, True]
    # What is more than rounding and less than float16 holds well is still told.
    assert scaling.find_misfits(largest * 4)[0]


def test_gradients_that_are_nothing_indeed_are_no_error(both):
    """A query that sees one key alone has no gradient: here the first sample's, in whose batch nothing else is."""
    full, half, names, encoded = both("float16")
    samples = [Encoded(encoded[0].ids[:2], 1), *encoded]
    truth = accumulate_gradients(full, names, batch_samples(samples, 1))
    assert worst_error(accumulate_gradients(half, names, batch_samples(samples, 1)), truth) < 0.01
