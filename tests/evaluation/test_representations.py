"""HSIC against its formulas written as loops, and hidden states against those of single runs."""

import itertools
import math
import statistics

import numpy as np
import pytest
import torch
from conftest import FAMILY_CONFIGS, TEXTS, encode_all, write_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from uncouple.data.samples import make_samples
from uncouple.data.sources import Source
from uncouple.errors import UncoupleError
from uncouple.evaluation import hsic
from uncouple.evaluation.hsic import (
    gaussian_kernel,
    hsic_biased,
    hsic_unbiased,
    last_states,
    measure_hsic,
    permutation_p,
    permuted_hsic,
)
from uncouple.models.families import FAMILIES
from uncouple.models.load import load_model, load_tokenizer
from uncouple.models.rope import longest_together
from uncouple.records.files import read_table
from uncouple.records.formats import METRICS, SAMPLES

POINTS = st.integers(4, 6).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(1, 4), st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1.0, 1e3]))
)


def draw_points(case):
    """Two sets of n random points, the second one partly made of the first."""
    n, width, seed, scale = case
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, width))
    return scale * x, draw.uniform() * x + draw.normal(size=(n, width))


def kernels(*sets):
    """A kernel of one layer for each set of points."""
    return [gaussian_kernel(x)[None] for x in sets]


def slow_kernel(x):
    points = [tuple(map(float, row)) for row in x]
    width = statistics.median(math.dist(p, q) for p, q in itertools.combinations(points, 2))
    return [[math.exp(-(math.dist(p, q) ** 2) / (2 * width**2)) for q in points] for p in points]


def slow_biased(a, b):
    """trace(A H B H) / (n - 1)^2, each product of matrices as a sum."""
    n, total = len(a), 0.0
    for i, j, q, r in itertools.product(range(n), repeat=4):
        total += a[i][j] * ((j == q) - 1 / n) * b[q][r] * ((r == i) - 1 / n)
    return total / (n - 1) ** 2


def slow_unbiased(a, b):
    """The mean over four different pairs i, j, q, r of what Gretton et al. 2005 take expectations of."""
    terms = [
        a[i][j] * b[i][j] + a[i][j] * b[q][r] - 2 * a[i][j] * b[i][q]
        for i, j, q, r in itertools.permutations(range(len(a)), 4)
    ]
    return sum(terms) / len(terms)


# Kernels and estimators


@settings(max_examples=60, deadline=None)
@given(POINTS)
def test_kernels_and_estimators_equal_their_formulas(case):
    x, y = draw_points(case)
    a, b = kernels(x, y)
    slow_a, slow_b = slow_kernel(x), slow_kernel(y)
    np.testing.assert_allclose(a[0], slow_a, rtol=1e-9)
    np.testing.assert_allclose(b[0], slow_b, rtol=1e-9)
    assert hsic_biased(a, b)[0] == pytest.approx(slow_biased(slow_a, slow_b), rel=1e-9, abs=1e-12)
    assert hsic_unbiased(a, b)[0] == pytest.approx(slow_unbiased(slow_a, slow_b), rel=1e-9, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(POINTS)
def test_layers_are_apart_and_the_order_of_dimensions_does_not_matter(case):
    x, y = draw_points(case)
    a, b = np.concatenate(kernels(x, y)), np.concatenate(kernels(y, y))
    for estimate in (hsic_biased, hsic_unbiased):
        np.testing.assert_allclose(estimate(a, b), [estimate(*kernels(x, y))[0], estimate(*kernels(y, y))[0]])
        np.testing.assert_allclose(estimate(a, b), estimate(b, a), rtol=1e-9, atol=1e-12)


def test_a_kernel_does_not_see_where_the_points_lie_nor_how_large_they_are():
    x = np.random.default_rng(0).normal(size=(20, 8))
    np.testing.assert_allclose(gaussian_kernel(x), gaussian_kernel(10 * x + 1e7), rtol=1e-6)


def test_the_width_is_the_median_of_different_pairs():
    """Distances 1, 1, 1, 2, 2, 3: a median over all entries of their matrix would be 1."""
    kernel = gaussian_kernel(np.arange(4.0)[:, None])
    assert kernel[0].tolist() == pytest.approx([math.exp(-(d**2) / (2 * 1.5**2)) for d in range(4)])


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1e3])
@pytest.mark.parametrize("different", [0, 1])
def test_points_that_are_mostly_equal_have_no_kernel(scale, different):
    draw = np.random.default_rng(0)
    x = np.tile(scale * draw.normal(size=576), (9, 1)).astype(np.float32)
    x[:different] += draw.normal(size=576)
    with pytest.raises(UncoupleError, match="half of all pairs of hidden states or more are equal"):
        gaussian_kernel(x)


def test_a_few_equal_points_are_at_no_distance():
    x = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32) + 1e3
    x[1] = x[0]
    assert gaussian_kernel(x)[0, 1] == 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_points_that_are_not_finite_have_no_kernel(value):
    x = np.random.default_rng(0).normal(size=(6, 3))
    x[2, 1] = value
    with pytest.raises(UncoupleError, match="not finite"):
        gaussian_kernel(x)


# Random pairings


@settings(max_examples=30, deadline=None)
@given(POINTS)
def test_random_pairings_equal_kernels_in_another_order(case):
    x, y = draw_points(case)
    a, b = np.concatenate(kernels(x, y)), np.concatenate(kernels(y, y))
    found = permuted_hsic(a, b, 12, seed=case[2])
    draw = np.random.default_rng(case[2])
    orders = [draw.permutation(len(x)) for _ in range(12)]
    truth = [[slow_biased(a[layer], b[layer][order][:, order]) for layer in (0, 1)] for order in orders]
    np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-12)


def test_kernels_need_not_be_gaussian():
    """A linear kernel, whose diagonal is not the same everywhere."""
    x, y = draw_points((6, 3, 0, 1.0))
    a, b = (x @ x.T)[None], (y @ y.T)[None]
    order = np.random.default_rng(5).permutation(6)
    assert permuted_hsic(a, b, 1, seed=5)[0, 0] == pytest.approx(slow_biased(a[0], b[0][order][:, order]), rel=1e-9)


def test_a_seed_says_which_pairings_are_drawn():
    a, b = kernels(*draw_points((6, 3, 0, 1.0)))
    assert (permuted_hsic(a, b, 50, 1) == permuted_hsic(a, b, 50, 1)).all()
    assert (permuted_hsic(a, b, 50, 1) != permuted_hsic(a, b, 50, 2)).any()


@settings(max_examples=50)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 5))
def test_p_counts_pairings_that_are_as_extreme(null, observed):
    extreme, p = permutation_p(np.array([observed * 0.1]), np.array(null)[:, None] * 0.1)
    count = sum(value >= observed for value in null)
    assert (extreme.tolist(), p.tolist()) == ([count], [(1 + count) / (1 + len(null))])


def test_of_few_pairs_the_observed_pairing_is_drawn_again_and_counts():
    """Of 4 pairs there are 24 pairings, and one in 24 is the observed one."""
    a, b = kernels(*draw_points((4, 3, 1, 1.0)))
    draw = np.random.default_rng(3)
    drawn = [tuple(draw.permutation(4)) for _ in range(500)]
    values = {o: slow_biased(a[0], b[0][list(o)][:, list(o)]) for o in itertools.permutations(range(4))}
    as_extreme = {order for order, value in values.items() if value > values[0, 1, 2, 3] - 1e-9}
    extreme, _ = permutation_p(hsic_biased(a, b), permuted_hsic(a, b, 500, seed=3))
    assert extreme[0] == sum(order in as_extreme for order in drawn) > 0


def test_a_rounding_makes_no_pairing_less_extreme():
    extreme, p = permutation_p(np.array([0.1 + 0.2]), np.array([[0.3], [0.2]]))
    assert (0.1 + 0.2 > 0.3, extreme[0], p[0]) == (True, 1, 2 / 3)


def test_independent_points_give_every_p_alike():
    draw, found = np.random.default_rng(0), []
    for seed in range(300):
        a, b = kernels(draw.normal(size=(12, 3)), draw.normal(size=(12, 3)))
        found.append(permutation_p(hsic_biased(a, b), permuted_hsic(a, b, 99, seed))[1][0])
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_a_function_of_the_other_points_gives_the_smallest_p():
    x = np.random.default_rng(0).normal(size=(30, 2))
    a, b = kernels(x, np.sin(x))
    extreme, p = permutation_p(hsic_biased(a, b), permuted_hsic(a, b, 199, 0))
    assert (extreme[0], p[0]) == (0, 1 / 200)


# Hidden states


def single_states(model, encoded):
    """The truth: each sample alone, transformers' own hidden states. Their last ones have gone through the norm.

    Returns:
        (layers, samples, hidden).
    """
    found = []
    for ids in encoded:
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        found.append([states[0, -1].numpy() for states in hidden[1:]])
    return np.array(found).swapaxes(0, 1)


def load(folder):
    """Model, and token ids of all TEXTS."""
    model, tokenizer = load_model(folder, "float32", "cpu"), load_tokenizer(folder)[0]
    return model, [sample.ids for sample in encode_all(tokenizer)]


@pytest.mark.parametrize("family", FAMILY_CONFIGS)
def test_states_are_those_of_single_runs_whatever_the_batch(make_model, family):
    model, encoded = load(make_model(family, num_hidden_layers=3))
    truth = single_states(model, encoded)
    norm = model.base_model.final_layer_norm if family == "gpt_neox" else model.base_model.norm
    for batch_tokens in (1, 100, None):
        found = last_states(model, FAMILIES[family].layers, encoded, batch_tokens)
        assert (found.shape, found.dtype) == ((3, len(encoded), 64), np.float32)
        np.testing.assert_allclose(found[:-1], truth[:-1], rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            np.testing.assert_allclose(norm(torch.tensor(found[-1])), truth[-1], rtol=1e-4, atol=1e-4)


def test_a_long_sample_does_not_change_the_positions_of_short_ones(make_model):
    """Rotary embeddings of Phi 3's long models depend on the longest position that they see."""
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8, "long_factor": [8.0] * 8}
    rope["original_max_position_embeddings"] = 39
    model, encoded = load(make_model("phi3", rope_parameters=rope, original_max_position_embeddings=39))
    assert 1 < sum(len(ids) <= longest_together(model.config) for ids in encoded) < len(encoded) - 1
    found = last_states(model, FAMILIES["phi3"].layers, encoded)
    np.testing.assert_allclose(found[0], single_states(model, encoded)[0], rtol=1e-4, atol=1e-4)


def test_a_model_has_no_hooks_left(model_folder):
    model, encoded = load(model_folder)
    last_states(model, FAMILIES["llama"].layers, encoded)
    with pytest.raises(IndexError):
        last_states(model, FAMILIES["llama"].layers, [[10**6]])
    assert not any(layer._forward_hooks for layer in model.model.layers)


# The table


@pytest.fixture
def write_samples(write_jsonl, tmp_path):
    """A function of dimension and pairs of prompt and response that writes a samples table and gives its path."""

    def write(dimension, pairs):
        raw = write_jsonl(f"{dimension}.jsonl", [{"prompt": p, "response": r} for p, r in pairs])
        source = Source(path=str(raw), duplicates="keep")
        make_samples(source, dimension, "safe", len(pairs), 0, tmp_path / f"{dimension}.parquet")
        return tmp_path / f"{dimension}.parquet"

    return write


@pytest.fixture
def two_tables(write_samples):
    """Samples of fairness, and one more of privacy."""
    others = [(question + " Why?", "Because " + answer) for question, answer in TEXTS]
    return write_samples("fairness", TEXTS[:6]), write_samples("privacy", others)


def measure(model, paths, output, **changes):
    """Rows by metric and layer, and the metadata."""
    options = {"prompt": "chat", "permutations": 60}
    measure_hsic(model, *paths, output, **options | {"dtype": "float32", "device": "cpu"} | changes)
    table, record = read_table(output, METRICS)
    rows = {(row["metric"], row["layer"]): row for row in table.to_pylist()}
    assert len(rows) == len(table)
    return rows, record


def slow_rows(model, paths):
    """The truth, per layer: (biased, unbiased, biased of 60 random pairings); the rest of the longer table is left."""
    tables = [read_table(path, SAMPLES)[0].to_pylist()[:6] for path in paths]
    tokenizer = load_tokenizer(model)[0]
    model = load_model(model, "float32", "cpu")
    states = []
    for table in tables:
        encoded = []
        for row in table:
            turns = [{"role": "user", "content": row["prompt"]}]
            prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            encoded.append(tokenizer(prompt + row["response"], add_special_tokens=False)["input_ids"])
        states.append(single_states(model, encoded)[:-1])
    found = []
    for x, y in zip(*states, strict=True):
        a, b = np.array(slow_kernel(x)), np.array(slow_kernel(y))
        draw = np.random.default_rng(0)
        orders = [draw.permutation(len(a)) for _ in range(60)]
        null = [slow_biased(a, b[order][:, order]) for order in orders]
        found.append((slow_biased(a, b), slow_unbiased(a, b), null))
    return found


def test_the_table_is_what_the_loops_come_to(model_folder, two_tables, tmp_path):
    rows, record = measure(model_folder, two_tables, tmp_path / "out.parquet")
    # The last layer's states cannot be had before the norm without a hook; the test of hidden states has them.
    ((biased, unbiased, null),) = slow_rows(model_folder, two_tables)
    names = ("biased", "unbiased", "null", "p")
    assert list(rows) == [(f"hsic_{name}", layer) for layer in range(2) for name in names]
    first = [rows[f"hsic_{name}", 0] for name in names]
    assert {row["dimension"] for row in rows.values()} == {"fairness-privacy"}
    assert {(row["model"], row["variant"]) for row in rows.values()} == {(model_folder.name, "origin")}
    extreme = sum(value > biased - 1e-9 for value in null)
    truth = [biased, unbiased, statistics.mean(null), (1 + extreme) / 61]
    assert [row["value"] for row in first] == pytest.approx(truth, rel=1e-4, abs=1e-6)
    assert [(row["n"], row["of"]) for row in first] == [(6, 6), (6, 6), (60, 60), (extreme, 60)]
    interval = [float(value) for value in np.quantile(null, [0.025, 0.975])]
    assert [first[2]["low"], first[2]["high"]] == pytest.approx(interval, rel=1e-4)
    assert {(row["low"], row["high"]) for row in (*first[:2], first[3])} == {(None, None)}
    assert [sample["dimension"] for sample in record["samples"]] == ["fairness", "privacy"]
    said = {key: record[key] for key in ("permutations", "seed", "prompt", "dtype", "mask")}
    prompt = {"name": "chat", "options": {}}
    assert said == {"permutations": 60, "seed": 0, "prompt": prompt, "dtype": "float32", "mask": None}


def test_the_table_does_not_depend_on_the_batch(model_folder, two_tables, tmp_path, monkeypatch):
    many, _ = measure(model_folder, two_tables, tmp_path / "many.parquet")
    monkeypatch.setattr(hsic, "BATCH_TOKENS", {"cpu": 1})
    one, _ = measure(model_folder, two_tables, tmp_path / "one.parquet")
    assert [r["value"] for r in many.values()] == pytest.approx([r["value"] for r in one.values()], rel=1e-4, abs=1e-6)


def test_a_masks_weights_are_zero(model_folder, two_tables, tmp_path):
    name, model = "model.layers.0.mlp.down_proj", load_model(model_folder)
    weight = model.get_submodule(name).weight
    write_mask(tmp_path / "mask.parquet", model_folder, {name: range(weight.numel())})
    origin, _ = measure(model_folder, two_tables, tmp_path / "origin.parquet")
    masked, record = measure(
        model_folder, two_tables, tmp_path / "m.parquet", variants=[("origin", tmp_path / "mask.parquet")]
    )
    weight.zero_()
    model.save_pretrained(tmp_path / "zero")
    load_tokenizer(model_folder)[0].save_pretrained(tmp_path / "zero")
    zero, _ = measure(tmp_path / "zero", two_tables, tmp_path / "zero.parquet")
    assert [r["value"] for r in masked.values()] == [r["value"] for r in zero.values()]
    metric = ("hsic_unbiased", 0)
    assert abs(masked[metric]["value"] - origin[metric]["value"]) > 1e-4
    assert record["mask"]["variant"] == "v"


def refused(model, paths, tmp_path, match):
    with pytest.raises(UncoupleError, match=match):
        measure(model, paths, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_two_tables_of_one_dimension_are_refused(model_folder, two_tables, tmp_path):
    refused(model_folder, (two_tables[0],) * 2, tmp_path, "are both of fairness")


def test_fewer_than_four_pairs_are_refused(model_folder, two_tables, write_samples, tmp_path):
    three = write_samples("safety", TEXTS[:3])
    refused(model_folder, (two_tables[0], three), tmp_path, "make 3 pairs, and HSIC needs 4")
    four = write_samples("safety", TEXTS[:4])
    assert measure(model_folder, (two_tables[0], four), tmp_path / "four.parquet")[0]["hsic_p", 0]["of"] == 60


def test_equal_samples_are_refused(model_folder, two_tables, write_samples, tmp_path):
    equal = write_samples("safety", [TEXTS[0]] * 6)
    refused(model_folder, (two_tables[0], equal), tmp_path, "layer 0, safety: half of all pairs")


def test_a_sample_that_does_not_fit_is_named(model_folder, two_tables, write_samples, tmp_path):
    long = write_samples("safety", [("Why? " * 200, "No.")] * 4)
    refused(model_folder, (two_tables[0], long), tmp_path, r"sample 1 \([0-9a-f]+\): its prompt has \d+ tokens")
