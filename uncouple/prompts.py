"""Text to tokens: how a prompt and a response are put together for scoring, and a question for answering."""

from dataclasses import dataclass

from uncouple.errors import UncoupleError
from uncouple.terms import PROMPTS


@dataclass(frozen=True)
class Encoded:
    """One sample as tokens.

    Attributes:
        ids: token ids of prompt and response.
        start: position of the first response token that counts in the loss.
        cut: how many response tokens were cut off because the model's window ended.
    """

    ids: list
    start: int
    cut: int = 0


def encode_question(tokenizer, question, prompt):
    """Token ids of a question, up to where the model's answer begins.

    Args:
        tokenizer: of the model that is asked.
        question: text.
        prompt: `chat`: the model's own template, one user turn. `bare` (and `published`): the text
            after the special tokens that the tokenizer itself puts in front, once.
    """
    if prompt == "chat":
        turns = [{"role": "user", "content": question}]
        # Some templates tell the model today's date, and tokens must not change from day to day.
        encoded = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_dict=True, date_string="01 Jan 2025"
        )
        return list(encoded["input_ids"])
    if prompt not in PROMPTS:
        raise UncoupleError(f"prompt format {prompt!r}: use one of {', '.join(PROMPTS)}.")
    plain = tokenizer(question, add_special_tokens=False)["input_ids"]
    return leading_special_tokens(tokenizer) + plain


def encode_sample(tokenizer, question, response, prompt, window):
    """A prompt and its response as tokens, the loss counting response tokens alone.

    Args:
        tokenizer, question, prompt: as in `encode_question`.
        response: text.
        window: the most tokens that the model takes; a longer response is cut.

    `published` is `bare`, but its response loses its first token: the published code tokenises the
    response alone and drops a leading special token, whether or not the tokenizer added one.

    Raises:
        UncoupleError: the prompt alone fills the window, or no response token is left.
    """
    ids = encode_question(tokenizer, question, prompt)
    answer = list(tokenizer(response, add_special_tokens=False)["input_ids"])
    if prompt == "published":
        answer = (leading_special_tokens(tokenizer) + answer)[1:]
    room = window - len(ids)
    if room < 1:
        raise UncoupleError(
            f"its prompt has {len(ids)} tokens, and the model's window is {window}. Shorten or remove it."
        )
    if not answer:
        raise UncoupleError("no response token is left in the prompt format " + prompt + ". Remove it.")
    return Encoded(ids + answer[:room], len(ids), max(0, len(answer) - room))


def encode_samples(tokenizer, samples, prompt, window):
    """Encoded samples in their order; an error names the sample."""
    encoded = []
    for number, sample in enumerate(samples, start=1):
        try:
            encoded.append(encode_sample(tokenizer, sample["prompt"], sample["response"], prompt, window))
        except UncoupleError as error:
            raise UncoupleError(f"sample {number} ({sample['id']}): {error}") from None
    return encoded


def batches_by_length(encoded, batch_size, together=None):
    """Batches of the places of token lists, the shortest first, so that like lengths share a batch and its padding.

    Args:
        encoded: lists of token ids.
        batch_size: how many share a batch.
        together: longer ones than this are alone; see `packing.longest_together`.
    """
    order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i]), i))
    short = sum(not together or len(ids) <= together for ids in encoded)
    batches = [order[start : min(start + batch_size, short)] for start in range(0, short, batch_size)]
    return batches + [[i] for i in order[short:]]


def leading_special_tokens(tokenizer):
    """Special tokens that the tokenizer puts in front of a text, such as a beginning-of-sequence token."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = list(tokenizer("a")["input_ids"])
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start]
    raise UncoupleError("this tokenizer changes a text when it adds its special tokens; use the prompt format `chat`.")
