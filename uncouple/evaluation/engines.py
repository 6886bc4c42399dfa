"""What has a model answer: transformers, or vLLM. An engine is asked which batches it would make before it loads."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from uncouple.errors import UncoupleError
from uncouple.evaluation.options import Questioning
from uncouple.models.devices import release_memory
from uncouple.models.folders import model_files
from uncouple.progress import say
from uncouple.records.files import digest
from uncouple.variants.checkpoints import write_suppressed
from uncouple.variants.variant import Variant, edited, load_base

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from uncouple.models.drafts import Draft

Batches = dict[str, Any]


class Answer:
    """A reply as it comes.

    Attributes:
        ids: its tokens without the stop token.
        taken: its tokens with the stop token.
        sure: for each, whether it was likeliest `decoding.beyond_doubt`.
        decoded: how many of them the model was run for, one after another; the others were a draft's.
        goes_on: whether none has stopped it yet; in the end, whether it was cut off.
    """

    def __init__(self, stops: set[int]) -> None:
        self.stops, self.goes_on = stops, True
        self.taken: list[int] = []
        self.sure: list[bool] = []
        self.decoded = 0

    @property
    def ids(self) -> list[int]:
        return self.taken if self.goes_on else self.taken[:-1]

    def take(self, token: int, logits: torch.Tensor | None, sure: bool) -> bool:
        """Add a token, and say whether the reply goes on."""
        self.taken.append(token)
        self.sure.append(sure)
        self.decoded += logits is not None or not sure
        self.goes_on = token not in self.stops
        return self.goes_on


class Engine(Protocol):
    """What has variants of one base answer."""

    # Whether it takes drafts, which is known once it is loaded.
    can_check: bool

    def choose_batches(self, encoded: Sequence[list[int]], noise: bool) -> Batches:
        """What a record says of the batches; see `choose_batches` and `vllm_batches`."""

    def load(self) -> None:
        """Make ready, before the first answer."""

    def answer(
        self, variant: Variant, encoded: Sequence[list[int]], batches: Batches, drafts: list[Draft] | None
    ) -> tuple[list[Answer], torch.dtype]:
        """(an `Answer` to each prompt, torch.dtype).

        Args:
            variant: the one to ask.
            encoded: prompts, lists of token ids.
            batches: what `choose_batches` gave.
            drafts: see `answer_in_batches`.
        """


class Transformers:
    """An `Engine`: transformers. One load serves all variants.

    Args:
        base: a variant of the base that is asked.
        tokenizer: the base's.
        options: of asking.
    """

    def __init__(self, base: Variant, tokenizer: PreTrainedTokenizerBase, options: Questioning) -> None:
        from uncouple.models.skeleton import complete_config

        self.base, self.tokenizer, self.options = base, tokenizer, options
        self.config = complete_config(base.config)

    def choose_batches(self, encoded: Sequence[list[int]], noise: bool) -> Batches:
        return choose_batches(self.config, encoded, self.options.max_new_tokens, self.options.batch_size, noise)[1]

    def load(self) -> None:
        from uncouple.models.drafts import can_check

        self.model = load_base(self.base, self.options.dtype, self.options.device)
        self.can_check = can_check(self.model)

    def answer(
        self, variant: Variant, encoded: Sequence[list[int]], batches: Batches, drafts: list[Draft] | None
    ) -> tuple[list[Answer], torch.dtype]:
        with edited(self.model, variant) as model:
            new = self.options.max_new_tokens
            return answer_in_batches(model, self.tokenizer, encoded, new, batches["most"] or 1, drafts), model.dtype


class Vllm:
    """An `Engine`: vLLM, which reads a model from its files alone, so once for each variant and set of questions. See
    `Transformers`."""

    can_check = False

    def __init__(self, base: Variant, tokenizer: PreTrainedTokenizerBase, options: Questioning) -> None:
        self.base, self.tokenizer, self.options = base, tokenizer, options

    def choose_batches(self, encoded: Sequence[list[int]], noise: bool) -> Batches:
        return vllm_batches(len(encoded), noise)

    def load(self) -> None:
        try:
            import vllm  # noqa: F401
        except ImportError:
            raise UncoupleError(
                "the engine vllm is not installed. Install it, or use the engine transformers."
            ) from None

    def answer(
        self, variant: Variant, encoded: Sequence[list[int]], batches: Batches, drafts: list[Draft] | None
    ) -> tuple[list[Answer], torch.dtype]:
        from vllm import SamplingParams

        if variant.adapter:
            raise UncoupleError(
                f"{variant.name}: vLLM has no way to move hidden states as its adapter does. Ask it with the engine "
                "transformers."
            )
        stops = self._stop_tokens()
        answers: list[Answer] = []
        sampling = SamplingParams(
            temperature=0, max_tokens=self.options.max_new_tokens, stop_token_ids=sorted(stops), detokenize=False
        )
        step = -1 if batches["order"] == "reversed" else 1
        prompts = [{"prompt_token_ids": ids} for ids in encoded][::step]
        with self._engine(variant, batches) as engine:
            outputs = list(engine.generate(prompts, sampling, use_tqdm=False))[::step]
            dtype = engine.llm_engine.model_config.dtype
        for output in outputs:
            answers.append(Answer(stops))
            for token in output.outputs[0].token_ids:
                # It may give the stop token too.
                if not answers[-1].take(token, None, False):
                    break
        return answers, dtype

    @contextlib.contextmanager
    def _engine(self, variant: Variant, batches: Batches) -> Iterator[Any]:
        from vllm import LLM

        # Of the engine before.
        release_memory()
        folder = Path(variant.folder)
        with tempfile.TemporaryDirectory(dir=folder.resolve().parent) as scratch:
            if variant.entries:
                written, aside = Path(scratch) / "suppressed", Path(scratch) / "aside"
                written.mkdir()
                aside.mkdir()
                write_suppressed(folder, model_files(folder), variant.entries, written, aside)
                folder = written
            most = {"max_num_seqs": batches["most"]} if batches["most"] else {}
            # The model's own settings may hold a repetition penalty, which is not greedy.
            yield LLM(model=str(folder), dtype=self.options.dtype, generation_config="vllm", seed=0, **most)

    def _stop_tokens(self) -> set[int]:
        from transformers import GenerationConfig

        from uncouple.models.decoding import stop_tokens

        folder = Path(self.base.folder)
        has_own = (folder / "generation_config.json").exists()
        settings = GenerationConfig.from_pretrained(str(folder)) if has_own else GenerationConfig()
        return stop_tokens(settings, self.tokenizer)


ENGINES: dict[str, Callable[[Variant, PreTrainedTokenizerBase, Questioning], Engine]] = {
    "transformers": Transformers,
    "vllm": Vllm,
}


def choose_batches(
    config: PreTrainedConfig, encoded: Sequence[list[int]], max_new_tokens: int, batch_size: int, noise: bool
) -> tuple[int, Batches]:
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


def vllm_batches(questions: int, noise: bool) -> Batches:
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


def answer_in_batches(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[list[int]],
    max_new_tokens: int,
    batch_size: int,
    drafts: list[Draft] | None = None,
) -> list[Answer]:
    """The likeliest next token, again and again; see `decoding.decode`.

    The model's own generation settings do not count, its stop tokens apart: a repetition penalty is not greedy.

    Args:
        model, tokenizer: of one model.
        encoded: lists of token ids.
        max_new_tokens: where an answer is cut off.
        batch_size: questions answered at once.
        drafts: what each answer may begin with; see `drafts`.

    Returns:
        an `Answer` to each.
    """
    from uncouple.models.decoding import decode, stop_tokens
    from uncouple.models.drafts import decode_from_drafts

    stops = stop_tokens(model.generation_config, tokenizer)
    answers = [Answer(stops) for _ in encoded]
    said = (answers, max_new_tokens, batch_size, "questions", "ask")
    if drafts is None:
        decode(model, encoded, *said)
    else:
        whole = decode_from_drafts(model, encoded, drafts, *said)
        say(f"ask: {whole} of {len(encoded)} answers are the origin's")
    return answers
