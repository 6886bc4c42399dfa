"""Raw data to tables: what is drawn, what is read, and what is said about data that is not right."""

import csv
import json
import re

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uncouple.data.samples import draw, make_questions, make_samples
from uncouple.data.sources import Source, check_rows, read_rows
from uncouple.errors import UncoupleError
from uncouple.records.files import read_table
from uncouple.records.formats import QUESTIONS, SAMPLES

# The words that a message about bad data tells the reader what to do with.
REMEDY = re.compile(
    r"\b(Add|Check|Close|Convert|Delete|Fill|Give|Make|Put|Quote|Remove|Save|Say|Set|Use|Write|must be one of)\b"
)
AWKWARD = [
    {"prompt": 'Say "hello", then stop.', "response": "Hello, and\nstop."},
    {"prompt": "Où est l’été ?", "response": "Ici — tout près 🙂"},
    {"prompt": "  spaces around  ", "response": "a\ttab, a comma, and \\n that is no line break"},
    {"prompt": "null", "response": "NA"},
    {"prompt": "1", "response": "1.0"},
]


def numbered(count):
    return [{"prompt": f"question {i}?", "response": f"answer {i}."} for i in range(count)]


def write_csv(path, rows, columns=None):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def pairs(rows):
    return [(row["prompt"], row["response"]) for row in rows]


def passed(path, **where):
    """The pairs of a file that pass a filter, in their order."""
    source = Source(path=str(path), where={key.replace("__", "."): value for key, value in where.items()})
    return pairs(check_rows(read_rows(source), {"prompt": ["prompt"], "response": ["response"]}, source))


def make(source, tmp_path, n=3, seed=0, **options):
    """The rows and metadata that make_samples writes of a source (a path, or a Source)."""
    source = source if isinstance(source, Source) else Source(path=str(source), **options)
    output = tmp_path / "made.parquet"
    make_samples(source, "fairness", "safe", n, seed, output)
    table, metadata = read_table(output, SAMPLES)
    return table.to_pylist(), metadata


def refused(source, tmp_path, *parts, n=1, seed=0, **options):
    """Check that a source is refused in one line that has all `parts` and says what to do; give the line."""
    with pytest.raises(UncoupleError) as caught:
        make(source, tmp_path, n=n, seed=seed, **options)
    message = str(caught.value)
    for part in (str(source.path if isinstance(source, Source) else source), *parts):
        assert part in message
    assert REMEDY.search(message), f"no word about what to do: {message}"
    assert "\n" not in message
    assert not (tmp_path / "made.parquet").exists()
    return message


# What is drawn


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_draw_is_what_datasets_draws(data):
    total = data.draw(st.integers(1, 400), "total")
    n = data.draw(st.integers(1, total), "n")
    seed = data.draw(st.integers(0, 2**32 - 1), "seed")
    theirs = datasets.Dataset.from_dict({"row": list(range(total))}).shuffle(seed=seed).select(range(n))
    assert draw(total, n, seed).tolist() == list(theirs["row"])


@pytest.mark.parametrize(("n", "seed"), [(1, 0), (20, 0), (20, 7), (50, 123456789)])
def test_samples_of_a_file_are_what_datasets_draws(write_jsonl, tmp_path, n, seed):
    rows = numbered(50)
    made, metadata = make(write_jsonl("raw.jsonl", rows), tmp_path, n, seed)
    assert pairs(made) == pairs(datasets.Dataset.from_list(rows).shuffle(seed=seed).select(range(n)))
    assert (metadata["n"], metadata["seed"], metadata["available"]) == (n, seed, 50)


def test_every_row_says_its_dimension_label_and_source(write_jsonl, tmp_path):
    path = write_jsonl("raw.jsonl", numbered(5))
    made, metadata = make(path, tmp_path)
    assert {(row["dimension"], row["label"], row["source"]) for row in made} == {("fairness", "safe", str(path))}
    assert (metadata["kind"], metadata["dimension"], metadata["label"]) == ("samples", "fairness", "safe")


def test_questions_are_taken_in_order_without_a_count_and_drawn_with_one(write_jsonl, tmp_path):
    rows = [{"question": f"question {i}?"} for i in range(30)]
    source = Source(path=str(write_jsonl("raw.jsonl", rows)))
    make_questions(source, "privacy", None, 3, tmp_path / "all.parquet")
    make_questions(source, "privacy", 10, 3, tmp_path / "ten.parquet")
    theirs = datasets.Dataset.from_list(rows).shuffle(seed=3).select(range(10))
    assert [row["question"] for row in read_table(tmp_path / "all.parquet", QUESTIONS)[0].to_pylist()] == [
        r["question"] for r in rows
    ]
    assert [row["question"] for row in read_table(tmp_path / "ten.parquet", QUESTIONS)[0].to_pylist()] == theirs[
        "question"
    ][:]


def test_a_draw_of_less_than_one_row_is_refused(write_jsonl, tmp_path):
    path = write_jsonl("raw.jsonl", numbered(5))
    for n in (0, -1):
        refused(path, tmp_path, "n is", str(n), n=n)


def test_a_negative_seed_is_refused(write_jsonl, tmp_path):
    refused(write_jsonl("raw.jsonl", numbered(5)), tmp_path, "seed", "-1", seed=-1)


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


def test_the_same_content_has_the_same_id_in_another_draw(write_jsonl, tmp_path):
    path = write_jsonl("raw.jsonl", numbered(40))
    one = {row["prompt"]: row["id"] for row in make(path, tmp_path, n=30, seed=1)[0]}
    other = {row["prompt"]: row["id"] for row in make(path, tmp_path, n=30, seed=2)[0]}
    shared = one.keys() & other.keys()
    assert len(shared) >= 20
    assert {one[prompt] for prompt in shared} == {other[prompt] for prompt in shared}
    assert all(one[prompt] == other[prompt] for prompt in shared)
    assert len(set(one.values())) == 30


def test_the_fingerprint_follows_what_is_drawn(write_jsonl, tmp_path):
    path = write_jsonl("raw.jsonl", numbered(40))
    prints = [make(path, tmp_path, n, seed)[1]["fingerprint"] for n, seed in [(30, 1), (30, 1), (29, 1), (30, 2)]]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_repeats_get_a_number_after_their_id(write_jsonl, tmp_path):
    row = {"prompt": "p", "response": "r"}
    path = write_jsonl("raw.jsonl", [row, row, {"prompt": "q", "response": "r"}, row])
    made, _ = make(path, tmp_path, n=4, duplicates="keep")
    ids = [r["id"] for r in made if r["prompt"] == "p"]
    assert ids == [ids[0], f"{ids[0]}-2", f"{ids[0]}-3"]
    assert len({r["id"] for r in made}) == 4


def test_dropped_duplicates_leave_each_row_once(write_jsonl, tmp_path):
    rows = numbered(10)
    path = write_jsonl("raw.jsonl", [row for row in rows for _ in range(2)])
    made, metadata = make(path, tmp_path, n=10, duplicates="drop")
    assert metadata["available"] == 10
    assert pairs(made) == pairs(datasets.Dataset.from_list(rows).shuffle(seed=0).select(range(10)))


def test_kept_duplicates_are_drawn_among(write_jsonl, tmp_path):
    rows = [row for row in numbered(10) for _ in range(2)]
    made, metadata = make(write_jsonl("raw.jsonl", rows), tmp_path, n=15, seed=2, duplicates="keep")
    assert metadata["available"] == 20
    assert pairs(made) == pairs(datasets.Dataset.from_list(rows).shuffle(seed=2).select(range(15)))


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


def test_rows_that_are_the_same(write_jsonl, tmp_path):
    rows = numbered(6)
    path = write_jsonl("raw.jsonl", [*rows, rows[2], rows[2]])
    refused(path, tmp_path, "rows 3 and 7", "2 such repeats", "duplicates: drop", "duplicates: keep")


def test_more_wanted_than_there_is(write_jsonl, tmp_path):
    refused(write_jsonl("raw.jsonl", numbered(5)), tmp_path, "n is 6", "only 5 rows", "Set n to 5 or less", n=6)


def test_more_wanted_than_passes_the_filter_or_is_left_of_repeats(write_jsonl, tmp_path):
    filtered = write_jsonl("filtered.jsonl", [row | {"keep": i < 2} for i, row in enumerate(numbered(5))])
    refused(filtered, tmp_path, "only 2 rows", n=3, where={"keep": True})
    repeated = write_jsonl("repeated.jsonl", numbered(2) * 3)
    refused(repeated, tmp_path, "only 2 rows", n=3, duplicates="drop")


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


def test_a_label_that_is_not_known(write_jsonl, tmp_path):
    with pytest.raises(UncoupleError, match="'harmless'.*safe, unsafe"):
        make_samples(
            Source(path=str(write_jsonl("raw.jsonl", numbered(2)))), "fairness", "harmless", 1, 0, tmp_path / "x"
        )


# The data that the published code draws from


def test_real_data_with_repeats_is_refused_until_told_what_to_do(real_data, tmp_path):
    path = real_data / "seed/beaver_train330k_privacy_safe_1k.csv"
    refused(path, tmp_path, "614 such repeats", n=128)
    assert make(path, tmp_path, n=128, duplicates="drop")[1]["available"] == 386


@pytest.mark.parametrize("name", ["beaver_train330k_privacy_safe_1k", "alpaca_cleaned_no_safety_train_1k"])
def test_real_data_gives_what_datasets_reads_and_draws(real_data, tmp_path, name):
    path = real_data / f"seed/{name}.csv"
    read = datasets.load_dataset("csv", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    for seed in (0, 42):
        made, metadata = make(path, tmp_path, n=128, seed=seed, duplicates="keep")
        assert metadata["available"] == 1000
        assert pairs(made) == pairs(read.shuffle(seed=seed).select(range(128)))


def test_real_questions_are_all_read(real_data, tmp_path):
    for dimension, count in (("fairness", 2165), ("privacy", 657)):
        source = Source(path=str(real_data / f"seed/salad_{dimension}.csv"), columns={"question": ["questions"]})
        make_questions(source, dimension, None, 0, tmp_path / "made.parquet")
        assert len(read_table(tmp_path / "made.parquet", QUESTIONS)[0].to_pylist()) == count
