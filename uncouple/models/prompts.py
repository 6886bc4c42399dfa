"""Text to tokens: how a prompt and a response are put together for scoring, and a question for answering."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from uncouple.errors import UncoupleError
from uncouple.records.limits import bounded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# How a prompt and a response become tokens.
Prompt = Literal["auto", "chat", "bare", "published"]
PROMPTS = get_args(Prompt)
# What a template may take for one text.
TEMPLATE_MEMORY, TEMPLATE_SECONDS = 10**9, 20
# Characters that it may make: so many, and so many for each of the texts'.
TEMPLATE_TEXT, TEMPLATE_TIMES = 10**6, 20
# Some templates tell the model today's date, and tokens must not change from day to day.
DATE = {"date_string": "01 Jan 2025"}


@dataclass(frozen=True)
class PromptFormat:
    """How a text is put to a model.

    Attributes:
        name: `chat`, `bare` or `published`; see `encode_question`.
        options: what the chat template is told besides the text, dict of name to value; the others take none.
    """

    name: str
    options: dict = field(default_factory=dict)


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


def encode_question(tokenizer: PreTrainedTokenizerBase, question: str, prompt: str | PromptFormat) -> list[int]:
    """Token ids of a question, up to where the model's answer begins.

    Args:
        tokenizer: of the model that is asked.
        question: text.
        prompt: a `PromptFormat`, or the name of one without options. `chat`: the model's own template, one user turn.
            `bare` (and `published`): the text after the special tokens that the tokenizer itself puts in front, once.
    """
    prompt = _as_format(prompt)
    if prompt.name == "chat":
        turns = [{"role": "user", "content": question}]
        options = DATE | prompt.options
        return list(tokenizer(fill_chat(tokenizer, turns, **options), add_special_tokens=False)["input_ids"])
    if prompt.name not in PROMPTS:
        raise UncoupleError(f"prompt format {prompt.name!r}: use one of {', '.join(PROMPTS)}.")
    plain = tokenizer(question, add_special_tokens=False)["input_ids"]
    return leading_special_tokens(tokenizer) + plain


def fill_chat(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], **options: Any) -> str:
    """What a tokenizer's chat template makes of turns, up to where the model's next answer begins.

    transformers runs a template in a sandbox, which keeps it from files and from Python, and not from running on.

    Args:
        turns: dicts of role and content.
        options: of the template.

    Raises:
        UncoupleError: the template fails, takes too much or makes very much of the texts.
    """
    what = f"{tokenizer.name_or_path}: its chat template"
    with bounded(what, TEMPLATE_MEMORY, TEMPLATE_SECONDS):
        try:
            text: str = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False, **options)
        except MemoryError:
            raise
        # A template is a program, which can fail in any way.
        except Exception as error:
            raise UncoupleError(f"{what} does not take these texts ({error}).") from error
    if len(text) > (most := TEMPLATE_TEXT + TEMPLATE_TIMES * sum(len(turn["content"]) for turn in turns)):
        raise UncoupleError(f"{what} makes {len(text):,} characters of these texts, more than {most:,}. Do not use it.")
    return text


def encode_sample(
    tokenizer: PreTrainedTokenizerBase, question: str, response: str, prompt: str | PromptFormat, window: int
) -> Encoded:
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
    prompt = _as_format(prompt)
    ids = encode_question(tokenizer, question, prompt)
    answer = list(tokenizer(response, add_special_tokens=False)["input_ids"])
    if prompt.name == "published":
        answer = (leading_special_tokens(tokenizer) + answer)[1:]
    room = window - len(ids)
    if room < 1:
        raise UncoupleError(
            f"its prompt has {len(ids)} tokens, and the model's window is {window}. Shorten or remove it."
        )
    if not answer:
        raise UncoupleError(f"no response token is left in the prompt format {prompt.name}. Remove it.")
    return Encoded(ids + answer[:room], len(ids), max(0, len(answer) - room))


def encode_samples(
    tokenizer: PreTrainedTokenizerBase, samples: Iterable[Mapping[str, str]], prompt: str | PromptFormat, window: int
) -> list[Encoded]:
    """Encoded samples in their order; an error names the sample."""
    encoded = []
    for number, sample in enumerate(samples, start=1):
        try:
            encoded.append(encode_sample(tokenizer, sample["prompt"], sample["response"], prompt, window))
        except UncoupleError as error:
            raise UncoupleError(f"sample {number} ({sample['id']}): {error}") from None
    return encoded


def _as_format(prompt: str | PromptFormat) -> PromptFormat:
    return prompt if isinstance(prompt, PromptFormat) else PromptFormat(prompt)


def bind_options(tokenizer: PreTrainedTokenizerBase, given: dict[str, Any]) -> dict[str, Any]:
    """What a chat template is told: the options given, and not to think where it knows that switch.

    Thoughts would take the place of the answer, which is cut at a few tokens.

    Args:
        tokenizer: with a chat template.
        given: dict of option to value.

    Raises:
        UncoupleError: an option that the template does not know, or whose value is neither text, number nor boolean.
    """
    known = template_variables(tokenizer.get_chat_template()) - {"messages", *tokenizer.special_tokens_map}
    known -= inspect.signature(tokenizer.apply_chat_template).parameters.keys()
    for name, value in given.items():
        if name not in known:
            raise UncoupleError(
                f"template option {name!r}: the chat template of {tokenizer.name_or_path} does not know it, only "
                f"{', '.join(sorted(known)) or 'none at all'}. Take it away."
            )
        if not isinstance(value, str | int | float):
            raise UncoupleError(f"template option {name!r}: {value!r} is no text, number or boolean. Quote it.")
    return ({"enable_thinking": False} if "enable_thinking" in known else {}) | given


def template_variables(template: str) -> set[str]:
    """Names that a chat template expects to be told, a set of text."""
    from jinja2 import Environment, TemplateSyntaxError, ext, meta, nodes

    class Generation(ext.Extension):
        """The tag around what a model says, which transformers adds to the language."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(["name:endgeneration"], drop_needle=True)

    environment = Environment(extensions=[ext.loopcontrols, Generation])
    environment.globals |= dict.fromkeys(("raise_exception", "strftime_now"))
    try:
        parsed = environment.parse(template)
        if parsed.find(nodes.Pow):
            # A power of a power is one step of the machine, which no bound of time ends.
            raise UncoupleError("the chat template has a power (**) in it, which no honest one has. Do not use it.")
        # It works out what is constant, which may be anything.
        with bounded("the chat template", TEMPLATE_MEMORY, TEMPLATE_SECONDS):
            return meta.find_undeclared_variables(parsed)
    except TemplateSyntaxError as error:
        raise UncoupleError(f"the chat template cannot be read (line {error.lineno}: {error}). Mend it.") from None
    except RecursionError:
        raise UncoupleError("the chat template cannot be read: it is nested too deeply. Mend it.") from None


def leading_special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Special tokens that the tokenizer puts in front of a text, such as a beginning-of-sequence token."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = list(tokenizer("a")["input_ids"])
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start]
    raise UncoupleError("this tokenizer changes a text when it adds its special tokens; use the prompt format `chat`.")
