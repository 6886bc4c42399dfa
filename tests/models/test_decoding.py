import pytest
import torch
from conftest import FAMILY_CONFIGS, TEXTS
from hypothesis import given
from hypothesis import strategies as st

from uncouple.models.decoding import NEAR, decode, grouped_attention, shared_length
from uncouple.models.families import FAMILIES
from uncouple.models.load import load_model, load_tokenizer
from uncouple.models.prompts import encode_question

LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8, "long_factor": [8.0] * 8}
LONGROPE |= {"original_max_position_embeddings": 64}


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=4))
def test_the_shared_length_is_the_longest(encoded):
    shortest = min(map(len, encoded))
    slow = max(n for n in range(shortest + 1) if len({tuple(ids[:n]) for ids in encoded}) == 1)
    assert shared_length(encoded) == min(slow, shortest - 1)


@given(
    batch=st.integers(1, 3), groups=st.integers(1, 3), each=st.integers(1, 3), tokens=st.integers(1, 4),
    before=st.integers(0, 4), seed=st.integers(0, 99),
)  # fmt: skip
def test_attention_in_groups_is_attention_of_each_head(batch, groups, each, tokens, before, seed):
    draw = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, groups * each, tokens, 5, generator=draw)
    key, value = (torch.randn(batch, groups, before + tokens, 5, generator=draw) for _ in range(2))
    mask = torch.rand(batch, 1, tokens, before + tokens, generator=draw) < 0.5
    mask[..., -1] = True
    found, _ = grouped_attention(None, query, key, value, mask, scaling=0.3)
    for row in range(batch):
        for head in range(groups * each):
            scores = 0.3 * query[row, head] @ key[row, head // each].T
            weights = scores.masked_fill(~mask[row, 0], float("-inf")).softmax(-1)
            torch.testing.assert_close(found[row, :, head], weights @ value[row, head // each])


class Watcher:
    """A reply of so many tokens, with the logits that each was taken from."""

    def __init__(self, wanted):
        self.wanted, self.taken, self.logits = wanted, [], []

    def take(self, token, logits, sure):
        assert token == int(logits.argmax())
        largest, next_largest = logits.topk(2).values.tolist()
        assert sure == (largest - next_largest > NEAR * float(logits.abs().max()))
        self.taken.append(token)
        self.logits.append(logits.clone())
        return len(self.taken) < self.wanted


def load(folder, beginning=""):
    model, tokenizer = load_model(folder, "float32", "cpu"), load_tokenizer(folder)[0]
    return model, [encode_question(tokenizer, beginning + question, "chat") for question, _ in TEXTS]


def check(model, prompts, replies):
    """That each reply's logits are those of its whole text, without a cache and alone."""
    for ids, reply in zip(prompts, replies, strict=True):
        with torch.no_grad():
            whole = model(torch.tensor([ids + reply.taken])).logits[0, len(ids) - 1 : -1]
        torch.testing.assert_close(torch.stack(reply.logits), whole, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [1, 3, 64])
@pytest.mark.parametrize("family", FAMILY_CONFIGS)
def test_logits_are_those_of_each_text_alone_and_in_full(make_model, family, size):
    model, prompts = load(make_model(family), "Once upon a time, a question was asked: ")
    replies = [Watcher(1 + i % 5) for i in range(len(prompts))]
    assert decode(model, prompts, replies, 9, size, "questions", "ask") > 10
    assert [len(reply.taken) for reply in replies] == [1 + i % 5 for i in range(len(prompts))]
    check(model, prompts, replies)


UNDECLARED = {"starcoder2": {"sliding_window": 24}, "vaultgemma": {"attn_logit_softcapping": 2.0, "head_dim": 16}}


@pytest.mark.parametrize("size", [1, 64])
@pytest.mark.parametrize("kind", UNDECLARED)
def test_a_model_of_an_architecture_that_is_not_declared_is_asked_with_its_own_attention(make_model, kind, size):
    model, prompts = load(make_model(kind, **UNDECLARED[kind]), "Once upon a time, a question was asked: ")
    assert kind not in FAMILIES
    assert model.config._attn_implementation == "eager"
    replies = [Watcher(1 + i % 5) for i in range(len(prompts))]
    assert decode(model, prompts, replies, 9, size, "questions", "ask") > 10
    check(model, prompts, replies)


@pytest.mark.parametrize("new", [1, 12, 60])
def test_long_prompts_do_not_stretch_the_positions_of_short_ones(make_model, new):
    """Rotary embeddings of the kind longrope change for a whole batch once one position is beyond the original ones."""
    folder = make_model("phi3", rope_parameters=LONGROPE, original_max_position_embeddings=64)
    model, prompts = load(folder, "Once upon a time: ")
    prompts.append(prompts[0] + prompts[1][1:] + prompts[2][1:])
    assert sum(len(ids) < 60 for ids in prompts) > 2
    assert max(map(len, prompts)) > 64
    together = [Watcher(1) for _ in prompts]
    decode(model, prompts, together, new, 64, "questions", "ask")
    check(model, prompts, together)


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}


@pytest.mark.parametrize("original", [39, 40, 41, 44, 46])
@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_a_reply_that_crosses_the_original_window_is_that_of_its_whole_text(make_model, kind, original):
    """At each step the truth is a fresh model's: one with `dynamic` rope remembers the longest text that it saw."""
    long = {"original_max_position_embeddings": original}
    changes = {
        "longrope": {"rope_parameters": LONGROPE | long} | long,
        "dynamic": {"rope_parameters": DYNAMIC, "max_position_embeddings": original},
    }[kind]
    folder = make_model("phi3" if kind == "longrope" else "llama", **changes)
    model, prompts = load(folder, "Once upon a time, a question was asked: ")
    prompts = [ids[:length] for ids, length in zip(prompts, (40, 36), strict=False)]
    # Replies have tokens on both sides of the border, or begin beyond it.
    assert len(prompts[0]) == 40
    replies = [Watcher(8) for _ in prompts]
    decode(model, prompts, replies, 8, 64, "questions", "ask")
    for ids, reply in zip(prompts, replies, strict=True):
        for number, logits in enumerate(reply.logits):
            fresh = load_model(folder, "float32", "cpu")
            with torch.no_grad():
                truth = fresh(torch.tensor([ids + reply.taken[:number]])).logits[0, -1]
            torch.testing.assert_close(logits, truth, rtol=1e-3, atol=1e-3)


def test_replies_that_have_ended_leave_the_batch(model_folder):
    model, prompts = load(model_folder)
    before, rows = model.config._attn_implementation, []
    handle = model.register_forward_pre_hook(lambda _m, _a, o: rows.append(len(o["input_ids"])), with_kwargs=True)
    decode(model, prompts, [Watcher(1 + i) for i in range(len(prompts))], 4, 64, "questions", "ask")
    handle.remove()
    # The prefix, then the batch with one reply less at each token.
    assert rows == [1, *(len(prompts) - i for i in range(4))]
    assert model.config._attn_implementation == before
    assert decode(model, [], [], 4, 64, "questions", "ask") == 0
