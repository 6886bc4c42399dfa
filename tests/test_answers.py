import json
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import FAMILY_CONFIGS, TEXTS, write_mask

from uncouple.answers import answer_in_batches, answer_questions
from uncouple.errors import UncoupleError
from uncouple.files import read_table
from uncouple.models import load_model, load_tokenizer
from uncouple.prompts import encode_question
from uncouple.samples import Source, make_questions


@pytest.fixture
def questions(tmp_path):
    raw = tmp_path / "q.jsonl"
    raw.write_text("".join(json.dumps({"question": q}) + "\n" for q, _ in TEXTS))
    make_questions(Source(path=str(raw)), "fairness", None, 0, tmp_path / "q.parquet")
    return tmp_path / "q.parquet"


def slow_answer(model, ids, max_new_tokens, stop):
    """The truth: one question, no cache, the whole text again for each token."""
    answer = []
    while len(answer) < max_new_tokens:
        with torch.no_grad():
            token = int(model(torch.tensor([ids + answer])).logits[0, -1].argmax())
        if token == stop:
            return answer, False
        answer.append(token)
    return answer, True


@pytest.mark.parametrize("family", FAMILY_CONFIGS)
def test_batched_answers_equal_one_question_at_a_time(make_model, family):
    folder = make_model(family)
    model, tokenizer = load_model(folder, "float32", "cpu"), load_tokenizer(folder)[0]
    prompts = [encode_question(tokenizer, q, "chat") for q, _ in TEXTS]
    truth = [slow_answer(model, p, 12, 1) for p in prompts]
    for size in (1, 3, 64):
        assert answer_in_batches(model, tokenizer, prompts, 12, size) == truth


def test_a_models_own_settings_do_not_make_its_answers_less_greedy(model_folder):
    """Many chat models come with a repetition penalty, which would even count the padding as repeated."""
    model, tokenizer = load_model(model_folder, "float32", "cpu"), load_tokenizer(model_folder)[0]
    prompts = [encode_question(tokenizer, q, "chat") for q, _ in TEXTS]
    model.generation_config.update(repetition_penalty=1.5, do_sample=True, temperature=0.7, top_k=3, pad_token_id=1)
    found = answer_in_batches(model, tokenizer, prompts, 12, 4)
    assert found == [slow_answer(model, p, 12, 1) for p in prompts]
    assert model.generation_config.repetition_penalty == 1.5


def test_answers_do_not_depend_on_the_batch(model_folder, questions, tmp_path):
    common = {"mask": None, "variant": "origin", "prompt": "chat", "max_new_tokens": 10, "dtype": "float32"}
    for size in (1, 3, 64):
        answer_questions(model_folder, questions, tmp_path / str(size), batch_size=size, device="cpu", **common)
    one, three, all_at_once = (read_table(tmp_path / size, "answers")[0].to_pylist() for size in ("1", "3", "64"))
    assert one == three == all_at_once
    assert [row["question"] for row in one] == [q for q, _ in TEXTS]


def test_a_stop_token_ends_an_answer_and_an_empty_one_is_kept(model_folder, questions, tmp_path):
    model, tokenizer = load_model(model_folder), load_tokenizer(model_folder)[0]
    with torch.no_grad():
        # A bias on the stop token alone: every answer ends at once.
        model.lm_head.weight.zero_()
        model.lm_head.weight[1] = 1
        model.model.norm.weight.abs_()
    handle = model.model.norm.register_forward_hook(lambda _m, _i, out: out.abs())
    found = answer_in_batches(model, tokenizer, [encode_question(tokenizer, "Why?", "chat")], 5, 4)
    handle.remove()
    assert found == [([], False)]


def test_a_question_that_does_not_fit_is_named(model_folder, questions, tmp_path):
    with pytest.raises(UncoupleError, match=r"question [0-9a-f]{16} has \d+ tokens.*window of 256"):
        answer_questions(
            model_folder, questions, tmp_path / "a", mask=None, variant="origin", prompt="chat", max_new_tokens=250,
            batch_size=4, dtype="float32", device="cpu",
        )  # fmt: skip


# vLLM


class StandIn:
    """What of vLLM is used, answering with transformers: the engine is asked right, if not shown to work."""

    class SamplingParams:
        def __init__(self, *, temperature, max_tokens, stop_token_ids, detokenize):
            assert temperature == 0
            assert detokenize is False
            self.max_tokens, self.stops = max_tokens, stop_token_ids

    class LLM:
        def __init__(self, *, model, dtype, generation_config, seed):
            assert generation_config == "vllm"
            self.model = load_model(model, dtype, "cpu")
            self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(dtype=self.model.dtype))

        def generate(self, prompts, sampling, use_tqdm):
            for prompt in prompts:
                answer, truncated = slow_answer(self.model, prompt["prompt_token_ids"], sampling.max_tokens, 1)
                # vLLM gives the stop token too.
                ids = answer if truncated else [*answer, sampling.stops[0]]
                yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(ids))])


@pytest.mark.parametrize("masked", [False, True])
def test_vllm_answers_as_transformers_do(model_folder, questions, tmp_path, monkeypatch, masked):
    monkeypatch.setitem(sys.modules, "vllm", StandIn)
    entries = {f"model.layers.{layer}.mlp.up_proj": range(0, 6144, 7) for layer in range(2)}
    mask = write_mask(tmp_path / "mask.parquet", model_folder, entries) if masked else None
    common = {"mask": mask, "variant": "v", "prompt": "chat", "max_new_tokens": 8, "dtype": "float32", "device": "cpu"}
    found = {}
    for engine in ("transformers", "vllm"):
        answer_questions(model_folder, questions, tmp_path / engine, batch_size=3, engine=engine, **common)
        table, record = read_table(tmp_path / engine, "answers")
        found[engine] = table.to_pylist()
        assert record["engine"] == engine
        assert record["dtype"] == "float32"
    assert found["vllm"] == found["transformers"]
    assert not list(model_folder.parent.glob("tmp*"))


def test_vllm_that_is_not_installed_is_told(model_folder, questions, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UncoupleError, match="vllm is not installed"):
        answer_questions(
            model_folder, questions, tmp_path / "a", mask=None, variant="v", prompt="chat", max_new_tokens=4,
            batch_size=4, dtype="float32", device="cpu", engine="vllm",
        )  # fmt: skip
