"""Answers: what a variant replies to the questions, greedily and in batches."""

import tempfile
from pathlib import Path

import pyarrow as pa

from uncouple.checkpoints import apply_mask
from uncouple.errors import UncoupleError
from uncouple.files import read_table, write_table
from uncouple.fingerprint import module_fingerprint
from uncouple.models import load_tokenizer
from uncouple.progress import Progress, say
from uncouple.prompts import batches_by_length, encode_question
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
    """
    variant = open_variant(model_folder, mask, variant)
    window = variant.config["max_position_embeddings"]
    table, questions_record = read_table(questions_path, "questions")
    questions = table.to_pylist()
    tokenizer, prompt = load_tokenizer(model_folder, prompt)
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
    rows = [
        question
        | {"answer": tokenizer.decode(ids, skip_special_tokens=True).strip(), "tokens": len(ids)}
        | {"truncated": truncated}
        for question, (ids, truncated) in zip(questions, found, strict=True)
    ]
    metadata = {
        "kind": "answers",
        "version": 1,
        **variant.about(dtype),
        "dimension": questions_record["dimension"],
        "questions": questions_record["fingerprint"],
        "prompt": prompt,
        "max_new_tokens": max_new_tokens,
        "engine": engine,
        "batch_size": batch_size,
        "code": module_fingerprint("answers"),
    }
    table = pa.Table.from_pylist([{k: row[k] for k in SCHEMA.names} for row in rows], schema=SCHEMA)
    write_table(table, output, metadata)
    empty = sum(not row["answer"] for row in rows)
    cut = sum(row["truncated"] for row in rows)
    say(f"ask: {variant.name}: {empty} empty answers, {cut} cut at {max_new_tokens} tokens")


def answer_in_batches(model, tokenizer, encoded, max_new_tokens, batch_size):
    """What `generate_greedily` gives for each of many prompts, those of like length in one batch, in their order."""
    found = [None] * len(encoded)
    with Progress(len(encoded), "questions", "ask") as progress:
        for batch in batches_by_length(encoded, batch_size):
            answers = generate_greedily(model, tokenizer, [encoded[i] for i in batch], max_new_tokens)
            for i, answer in zip(batch, answers, strict=True):
                found[i] = answer
            progress.add(len(batch))
    return found


def generate_greedily(model, tokenizer, prompts, max_new_tokens):
    """The likeliest next token, again and again, for several prompts at once.

    Prompts are padded on the left, with the padding masked and positions counted from each prompt's
    first token, so in float32 an answer does not depend on what else is in the batch.

    Args:
        model, tokenizer: of one model.
        prompts: lists of token ids.
        max_new_tokens: where an answer is cut off.

    Returns:
        list of (token ids without stop token or padding, whether it was cut off).
    """
    import torch
    from transformers import GenerationConfig

    stops = _stop_tokens(model.generation_config, tokenizer)
    # Padding is masked and cut away, so any id does for a tokenizer that has none of its own.
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(stops, default=0)
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=model.device)
    attention = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    # The model's own settings may hold a repetition penalty, which is not greedy and counts the padding as repeated;
    # they fill in whatever a call leaves open, so they stand aside as a whole.
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        with torch.inference_mode():
            generated = model.generate(
                input_ids=ids,
                attention_mask=attention,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=sorted(stops) or None,
                pad_token_id=pad,
            )
    finally:
        model.generation_config = own
    return [_cut(row, stops) for row in generated[:, width:].tolist()]


def _stop_tokens(generation_config, tokenizer):
    stops = generation_config.eos_token_id
    stops = set(stops if isinstance(stops, list) else [stops]) | {tokenizer.eos_token_id}
    return stops - {None}


def _cut(row, stops):
    """(tokens before the first stop token, whether there was none)."""
    stop = next((i for i, token in enumerate(row) if token in stops), None)
    return (row, True) if stop is None else (row[:stop], False)


def _answer_with_vllm(model_folder, mask, tokenizer, encoded, max_new_tokens, dtype):
    """(what `generate_greedily` gives for each prompt, dtype) by vLLM, which reads a model from its files alone."""
    try:
        from vllm import LLM, SamplingParams
    except ImportError:
        raise UncoupleError("the engine vllm is not installed. Install it, or use the engine transformers.") from None
    from transformers import GenerationConfig

    has_own = (Path(model_folder) / "generation_config.json").exists()
    stops = _stop_tokens(
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
    return [_cut(list(output.outputs[0].token_ids), stops) for output in outputs], dtype
