"""Answers: what a variant replies to the questions, greedily and in batches."""

import json
import tempfile
from pathlib import Path

from uncouple.errors import UncoupleError
from uncouple.models.load import load_tokenizer
from uncouple.models.prompts import encode_question
from uncouple.models.thoughts import cut_thoughts, decode_answers
from uncouple.progress import say
from uncouple.records.files import digest, read_table, write_table
from uncouple.records.formats import ANSWERS, QUESTIONS
from uncouple.variants.checkpoints import apply_mask
from uncouple.variants.variant import open_variant


def answer_questions(
    model_folder,
    questions_path,
    output,
    *,
    mask,
    variant,
    prompt,
    max_new_tokens,
    batch_size,
    dtype,
    device,
    engine="transformers",
    template_options=None,
    noise=False,
):
    """Ask a model, or the model with a mask's weights at zero in memory, and write its answers.

    Args:
        model_folder: the model to ask.
        questions_path: a questions table.
        output: the answers to write.
        mask: a mask file, or None to ask the model as it is.
        variant: the variant's name, for the record.
        prompt: `auto`, `chat` or `bare`; see `models.load_tokenizer`.
        max_new_tokens: where an answer is cut off.
        batch_size: questions answered at once.
        dtype, device: see `models.load_model`.
        engine: `transformers`, or `vllm`, which takes no `device` or `batch_size`.
        template_options: of the chat template; see `prompts.bind_options`.
        noise: ask in other batches than without it, to see what arithmetic alone changes. The record's `batches` says
            which: how many questions a batch has at most, and what else tells these batches from others.

    Raises:
        UncoupleError: a file is broken, a question does not fit, or a noise cannot differ.
    """
    variant = open_variant(model_folder, mask, variant)
    window = variant.config["max_position_embeddings"]
    table, questions_record = read_table(questions_path, QUESTIONS)
    questions = table.to_pylist()
    tokenizer, prompt = load_tokenizer(model_folder, prompt, template_options)
    encoded = [encode_question(tokenizer, q["question"], prompt) for q in questions]
    for question, ids in zip(questions, encoded, strict=True):
        if len(ids) + max_new_tokens > window:
            raise UncoupleError(
                f"question {question['id']} has {len(ids)} tokens: with {max_new_tokens} new ones it does not fit in "
                f"the model's window of {window}. Shorten or remove it."
            )
    say(f"ask: {variant.name}: {len(questions)} questions")
    if engine == "vllm":
        batches = vllm_batches(len(encoded), noise)
        found, dtype = _answer_with_vllm(model_folder, mask, tokenizer, encoded, max_new_tokens, dtype, batches)
    else:
        model = variant.load(dtype, device)
        batch_size, batches = choose_batches(model.config, encoded, max_new_tokens, batch_size, noise)
        found, dtype = answer_in_batches(model, tokenizer, encoded, max_new_tokens, batch_size), model.dtype
    texts = decode_answers(tokenizer, [ids for ids, _ in found], encoded)
    rows = [
        question | {"answer": text, "tokens": len(ids), "truncated": truncated}
        for question, text, (ids, truncated) in zip(questions, texts, found, strict=True)
    ]
    metadata = {
        **variant.about(dtype),
        "dimension": questions_record["dimension"],
        "questions": questions_record["fingerprint"],
        "prompt": vars(prompt),
        "max_new_tokens": max_new_tokens,
        "engine": engine,
        "batches": batches,
        "noise": noise,
    }
    write_table(rows, output, ANSWERS, metadata)
    empty = sum(not row["answer"] for row in rows)
    cut = sum(row["truncated"] for row in rows)
    thinking = sum(cut_thoughts(row["answer"])[1] for row in rows)
    say(
        f"ask: {variant.name}: {empty} empty answers, {cut} cut at {max_new_tokens} tokens"
        + (f", {thinking} that never left their thoughts" if thinking else "")
    )


def choose_batches(config, encoded, max_new_tokens, batch_size, noise):
    """How many questions are answered at once: for a noise a third of the largest batch that is made without it.

    Args:
        config: of the model.
        encoded, max_new_tokens, batch_size: see `answer_in_batches`.
        noise: see `answer_questions`.

    Returns:
        (batch size, dict of `most`, the questions of the largest batch; `count` of the batches; and `fingerprint` of
        which questions share one).

    Raises:
        UncoupleError: a noise would have the same batches.
    """
    from uncouple.models.decoding import batches_of

    batches = batches_of(config, encoded, max_new_tokens, batch_size)
    if noise:
        without, batch_size = batches, max(1, max(map(len, batches), default=0) // 3)
        batches = batches_of(config, encoded, max_new_tokens, batch_size)
        if batches == without:
            raise UncoupleError(
                "a noise asks in other batches, and here each question is alone in its batch anyway. Raise the batch "
                "size (--batch-size, evaluation.batch_size), ask more questions, or leave the noise out."
            )
    most = max(map(len, batches), default=0)
    return batch_size, {"most": most, "count": len(batches), "fingerprint": digest(json.dumps(batches))}


def vllm_batches(questions, noise):
    """What decides how vLLM batches, for it makes its batches itself: the order of the questions and how many it takes
    at once.

    Args:
        questions: how many.
        noise: see `answer_questions`. It has the other order, and a third of vLLM's usual 256 at once, or of the
            questions.

    Returns:
        dict of `most`, None where vLLM decides it, and `order`.

    Raises:
        UncoupleError: one question has no other batches.
    """
    if not noise:
        return {"most": None, "order": "as given"}
    if questions < 2:
        raise UncoupleError("a noise asks in other batches, and of one question there are none. Ask more questions.")
    return {"most": max(1, min(questions, 256) // 3), "order": "reversed"}


def answer_in_batches(model, tokenizer, encoded, max_new_tokens, batch_size):
    """The likeliest next token, again and again; see `decoding.decode`.

    The model's own generation settings do not count, its stop tokens apart: a repetition penalty is not greedy.

    Args:
        model, tokenizer: of one model.
        encoded: lists of token ids.
        max_new_tokens: where an answer is cut off.
        batch_size: questions answered at once.

    Returns:
        list of (token ids without stop token, whether it was cut off), in the order given.
    """
    from uncouple.models.decoding import decode, stop_tokens

    stops = stop_tokens(model.generation_config, tokenizer)
    answers = [_Answer(stops) for _ in encoded]
    decode(model, encoded, answers, max_new_tokens, batch_size, "questions", "ask")
    return [(answer.ids, answer.goes_on) for answer in answers]


class _Answer:
    def __init__(self, stops):
        self.stops, self.ids, self.goes_on = stops, [], True

    def take(self, token, _):
        self.goes_on = token not in self.stops
        if self.goes_on:
            self.ids.append(token)
        return self.goes_on


def _answer_with_vllm(model_folder, mask, tokenizer, encoded, max_new_tokens, dtype, batches):
    """(what `answer_in_batches` gives, dtype) by vLLM, which reads a model from its files alone."""
    try:
        from vllm import LLM, SamplingParams
    except ImportError:
        raise UncoupleError("the engine vllm is not installed. Install it, or use the engine transformers.") from None
    from transformers import GenerationConfig

    from uncouple.models.decoding import stop_tokens

    has_own = (Path(model_folder) / "generation_config.json").exists()
    stops = stop_tokens(
        GenerationConfig.from_pretrained(str(model_folder)) if has_own else GenerationConfig(), tokenizer
    )
    with tempfile.TemporaryDirectory(dir=Path(model_folder).resolve().parent) as scratch:
        if mask:
            apply_mask(model_folder, mask, Path(scratch) / "suppressed")
            model_folder = Path(scratch) / "suppressed"
        # The model's own settings may hold a repetition penalty, which is not greedy.
        most = {"max_num_seqs": batches["most"]} if batches["most"] else {}
        engine = LLM(model=str(model_folder), dtype=dtype, generation_config="vllm", seed=0, **most)
        sampling = SamplingParams(
            temperature=0, max_tokens=max_new_tokens, stop_token_ids=sorted(stops), detokenize=False
        )
        step = -1 if batches["order"] == "reversed" else 1
        prompts = [{"prompt_token_ids": ids} for ids in encoded][::step]
        outputs = list(engine.generate(prompts, sampling, use_tqdm=False))[::step]
        dtype = engine.llm_engine.model_config.dtype
    answers = [_Answer(stops) for _ in encoded]
    for answer, output in zip(answers, outputs, strict=True):
        for token in output.outputs[0].token_ids:
            # It may give the stop token too.
            if not answer.take(token, None):
                break
    return [(answer.ids, answer.goes_on) for answer in answers], dtype
