"""Raw data: what is read, and what is said about data that is not right."""

import json
import re

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.raw import make, numbered, pairs, refused, write_csv, write_parquet

from uncouple.data.sources import Source, check_rows, read_rows
from uncouple.errors import UncoupleError

AWKWARD = [
    {"prompt": 'Say "hello", then stop.', "response": "Hello, and\nstop."},
    {"prompt": "Où est l’été ?", "response": "Ici — tout près 🙂"},
    {"prompt": "  spaces around  ", "response": "a\ttab, a comma, and \\n that is no line break"},
    {"prompt": "null", "response": "NA"},
    {"prompt": "1", "response": "1.0"},
]


def passed(path, **where):
    """The pairs of a file that pass a filter, in their order."""
    source = Source(path=str(path), where={key.replace("__", "."): value for key, value in where.items()})
    return pairs(check_rows(read_rows(source), {"prompt": ["prompt"], "response": ["response"]}, source))


# What is read


def test_csv_jsonl_and_parquet_give_the_same_table(write_jsonl, tmp_path):
    rows = AWKWARD + numbered(20)
    paths = [
        write_csv(tmp_path / "raw.csv", rows),
        write_jsonl("raw.jsonl", rows),
        write_parquet(tmp_path / "raw.parquet", rows),
    ]
    tables, prints = [], set()
    for path in paths:
        made, metadata = make(path, tmp_path, n=25, seed=4)
        tables.append([{k: v for k, v in row.items() if k != "source"} for row in made])
        prints.add(metadata["fingerprint"])
    assert tables[0] == tables[1] == tables[2]
    assert sorted(pairs(tables[0])) == sorted(pairs(rows))
    assert len(prints) == 1


def test_a_byte_order_mark_and_windows_line_ends_are_no_fault(tmp_path):
    (tmp_path / "raw.csv").write_bytes(b"\xef\xbb\xbfprompt,response\r\na,b\r\n")
    (tmp_path / "raw.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "a", "response": "b"}\r\n')
    for name in ("raw.csv", "raw.jsonl"):
        assert pairs(make(tmp_path / name, tmp_path, n=1)[0]) == [("a", "b")]


def test_a_csv_field_may_be_long(tmp_path):
    path = write_csv(tmp_path / "raw.csv", [{"prompt": "p", "response": "long " * 60_000}])
    assert len(make(path, tmp_path, n=1)[0][0]["response"]) == 300_000


NESTED = [
    row | {"category": {"privacy_violation": i % 2 == 0, "age": i}, "is_safe": i % 3 == 0}
    for i, row in enumerate(numbered(18))
]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_filter_reaches_into_nested_columns(write_jsonl, tmp_path, kind):
    path = write_jsonl("raw.jsonl", NESTED) if kind == "jsonl" else write_parquet(tmp_path / "raw.parquet", NESTED)
    wanted = [row for i, row in enumerate(NESTED) if i % 2 == 0 and i % 3]
    assert passed(path, category__privacy_violation=True, is_safe=False) == pairs(wanted)
    made, metadata = make(path, tmp_path, n=4, where={"category.privacy_violation": True, "is_safe": False})
    assert metadata["available"] == len(wanted) == 6
    assert pairs(made) == pairs(datasets.Dataset.from_list(wanted).shuffle(seed=0).select(range(4)))


def test_a_filter_reads_booleans_and_numbers_of_a_csv(tmp_path):
    safe = ["True", "False", "true", "FALSE"]
    rows = [row | {"is_safe": safe[i], "age": i} for i, row in enumerate(numbered(4))]
    path = write_csv(tmp_path / "raw.csv", rows)
    assert passed(path, is_safe=True) == pairs([rows[0], rows[2]])
    assert passed(path, is_safe=False) == pairs([rows[1], rows[3]])
    assert passed(path, age=3) == pairs([rows[3]])


def test_instruction_and_input_are_joined_by_a_line_break(write_jsonl, tmp_path):
    rows = [
        {"instruction": "Sum them.", "input": "2 and 3", "output": "5"},
        {"instruction": "Name a river.", "input": "", "output": "The Nile."},
        {"instruction": "Name a colour.", "input": None, "output": "Red."},
    ]
    columns = {"prompt": ["instruction", "input"], "response": ["output"]}
    made, _ = make(write_jsonl("alpaca.jsonl", rows), tmp_path, n=3, columns=columns)
    assert set(pairs(made)) == {("Sum them.\n2 and 3", "5"), ("Name a river.", "The Nile."), ("Name a colour.", "Red.")}


# From the Hub, which a local folder stands for


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    """A function of (name, text) that makes a data set folder, which `datasets` loads as it would one of the Hub."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def make_folder(name, text):
        folder = tmp_path / "dataset"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
        return folder

    return make_folder


def test_a_hub_data_set_gives_what_its_file_gives(write_jsonl, hub_folder, tmp_path):
    path = write_jsonl("raw.jsonl", NESTED)
    folder = hub_folder("train.jsonl", path.read_text(encoding="utf-8"))
    options = {"where": {"category.privacy_violation": True}}
    hub = Source(hub=str(folder), revision="0" * 40, split="train", **options)
    from_hub, metadata = make(hub, tmp_path, n=5, seed=3)
    from_file, _ = make(path, tmp_path, n=5, seed=3, **options)
    assert pairs(from_hub) == pairs(from_file)
    assert [row["id"] for row in from_hub] == [row["id"] for row in from_file]
    said = {"hub": str(folder), "revision": "0" * 40, "split": "train", "duplicates": "error"} | options
    assert metadata["source"] == said
    assert {row["source"] for row in from_hub} == {f"{folder}@{'0' * 40}:train"}


@pytest.mark.parametrize("split", ["test", None])
def test_a_hub_split_that_is_not_there_or_not_said(hub_folder, tmp_path, split):
    folder = hub_folder("train.jsonl", json.dumps(numbered(1)[0]))
    with pytest.raises(UncoupleError, match="split") as caught:
        make(Source(hub=str(folder), revision="0" * 40, split=split), tmp_path, n=1)
    assert str(folder) in str(caught.value)
    assert "train" in str(caught.value)


def test_a_hub_data_set_that_is_broken(hub_folder, tmp_path):
    folder = hub_folder("train.jsonl", '{"prompt": 1\n{"a"')
    with pytest.raises(UncoupleError, match=re.escape(str(folder))):
        make(Source(hub=str(folder), revision="0" * 40, split="train"), tmp_path, n=1)


def test_a_hub_data_set_that_is_not_there(tmp_path):
    with pytest.raises(UncoupleError, match="nothing-here"):
        make(Source(hub=str(tmp_path / "nothing-here"), revision="0" * 40, split="train"), tmp_path, n=1)


# Data that is not right


@pytest.mark.parametrize("name", ["none.csv", "none.jsonl", "none.parquet"])
def test_a_file_that_is_missing(tmp_path, name):
    refused(tmp_path / name, tmp_path, "no such file")


@pytest.mark.parametrize("name", ["raw.csv", "raw.jsonl", "raw.parquet"])
def test_a_file_that_is_empty(tmp_path, name):
    (tmp_path / name).touch()
    refused(tmp_path / name, tmp_path, "empty")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_file_without_rows(tmp_path, kind):
    path = tmp_path / f"raw.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"prompt": pa.array([], pa.string()), "response": pa.array([], pa.string())}), path)
    else:
        path.write_text("prompt,response\n" if kind == "csv" else "\n\n")
    refused(path, tmp_path, "no rows")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_file_without_the_columns(write_jsonl, tmp_path, kind):
    rows = [{"question": "q", "response": "r"}]
    if kind == "jsonl":
        path = write_jsonl("raw.jsonl", rows)
    else:
        path = {"csv": write_csv, "parquet": write_parquet}[kind](tmp_path / f"raw.{kind}", rows)
    refused(path, tmp_path, "'prompt'", "question, response", "`columns`")


def test_a_named_column_that_is_not_there(write_jsonl, tmp_path):
    path = write_jsonl("raw.jsonl", numbered(2))
    refused(path, tmp_path, "'instruction'", "prompt, response", columns={"prompt": ["instruction"]})


@pytest.mark.parametrize("empty", ["", "  \n ", None])
def test_an_empty_response(write_jsonl, tmp_path, empty):
    rows = numbered(5)
    rows[3]["response"] = empty
    refused(write_jsonl("raw.jsonl", rows), tmp_path, "row 4", "response")


def test_a_csv_row_that_stops_early(tmp_path):
    (tmp_path / "raw.csv").write_text("prompt,response\na,b\nc\n")
    refused(tmp_path / "raw.csv", tmp_path, "row 2", "response")


def test_the_row_named_is_that_of_the_file_not_of_the_filtered_rows(write_jsonl, tmp_path):
    rows = [row | {"keep": i >= 3} for i, row in enumerate(numbered(6))]
    rows[4]["response"] = ""
    refused(write_jsonl("raw.jsonl", rows), tmp_path, "row 5", where={"keep": True})
    rows[4] = rows[5]
    refused(write_jsonl("raw.jsonl", rows), tmp_path, "rows 5 and 6", where={"keep": True})


def test_a_response_that_is_not_text(write_jsonl, tmp_path):
    rows = numbered(3)
    rows[1]["response"] = 5
    refused(write_jsonl("raw.jsonl", rows), tmp_path, "row 2", "response", "not text")


@pytest.mark.parametrize("name", ["raw.csv", "raw.jsonl"])
def test_a_file_that_is_not_utf8(tmp_path, name):
    lines = ["prompt,response", "a,b", "où,là"] if name.endswith("csv") else ['{"prompt": "a"}', "", '{"prompt": "où"}']
    (tmp_path / name).write_bytes("\n".join(lines).encode("latin-1"))
    refused(tmp_path / name, tmp_path, "line 3", "UTF-8")


def test_a_filter_that_nothing_passes(write_jsonl, tmp_path):
    path = write_jsonl("raw.jsonl", [row | {"keep": False} for row in numbered(3)])
    with pytest.raises(UncoupleError, match=r"raw\.jsonl.*no row of 3.*keep"):
        make(path, tmp_path, n=1, where={"keep": True})


def test_a_filter_on_a_column_that_is_not_there(write_jsonl, tmp_path):
    path = write_jsonl("raw.jsonl", NESTED)
    with pytest.raises(UncoupleError, match=r"raw\.jsonl.*category\.nothing.*prompt, response"):
        make(path, tmp_path, n=1, where={"category.nothing": True})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param('prompt,response\na,b\n"c"d,e\n', "line 3", id="text after a quote"),
        pytest.param('prompt,response\na,b\nc,"d\n', "line 3", id="quote never closed"),
        pytest.param("prompt,response\na,b\nc,d,e\n", "row 2", id="too many fields"),
    ],
)
def test_malformed_csv(tmp_path, text, line):
    (tmp_path / "raw.csv").write_text(text)
    refused(tmp_path / "raw.csv", tmp_path, line)


@pytest.mark.parametrize("broken", ['{"prompt": "a", "response"', "[1, 2]", '{"prompt": "a"} {"prompt": "b"}', "text"])
def test_malformed_json_line(tmp_path, broken):
    (tmp_path / "raw.jsonl").write_text(f'{{"prompt": "a", "response": "b"}}\n\n{broken}\n')
    refused(tmp_path / "raw.jsonl", tmp_path, "line 3", "JSON")


def test_malformed_parquet(tmp_path):
    whole = write_parquet(tmp_path / "whole.parquet", numbered(50)).read_bytes()
    for content in (whole[:-20], b"prompt,response\na,b\n"):
        (tmp_path / "raw.parquet").write_bytes(content)
        refused(tmp_path / "raw.parquet", tmp_path, "Parquet")


@pytest.mark.parametrize("column", ["response", "about"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_nul_byte(write_jsonl, tmp_path, kind, column):
    """In a column that is read, and in one that is not, nested where the format has that."""
    rows = [row | {"about": "x" if kind == "csv" else {"by": ["x", "y"]}} for row in numbered(3)]
    rows[1][column] = "a\0b" if kind == "csv" or column == "response" else {"by": ["x", "a\0b"]}
    write = {"csv": write_csv, "parquet": write_parquet, "jsonl": lambda path, rows: write_jsonl(path.name, rows)}[kind]
    refused(write(tmp_path / f"raw.{kind}", rows), tmp_path, "row 2", f"column '{column}'", "NUL")


def test_a_nul_byte_in_a_row_that_the_filter_leaves_out_is_no_fault(tmp_path):
    path = write_csv(tmp_path / "raw.csv", [*numbered(1), {"prompt": "a\0", "response": "b"}])
    assert len(passed(path, response="answer 0.")) == 1


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_column_named_twice(tmp_path, kind):
    """Its first value would be lost without a word."""
    path, names = tmp_path / f"raw.{kind}", ["prompt", "response", "prompt"]
    if kind == "parquet":
        pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], names), path)
    else:
        path.write_text(
            '{"prompt": "a", "response": "b", "prompt": "c"}\n' if kind == "jsonl" else f"{','.join(names)}\na,b,c\n"
        )
    refused(path, tmp_path, "the column 'prompt' is named twice")


def test_columns_without_a_name_are_no_fault(tmp_path):
    """As a spreadsheet writes them at the right."""
    (tmp_path / "raw.csv").write_text("prompt,response,,\na,b,,\n")
    assert passed(tmp_path / "raw.csv") == [("a", "b")]


@pytest.mark.parametrize("name", ["raw.txt", "raw.xlsx", "raw"])
def test_a_suffix_that_is_not_known(tmp_path, name):
    (tmp_path / name).write_text("prompt,response\na,b\n")
    refused(Source.model_construct(path=str(tmp_path / name)), tmp_path, ".csv, .jsonl, .parquet")
