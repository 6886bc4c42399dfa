"""Accuracies equal those of one plain forward pass a choice, with prompts that the test spells out itself."""

import collections
import importlib.util
import json
import math
import random
import socket
import tempfile

import datasets
import pytest
import torch
from conftest import write_mask
from hypothesis import given
from hypothesis import strategies as st

from uncouple.errors import UncoupleError
from uncouple.evaluation import ability, task_files
from uncouple.models.load import load_model, load_tokenizer
from uncouple.records.files import read_table
from uncouple.records.formats import METRICS
from uncouple.variants import variant as variants
from uncouple.variants.checkpoints import apply_mask

SETTINGS = {"limit": 0, "batch_size": 4, "dtype": "float32", "device": "cpu"}
WORDS = ["river", "phone", "worker", "greeting", "nurse", "finger", "danube", "practice", "age", "help", "sum", "sky"]
LETTERS = "ABCD"
ROWS = 14


def phrase(rng, count):
    return " ".join(rng.choice(WORDS) for _ in range(count))


def make_rows(rng):
    """Rows of every task in the fields of local files, and the (prompt, choices, right one) that they come to."""
    rows, truth = {name: [] for name in task_files.TASK_KINDS}, {name: [] for name in task_files.TASK_KINDS}

    def add(name, row, prompt, choices, right):
        rows[name].append(row)
        truth[name].append((prompt, choices, right))

    shuffled = random.Random(0)
    for i in range(ROWS):
        right, four = rng.randrange(4), [phrase(rng, rng.randint(1, 6)) for _ in range(4)]
        first, topic = phrase(rng, 4), phrase(rng, 1)
        row = {"activity_label": topic, "ctx": f"{first}. he", "endings": four, "label": str(right)}
        if i % 2:
            row = row | {"ctx": f"{first} [x] now [title] End."}
        prompt = f"{topic}: {first} now. End." if i % 2 else f"{topic}: {first}. He"
        add("hellaswag", row, prompt, four, right)
        row = {"question": first, "choices": four, "gold": right}
        add("openbookqa", row, first, four, right)
        row = {"question": f" {first}", "subject": f"old_{topic}s", "choices": four, "answer": right}
        head = f"The following are multiple choice questions (with answers) about old {topic}s.\n\n"
        listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, four, strict=True))
        add("mmlu", row, f"{head}{first}\n{listed}\nAnswer:", list(LETTERS), right)
        row = {"passage": first, "question": topic, "answer": right > 1}
        add("boolq", row, f"{first}\nQuestion: {topic}?\nAnswer:", ["no", "yes"], right // 2)
        other, asked = [phrase(rng, 2) for _ in range(4)], phrase(rng, 3)
        row = {"article": first, "questions": [f"{asked}  _  .", "Why?", topic], "options": [other, four[::-1], four]}
        told = f"Article: {first}\n\n{asked} {other[0]}\nQuestion: Why?\nAnswer: {four[2]}\n{topic}"
        add("race", row | {"answers": ["A", "B", LETTERS[right]]}, told, four, right)
        row = {"Question": first} | {f"Incorrect Answer {k}": four[k - 1] for k in (1, 2, 3)}
        # The harness shuffles each row's answers, the right one last before.
        order = [*four[:3], f"{topic} right"]
        shuffled.shuffle(order)
        listed = "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, order, strict=True))
        prompt = f"What is the correct answer to this question:{first}\nChoices:\n{listed}\nAnswer:"
        choices = [f"({letter})" for letter in LETTERS]
        row = row | {"Correct Answer": f"{topic} right"}
        add("gpqa_main_zeroshot", row, prompt, choices, order.index(f"{topic} right"))
        topics = ["World", "Sports", "Business", "Technology"]
        asked = "Question: Is this story about world affairs, sports, business or technology?\nAnswer:"
        add("ag_news", {"text": first, "label": right}, f"News: {first}\n{asked}", topics, right)
        asked = "Question: Is this review negative or positive?\nAnswer:"
        row = {"text": first, "label": ["negative", "positive"][right // 2]}
        add("imdb", row, f"Review: {first}\n{asked}", ["negative", "positive"], right // 2)
    return rows, truth


def slow_sums(model, tokenizer, prompt, choices):
    """The log-likelihood of each choice after the prompt, by a forward pass of its own."""
    start, sums = len(tokenizer.encode(prompt)), []
    for choice in choices:
        ids = tokenizer.encode(f"{prompt} {choice}")
        with torch.no_grad():
            logs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        sums.append(sum(float(logs[i - 1, ids[i]]) for i in range(start, len(ids))))
    return sums


def expected(folder, truth):
    """dict of `TASK.METRIC` to (right ones, rows), and the log-likelihood of every (prompt, choice)."""
    model, tokenizer = load_model(folder, "float32", "cpu"), load_tokenizer(folder)[0]
    right, sums = collections.Counter(), {}
    for name, listed in truth.items():
        for prompt, choices, answer in listed:
            found = slow_sums(model, tokenizer, prompt, choices)
            sums |= {(prompt, f" {choice}"): total for choice, total in zip(choices, found, strict=True)}
            by_length = [total / len(choice) for total, choice in zip(found, choices, strict=True)]
            right[f"{name}.acc"] += found.index(max(found)) == answer
            if name in ("hellaswag", "openbookqa", "gpqa_main_zeroshot"):
                right[f"{name}.acc_norm"] += by_length.index(max(by_length)) == answer
    return {metric: (n, len(truth[metric.split(".")[0]])) for metric, n in right.items()}, sums


def measure(folder, tasks, output, **changes):
    ability.measure_ability(folder, output, tasks=tasks, **SETTINGS | changes)
    table, metadata = read_table(output, METRICS)
    return table.to_pylist(), metadata


def measure_and_listen(folder, tasks, output, **changes):
    """The same, and what the model was asked: dict of (prompt, choice) to the log-likelihood that it gave."""
    asked, wrap = {}, ability.wrap_model

    def wrap_and_listen(*arguments):
        harness = wrap(*arguments)
        score = harness.loglikelihood

        def listen(requests):
            scored = score(requests)
            asked.update({r.args: total for r, (total, _) in zip(requests, scored, strict=True)})
            return scored

        harness.loglikelihood = listen
        return harness

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ability, "wrap_model", wrap_and_listen)
        return *measure(folder, tasks, output, **changes), asked


def counts(rows):
    return {f"{row['task']}.{row['metric']}": (row["n"], row["of"]) for row in rows}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(dict of task to file, what each comes to)."""
    rows, truth = make_rows(random.Random(1))
    folder = tmp_path_factory.mktemp("tasks")
    for name, listed in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    return {name: folder / f"{name}.jsonl" for name in rows}, truth


@pytest.fixture(scope="module")
def origin(model_folder, made, tmp_path_factory):
    return measure_and_listen(model_folder, made[0], tmp_path_factory.mktemp("origin") / "m.parquet")


def test_accuracies_equal_a_forward_pass_a_choice(model_folder, made, origin):
    rows, metadata, asked = origin
    right, sums = expected(model_folder, made[1])
    assert asked == pytest.approx(sums, rel=1e-4)
    assert counts(rows) == right
    assert {(row["model"], row["variant"], row["dimension"]) for row in rows} == {
        (model_folder.name, "origin", "general")
    }
    assert all(row["value"] == row["n"] / row["of"] and row["low"] < row["value"] < row["high"] for row in rows)
    assert metadata["tasks"]["boolq"] == {
        "file": str(made[0]["boolq"]), "rows": ROWS, "fingerprint": metadata["tasks"]["boolq"]["fingerprint"],
    }  # fmt: skip
    assert metadata["mask"] is None
    assert metadata["dtype"] == "float32"


@pytest.mark.parametrize(("family", "batch_size"), [("gemma2", 1), ("qwen2", 50)])
def test_neither_batch_nor_family_matters(make_model, made, tmp_path, family, batch_size):
    """One row at a time, all at once, and a family whose texts must begin with their first token."""
    names = ("hellaswag", "boolq")
    files, truth = ({name: part[name] for name in names} for part in made)
    rows, _, asked = measure_and_listen(make_model(family), files, tmp_path / "m", batch_size=batch_size)
    right, sums = expected(make_model(family), truth)
    assert asked == pytest.approx(sums, rel=1e-4)
    assert counts(rows) == right


def test_a_task_does_not_depend_on_the_others(model_folder, made, origin, tmp_path):
    """gpqa shuffles its answers: neither what came before nor the state of Python's random numbers may show."""
    random.seed(99)
    rows, _ = measure(model_folder, {"gpqa_main_zeroshot": made[0]["gpqa_main_zeroshot"]}, tmp_path / "m")
    assert rows == [row for row in origin[0] if row["task"] == "gpqa_main_zeroshot"]


def test_a_mask_in_memory_equals_its_checkpoint(model_folder, made, origin, tmp_path):
    entries = {f"model.layers.1.mlp.{name}_proj": list(range(6144)) for name in ("up", "down")}
    mask = write_mask(tmp_path / "mask.parquet", model_folder, entries)
    rows, metadata = measure(model_folder, made[0], tmp_path / "masked", variants=[("v", mask)])
    apply_mask(model_folder, mask, tmp_path / "checkpoint")
    applied, _ = measure(tmp_path / "checkpoint", made[0], tmp_path / "applied", variants=[("v", None)])
    assert counts(rows) == counts(applied) != counts(origin[0])
    assert {row["variant"] for row in rows} == {"v"}
    assert metadata["mask"]["select"] == "coupled"


def test_a_limit_takes_the_first_rows_and_mmlus_of_all_subjects(model_folder, made, tmp_path, write_jsonl):
    rows = [json.loads(line) for line in made[0]["mmlu"].read_text().splitlines()]
    by_subject = write_jsonl("mmlu.jsonl", [row | {"subject": s} for s in "abc" for row in rows[:3]])
    order = [document["subject"] for document in task_files.read_documents("mmlu", by_subject)]
    assert order == list("abcabcabc")
    found, _ = measure(model_folder, {"boolq": made[0]["boolq"], "mmlu": by_subject}, tmp_path / "m", limit=4)
    right, _ = expected(model_folder, {"boolq": made[1]["boolq"][:4]})
    assert counts(found)["boolq.acc"] == right["boolq.acc"]
    assert counts(found)["mmlu.acc"][1] == 4


def test_other_rows_under_the_same_name_are_read_afresh(model_folder, made, tmp_path, write_jsonl):
    rows = [json.loads(line) for line in made[0]["boolq"].read_text().splitlines()]
    found = []
    for flip in (False, True):
        path = write_jsonl("boolq.jsonl", [row | {"answer": row["answer"] != flip} for row in rows])
        found.append(counts(measure(model_folder, {"boolq": path}, tmp_path / "m")[0])["boolq.acc"])
    assert found[0][0] + found[1][0] == ROWS
    assert 0 < found[0][0] < ROWS


def test_nothing_is_left_and_no_one_is_called(model_folder, made, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was opened")

    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    measure(model_folder, {"hellaswag": made[0]["hellaswag"]}, tmp_path / "out/m.parquet")
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == [
        "out",
        "out/m.parquet",
        "scratch",
    ]


# The Hub


@pytest.fixture
def hub(made, monkeypatch):
    """The Hub's data sets with the rows of our files in its own fields, and what was asked of it."""
    asked = []
    subjects = [p.stem.removeprefix("mmlu_") for p in (ability.harness_tasks() / "mmlu/default").glob("mmlu_*.yaml")]
    documents = {name: task_files.read_documents(name, path) for name, path in made[0].items()}
    sets = {"Rowan/hellaswag": "hellaswag", "EleutherAI/race": "race", "allenai/openbookqa": "openbookqa"}
    sets |= {"aps/super_glue": "boolq", "fancyzhx/ag_news": "ag_news", "stanfordnlp/imdb": "imdb", "cais/mmlu": "mmlu"}

    def load(path, name=None, **_):
        asked.append((path, name))
        rows = documents[sets[path]]
        if sets[path] == "mmlu":
            number = subjects.index(name)
            rows = [rows[(2 * number + i) % ROWS] | {"subject": name} for i in (0, 1)]
        return dict.fromkeys(("train", "validation", "test", "dev"), datasets.Dataset.from_list(rows))

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked, subjects, documents


def test_the_hubs_data_give_what_the_same_rows_of_a_file_give(model_folder, hub, origin, tmp_path):
    asked, subjects, _ = hub
    names = [name for name in task_files.TASK_KINDS if name not in ("mmlu", "gpqa_main_zeroshot")]
    rows, metadata = measure(model_folder, dict.fromkeys(names), tmp_path / "m")
    assert rows == [row for row in origin[0] if row["task"] in names]
    assert ("EleutherAI/race", "high") in asked
    assert metadata["tasks"]["race"] == {"hub": True}


def test_mmlus_group_of_subjects_gives_what_one_file_of_them_gives(
    model_folder, hub, tmp_path, monkeypatch, write_jsonl
):
    asked, subjects, documents = hub
    rows, _ = measure(model_folder, {"mmlu": None}, tmp_path / "hub")
    assert len(subjects) == 57
    assert sorted(name for _, name in asked) == sorted(subjects)
    (row,) = rows
    flat = [documents["mmlu"][(2 * k + i) % ROWS] | {"subject": s} for k, s in enumerate(subjects) for i in (0, 1)]
    monkeypatch.undo()
    ((local),) = measure(model_folder, {"mmlu": write_jsonl("mmlu.jsonl", flat)}, tmp_path / "local")[0]
    assert [row[key] for key in ("metric", "task", "n", "of")] == [local["metric"], "mmlu", local["n"], 114]
    assert row["low"] < row["value"] < row["high"]


def test_without_the_hub_a_local_file_is_asked_for(model_folder, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("Couldn't reach it")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr(variants, "load_model", lambda *_: pytest.fail("the model was loaded first"))
    with pytest.raises(UncoupleError, match="the task race: .*the Hub cannot be reached.*give a local file"):
        measure(model_folder, {"race": None}, tmp_path / "m")
    assert not (tmp_path / "m").exists()


# Local files


BROKEN = [
    ("hellaswag", {"ctx": None}, "row 2: there is no field 'ctx', only activity_label"),
    ("hellaswag", {"label": "4"}, "row 2: the field 'label' is '4', and not 0 to 3"),
    ("hellaswag", {"endings": ["a", "b", "c"]}, "row 2: the field 'endings' is not four texts"),
    ("boolq", {"passage": " "}, "row 2: the field 'passage' is empty"),
    ("boolq", {"answer": "perhaps"}, "row 2: the field 'answer' is 'perhaps'"),
    ("openbookqa", {"gold": None}, "row 2: there is no field 'gold'"),
    ("openbookqa", {"choices": "abcd"}, "row 2: the field 'choices' is of the wrong kind: 'abcd'"),
    ("mmlu", {"subject": None}, "row 2: there is no field 'subject'"),
    ("mmlu", {"answer": -1}, "row 2: the field 'answer' is -1"),
    ("race", {"answers": ["A"]}, "row 2: 'questions', 'options' and 'answers' are not of one length"),
    ("race", {"problems": "1 +"}, "row 2: 'problems' is no list"),
    ("race", {"problems": "[3]"}, "row 2: there is no question in it"),
    ("gpqa_main_zeroshot", {"Correct Answer": None}, "row 2: there is no field 'Correct Answer'"),
    ("ag_news", {"label": 7}, "row 2: the field 'label' is 7"),
    ("imdb", {"text": 3}, "row 2: the field 'text' is of the wrong kind: 3"),
]


@pytest.mark.parametrize(("name", "change", "message"), BROKEN)
def test_a_broken_row_is_named_before_anything_is_loaded(
    model_folder, made, tmp_path, write_jsonl, monkeypatch, name, change, message
):
    monkeypatch.setattr(ability, "load_task", lambda *_: pytest.fail("the task was loaded first"))
    rows = [json.loads(line) for line in made[0][name].read_text().splitlines()[:3]]
    rows[1] = {key: value for key, value in (rows[1] | change).items() if value is not None}
    path = write_jsonl("broken.jsonl", rows)
    with pytest.raises(UncoupleError) as caught:
        measure(model_folder, {name: path}, tmp_path / "m")
    assert f"{path}, {message}" in str(caught.value)
    assert name in str(caught.value)
    assert not (tmp_path / "m").exists()


def test_what_is_asked_for_wrongly(model_folder, made, tmp_path, monkeypatch):
    with pytest.raises(UncoupleError, match="task 'hellaswg'.*Use one of hellaswag, race, mmlu"):
        measure(model_folder, {"hellaswg": made[0]["hellaswag"]}, tmp_path / "m")
    with pytest.raises(UncoupleError, match="no task to measure"):
        measure(model_folder, {}, tmp_path / "m")
    with pytest.raises(UncoupleError, match="nowhere.jsonl: no such file"):
        measure(model_folder, {"boolq": tmp_path / "nowhere.jsonl"}, tmp_path / "m")
    with pytest.raises(UncoupleError, match="limit is -1"):
        measure(model_folder, {"boolq": made[0]["boolq"]}, tmp_path / "m", limit=-1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UncoupleError, match="pip install lm_eval"):
        measure(model_folder, {"boolq": made[0]["boolq"]}, tmp_path / "m")


@given(st.integers(1, 2000), st.data())
def test_the_interval_is_the_standard_errors(of, data):
    n = data.draw(st.integers(0, of))
    error = math.sqrt(n / of * (1 - n / of) / (of - 1)) if of > 1 else "N/A"
    found = ability.interval(n / of, error, of)
    assert (found["value"], found["n"], found["of"]) == (n / of, n, of)
    assert 0 <= found["low"] < found["high"] <= 1
    if 0 < n < of:
        assert found["low"] == pytest.approx(max(0, n / of - 1.959964 * error))
        assert found["high"] == pytest.approx(min(1, n / of + 1.959964 * error))


# The real model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "limit"), [(("hellaswag", "boolq", "openbookqa", "mmlu", "ag_news"), 10), (("race", "imdb"), 2)]
)
def test_the_real_model_gets_what_the_harness_command_line_gives(real_model, real_data, names, limit):
    """Fewer rows of the long texts, which take most of the time."""
    from benchmarks.ability import compare, real_tasks

    rows = compare(real_model, real_tasks(real_data, names), limit, 4, "cpu")
    assert [row["identical"] for row in rows] == [True, True]
