"""Files of a task's rows: the fields of the Hub and of other files become the same."""

from hypothesis import given
from hypothesis import strategies as st

from uncouple.evaluation import task_files
from uncouple.evaluation.options import TASKS

LETTERS = "ABCD"
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(lambda s: s.strip())
FOUR = st.lists(TEXT, min_size=4, max_size=4)


def test_a_task_has_a_name_in_a_config_and_a_kind():
    assert list(TASKS) == list(task_files.TASK_KINDS)


@given(st.lists(st.tuples(TEXT, FOUR, st.integers(0, 3)), min_size=1, max_size=4), TEXT)
def test_the_hubs_fields_and_those_of_other_files_become_the_same(questions, article):
    stem, choices, answer = questions[0]
    hub = {"question_stem": stem, "choices": {"text": choices, "label": list(LETTERS)}, "answerKey": LETTERS[answer]}
    assert task_files.TASK_KINDS["openbookqa"].read({"question": stem, "choices": choices, "gold": answer}) == hub
    assert task_files.TASK_KINDS["openbookqa"].read(hub) == hub
    problems = [{"question": q, "options": c, "answer": LETTERS[a]} for q, c, a in questions]
    local = dict(zip(("questions", "options", "answers"), map(list, zip(*questions, strict=True)), strict=True))
    document = task_files.TASK_KINDS["race"].read(local | {"article": article})
    assert document == {"article": article, "problems": repr(problems)} == task_files.TASK_KINDS["race"].read(document)
    hub = {"passage": article, "question": stem, "label": answer // 2}
    assert task_files.TASK_KINDS["boolq"].read({"passage": article, "question": stem, "answer": answer > 1}) == hub
    assert task_files.TASK_KINDS["boolq"].read(hub) == hub
    row = {"class": str(answer + 1), "title": stem, "description": article}
    assert task_files.TASK_KINDS["ag_news"].read(row) == {"text": f"{stem} {article}", "label": answer}


@given(st.text(), st.text(st.characters(exclude_characters=".!?"), min_size=1))
def test_a_context_is_split_after_its_last_sentence(before, start):
    context = f"{before}. {start}"
    first, second = task_files.split_context(context)
    assert f"{first} {second}" == context
    assert first.rpartition(" ")[2][-1:] in ".!?" or any(mark in first.rpartition(" ")[2] for mark in ".!?")
    assert not set(second) & set(".!?")
    assert task_files.split_context(f"{context}.") == (f"{context}.", "")


def test_ag_news_is_read_with_and_without_a_header(tmp_path):
    (tmp_path / "bare.csv").write_text('"3","A title","Some ""text""."\n"1","Other","More, text."\n')
    (tmp_path / "headed.csv").write_text('label,text\n2,"A title Some ""text""."\nWorld,"Other More, text."\n')
    documents = [{"text": 'A title Some "text".', "label": 2}, {"text": "Other More, text.", "label": 0}]
    assert task_files.read_documents("ag_news", tmp_path / "bare.csv") == documents
    assert task_files.read_documents("ag_news", tmp_path / "headed.csv") == documents
