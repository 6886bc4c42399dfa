import json
import sys
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from conftest import FAMILY_CONFIGS, TEXTS, answer_pairs, write_mask

from uncouple.data.samples import make_questions
from uncouple.data.sources import Source
from uncouple.errors import UncoupleError
from uncouple.evaluation.answers import answer_questions
from uncouple.evaluation.engines import ENGINES, choose_batches, vllm_batches
from uncouple.evaluation.options import ENGINE_KINDS, Asking
from uncouple.models.load import load_model, load_tokenizer
from uncouple.models.prompts import encode_question
from uncouple.records.files import read_table
from uncouple.records.formats import ANSWERS, ASKING_KEYS, MACHINE_KEYS


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
        assert answer_pairs(model, tokenizer, prompts, 12, size) == truth


def test_a_models_own_settings_do_not_make_its_answers_less_greedy(model_folder):
    """Many chat models come with a repetition penalty, which would even count the padding as repeated."""
    model, tokenizer = load_model(model_folder, "float32", "cpu"), load_tokenizer(model_folder)[0]
    prompts = [encode_question(tokenizer, q, "chat") for q, _ in TEXTS]
    model.generation_config.update(repetition_penalty=1.5, do_sample=True, temperature=0.7, top_k=3, pad_token_id=1)
    found = answer_pairs(model, tokenizer, prompts, 12, 4)
    assert found == [slow_answer(model, p, 12, 1) for p in prompts]
    assert model.generation_config.repetition_penalty == 1.5


def test_each_option_of_asking_tells_what_can_be_compared():
    """The batch size by the batches that it gives."""
    assert {*Asking.model_fields} - {"batch_size"} <= {*ASKING_KEYS, *MACHINE_KEYS}


def test_answers_do_not_depend_on_the_batch(model_folder, questions, tmp_path):
    common = {"prompt": "chat", "max_new_tokens": 10, "dtype": "float32"}
    for size in (1, 3, 64):
        answer_questions(model_folder, [questions], tmp_path / str(size), batch_size=size, device="cpu", **common)
    one, three, all_at_once = (read_table(tmp_path / size, ANSWERS)[0].to_pylist() for size in ("1", "3", "64"))
    assert one == three == all_at_once
    assert [row["question"] for row in one] == [q for q, _ in TEXTS]


# The noise


def ask(model_folder, questions, output, **options):
    """(answers, record) of a model that is asked."""
    common = {"prompt": "chat", "max_new_tokens": 8, "dtype": "float32", "device": "cpu"}
    if options.pop("noise", False):
        options |= {"variants": [], "noises": ["noise"]}
    answer_questions(model_folder, [questions], output, **common | options)
    table, record = read_table(output, ANSWERS)
    return table.to_pylist(), record


@pytest.mark.parametrize(("size", "most", "noise_most"), [(64, 7, 2), (6, 6, 2), (3, 3, 1), (2, 2, 1)])
def test_a_noise_is_asked_in_other_batches_and_in_float32_answers_alike(
    model_folder, questions, tmp_path, size, most, noise_most
):
    """Seven questions: also where both would be one batch, or the third of a batch were less than one."""
    found, record = ask(model_folder, questions, tmp_path / "a", batch_size=size)
    noisy, noise = ask(model_folder, questions, tmp_path / "b", batch_size=size, noise=True)
    assert noisy == found
    assert (record["batches"]["most"], record["batches"]["count"]) == (most, -(-7 // most))
    assert (noise["batches"]["most"], noise["batches"]["count"]) == (noise_most, -(-7 // noise_most))
    assert noise["batches"]["fingerprint"] != record["batches"]["fingerprint"]


def test_batches_of_one_size_that_other_questions_share_are_told_apart(model_folder, questions, tmp_path):
    def batches(texts):
        config = SimpleNamespace(model_type="llama", max_position_embeddings=256)
        return choose_batches(config, [[0] * len(text) for text in texts], 8, 2, False)[1]

    one, other = batches(["a", "bb", "ccc", "dddd"]), batches(["a", "ccc", "bb", "dddd"])
    assert (one["most"], one["count"]) == (other["most"], other["count"])
    assert one["fingerprint"] != other["fingerprint"]


@pytest.mark.parametrize(("rows", "size"), [(1, 64), (7, 1)])
def test_a_noise_that_cannot_differ_is_refused(model_folder, tmp_path, rows, size):
    raw = tmp_path / "q.jsonl"
    raw.write_text("".join(json.dumps({"question": q}) + "\n" for q, _ in TEXTS[:rows]))
    make_questions(Source(path=str(raw)), "fairness", None, 0, tmp_path / "q")
    with pytest.raises(UncoupleError, match="each question is alone in its batch anyway. Raise the batch size"):
        ask(model_folder, tmp_path / "q", tmp_path / "a", batch_size=size, noise=True)
    assert not (tmp_path / "a").exists()
    ask(model_folder, tmp_path / "q", tmp_path / "a", batch_size=size)


def test_prompts_too_long_to_share_a_batch_have_no_noise():
    config = SimpleNamespace(
        model_type="llama",
        rope_parameters={"rope_type": "longrope", "original_max_position_embeddings": 16},
        max_position_embeddings=256,
    )
    with pytest.raises(UncoupleError, match="each question is alone"):
        choose_batches(config, [[0] * 20, [0] * 30], 4, 64, True)
    assert choose_batches(config, [[0] * 5, [0] * 6, [0] * 30], 4, 64, True)[0] == 1


def test_in_half_precision_other_batches_change_answers(make_model, questions, tmp_path):
    """What the control is for; on a CPU too, whose products round otherwise for other numbers of rows."""
    differ = []
    for seed in (1, 2):
        folder = make_model("qwen2", seed=seed)
        options = {"dtype": "bfloat16", "batch_size": 64, "max_new_tokens": 24}
        found, noisy = (ask(folder, questions, tmp_path / "a", noise=noise, **options)[0] for noise in (False, True))
        differ += [a["answer"] != b["answer"] for a, b in zip(found, noisy, strict=True)]
    assert 0 < sum(differ) < len(differ)


def test_a_stop_token_ends_an_answer_and_an_empty_one_is_kept(model_folder, questions, tmp_path):
    model, tokenizer = load_model(model_folder), load_tokenizer(model_folder)[0]
    with torch.no_grad():
        # A bias on the stop token alone: every answer ends at once.
        model.lm_head.weight.zero_()
        model.lm_head.weight[1] = 1
        model.model.norm.weight.abs_()
    handle = model.model.norm.register_forward_hook(lambda _m, _i, out: out.abs())
    found = answer_pairs(model, tokenizer, [encode_question(tokenizer, "Why?", "chat")], 5, 4)
    handle.remove()
    assert found == [([], False)]


def test_a_question_that_does_not_fit_is_named(model_folder, questions, tmp_path):
    with pytest.raises(UncoupleError, match=r"question [0-9a-f]{16} has \d+ tokens.*window of 256"):
        answer_questions(
            model_folder, [questions], tmp_path / "a", prompt="chat", max_new_tokens=250,
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
        def __init__(self, *, model, dtype, generation_config, seed, max_num_seqs=None):
            assert generation_config == "vllm"
            StandIn.max_num_seqs = max_num_seqs
            self.model = load_model(model, dtype, "cpu")
            self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(dtype=self.model.dtype))

        def generate(self, prompts, sampling, use_tqdm):
            StandIn.prompts = [prompt["prompt_token_ids"] for prompt in prompts]
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
    common = {"variants": [("v", mask)], "prompt": "chat", "max_new_tokens": 8, "dtype": "float32", "device": "cpu"}
    found = {}
    for engine in ("transformers", "vllm"):
        answer_questions(model_folder, [questions], tmp_path / engine, batch_size=3, engine=engine, **common)
        table, record = read_table(tmp_path / engine, ANSWERS)
        found[engine] = table.to_pylist()
        assert record["engine"] == engine
        assert record["dtype"] == "float32"
        assert record["decoded"] == sum(row["tokens"] + (not row["truncated"]) for row in found[engine])
        assert ("vllm" in record["versions"]) == (engine == "vllm")
    assert found["vllm"] == found["transformers"]
    assert not list(model_folder.parent.glob("tmp*"))


def test_vllm_takes_a_noise_in_the_other_order_and_fewer_at_once(model_folder, questions, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", StandIn)
    found, record = ask(model_folder, questions, tmp_path / "a", batch_size=1, engine="vllm")
    given, at_once = StandIn.prompts, StandIn.max_num_seqs
    noisy, noise = ask(model_folder, questions, tmp_path / "b", batch_size=1, engine="vllm", noise=True)
    assert noisy == found
    assert given[::-1] == StandIn.prompts
    assert (at_once, StandIn.max_num_seqs) == (None, 2)
    assert record["batches"] == {"most": None, "order": "as given"}
    assert noise["batches"] == {"most": 2, "order": "reversed"}


def test_an_engine_has_a_name_in_a_config_a_kind_and_what_runs_it():
    assert get_args(Asking.model_fields["engine"].annotation) == tuple(ENGINE_KINDS) == tuple(ENGINES)


def test_whether_there_are_other_batches():
    found = [Asking(engine=engine, batch_size=size).can_batch_otherwise for engine in ENGINES for size in (1, 2)]
    assert found == [False, True, True, True]


def test_a_noise_of_vllm_takes_a_third_of_what_vllm_would():
    assert [vllm_batches(n, True)["most"] for n in (2, 3, 9, 256, 5000)] == [1, 1, 3, 85, 85]
    with pytest.raises(UncoupleError, match="of one question there are none"):
        vllm_batches(1, True)


def test_vllm_that_is_not_installed_is_told(model_folder, questions, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UncoupleError, match="vllm is not installed"):
        answer_questions(
            model_folder, [questions], tmp_path / "a", prompt="chat", max_new_tokens=4,
            batch_size=4, dtype="float32", device="cpu", engine="vllm",
        )  # fmt: skip
