"""Answers: what variants reply to the questions, greedily and in batches."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from uncouple.errors import UncoupleError
from uncouple.evaluation.options import ENGINE_KINDS, Questioning
from uncouple.models.load import load_tokenizer
from uncouple.models.prompts import encode_question
from uncouple.models.thoughts import cut_thoughts, decode_answers
from uncouple.progress import say
from uncouple.records.files import read_table, write_table
from uncouple.records.formats import ANSWERS, QUESTIONS, REPLIES, Format, Record
from uncouple.records.store import Store, code_of, versions
from uncouple.variants.each import Result, make_each, output_paths
from uncouple.variants.kinds import ORIGIN
from uncouple.variants.variant import Variant, open_variants

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from uncouple.evaluation.engines import Answer
    from uncouple.models.drafts import Draft


@dataclass(frozen=True)
class Asked:
    """A variant and a set of questions that it is asked.

    Attributes:
        variant: the variant.
        noise: whether it is asked in other batches than the origin.
        questions: rows of a questions table.
        record: the table's metadata.
    """

    variant: Variant
    noise: bool
    questions: list[Record]
    record: Record

    @property
    def set_name(self) -> str:
        """Which questions they are."""
        return self.record["fingerprint"]

    @property
    def is_origin(self) -> bool:
        return not self.variant.is_edited and not self.noise


def answer_questions(
    model_folder: str | Path,
    question_paths: Iterable[str | Path],
    output: str | Path,
    *,
    variants: Iterable[tuple[str, str | Path | None]] = ((ORIGIN, None),),
    noises: Sequence[str] = (),
    store: Store | None = None,
    **options: Any,
) -> None:
    """Ask variants of a model all sets of questions, and write the answers of each to each.

    In float32 the origin's answers, where they are known, are checked against each other variant's own, and what
    differs alone is decoded: the text is the same as without.

    Args:
        model_folder: the base.
        question_paths: questions tables.
        output: the answers to write, with {variant} and {dimension} in it where there are several.
        variants: pairs of a name for the record and a mask file, None for the model as it is.
        noises: names of variants that are the model as it is, asked in other batches to see what arithmetic alone
            changes. The record's `batches` says which: how many questions a batch has at most, and what else tells
            these batches from others.
        store: none by default.
        options: of `options.Questioning`. The engine vllm takes no `device` or `batch_size`.

    Raises:
        UncoupleError: a file is broken, a question does not fit, a noise cannot differ, or some variant has no answers.
    """
    store = store or Store()
    asking = Questioning(**options)
    opened = open_variants(model_folder, [*variants, *((name, None) for name in noises)])
    sets = [read_table(path, QUESTIONS) for path in question_paths]
    asked = [
        Asked(variant, variant.name in noises, table.to_pylist(), record)
        for variant in opened
        for table, record in sets
    ]
    pairs = [{"variant": one.variant.name, "dimension": one.record["dimension"]} for one in asked]
    results = []
    for one, pair, path in zip(asked, pairs, output_paths(output, pairs), strict=True):
        name, key, names = ", ".join(pair.values()), answers_key(one, asking), one.variant.names()
        results.append(Result(name, ANSWERS, key, names, path, one, one.variant.fault))
    # The others may begin as the origin does.
    results.sort(key=lambda result: not result.work.is_origin)
    make_each(results, store, "ask", lambda waiting: _Asker(waiting, asking, store).make)


def answers_key(asked: Asked, options: Questioning) -> Record:
    """What answers hang on, for the store; see `Variant.key`."""
    key = asked.variant.key(options.dtype, options.device)
    key |= {name: value for name, value in options if name not in key}
    return key | {
        "versions": asked_with(options),
        "questions": asked.set_name,
        "noise": asked.noise,
        "code": code_of("evaluation.answers:answer_questions"),
    }


def asked_with(options: Questioning) -> dict[str, str | None]:
    """`store.versions` of what answers come from."""
    return versions(*ENGINE_KINDS[options.engine].libraries)


class _Asker:
    """Has variants answer: everything is checked and encoded once, and then loaded once."""

    def __init__(self, waiting: Sequence[Result], options: Questioning, store: Store) -> None:
        from uncouple.evaluation.engines import ENGINES

        first = waiting[0].work.variant
        self.options, self.store = options, store
        # By set of questions: what the origin replied, rows of `REPLIES`; what is asked; and the batches, by noise too.
        self.known: dict[str, list[Record]] = {}
        self.encoded: dict[str, list[list[int]]] = {}
        self.batches: dict[tuple[str, bool], dict[str, Any]] = {}
        self.tokenizer, self.prompt = load_tokenizer(first.folder, options.prompt, options.template_options)
        self.engine = ENGINES[options.engine](first, self.tokenizer, options)
        self.faults: dict[tuple[str, bool], UncoupleError] = {}
        # Once for all variants, also where it cannot be done.
        wanted = {(result.work.set_name, result.work.noise): result.work for result in waiting}
        for which, asked in wanted.items():
            try:
                self._choose_batches(asked)
            except UncoupleError as fault:
                self.faults[which] = fault
        if len(self.faults) == len(wanted):
            raise next(iter(self.faults.values()))
        self.engine.load()

    def _choose_batches(self, asked: Asked) -> None:
        if asked.set_name not in self.encoded:
            self.encoded[asked.set_name] = self._encode(asked)
        batches = self.engine.choose_batches(self.encoded[asked.set_name], asked.noise)
        self.batches[asked.set_name, asked.noise] = batches

    def make(self, result: Result) -> None:
        """Ask, and write the answers."""
        asked = result.work
        if fault := self.faults.get((asked.set_name, asked.noise)):
            raise fault
        encoded = self.encoded[asked.set_name]
        batches = self.batches[asked.set_name, asked.noise]
        say(f"ask: {result.name}: {len(encoded)} questions")
        drafts = None if asked.is_origin else self._drafts(asked)
        answers, dtype = self.engine.answer(asked.variant, encoded, batches, drafts)
        if asked.is_origin and self.engine.can_check:
            self._keep(asked, [{"tokens": answer.taken, "sure": answer.sure} for answer in answers])
        rows = answer_rows(self.tokenizer, asked.questions, encoded, answers)
        metadata = {
            **asked.variant.about(dtype, self.options.device) | {"versions": asked_with(self.options)},
            "dimension": asked.record["dimension"],
            "questions": asked.set_name,
            "prompt": vars(self.prompt),
            "max_new_tokens": self.options.max_new_tokens,
            "engine": self.options.engine,
            "batches": batches,
            "noise": asked.noise,
            # The others are the origin's, known to be this variant's too.
            "decoded": sum(answer.decoded for answer in answers),
        }
        write_table(rows, result.output, ANSWERS, metadata)
        empty, cut = sum(not row["answer"] for row in rows), sum(row["truncated"] for row in rows)
        thinking = sum(cut_thoughts(row["answer"])[1] for row in rows)
        say(
            f"ask: {result.name}: {empty} empty answers, {cut} cut at {self.options.max_new_tokens} tokens"
            + (f", {thinking} that never left their thoughts" if thinking else "")
        )

    def _encode(self, asked: Asked) -> list[list[int]]:
        window, new = asked.variant.config["max_position_embeddings"], self.options.max_new_tokens
        encoded = [encode_question(self.tokenizer, row["question"], self.prompt) for row in asked.questions]
        for row, ids in zip(asked.questions, encoded, strict=True):
            if len(ids) + new > window:
                raise UncoupleError(
                    f"question {row['id']} has {len(ids)} tokens: with {new} new ones it does not fit in the model's "
                    f"window of {window}. Shorten or remove it."
                )
        return encoded

    def _drafts(self, asked: Asked) -> "list[Draft] | None":
        """The origin's replies to the same questions, where they are known and may be used."""
        # Where something acts on prompts, a beginning that many share cannot be computed once.
        if not self.engine.can_check or asked.variant.adapter:
            return None
        from uncouple.models.drafts import Draft

        if asked.set_name not in self.known:
            found = self.store.get(*self._place(asked))
            self.known[asked.set_name] = found[0].to_pylist() if found else []
        # A variant without a mask has the origin's weights.
        sure = not asked.variant.is_edited
        drafts = [Draft(row["tokens"], row["sure"] if sure else None) for row in self.known[asked.set_name]]
        return drafts or None

    def _keep(self, asked: Asked, replies: list[Record]) -> None:
        self.known[asked.set_name] = replies
        self.store.put_table(*self._place(asked), pa.Table.from_pylist(replies, REPLIES.schema({})), {})

    def _place(self, asked: Asked) -> tuple[Format, Record]:
        origin = replace(asked, variant=replace(asked.variant, entries={}, adapter=None), noise=False)
        return REPLIES, answers_key(origin, self.options)


def answer_rows(
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[Record],
    encoded: Sequence[list[int]],
    answers: "Sequence[Answer]",
) -> list[Record]:
    """Rows of an answers table.

    Args:
        tokenizer: of the model that answered.
        questions: rows of a questions table.
        encoded: what was asked, lists of token ids.
        answers: an `engines.Answer` to each.
    """
    texts = decode_answers(tokenizer, [answer.ids for answer in answers], encoded)
    rows = [
        question | {"answer": text, "tokens": len(answer.ids), "truncated": answer.goes_on}
        for question, text, answer in zip(questions, texts, answers, strict=True)
    ]
    return [{name: row[name] for name in ANSWERS.columns or ()} for row in rows]
