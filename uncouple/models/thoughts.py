"""Thoughts: what some models write between <think> and </think> before they answer, which is not the answer."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPEN, CLOSE = "<think>", "</think>"
# So many tokens at the end of a prompt hold an opening tag, also where it is written letter by letter.
_TAIL = 16


def cut_thoughts(text: str) -> tuple[str, bool]:
    """What an answer says outside its thoughts, and whether it never left them.

    A closing tag that nothing opened ends a thought that began with the text. In a thought an opening tag is text.

    Args:
        text: a whole answer; see `decode_answers`.

    Returns:
        (text without thoughts and without space around, bool).
    """
    said, inside = "", False
    for part in re.split(f"({OPEN}|{CLOSE})", text):
        if part == CLOSE:
            said, inside = said if inside else "", False
        elif part == OPEN:
            inside = True
        elif not inside:
            said += part
    return said.strip(), inside


def decode_answers(
    tokenizer: PreTrainedTokenizerBase, answers: Sequence[list[int]], prompts: Sequence[list[int]]
) -> list[str]:
    """The texts of answers with the tags of their thoughts in them, also a tag that the prompt had opened.

    Args:
        tokenizer: of the model that answered.
        answers: lists of token ids.
        prompts: token ids of what was asked. Some chat templates end in an open thought, and the answer goes on in it.

    Returns:
        list of text.
    """
    # Where the tags are special tokens, decoding would drop them and leave the thoughts.
    special = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    tags = {i: content for i, content in special.items() if content in (OPEN, CLOSE)}
    texts = []
    for ids, prompt in zip(answers, prompts, strict=True):
        text = OPEN if tokenizer.decode(prompt[-_TAIL:]).rstrip().endswith(OPEN) else ""
        for tag, group in itertools.groupby(ids, key=tags.get):
            run = list(group)
            text += tag * len(run) if tag else tokenizer.decode(run, skip_special_tokens=True)
        texts.append(text.strip())
    return texts
