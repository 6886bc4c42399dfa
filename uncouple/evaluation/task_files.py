"""The tasks of general ability: where each is defined, and how its rows are read from local files, in the fields that
lm-evaluation-harness asks for."""

import ast
import collections
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uncouple.data.sources import Source, read_rows
from uncouple.errors import UncoupleError
from uncouple.records.formats import Record

LETTERS = ("A", "B", "C", "D")
AG_NEWS_COLUMNS = ("class", "title", "description")
OWN = Path(__file__).parent / "tasks"


@dataclass(frozen=True)
class TaskKind:
    """A task of general ability.

    Attributes:
        definition: its file, in the harness's own folder of tasks or in ours.
        read: a row's fields as those that the definition asks for.
        mend_csv: what is made of the rows of a .csv first.
        arrange: the order of documents.
        group: a folder of the harness, whose group of tasks stands for it where the data are the Hub's.
        description: what a prompt of a local file begins with, where the definition has it elsewhere.
    """

    definition: str | Path
    read: Callable[[Record], Record]
    mend_csv: Callable[[dict[int, Record]], dict[int, Record]] = dict
    arrange: Callable[[list[Record]], list[Record]] = list
    group: str | None = None
    description: str | None = None


def read_documents(name: str, path: str | Path) -> list[Record]:
    """Rows of a local file, in the fields that the harness's definition of the task asks for.

    A .csv, .jsonl or .parquet file. Each task takes the fields of the Hub's data set, and some take others: hellaswag
    `ctx` for `ctx_a, ctx_b`; boolq `answer` (true or false) for `label`; openbookqa `question, choices, gold`; race
    `questions, options, answers` for `problems`; ag_news a CSV of class, title and description without a header.

    Raises:
        UncoupleError: the file cannot be read, or a row lacks a field or has something else in it.
    """
    # Not checked: of another suffix `read_rows` says what is wrong.
    rows = read_rows(Source.model_construct(path=str(path)))
    if str(path).endswith(".csv"):
        rows = TASK_KINDS[name].mend_csv(rows)
    documents = []
    for number, row in rows.items():
        try:
            documents.append(TASK_KINDS[name].read(row))
        except ValueError as error:
            raise UncoupleError(f"{path}, row {number}: {error}. Mend it for the task {name}.") from None
    return TASK_KINDS[name].arrange(documents)


def _spread(documents: list[Record]) -> list[Record]:
    """The first document of every subject, then the second of each, and so on: a limit takes the first."""
    subjects: dict[str, list[Record]] = collections.defaultdict(list)
    for document in documents:
        subjects[document["subject"]].append(document)
    rounds = itertools.zip_longest(*subjects.values())
    return [document for one_each in rounds for document in one_each if document is not None]


def _with_header(rows: dict[int, Record]) -> dict[int, Record]:
    """Rows of AG News as it is published: without a header, so that the first row was taken for one."""
    first = next(iter(rows.values()))
    if "label" in first or len(first) != len(AG_NEWS_COLUMNS):
        return rows
    values = [list(first), *(list(row.values()) for row in rows.values())]
    return {number: dict(zip(AG_NEWS_COLUMNS, row, strict=True)) for number, row in enumerate(values, start=1)}


def _read_hellaswag(row: Record) -> Record:
    if "ctx_a" in row:
        first, second = _field(row, "ctx_a", str), _field(row, "ctx_b", str)
    else:
        first, second = split_context(_text(row, "ctx"))
    document = {"activity_label": _text(row, "activity_label"), "ctx_a": first, "ctx_b": second}
    return document | {"endings": _texts(row, "endings"), "label": str(_index(row, "label", LETTERS))}


def split_context(context: str) -> tuple[str, str]:
    """HellaSwag's context as its two parts: whole sentences, and the start of the one that the endings go on with.

    A context that ends with a sentence is all in the first part.
    """
    found = re.fullmatch(r"(.*[.!?]\S*) ([^.!?]+)", context, re.DOTALL)
    return (found[1], found[2]) if found else (context, "")


def _read_race(row: Record) -> Record:
    if "problems" in row:
        try:
            problems = ast.literal_eval(_text(row, "problems"))
        except SyntaxError as error:
            raise ValueError(f"'problems' is no list ({error})") from None
    else:
        columns = [_field(row, key, list) for key in ("questions", "options", "answers")]
        if len(set(map(len, columns))) != 1:
            raise ValueError("'questions', 'options' and 'answers' are not of one length")
        problems = [dict(zip(("question", "options", "answer"), p, strict=True)) for p in zip(*columns, strict=True)]
    if not problems or not all(isinstance(problem, dict) for problem in problems):
        raise ValueError("there is no question in it")
    checked = [
        {"question": _text(problem, "question"), "options": _texts(problem, "options")}
        | {"answer": LETTERS[_index(problem, "answer", LETTERS)]}
        for problem in problems
    ]
    # The harness takes an article's problems as the text of a Python list.
    return {"article": _text(row, "article"), "problems": repr(checked)}


def _read_mmlu(row: Record) -> Record:
    document = {key: _text(row, key) for key in ("question", "subject")}
    return document | {"choices": _texts(row, "choices"), "answer": _index(row, "answer", LETTERS)}


def _read_gpqa(row: Record) -> Record:
    wrong = [f"Incorrect Answer {number}" for number in (1, 2, 3)]
    return {key: _text(row, key) for key in ("Question", "Correct Answer", *wrong)}


def _read_openbookqa(row: Record) -> Record:
    if "question_stem" in row:
        stem, choices = _text(row, "question_stem"), _texts(_field(row, "choices", dict), "text")
        answer = _index(row, "answerKey", LETTERS)
    else:
        stem, choices, answer = _text(row, "question"), _texts(row, "choices"), _index(row, "gold", LETTERS)
    document = {"question_stem": stem, "choices": {"text": choices, "label": list(LETTERS)}}
    return document | {"answerKey": LETTERS[answer]}


def _read_boolq(row: Record) -> Record:
    document = {key: _text(row, key) for key in ("passage", "question")}
    return document | {"label": _index(row, "answer" if "answer" in row else "label", ("false", "true"))}


def _read_ag_news(row: Record) -> Record:
    topics = ("World", "Sports", "Business", "Sci/Tech")
    if "class" in row:
        text, label = f"{_text(row, 'title')} {_text(row, 'description')}", _index(row, "class", topics, first=1)
    else:
        text, label = _text(row, "text"), _index(row, "label", topics)
    return {"text": text, "label": label}


def _read_imdb(row: Record) -> Record:
    return {"text": _text(row, "text"), "label": _index(row, "label", ("negative", "positive"))}


# By the names of `options.TASKS`.
TASK_KINDS = {
    "hellaswag": TaskKind("hellaswag/hellaswag.yaml", _read_hellaswag),
    "race": TaskKind("race/race.yaml", _read_race),
    # The harness has a task for each subject; a local file of them all is one task, with the same prompts.
    "mmlu": TaskKind(
        "mmlu/default/_default_template_yaml",
        _read_mmlu,
        arrange=_spread,
        group="mmlu/default",
        description="The following are multiple choice questions (with answers) about {{subject | replace('_', ' ')}}."
        "\n\n",
    ),
    "gpqa_main_zeroshot": TaskKind("gpqa/zeroshot/gpqa_main_zeroshot.yaml", _read_gpqa),
    "openbookqa": TaskKind("openbookqa/openbookqa.yaml", _read_openbookqa),
    "boolq": TaskKind("super_glue/boolq/default.yaml", _read_boolq),
    "ag_news": TaskKind(OWN / "ag_news.yaml", _read_ag_news, mend_csv=_with_header),
    "imdb": TaskKind(OWN / "imdb.yaml", _read_imdb),
}


def _field(row: Record, key: str, kind: type | tuple[type, ...]) -> Any:
    if row.get(key) is None:
        raise ValueError(f"there is no field {key!r}, only {', '.join(map(str, row))}")
    if not isinstance(row[key], kind):
        raise ValueError(f"the field {key!r} is of the wrong kind: {row[key]!r}")
    return row[key]


def _text(row: Record, key: str) -> str:
    text: str = _field(row, key, str)
    if not text.strip():
        raise ValueError(f"the field {key!r} is empty")
    return text


def _texts(row: Record, key: str) -> list[str]:
    texts: list[str] = _field(row, key, list)
    if len(texts) != len(LETTERS) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"the field {key!r} is not four texts: {texts!r}")
    return texts


def _index(row: Record, key: str, names: Sequence[str], first: int = 0) -> int:
    """Which of `names` a field says: by name, or by number, counted from `first` and perhaps written as text."""
    value = str(_field(row, key, (str, int))).strip().lower()
    names = [name.lower() for name in names]
    if value in names:
        return names.index(value)
    if not value.isdecimal() or not first <= int(value) < first + len(names):
        raise ValueError(f"the field {key!r} is {row[key]!r}, and not {first} to {first + len(names) - 1}")
    return int(value) - first
