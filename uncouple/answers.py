"""Answers: what a variant replies to the questions, greedily and in batches."""

import tempfile
from pathlib import Path

import pyarrow as pa

from uncouple.checkpoints import apply_mask
from uncouple.errors import UncoupleError
from uncouple.files import read_table, write_table
from uncouple.models import load_tokenizer
from uncouple.progress import say
from uncouple.prompts import encode_question
from uncouple.thoughts import cut_thoughts, decode_answers
from uncouple.variants import open_variant

SCHEMA = pa.schema(
    [("id", pa.string()), ("dimension", pa.string()), ("question", pa.string()), ("answer", pa.string())]
    + [("tokens", pa.int32()), ("truncated", pa.bool_())]
)


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
    """
    variant = open_variant(model_folder, mask, variant)
    window = variant.config["max_position_embeddings"]
    table, questions_record = read_table(questions_path, "questions")
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
        found, dtype = _answer_with_vllm(model_folder, mask, tokenizer, encoded, max_new_tokens, dtype)
    else:
        model = variant.load(dtype, device)
        found, dtype = answer_in_batches(model, tokenizer, encoded, max_new_tokens, batch_size), model.dtype
    texts = decode_answers(tokenizer, [ids for ids, _ in found], encoded)
    rows = [
        question | {"answer": text, "tokens": len(ids), "truncated": truncated}
        for question, text, (ids, truncated) in zip(questions, texts, found, strict=True)
    ]
    metadata = {
        "kind": "answers",
        "version": 1,
        **variant.about(dtype),
        "dimension": questions_record["dimension"],
        "questions": questions_record["fingerprint"],
        "prompt": vars(prompt),
        "max_new_tokens": max_new_tokens,
        "engine": engine,
        "batch_size": batch_size,
    }
    table = pa.Table.from_pylist([{k: row[k] for k in SCHEMA.names} for row in rows], schema=SCHEMA)
    write_table(table, output, metadata)
    empty = sum(not row["answer"] for row in rows)
    cut = sum(row["truncated"] for row in rows)
    thinking = sum(cut_thoughts(row["answer"])[1] for row in rows)
    say(
        f"ask: {variant.name}: {empty} empty answers, {cut} cut at {max_new_tokens} tokens"
        + (f", {thinking} that never left their thoughts" if thinking else "")
    )


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
    from uncouple.decoding import decode, stop_tokens

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


def _answer_with_vllm(model_folder, mask, tokenizer, encoded, max_new_tokens, dtype):
    """(what `answer_in_batches` gives, dtype) by vLLM, which reads a model from its files alone."""
    try:
        from vllm import LLM, SamplingParams
    except ImportError:
        raise UncoupleError("the engine vllm is not installed. Install it, or use the engine transformers.") from None
    from transformers import GenerationConfig

    from uncouple.decoding import stop_tokens

    has_own = (Path(model_folder) / "generation_config.json").exists()
    stops = stop_tokens(
        GenerationConfig.from_pretrained(str(model_folder)) if has_own else GenerationConfig(), tokenizer
    )
    with tempfile.TemporaryDirectory(dir=Path(model_folder).resolve().parent) as scratch:
        if mask:
            apply_mask(model_folder, mask, Path(scratch) / "suppressed")
            model_folder = Path(scratch) / "suppressed"
        # The model's own settings may hold a repetition penalty, which is not greedy.
        engine = LLM(model=str(model_folder), dtype=dtype, generation_config="vllm", seed=0)
        sampling = SamplingParams(
            temperature=0, max_tokens=max_new_tokens, stop_token_ids=sorted(stops), detokenize=False
        )
        outputs = engine.generate([{"prompt_token_ids": ids} for ids in encoded], sampling, use_tqdm=False)
        dtype = engine.llm_engine.model_config.dtype
    answers = [_Answer(stops) for _ in encoded]
    for answer, output in zip(answers, outputs, strict=True):
        for token in output.outputs[0].token_ids:
            # It may give the stop token too.
            if not answer.take(token, None):
                break
    return [(answer.ids, answer.goes_on) for answer in answers], dtype
