"""An adapter in evaluation: each measure sees what one sample at a time gives, run as a whole without a cache."""

import json

import pytest
import torch
from conftest import TEXTS
from variants.test_reft import RECORD, make_adapter

from uncouple.data.samples import make_questions
from uncouple.data.sources import Source
from uncouple.errors import UncoupleError
from uncouple.evaluation.answers import answer_questions
from uncouple.evaluation.divergence import response_states
from uncouple.evaluation.engines import answer_in_batches
from uncouple.evaluation.hsic import last_states
from uncouple.models.families import FAMILIES
from uncouple.models.folders import model_record
from uncouple.models.load import load_model, load_tokenizer
from uncouple.models.prompts import encode_question, encode_sample
from uncouple.records.files import read_table
from uncouple.records.formats import ANSWERS
from uncouple.variants.reft import adapted, edge_mask, write_adapter
from uncouple.variants.variant import edited, open_variants

NEW = 6


@pytest.fixture(scope="module")
def loaded(make_model):
    folder = make_model("llama", seed=3)
    return folder, load_model(folder, "float32", "cpu"), load_tokenizer(folder)[0], make_adapter()


def states_of(model, adapter, ids, prompt):
    """(last hidden states of one text, logits), its first `prompt` tokens being the prompt."""
    mask = torch.tensor([[place < prompt for place in range(len(ids))]])
    with torch.no_grad(), adapted(model, adapter), adapter.at(edge_mask(mask, adapter.positions)):
        out = model(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True)
    return out.hidden_states[-1][0], out.logits[0]


def slow_answer(model, adapter, prompt, stops):
    """The likeliest token, again and again, of everything so far."""
    said = []
    while len(said) < NEW and not (said and said[-1] in stops):
        said.append(int(states_of(model, adapter, [*prompt, *said], len(prompt))[1][-1].argmax()))
    return said


def test_answers_are_those_of_one_question_at_a_time(loaded):
    folder, model, tokenizer, adapter = loaded
    prompts = [encode_question(tokenizer, question, load_tokenizer(folder, "auto")[1]) for question, _ in TEXTS]
    stops = {tokenizer.eos_token_id}
    slow = [slow_answer(model, adapter, prompt, stops) for prompt in prompts]
    with adapted(model, adapter):
        found = [answer.taken for answer in answer_in_batches(model, tokenizer, prompts, NEW, 3)]
    assert found == slow
    assert found != [answer.taken for answer in answer_in_batches(model, tokenizer, prompts, NEW, 3)]


def test_states_are_those_of_one_sample_at_a_time(loaded):
    folder, model, tokenizer, adapter = loaded
    form = load_tokenizer(folder, "auto")[1]
    encoded = [encode_sample(tokenizer, question, answer, form, 256) for question, answer in TEXTS]
    slow = [states_of(model, adapter, e.ids, e.start)[0] for e in encoded]
    with adapted(model, adapter):
        of_responses = response_states(model, encoded, 200)
        last = last_states(
            model, FAMILIES["llama"].layers, [e.ids for e in encoded], 200, prompts=[e.start for e in encoded]
        )
    expected = torch.cat([states[e.start - 1 : -1] for states, e in zip(slow, encoded, strict=True)])
    torch.testing.assert_close(of_responses, expected, rtol=0, atol=2e-5)
    normed = torch.stack([model.model.norm(torch.tensor(state)) for state in last[-1]])
    torch.testing.assert_close(normed, torch.stack([states[-1] for states in slow]), rtol=0, atol=2e-5)


@pytest.fixture
def written(loaded, tmp_path):
    folder, _, _, adapter = loaded
    record = model_record(folder)
    about = RECORD | {"model": {key: record[key] for key in ("name", "source", "fingerprint", "tokenizer")}}
    write_adapter(adapter, tmp_path / "adapter.safetensors", about | {"variant": "reft"})
    return tmp_path / "adapter.safetensors"


def test_a_variant_is_opened_with_its_adapter_and_the_base_is_left_as_it_was(loaded, written):
    folder, model, _, adapter = loaded
    origin, reft = open_variants(folder, [("origin", None), ("reft", written)])
    assert (origin.is_edited, reft.is_edited) == (False, True)
    keys = [variant.key("float32", "cpu") for variant in (origin, reft)]
    assert keys[0]["adapter"] is None
    assert keys[1]["adapter"] == adapter.digest()
    assert reft.about("float32", "cpu")["adapter"]["variant"] == "reft"
    ids = torch.tensor([[5, 6, 7, 8]])
    before, hooks = model(ids).logits, list(model.model.layers[0]._forward_hooks)
    with edited(model, reft):
        assert torch.equal(model(ids).logits, before), "it acts on prompts, and of none it was told"
    assert list(model.model.layers[0]._forward_hooks) == hooks


def test_a_job_asks_it_beside_the_origin(loaded, written, tmp_path):
    folder, model, tokenizer, adapter = loaded
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps({"question": q}) + "\n" for q, _ in TEXTS))
    make_questions(Source(path=str(tmp_path / "raw.jsonl")), "privacy", None, 0, tmp_path / "q.parquet")
    output = str(tmp_path / "{variant}.parquet")
    options = {"max_new_tokens": NEW, "batch_size": 4, "dtype": "float32", "device": "cpu"}
    wanted = [("origin", None), ("reft", written)]
    answer_questions(folder, [tmp_path / "q.parquet"], output, variants=wanted, **options)
    tables = {name: read_table(tmp_path / f"{name}.parquet", ANSWERS) for name in ("origin", "reft")}
    said = {name: table["answer"].to_pylist() for name, (table, _) in tables.items()}
    form = load_tokenizer(folder, "auto")[1]
    prompts = [encode_question(tokenizer, question, form) for question, _ in TEXTS]
    slow = [slow_answer(model, adapter, prompt, {tokenizer.eos_token_id}) for prompt in prompts]
    assert said["reft"] == [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in slow]
    assert said["reft"] != said["origin"]
    assert tables["reft"][1]["adapter"]["variant"] == "reft"


def test_one_of_another_model_fails_alone(written, make_model):
    with pytest.raises(UncoupleError, match="made from another model"):
        open_variants(make_model("llama", seed=4), [("reft", written)])
