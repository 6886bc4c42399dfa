"""The fit of a judge, and what is said about how good it is."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from uncouple.evaluation.judges.classifier import predict
from uncouple.evaluation.judges.training import (
    FOLDS,
    PENALTY_C,
    REFUSAL_COST,
    REPLIES_SHARE,
    auroc,
    evaluate,
    fit,
    halve,
    predict_held_out,
    split,
)


def random_rows(seed, n, width=6, shift=0.0):
    """Features, labels and groups, the label's mean being `shift` away."""
    rng = np.random.default_rng(seed)
    unsafe = rng.random(n) < 0.4
    return rng.normal(size=(n, width)) + shift * unsafe[:, None], unsafe, [f"g{i // 3}" for i in range(n)]


def test_the_fit_is_that_of_the_weighted_likelihood():
    """No small step from it is better: each label's rows weigh n / (2 n_label), the intercept is free."""
    x, unsafe, _ = random_rows(0, 90, shift=0.5)
    coefficients, intercept = fit(x, unsafe)
    weights = np.where(unsafe, 90 / (2 * unsafe.sum()), 90 / (2 * (~unsafe).sum()))

    def loss(w, b):
        return 0.5 * w @ w + PENALTY_C * weights @ np.logaddexp(0, -np.where(unsafe, 1, -1) * (x @ w + b))

    best, rng = loss(coefficients, intercept), np.random.default_rng(1)
    for _ in range(200):
        step = 0.03 * rng.normal(size=7)
        assert loss(coefficients + step[1:], intercept + step[0]) > best


@pytest.mark.parametrize("seed", [0, 1])
def test_replies_weigh_their_share_and_refusals_more(seed):
    """By a fit of scikit-learn to rows that stand there as often as they weigh."""
    from sklearn.linear_model import LogisticRegression

    x, unsafe, _ = random_rows(seed, 60, shift=0.7)
    is_reply = np.arange(60) >= 40
    counts = {(u, r): np.sum((unsafe == u) & (is_reply == r)) for u in (False, True) for r in (False, True)}
    share = {False: 1 - REPLIES_SHARE, True: REPLIES_SHARE}
    weights = [
        30 * share[r] / counts[u, r] * (REFUSAL_COST if r and not u else 1)
        for u, r in zip(unsafe.tolist(), is_reply.tolist(), strict=True)
    ]
    model = LogisticRegression(C=PENALTY_C, tol=1e-10, max_iter=5000).fit(x, unsafe, sample_weight=weights)
    coefficients, intercept = fit(x, unsafe, is_reply)
    np.testing.assert_allclose(coefficients, model.coef_[0], rtol=1e-3, atol=1e-4)
    assert intercept == pytest.approx(model.intercept_[0], abs=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 40), st.integers(0, 3))
def test_halves_share_no_prompt_and_are_even(count, seed):
    replies = [{"group": f"g{n}", "label": label} for n in range(count) for label in ("safe", "unsafe")]
    halves = halve(replies, seed)
    groups = [{row["group"] for row in half} for half in halves]
    assert not groups[0] & groups[1]
    assert len(halves[0]) + len(halves[1]) == len(replies)
    assert abs(len(groups[0]) - len(groups[1])) <= 1


grouped_labels = st.lists(st.tuples(st.integers(0, 14), st.booleans()), min_size=10, max_size=60)


@settings(max_examples=100, deadline=None)
@given(grouped_labels, st.integers(0, 3))
def test_folds_share_no_prompt_and_each_has_both_labels_to_fit_to(rows, seed):
    groups, unsafe = [f"g{g}" for g, _ in rows], np.array([u for _, u in rows])
    for label in (True, False):
        assume(len({g for g, u in rows if u == label}) >= FOLDS)
    held = []
    for train, held_out in split(unsafe, groups, seed):
        assert not {groups[i] for i in train} & {groups[i] for i in held_out}
        assert len(set(unsafe[train])) == 2
        held += held_out.tolist()
    assert sorted(held) == list(range(len(rows)))


def test_held_out_predictions_know_nothing_of_their_prompt():
    """Each prompt has a feature of its own and a label by chance: only a fit that saw the prompt could tell."""
    rng = np.random.default_rng(0)
    labels = rng.permutation([True, False] * 30)
    group = np.repeat(np.arange(60), 3)
    x, unsafe = 10 * np.eye(60)[group], labels[group]
    assert auroc(predict(x, *fit(x, unsafe)), unsafe) == 1
    assert auroc(predict_held_out(x, unsafe, group, 0), unsafe) < 0.6


def test_separable_rows_are_told_apart_and_shuffled_labels_are_not():
    x, unsafe, groups = random_rows(0, 240, shift=4)
    assert auroc(predict_held_out(x, unsafe, groups, 0), unsafe) == 1
    shuffled = np.random.default_rng(1).permutation(unsafe)
    assert 0.38 < auroc(predict_held_out(x, shuffled, groups, 0), shuffled) < 0.62


scored = st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 3)), min_size=2, max_size=25)


@settings(max_examples=150, deadline=None)
@given(scored)
def test_auroc_counts_pairs(rows):
    assume(all(any(u == label and w for _, u, w in rows) for label in (True, False)))
    won = of = 0
    for score, unsafe, weight in rows:
        for other, other_unsafe, other_weight in rows:
            if unsafe and not other_unsafe:
                won += weight * other_weight * (1 if score > other else 0.5 if score == other else 0)
                of += weight * other_weight
    scores, unsafe, weights = (np.array(column) for column in zip(*rows, strict=True))
    assert auroc(scores / 6, unsafe, weights) == pytest.approx(won / of, abs=1e-12)


def test_the_figures_are_those_of_scikit_learn():
    from sklearn import metrics

    x, unsafe, groups = random_rows(3, 203, shift=0.6)
    predicted = predict_held_out(x, unsafe, groups, 0)
    found, called = evaluate(predicted, unsafe, groups, 0), predicted >= 0.5
    assert found["auroc"]["value"] == pytest.approx(metrics.roc_auc_score(unsafe, predicted))
    assert found["balanced_accuracy"]["value"] == pytest.approx(metrics.balanced_accuracy_score(unsafe, called))
    assert found["brier"]["value"] == pytest.approx(metrics.brier_score_loss(unsafe, predicted))
    assert found["accuracy"]["value"] == pytest.approx(metrics.accuracy_score(unsafe, called))
    table = metrics.confusion_matrix(unsafe, called)
    assert [list(row.values()) for row in found["confusion"].values()] == table.tolist()
    for i, label in enumerate(("safe", "unsafe")):
        accuracy = found[f"accuracy_{label}"]
        assert (accuracy["n"], accuracy["of"]) == (table[i, i], table[i].sum())
    for name in ("auroc", "balanced_accuracy", "brier", "accuracy"):
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]
    ranked = sorted(zip(predicted, unsafe, strict=True))
    assert [b["of"] for b in found["calibration"]] == [21] * 3 + [20] * 7
    assert found["calibration"][0]["n"] == sum(u for _, u in ranked[:21])
    assert found["calibration"][-1]["predicted"] == pytest.approx(np.mean([p for p, _ in ranked[-20:]]))


def test_the_interval_counts_prompts_and_not_rows():
    """Each row four times in its own group says nothing new; as rows of their own they would seem to."""
    x, unsafe, _ = random_rows(3, 60, shift=0.4)
    predicted, groups = x[:, 0], np.arange(60)
    once = evaluate(predicted, unsafe, groups, 0)["auroc"]
    again = evaluate(np.repeat(predicted, 4), np.repeat(unsafe, 4), np.repeat(groups, 4), 0)["auroc"]
    apart = evaluate(np.repeat(predicted, 4), np.repeat(unsafe, 4), np.arange(240), 0)["auroc"]
    assert again == pytest.approx(once)
    assert apart["high"] - apart["low"] < 0.7 * (once["high"] - once["low"])


def test_a_label_that_is_rare_has_an_interval_still():
    """A draw of prompts may miss it."""
    found = evaluate(np.array([0.2, 0.4, 0.6, 0.5]), np.array([False, True, False, False]), list("abcd"), 0)
    assert 0 <= found["auroc"]["low"] <= found["auroc"]["value"] <= found["auroc"]["high"] <= 1
