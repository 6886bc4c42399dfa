"""What scoring plans to need, and what it says where that is more than there is."""

import json
import re

import hypothesis.strategies as st
import pytest
import torch
from conftest import FAMILY_CONFIGS, SMALL, TEXTS, batch_samples, encode_all, score_with
from hypothesis import given, settings

from uncouple.data.samples import make_samples
from uncouple.data.sources import Source
from uncouple.errors import UncoupleError
from uncouple.models.batching import BATCH_TOKENS
from uncouple.models.families import find_linear_layers, target_names
from uncouple.models.folders import read_config
from uncouple.models.load import load_model, load_tokenizer
from uncouple.models.skeleton import make_skeleton
from uncouple.scoring import gradients, memory, packing
from uncouple.scoring import score as scoring
from uncouple.scoring.gradients import accumulate_gradients
from uncouple.scoring.memory import FEWEST_TOKENS, bytes_per_token, plan_for_machine, plan_scoring
from uncouple.scoring.options import Scoring

# Enough of a model to be cut into passes; its config is all that a plan reads.
LARGER = SMALL | {"model_type": "llama", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 12}
WEIGHTS = 12 * (1024 * (2 * 1024 + 2 * 512) + 3 * 1024 * 4096)
plenty = 10**13


def try_plan(*args):
    try:
        return plan_scoring(*args)
    except UncoupleError:
        return None


@pytest.fixture(scope="module")
def larger():
    """A skeleton and the names of all its linear layers; what one token keeps is counted once."""
    known, count = {}, memory.bytes_per_token

    def count_once(skeleton, layers, tokens, kind):
        # Its attention is fused, so it does not matter how long a sample is.
        key = (skeleton, tuple(layers), kind)
        return known[key] if key in known else known.setdefault(key, count(skeleton, layers, tokens, kind))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "bytes_per_token", count_once)
        yield make_skeleton(LARGER, torch.float32), target_names(LARGER, "all")


@pytest.mark.parametrize("family", FAMILY_CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_planned_weights_and_sums_are_those_of_the_model(make_model, family, dtype):
    folder = make_model(family)
    names = target_names(read_config(folder), "all")
    model = load_model(folder, str(dtype).removeprefix("torch."), "cpu")
    plan = plan_scoring(make_skeleton(read_config(folder), dtype), names, "cpu", plenty, 100)
    assert plan.weights == sum(p.untyped_storage().nbytes() for p in model.parameters())
    assert plan.sums == sum(4 * layer.weight.numel() for layer in find_linear_layers(model, names).values())
    assert plan.passes == ((0, 1),)


@pytest.mark.parametrize("family", FAMILY_CONFIGS)
@pytest.mark.parametrize("module", ["all", "mlp"])
def test_a_token_keeps_as_much_as_planned(make_model, monkeypatch, family, module):
    """What a real forward pass keeps is found by following each tensor that `lighten` leaves as it is."""
    folder, kept = make_model(family), {}
    model, tokenizer = load_model(folder, "float32", "cpu"), load_tokenizer(folder)[0]
    names = target_names(read_config(folder), module)
    batch = batch_samples(encode_all(tokenizer), 120)[0]

    def keep(tensor):
        light = packing_lighten(tensor)
        if isinstance(light, torch.Tensor):
            kept[light.untyped_storage().data_ptr()] = light
        return light

    packing_lighten = packing.lighten
    monkeypatch.setattr(packing, "lighten", keep)
    monkeypatch.setattr(gradients, "lighten", keep)
    accumulate_gradients(model, names, [batch])
    monkeypatch.undo()
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    truth = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / batch.ragged.tokens
    skeleton = make_skeleton(read_config(folder), torch.float32)
    planned = bytes_per_token(skeleton, find_linear_layers(skeleton, names), max(batch.ragged.lengths))
    # A mask of a sliding window comes to it, which is large for a window of 24 tokens in a model of 64 dimensions.
    assert planned == pytest.approx(truth, rel=0.2 if "sliding_window" in FAMILY_CONFIGS[family] else 0.02)


kinds, frees = st.sampled_from(["cpu", "cuda"]), st.integers(10**9, 8 * 10**9)


@given(kinds, frees, st.integers(1, 4000), st.none() | st.integers(1, 6000), st.integers(1, 3))
@settings(deadline=None)
def test_a_plan_fits_and_has_each_layer_in_one_pass(larger, kind, free, longest, batch_tokens, devices):
    try:
        plan = plan_scoring(*larger, kind, free, longest, batch_tokens, devices)
    except UncoupleError:
        return
    assert plan.peak <= free
    assert plan.peak >= plan.weights + plan.sums + plan.token * max(plan.batch_tokens, longest)
    assert sorted(number for part in plan.passes for number in part) == list(range(12))
    if devices == 1:
        assert [number for part in plan.passes for number in part] == list(range(12))
        assert plan.sums * 12 == max(len(part) for part in plan.passes) * 4 * WEIGHTS
    if batch_tokens:
        assert plan.batch_tokens == batch_tokens
    else:
        assert longest <= plan.batch_tokens <= max(longest, BATCH_TOKENS[kind] * devices)


def spread(skeleton, devices):
    """Decoder layers and bytes of weights by GPU, as transformers spreads a model over GPUs that are alike."""
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = ["LlamaDecoderLayer"]
    most = get_balanced_memory(skeleton, dict.fromkeys(range(devices), plenty), whole, dtype=skeleton.dtype)
    most["cpu"] = 0
    where = infer_auto_device_map(skeleton, most, whole, dtype=skeleton.dtype)
    layers, weights = [[] for _ in range(devices)], [0] * devices
    for name, device in where.items():
        weights[device] += sum(p.numel() * p.element_size() for p in skeleton.get_submodule(name).parameters())
        if name.rpartition(".")[2].isdigit():
            layers[device].append(int(name.rpartition(".")[2]))
    assert sorted(n for part in layers for n in part) == list(range(12))
    return layers, weights


@pytest.mark.parametrize("devices", [2, 3, 4])
def test_over_several_gpus_the_plan_is_of_the_fullest(larger, devices):
    """Neighbours are on one GPU: a pass of neighbours has all its sums there."""
    skeleton, names = larger
    layers, weights = spread(skeleton, devices)
    seen = set()
    for free in range(0, 6 * 10**9, 10**8):
        if not (plan := try_plan(skeleton, names, "cuda", free, 50, None, devices)):
            continue
        seen.add(len(plan.passes))
        assert plan.weights >= max(weights)
        on_one = max(len({*part} & {*here}) for part in plan.passes for here in layers)
        assert plan.sums >= on_one * 4 * WEIGHTS / 12
        # And not by far: it is no more than one layer above an even share.
        assert on_one <= -(-max(map(len, layers)) // len(plan.passes))
        alone = try_plan(skeleton, names, "cuda", free, 50)
        assert not alone or len(alone.passes) >= len(plan.passes)
        assert str(plan).startswith(f"on the fullest of {devices} GPUs ")
    assert {1, 2} <= seen


def test_repeated_heads_of_float32_on_a_gpu_are_planned(larger):
    skeleton, names = larger
    layers = find_linear_layers(skeleton, names)
    on_cpu, on_gpu = (bytes_per_token(skeleton, layers, 50, kind) for kind in ("cpu", "cuda"))
    # Of 12 layers the keys and values of 2 more heads of 256 numbers.
    assert on_gpu - on_cpu == 12 * 2 * 2 * 256 * 4
    half = make_skeleton(skeleton.config.to_dict(), torch.bfloat16)
    layers = find_linear_layers(half, names)
    assert bytes_per_token(half, layers, 50, "cuda") == bytes_per_token(half, layers, 50, "cpu")


@given(kinds, st.lists(frees, min_size=2, max_size=2).map(sorted), st.integers(1, 1000))
@settings(deadline=None)
def test_less_memory_means_more_passes_or_smaller_batches(larger, kind, both, longest):
    less, more = (try_plan(*larger, kind, free, longest) for free in both)
    if less:
        assert len(less.passes) >= len(more.passes)
        if len(less.passes) == len(more.passes):
            assert less.batch_tokens <= more.batch_tokens


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_there_are_several_passes_only_where_one_leaves_too_small_a_batch(larger, kind):
    counts = {}
    for free in range(0, 9 * 10**9, 25 * 10**6):
        if plan := try_plan(*larger, kind, free, 50):
            counts.setdefault(len(plan.passes), []).append(plan.batch_tokens)
    assert list(counts) == sorted(counts, reverse=True)
    assert set(counts) == {12, 6, 4, 3, 2, 1}
    assert min(counts[12]) < FEWEST_TOKENS[kind]
    assert min(min(counts[n]) for n in (6, 4, 3, 2, 1)) >= FEWEST_TOKENS[kind]


def test_a_given_batch_size_does_not_hide_a_longer_sample(larger):
    plan = plan_scoring(*larger, "cuda", plenty, 1000, 10)
    assert plan.batch_tokens == 10
    assert plan.peak == plan_scoring(*larger, "cuda", plenty, 1000, 1000).peak
    assert len(plan_scoring(*larger, "cuda", plan.peak / 0.95 + 1, 1000, 10).passes) == 1
    assert len(plan_scoring(*larger, "cuda", plan.peak / 0.95 - 1000, 1000, 10).passes) == 2


def test_too_little_memory_tells_what_to_change(larger):
    """Each piece of advice, where it applies."""

    def advice(dtype, kind, longest, batch_tokens=None):
        skeleton = make_skeleton(larger[0].config.to_dict(), dtype)
        with pytest.raises(UncoupleError, match="needs .* GB and 0.8 GB are free: .*To make it fit") as error:
            plan_scoring(skeleton, larger[1], kind, 8 * 10**8, longest, batch_tokens)
        return str(error.value).partition("To make it fit, ")[2]

    long, given = "leave out long samples (the longest has 90000 tokens).", "lower --batch-tokens."
    half = "use half precision (--dtype bfloat16)"
    assert advice(torch.float32, "cpu", 90_000) == f"free some memory, or {half}, or {long}"
    assert advice(torch.bfloat16, "cpu", 90_000) == f"free some memory, or {long}"
    assert advice(torch.bfloat16, "cpu", 100, 90_000) == f"free some memory, or {given}"
    assert advice(torch.float32, "cuda", 100, 90_000).startswith(f"spread it over more GPUs (--device all), or {half}")


def test_what_is_said_to_be_needed_is_just_enough(larger):
    with pytest.raises(UncoupleError) as error:
        plan_scoring(*larger, "cpu", 10**9, 300)
    need = float(re.search(r"needs ([\d.]+) GB", str(error.value))[1]) * 10**9
    # It is told to a tenth of a gigabyte.
    assert not try_plan(*larger, "cpu", need - 6 * 10**7, 300)
    assert try_plan(*larger, "cpu", need + 6 * 10**7, 300)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"num_hidden_layers": None}, "config.json: no `num_hidden_layers` in it"),
        ({"model_type": "no such"}, "architecture 'no such' is not known"),
        ({"hidden_size": "wide"}, "architecture 'llama': its config cannot be read"),
    ],
)
def test_a_config_that_cannot_be_planned_with_is_told(tmp_path, change, told):
    config = {key: value for key, value in (LARGER | change).items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    job = {"gpu_memory": 10**10, "gpus": 1, "longest": 10}
    with pytest.raises(UncoupleError, match=told):
        plan_for_machine(tmp_path, Scoring(dtype="float32"), layers=(0, None), **job)


@pytest.fixture
def score(model_folder, tmp_path, write_jsonl):
    """A function of a file name, and other arguments, that scores all texts with the tiny Llama; gives the file."""
    raw = write_jsonl("raw.jsonl", [{"prompt": p, "response": r} for p, r in TEXTS])
    make_samples(Source(path=str(raw)), "general", "safe", len(TEXTS), 1, tmp_path / "samples.parquet")
    common = {"first": 0, "last": None, "module": "all", "prompt": "chat", "keep": 0.05, "dtype": "float32"}

    def run(name, **options):
        options = common | {"batch_tokens": 100, "device": "cpu"} | options
        score_with(model_folder, tmp_path / "samples.parquet", tmp_path / name, **options)
        return tmp_path / name

    return run


def test_several_passes_write_the_very_shard_of_one(score, model_folder, monkeypatch, capsys):
    whole = score("whole")
    assert "1 pass over the samples" in capsys.readouterr().err
    names = target_names(read_config(model_folder), "all")
    plan = plan_scoring(make_skeleton(read_config(model_folder), torch.float32), names, "cpu", plenty, 50, 100)
    # Room for the sums of one and a half of its two layers.
    monkeypatch.setattr(scoring, "free_memory", lambda _: (plan.peak - plan.sums / 4) / 0.95)
    passes = []
    record = lambda model, part, batches: passes.append(part) or accumulate_gradients(model, part, batches)  # noqa: E731
    monkeypatch.setattr(scoring, "accumulate_gradients", record)
    parts = score("parts")
    assert "1 layers a pass, 2 passes over the samples" in capsys.readouterr().err
    assert passes == [names[: len(names) // 2], names[len(names) // 2 :]]
    assert parts.read_bytes() == whole.read_bytes()


def test_a_job_that_does_not_fit_is_told_before_the_model_is_loaded(score, monkeypatch):
    monkeypatch.setattr(scoring, "free_memory", lambda _: 10**6)
    monkeypatch.setattr(scoring, "load_model", None)
    with pytest.raises(UncoupleError, match="free some memory"):
        score("shard")
