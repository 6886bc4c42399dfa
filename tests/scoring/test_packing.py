"""A packed batch gives what each sample alone gives: attention, loss, and what is made again for the backward pass."""

import math
from functools import partial
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
import torch
from conftest import FAMILY_CONFIGS, TEXTS, batch_samples, encode_all, relative_error, score_with, slow_gradients
from hypothesis import HealthCheck, given, settings
from torch.nn.functional import gelu, relu, silu

from uncouple.data.samples import make_samples
from uncouple.data.sources import Rows, Source
from uncouple.errors import UncoupleError
from uncouple.evaluation.perplexity import measure_perplexity
from uncouple.models import attention
from uncouple.models.attention import Join, packed_attention
from uncouple.models.batching import make_batches
from uncouple.models.families import FAMILIES, target_names
from uncouple.models.folders import read_config
from uncouple.models.head import HEAD_BYTES, check_head
from uncouple.models.load import load_model, load_tokenizer
from uncouple.models.prompts import Encoded
from uncouple.models.rope import longest_together
from uncouple.scoring.gradients import accumulate_gradients
from uncouple.scoring.packing import pack_samples, sample_at
from uncouple.scoring.recompute import lighten, make_again

GELU_TANH = partial(gelu, approximate="tanh")


def load(folder):
    """Model, names of all its linear layers, encoded samples."""
    model, tokenizer = load_model(folder, "float32", "cpu"), load_tokenizer(folder)[0]
    return model, target_names(read_config(folder), "all"), encode_all(tokenizer)


def worst_error(found, truth):
    return max(relative_error(found[name], truth[name]) for name in truth)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 200))
def test_batches_hold_every_sample_once_within_the_budget_and_the_longest_comes_first(lengths, batch_tokens):
    batches = make_batches(lengths, batch_tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert batch
        assert len(batch) == 1 or sum(lengths[i] for i in batch) <= batch_tokens
    assert max(lengths) in [lengths[i] for i in batches[0]]


@given(st.lists(st.integers(1, 50), min_size=2, max_size=30), st.integers(1, 200))
def test_no_sample_of_a_batch_would_fit_into_an_earlier_one(lengths, batch_tokens):
    batches = make_batches(lengths, batch_tokens)
    room = [batch_tokens - sum(lengths[i] for i in batch) for batch in batches]
    for number, batch in enumerate(batches):
        assert all(lengths[i] > max(room[:number], default=-math.inf) for i in batch)


@pytest.fixture(params=[False, True], ids=["grouped", "repeated"])
def heads(request):
    """Heads as on a CPU, and repeated as for float32 on a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param:
            patch.setattr(attention, "_needs_a_head_each", lambda *_: True)
        yield request.param


@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.none() | st.integers(1, 14), st.integers(0, 10**6))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_packed_attention_is_the_obvious_attention_of_each_sample(heads, lengths, window, seed):
    generator, tokens = torch.Generator().manual_seed(seed), sum(lengths)
    module = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = 2, True
    q, k, v = (torch.randn(1, heads, tokens, 8, generator=generator) for heads in (4, 2, 2))
    options = {"scaling": 0.3, "sliding_window": window, "dropout": 0.0}
    found, _ = packed_attention(module, q, k, v, None, cu_seq_lens_q=lengths, **options)
    assert found.shape == (1, tokens, 4, 8)
    starts = [sum(lengths[:sample]) for sample, length in enumerate(lengths) for _ in range(length)]
    for token, start in enumerate(starts):
        seen = slice(max(start, token + 1 - (window or tokens)), token + 1)
        for head in range(4):
            weights = (0.3 * k[0, head // 2, seen] @ q[0, head, token]).softmax(0)
            assert torch.allclose(found[0, token, head], weights @ v[0, head // 2, seen], atol=1e-5)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mistral", {"sliding_window": 5}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
        ("gemma2", {"sliding_window": 5}),
        ("gemma2", {"sliding_window": 5, "attn_logit_softcapping": None, "final_logit_softcapping": None}),
        ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": 0.5}),
        ("gemma3_text", {"sliding_window": 5}),
        ("phi3", {"sliding_window": 5}),
        ("llama", {"num_key_value_heads": 4, "attention_bias": True}),
        ("llama", {"tie_word_embeddings": True, "mlp_bias": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_packed_samples_have_the_gradients_that_each_has_alone(make_model, family, changes):
    model, names, encoded = load(make_model(family, **changes))
    assert min(len(e.ids) for e in encoded) > 5
    batches = batch_samples(encoded, 120)
    assert 1 < len(batches) < len(encoded)
    assert worst_error(accumulate_gradients(model, names, batches), slow_gradients(model, names, encoded)) < 1e-5


def test_repeated_heads_leave_no_grouped_attention(make_model, monkeypatch):
    model, names, encoded = load(make_model("llama"))
    shapes, attend = set(), torch.nn.functional.scaled_dot_product_attention

    def watch(query, key, value, **options):
        shapes.add((query.shape[1], key.shape[1], value.shape[1], options.get("enable_gqa", False)))
        return attend(query, key, value, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watch)
    monkeypatch.setattr(attention, "_needs_a_head_each", lambda *_: True)
    batches = batch_samples(encoded, 120)
    found = accumulate_gradients(model, names, batches)
    assert shapes == {(4, 4, 4, False)}
    assert worst_error(found, slow_gradients(model, names, encoded)) < 1e-5


LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [8.0] * 8,
    "original_max_position_embeddings": 39,
}


def test_a_long_sample_does_not_change_the_positions_of_short_ones(make_model):
    """Rotary embeddings of Phi 3's long models depend on the longest position that they see."""
    folder = make_model("phi3", rope_parameters=LONGROPE, original_max_position_embeddings=39)
    model, names, encoded = load(folder)
    short = [e for e in encoded if len(e.ids) <= 39]
    assert max(len(e.ids) for e in short) == 39
    assert 1 < len(short) < len(encoded) - 1
    ids = [str(i) for i in range(len(encoded))]
    batches = pack_samples(encoded, ids, 10_000, longest_together(model.config))
    assert [len(batch.rows) for batch in batches].count(1) == len(encoded) - len(short)
    assert worst_error(accumulate_gradients(model, names, batches), slow_gradients(model, names, encoded)) < 1e-5


@pytest.mark.parametrize(
    ("rope", "truth"),
    [
        (None, None),
        ({"rope_type": "default", "rope_theta": 1e4}, None),
        ({"rope_type": "llama3", "original_max_position_embeddings": 8192}, None),
        (LONGROPE, 39),
        ({"rope_type": "dynamic", "factor": 2.0}, 256),
        ({"full_attention": {"rope_type": "default"}, "sliding_attention": LONGROPE}, 39),
    ],
)
def test_samples_may_share_a_batch_up_to_where_positions_would_be_stretched(rope, truth):
    config = SimpleNamespace(model_type="phi3", rope_parameters=rope, max_position_embeddings=256)
    assert longest_together(config) == truth


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 200), st.integers(1, 50))
def test_longer_samples_than_may_share_a_batch_are_alone(lengths, batch_tokens, together):
    encoded, ids = [Encoded([0] * length, 1) for length in lengths], [str(i) for i in range(len(lengths))]
    batches = pack_samples(encoded, ids, batch_tokens, together)
    assert sorted(name for batch in batches for name in batch.ids) == sorted(ids)
    for batch in batches:
        assert len(batch.rows) == 1 or (batch.ragged.tokens <= batch_tokens and max(batch.ragged.lengths) <= together)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_loss_does_not_depend_on_how_many_tokens_the_head_takes_at_a_time(make_model, monkeypatch, family):
    model, names, encoded = load(make_model(family))
    whole = accumulate_gradients(model, names, batch_samples(encoded, 10_000))
    monkeypatch.setitem(HEAD_BYTES, "cpu", 3 * 4 * model.config.vocab_size)
    parts = accumulate_gradients(model, names, batch_samples(encoded, 10_000))
    assert worst_error(parts, whole) < 1e-5


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_model_has_its_own_attention_again_after_scoring(make_model, family):
    model, names, encoded = load(make_model(family))
    before = model.config._attn_implementation
    assert before == {"llama": "sdpa", "gemma2": "eager"}[family]
    ids = torch.tensor([encoded[0].ids])
    logits = model(ids).logits
    accumulate_gradients(model, names, batch_samples(encoded, 100))
    assert model.config._attn_implementation == before
    assert torch.equal(model(ids).logits, logits)


def test_a_model_has_its_own_attention_again_after_an_error(make_model):
    model, names, encoded = load(make_model("llama"))
    handle = model.get_submodule(names[-1]).register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        accumulate_gradients(model, names, batch_samples(encoded, 100))
    handle.remove()
    assert model.config._attn_implementation == "sdpa"
    for module in model.modules():
        assert not module._forward_hooks


CONSTANT = torch.randn(133)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "make",
    [
        silu,
        gelu,
        GELU_TANH,
        lambda t: t * t[:1],
        lambda t: silu(t) * (t - 1),
        lambda t: silu(t).view(133, 7),
        lambda t: 2 * silu(t),
        lambda t: CONSTANT.to(t.dtype) * (t * t.mean(-1, keepdim=True)),
        lambda t: (t * t[:1]) * CONSTANT.to(t.dtype),
        lambda t: Join.apply(t[None, :3], t[None, 3:]),
    ],
)
def test_what_a_cheap_node_makes_again_is_the_very_tensor(make, dtype):
    result = make(torch.randn(7, 133, dtype=dtype).requires_grad_())
    kept = lighten(result)
    assert not isinstance(kept, torch.Tensor)
    again = make_again(kept)
    assert torch.equal(again, result)
    assert again.dtype == dtype
    assert not again.requires_grad


@pytest.mark.parametrize(
    "make", [lambda t: t, lambda t: t + 1, lambda t: 2 * t, relu, lambda t: t * CONSTANT, lambda t: CONSTANT * t]
)
@pytest.mark.parametrize("needs_gradient", [True, False])
def test_other_tensors_are_kept_as_they_are(make, needs_gradient):
    result = make(torch.randn(7, 133).requires_grad_(needs_gradient))
    again = make_again(lighten(result))
    assert again.data_ptr() == result.data_ptr()
    assert torch.equal(again, result)
    assert not again.requires_grad


@pytest.mark.parametrize("activation", [silu, gelu, GELU_TANH])
def test_a_gated_mlp_keeps_two_fifths_less_and_has_the_very_gradients(activation):
    up, gate, down = (torch.randn(16, 16, requires_grad=True) for _ in range(3))
    x, kept = torch.randn(9, 16), []

    def gradients():
        return torch.autograd.grad(((activation(x @ gate) * (x @ up)) @ down).square().sum(), (up, gate, down))

    def keep(tensor):
        kept.append(lighten(tensor))
        return kept[-1]

    truth = gradients()
    with torch.autograd.graph.saved_tensors_hooks(keep, make_again):
        found = gradients()
    assert all(torch.equal(a, b) for a, b in zip(found, truth, strict=True))
    wide = {t.data_ptr() for t in kept if isinstance(t, torch.Tensor) and t.shape == (9, 16)}
    # x, its products with gate and up, the output; neither the activation nor its product with up.
    assert len(wide) == 4
    assert sum(not isinstance(t, torch.Tensor) for t in kept) == 2


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_every_token_of_a_batch_has_its_samples_id(lengths):
    (batch,) = batch_samples([Encoded([0] * length, 1) for length in lengths], sum(lengths))
    truth = [name for name, row in zip(batch.ids, batch.rows, strict=True) for _ in row.ids]
    assert [sample_at(batch, place) for place in range(sum(lengths))] == truth
    with pytest.raises(IndexError):
        sample_at(batch, sum(lengths))


def test_a_loss_that_is_not_finite_names_its_sample_of_a_batch(make_model):
    model, names, encoded = load(make_model("llama"))
    others = {token for e in encoded if e is not encoded[4] for token in e.ids}
    own = next(token for token in encoded[4].ids[:-1] if token not in others)
    with torch.no_grad():
        model.model.embed_tokens.weight[own] = math.nan
    with pytest.raises(UncoupleError, match="sample s4: its loss is not finite"):
        accumulate_gradients(model, names, batch_samples(encoded, 10_000))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", FAMILY_CONFIGS)
def test_the_heads_of_all_families_are_known(make_model, family, dtype):
    check_head(load_model(make_model(family), dtype, "cpu"))


# Heads that scale logits, of families that are declared below as if they did not.
UNKNOWN_HEADS = {"granite": {"logits_scaling": 6.0}, "cohere": {"logit_scale": 0.0625}}


@pytest.fixture(params=UNKNOWN_HEADS)
def unknown_head(request, make_model, monkeypatch):
    """(architecture, model folder) of a family that is declared wrongly: its head scales its logits."""
    monkeypatch.setitem(FAMILIES, request.param, FAMILIES["llama"])
    return request.param, make_model(request.param, **UNKNOWN_HEADS[request.param])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_head_that_scales_its_logits_is_refused_by_scoring(unknown_head, tmp_path, write_jsonl, dtype):
    raw = write_jsonl("raw.jsonl", [{"prompt": p, "response": r} for p, r in TEXTS])
    make_samples(Source(path=str(raw)), "general", "safe", 2, 0, tmp_path / "samples.parquet")
    job = {"first": 0, "last": None, "module": "mlp", "prompt": "chat", "keep": 0.1, "batch_tokens": 100}
    with pytest.raises(UncoupleError, match=f"architecture '{unknown_head[0]}': its loss head does more"):
        score_with(unknown_head[1], tmp_path / "samples.parquet", tmp_path / "s", **job, dtype=dtype, device="cpu")
    assert not (tmp_path / "s").exists()


def test_a_head_that_scales_its_logits_is_refused_by_perplexity(unknown_head, tmp_path):
    (tmp_path / "text.txt").write_text(" ".join(f"{p} {r}" for p, r in TEXTS))
    job = {"window": 32, "windows": 1, "batch_size": 1, "dtype": "float32"}
    source = Rows(path=str(tmp_path / "text.txt"))
    with pytest.raises(UncoupleError, match=f"architecture '{unknown_head[0]}': its loss head does more"):
        measure_perplexity(unknown_head[1], tmp_path / "table", source=source, **job, device="cpu")


def test_a_cap_that_is_not_known_is_refused(make_model):
    model = load_model(make_model("gemma2"), "float32", "cpu")
    check_head(model)
    # Gemma 2's head reads the cap each time; here it caps lower than the config of ours says.
    head = model.get_output_embeddings()
    model.lm_head = torch.nn.Sequential(head, torch.nn.Hardtanh(-0.1, 0.1))
    model.get_output_embeddings = lambda: head
    with pytest.raises(UncoupleError, match="'gemma2': its loss head does more"):
        check_head(model)
