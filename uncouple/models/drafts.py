"""Drafts: replies that another model gave, checked in one forward pass, so that only what differs need be decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from uncouple.errors import UncoupleError
from uncouple.models.attention import pack_attention, run_packed
from uncouple.models.batching import BATCH_TOKENS, make_batches
from uncouple.models.decoding import Reply, beyond_doubt, compute_prefix, decode, shared_length
from uncouple.models.head import check_head, logits_in_parts
from uncouple.models.rope import longest_together
from uncouple.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Checking a token costs about so much of decoding it: where drafts are of less use, no more of them are checked.
WORTH = 0.5


@dataclass(frozen=True)
class Draft:
    """What a reply may be.

    Attributes:
        tokens: token ids, a stop token among them.
        sure: for each token whether the model that is to reply gave it `decoding.beyond_doubt`; None where it was
            another that gave them.
    """

    tokens: list[int]
    sure: list[bool] | None = None


def can_check(model: PreTrainedModel) -> bool:
    """Whether drafts can stand for decoding: in float32, where arithmetic alone swaps no tokens but near ones, with
    positions that do not stretch with the text, and with a head whose logits are known."""
    if model.dtype != torch.float32 or longest_together(model.config):
        return False
    try:
        check_head(model)
    except UncoupleError:
        return False
    return True


def decode_from_drafts(
    model: PreTrainedModel,
    encoded: Sequence[list[int]],
    drafts: Sequence[Draft],
    replies: Sequence[Reply],
    max_new_tokens: int,
    batch_size: int,
    unit: str,
    label: str,
) -> int:
    """What `decoding.decode` does, where something like the replies is known.

    Args:
        model: one that `can_check`.
        drafts: for each prompt what its reply may begin with.
        encoded, replies, max_new_tokens, batch_size, unit, label: see `decoding.decode`. What is taken without a doubt
            comes with None for its logits.

    Returns:
        how many replies did not need to be decoded.
    """
    drafts = [Draft(draft.tokens[:max_new_tokens], draft.sure) for draft in drafts]
    marks = check_drafts(model, encoded, drafts, unit, label)
    if marks is None:
        # All of them, in the batches of old: at a tie to the last bit even the batch decides.
        decode(model, encoded, replies, max_new_tokens, batch_size, unit, label)
        return 0
    waiting = [
        _Drafted(prompt, draft.tokens, marked, reply, max_new_tokens)
        for prompt, draft, marked, reply in zip(encoded, drafts, marks, replies, strict=True)
    ]
    for one in waiting:
        one.accept()
    whole = sum(not one.goes_on for one in waiting)
    while waiting := [one for one in waiting if one.goes_on]:
        left = max(one.left for one in waiting)
        decode(model, [one.begin() for one in waiting], waiting, left, batch_size, unit, label)
    return whole


class _Drafted:
    """A reply of which a draft is known: what is marked is taken as it is, the rest comes from the model.

    A token that is in doubt is decoded. Where it is the draft's after all, so may be those that come next.
    """

    def __init__(self, prompt: list[int], draft: list[int], marks: list[bool], reply: Reply, most: int) -> None:
        self.prompt, self.draft, self.marks, self.reply = prompt, draft, marks, reply
        self.left, self.goes_on, self.follows = most, True, True
        self.taken: list[int] = []

    def begin(self) -> list[int]:
        """The text that the model is to go on from."""
        return self.prompt + self.taken

    def accept(self) -> None:
        """Take what is marked, from here on."""
        while self.goes_on and len(self.taken) < len(self.marks) and self.marks[len(self.taken)]:
            self._add(self.draft[len(self.taken)], None, True)

    def take(self, token: int, logits: torch.Tensor | None, sure: bool) -> bool:
        self.follows = self.follows and self.draft[len(self.taken) : len(self.taken) + 1] == [token]
        self._add(token, logits, sure)
        if self.follows:
            # A text that has grown by more than this token is begun anew.
            before = len(self.taken)
            self.accept()
            return self.goes_on and len(self.taken) == before
        return self.goes_on

    def _add(self, token: int, logits: torch.Tensor | None, sure: bool) -> None:
        self.taken.append(token)
        self.left -= 1
        self.goes_on = self.reply.take(token, logits, sure) and self.left > 0


def check_drafts(
    model: PreTrainedModel,
    encoded: Sequence[list[int]],
    drafts: Sequence[Draft],
    unit: str = "questions",
    label: str = "check",
) -> list[list[bool]] | None:
    """Which tokens of each draft are beyond doubt the likeliest to the model itself, given those before.

    Texts are packed without padding, behind what all prompts begin with. Where the model itself is known to have given
    the drafts, a first batch alone is checked, unless that one says otherwise than what is known.

    Args:
        model: see `can_check`.
        encoded: prompts, lists of token ids.
        drafts: one for each prompt.
        unit, label: of the progress.

    Returns:
        list of bool for each draft, or None where the first ones showed that it is not worth while.
    """
    if not encoded:
        return []
    shared = shared_length(encoded)
    tokens = [draft.tokens for draft in drafts]
    texts = [ids[shared:] + draft[:-1] for ids, draft in zip(encoded, tokens, strict=True)]
    known = [draft.sure[: len(draft.tokens)] for draft in drafts if draft.sure is not None]
    marks: list[list[bool]] = [[] for _ in drafts]
    seen, agreed = 0, 0
    with torch.inference_mode(), Progress(len(encoded), unit, label) as progress:
        prefix = compute_prefix(model, encoded[0][:shared])
        with pack_attention(model):
            for batch in make_batches([len(text) for text in texts], BATCH_TOKENS[model.device.type]):
                batch = [i for i in batch if tokens[i]]
                found = _check(model, prefix, shared, [(texts[i], tokens[i]) for i in batch])
                for i, marked in zip(batch, found, strict=True):
                    marks[i] = marked.tolist()
                    seen, agreed = seen + len(marked), agreed + int(marked.long().cumprod(0).sum())
                progress.add(len(batch))
                if agreed < WORTH * seen:
                    return None
                if len(known) == len(drafts) and all(marks[i] == known[i] for i in batch):
                    return known
                known = []
    return marks


def _check(
    model: PreTrainedModel,
    prefix: list[tuple[torch.Tensor, torch.Tensor]],
    shared: int,
    rows: list[tuple[list[int], list[int]]],
) -> Sequence[torch.Tensor]:
    """bool (tokens of the draft,) for each row: which are likeliest by more than a doubt."""
    if not rows:
        return []
    lengths = [len(text) for text, _ in rows]
    hidden = run_packed(model, [text for text, _ in rows], prefix, shared)
    asked: list[int] = []
    end = 0
    for length, (_, draft) in zip(lengths, rows, strict=True):
        end += length
        asked += range(end - len(draft), end)
    drafted = [token for _, draft in rows for token in draft]
    places, tokens = (torch.tensor(values, device=hidden.device) for values in (asked, drafted))
    agreed = [beyond_doubt(logits, part) for logits, _, part in logits_in_parts(model, hidden, places, tokens)]
    return torch.cat(agreed).cpu().split([len(draft) for _, draft in rows])
