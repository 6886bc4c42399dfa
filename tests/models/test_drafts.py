"""Replies that begin like a draft are those that decoding from scratch gives, whatever the draft."""

import pytest
import torch
from conftest import FAMILY_CONFIGS, TEXTS, answer_pairs, write_mask
from hypothesis import given, settings
from hypothesis import strategies as st

from uncouple.evaluation.engines import answer_in_batches
from uncouple.models import decoding
from uncouple.models import drafts as module
from uncouple.models.decoding import decode
from uncouple.models.drafts import Draft, can_check, check_drafts
from uncouple.models.families import target_names
from uncouple.models.load import load_model, load_tokenizer
from uncouple.models.prompts import encode_question
from uncouple.records.files import read_json
from uncouple.variants.masks import read_mask
from uncouple.variants.variant import suppressed

LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8, "long_factor": [8.0] * 8}
LONGROPE |= {"original_max_position_embeddings": 64}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}


@pytest.fixture(scope="module")
def loaded(make_model):
    """A function of family to (model, tokenizer, prompts, answers of 12 tokens with their stop tokens)."""
    made = {}

    def load(family):
        if family not in made:
            folder = make_model(family)
            model, tokenizer = load_model(folder, "float32", "cpu"), load_tokenizer(folder)[0]
            prompts = [encode_question(tokenizer, q, "chat") for q, _ in TEXTS]
            truth = answer_in_batches(model, tokenizer, prompts, 12, 64)
            made[family] = model, tokenizer, prompts, truth
        return made[family]

    return load


@pytest.fixture(autouse=True)
def worth_while(monkeypatch):
    """All drafts are checked, however few are of use."""
    monkeypatch.setattr(module, "WORTH", 0)


def anothers(replies):
    """Drafts of lists of tokens that another model gave."""
    return [Draft(tokens) for tokens in replies]


@pytest.mark.parametrize("family", FAMILY_CONFIGS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_draft_gives_what_decoding_gives(loaded, family, data):
    """Drafts that are right, cut, wrong from some token on, of other length, empty, or that stop where they should not;
    and answers that are cut elsewhere than the draft."""
    model, tokenizer, prompts, truth = loaded(family)
    new = data.draw(st.integers(1, 12))
    draft = []
    for answer in truth:
        right = answer.taken[: data.draw(st.integers(0, 12))]
        wrong = data.draw(st.lists(st.integers(0, 40), max_size=3))
        draft.append(right + wrong + data.draw(st.sampled_from([[], answer.taken[len(right) + len(wrong) :]])))
    size = data.draw(st.sampled_from([1, 3, 64]))
    found = answer_pairs(model, tokenizer, prompts, new, size, anothers(draft))
    assert found == answer_pairs(model, tokenizer, prompts, new, 64)


@pytest.mark.parametrize("family", FAMILY_CONFIGS)
def test_right_drafts_are_taken_without_decoding(loaded, family, monkeypatch):
    model, tokenizer, prompts, truth = loaded(family)
    monkeypatch.setattr(module, "decode", lambda *_: pytest.fail("nothing is left to decode"))
    # Two tokens of so small a model may well be in doubt.
    monkeypatch.setattr(decoding, "NEAR", 0)
    found = answer_in_batches(model, tokenizer, prompts, 12, 64, anothers(answer.taken for answer in truth))
    assert [answer.taken for answer in found] == [answer.taken for answer in truth]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("step", [3, 50, 2000])
def test_a_variant_that_begins_as_the_origin_does(loaded, make_model, tmp_path, family, step):
    """Few weights less, so that answers are the origin's for a while; and many."""
    model, tokenizer, prompts, truth = loaded(family)
    folder = make_model(family)
    names = target_names(read_json(folder / "config.json"), "mlp")
    mask = write_mask(tmp_path / "mask.parquet", folder, {name: range(0, 6144, step) for name in names})
    with suppressed(model, read_mask(mask)[0]):
        fresh = answer_pairs(model, tokenizer, prompts, 12, 64)
        found = answer_pairs(model, tokenizer, prompts, 12, 64, anothers(answer.taken for answer in truth))
    assert found == fresh
    if step == 3:
        assert fresh != [(answer.ids, answer.goes_on) for answer in truth]


def test_marks_are_the_likeliest_tokens(loaded):
    model, _, prompts, truth = loaded("mistral")
    drafts = [answer.taken[:5] + [7] + answer.taken[6:] for answer in truth]
    for ids, draft, marks in zip(prompts, drafts, check_drafts(model, prompts, anothers(drafts)), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([ids + draft])).logits[0, len(ids) - 1 : -1]
        assert marks == (logits.argmax(1) == torch.tensor(draft)).tolist()
    assert check_drafts(model, [], []) == []


def test_tokens_as_likely_as_one_another_are_decoded(loaded, monkeypatch):
    """With each token in doubt, each is decoded: the draft decides none, and the text is the same."""
    model, tokenizer, prompts, truth = loaded("llama")
    taken = [answer.taken for answer in truth]
    # The last tokens of a vocabulary that nobody says become twins of the first one of an answer.
    twin = len(tokenizer) - 1
    head = model.get_output_embeddings().weight
    kept = head[twin].clone()
    with torch.no_grad():
        head[twin] = head[taken[0][0]] * (1 + 1e-7)
    assert not check_drafts(model, prompts, anothers(taken))[0][0]
    fresh = answer_in_batches(model, tokenizer, prompts, 12, 64)
    found = answer_in_batches(model, tokenizer, prompts, 12, 64, anothers(taken))
    assert [answer.taken for answer in found] == [answer.taken for answer in fresh]
    with torch.no_grad():
        head[twin] = kept
    monkeypatch.setattr(decoding, "NEAR", float("inf"))
    found = answer_in_batches(model, tokenizer, prompts, 12, 64, anothers(taken))
    assert [answer.taken for answer in found] == taken


def test_an_answer_that_is_empty(loaded):
    model, tokenizer, prompts, truth = loaded("llama")
    model.generation_config.eos_token_id = truth[0].taken[0]
    fresh = answer_pairs(model, tokenizer, prompts, 12, 64)
    assert fresh[0] == ([], False)
    for draft in ([answer.taken for answer in truth], [[answer.taken[0]] for answer in truth], [[] for _ in truth]):
        assert answer_pairs(model, tokenizer, prompts, 12, 64, anothers(draft)) == fresh
    model.generation_config.eos_token_id = 1


def test_drafts_of_no_use_are_not_checked_for_long(loaded, monkeypatch):
    model, tokenizer, prompts, truth = loaded("llama")
    monkeypatch.setattr(module, "WORTH", 0.5)
    monkeypatch.setattr(module, "BATCH_TOKENS", {"cpu": 1})
    wrong = [[7, *answer.taken[1:]] for answer in truth]
    assert check_drafts(model, prompts, anothers(wrong)) is None
    assert all(map(any, check_drafts(model, prompts, anothers(answer.taken for answer in truth))))
    decoded = []
    monkeypatch.setattr(module, "decode", lambda *a: (decoded.append(a[1]), decode(*a)))
    found = answer_in_batches(model, tokenizer, prompts, 12, 64, anothers(wrong))
    assert [answer.taken for answer in found] == [answer.taken for answer in truth]
    # Then they are decoded in the very batches that they would have been decoded in.
    assert decoded == [prompts]


@pytest.fixture
def checked(monkeypatch):
    """How many texts each batch that is checked has, one by one."""
    counts, check = [], module._check
    monkeypatch.setattr(module, "BATCH_TOKENS", {"cpu": 1})
    monkeypatch.setattr(module, "_check", lambda *a: (counts.append(len(a[3])), check(*a))[1])
    return counts


def own(answers):
    return [Draft(answer.taken, answer.sure) for answer in answers]


@pytest.mark.parametrize("new", [5, 12])
def test_of_its_own_drafts_a_model_checks_a_first_batch(loaded, checked, monkeypatch, new):
    model, tokenizer, prompts, truth = loaded("llama")
    assert all(len(answer.sure) == len(answer.taken) and all(answer.sure) for answer in truth)
    monkeypatch.setattr(module, "decode", lambda *_: pytest.fail("nothing is left to decode"))
    found = answer_in_batches(model, tokenizer, prompts, new, 64, own(truth))
    assert checked == [1]
    assert [answer.taken for answer in found] == [answer.taken[:new] for answer in truth]
    # They are as sure as before.
    assert own(found) == [Draft(draft.tokens[:new], draft.sure[:new]) for draft in own(truth)]


def test_tokens_that_a_model_was_not_sure_of_are_decoded(loaded, checked, monkeypatch):
    model, tokenizer, prompts, _ = loaded("llama")
    monkeypatch.setattr(decoding, "NEAR", 0.1)
    fresh = answer_in_batches(model, tokenizer, prompts, 12, 64)
    doubts = sum(answer.sure.count(False) for answer in fresh)
    assert 0 < doubts < sum(len(answer.taken) for answer in fresh)
    decoded = []
    monkeypatch.setattr(module, "decode", lambda *a: (decoded.extend(a[1]), decode(*a)))
    found = answer_in_batches(model, tokenizer, prompts, 12, 64, own(fresh))
    assert own(found) == own(fresh)
    assert checked == [1]
    assert 0 < len(decoded) <= doubts


def test_if_the_first_batch_is_not_what_the_model_was_sure_of_all_are_checked(loaded, checked):
    """As where arithmetic differs by more than is thought, or the answers are not the model's."""
    model, tokenizer, prompts, truth = loaded("llama")
    longest = max(range(len(prompts)), key=lambda i: len(prompts[i]) + len(truth[i].taken))
    drafts = own(truth)
    drafts[longest] = Draft([*truth[longest].taken[:-1], 7], drafts[longest].sure)
    found = answer_in_batches(model, tokenizer, prompts, 12, 64, drafts)
    assert len(checked) == len(prompts)
    assert own(found) == own(truth)


def test_where_text_stretches_positions_or_arithmetic_decides_nothing_is_checked(make_model):
    folder = make_model("phi3", rope_parameters=LONGROPE, original_max_position_embeddings=64)
    assert not can_check(load_model(folder, "float32", "cpu"))
    assert not can_check(load_model(make_model("llama", rope_parameters=DYNAMIC), "float32", "cpu"))
    assert not can_check(load_model(make_model("llama"), "bfloat16", "cpu"))
    assert can_check(load_model(make_model("llama"), "float32", "cpu"))
