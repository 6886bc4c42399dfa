"""Tables and records: they come back, and clear words where one is broken."""

import dataclasses
import errno
import hashlib
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uncouple.errors import UncoupleError
from uncouple.records import files
from uncouple.records.checks import within
from uncouple.records.files import (
    digest,
    file_sha256,
    read_any,
    read_json,
    read_record,
    read_table,
    write_json,
    write_record,
    write_table,
)
from uncouple.records.fingerprint import fingerprint
from uncouple.records.formats import FORMATS, Format

METADATA = {"kind": "mask", "version": 1, "code": "0" * 16, "über": ["a", {"b": None}], "ratio": 1e-5}
# A format of each test's own columns, under the names of two that there are.
MASK = Format("mask", version=1, columns={"index": "int64"})
SAMPLES = Format("samples", version=1, columns={"index": "int64"})


@pytest.fixture
def table_file(tmp_path):
    """A mask file of a thousand rows, alone in its folder."""
    path = tmp_path / "tables/mask.parquet"
    write_table(pa.table({"index": list(range(1000))}), path, MASK, METADATA)
    return path


# Tables


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_within_a_table(table_file, monkeypatch, number):
    before = table_file.read_bytes()

    def write_half(table, where, **options):
        where.write_bytes(before[:100])
        raise OSError(number, "no space")

    monkeypatch.setattr(pq, "write_table", write_half)
    with pytest.raises(UncoupleError, match=r"mask\.parquet: the disk is full.*free some space"):
        write_table(pa.table({"index": [1]}), table_file, MASK, METADATA)
    assert table_file.read_bytes() == before
    assert os.listdir(table_file.parent) == ["mask.parquet"]


def test_a_table_comes_back_with_its_metadata(tmp_path):
    form = Format("mask", version=1, columns={"name": "string?", "value": "float32?", "flag": "bool?"})
    rows = [{"name": "Zoë\n", "value": 0.5, "flag": True}, {"name": None, "value": None, "flag": None}]
    for number, table in enumerate((rows, pa.Table.from_pylist(rows, schema=form.schema({})))):
        write_table(table, tmp_path / f"{number}.parquet", form, METADATA)
        read, metadata = read_table(tmp_path / f"{number}.parquet", form)
        assert read.to_pylist() == rows
        assert read.schema.equals(form.schema({}))
        assert metadata == METADATA


TABLES = [known for known in FORMATS.values() if known.columns]


@pytest.mark.parametrize("known", TABLES, ids=lambda known: known.kind)
def test_every_kind_of_table_says_what_code_made_it(tmp_path, known):
    form = Format(known.kind, known.version, columns={"index": "int64"}, made_by=known.made_by)
    write_table([{"index": 1}], tmp_path / "t.parquet", form, {})
    assert read_table(tmp_path / "t.parquet", form)[1]["code"] == fingerprint(known.made_by)


def test_the_same_table_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_table(pa.table({"index": [1, 2]}), tmp_path / name, MASK, METADATA)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_folder_name_with_an_equals_sign_adds_no_column(tmp_path):
    write_table(pa.table({"index": [1]}), tmp_path / "n=3/t.parquet", MASK, METADATA)
    assert read_table(tmp_path / "n=3/t.parquet", MASK)[0].column_names == ["index"]


WRONG = {
    "a column less": ({"value": [1.0]}, r"there is no column index; a column value, which this kind"),
    "a column more": ({"index": [1], "value": [1.0]}, r"a column value, which this kind of file does not have"),
    "another type": ({"index": [1.0]}, r"the column index is of type double, and should be int64"),
    "a null": ({"index": pa.array([1, None], pa.int64())}, r"the column index has 1 rows without a value"),
    "a row": ({"index": [1, 2, -1]}, r"row 2: index is not within 0 and 9 \(it is -1\)"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_table_that_is_not_as_its_format_says_is_not_written(table_file, what):
    columns, told = WRONG[what]
    form, before = Format("mask", version=1, columns={"index": "int64"}, checks=(within("index", 0, 9),)), [table_file]
    content = table_file.read_bytes()
    with pytest.raises(UncoupleError, match=rf"mask\.parquet: this mask is not as it should be: {told}.*a fault of Un"):
        write_table(pa.table(columns), table_file, form, METADATA)
    assert [*table_file.parent.iterdir()] == before
    assert table_file.read_bytes() == content


@pytest.mark.parametrize("what", [what for what in WRONG if what != "a row"])
def test_nor_read(tmp_path, what):
    """What another version of the code wrote under the same number."""
    columns, told = WRONG[what]
    files._write_sealed_table(pa.table(columns), tmp_path / "t.parquet", METADATA)
    with pytest.raises(
        UncoupleError, match=rf"t\.parquet: this mask is not as it should be: {told}.*Delete it and run"
    ):
        read_table(tmp_path / "t.parquet", MASK)


def test_a_record_that_says_too_little(tmp_path):
    form = Format("mask", version=1, keys=("ratio", "model.name", "model.size", "seed"), columns={"index": "int64"})
    record, told = {"model": {"name": "m"}, "ratio": 1}, r"its record does not say model\.size, seed"
    with pytest.raises(UncoupleError, match=told):
        write_table([{"index": 1}], tmp_path / "t.parquet", form, record)
    with pytest.raises(UncoupleError, match=told):
        write_record(tmp_path / "t.json", form, record)
    assert not list(tmp_path.iterdir())
    write_table([{"index": 1}], tmp_path / "t.parquet", MASK, record)
    write_record(tmp_path / "t.json", Format("mask", version=1), record)
    for read, name in ((read_table, "t.parquet"), (read_record, "t.json")):
        with pytest.raises(UncoupleError, match=rf"{name}: .*{told}\. Delete it"):
            read(tmp_path / name, form)


def test_a_file_of_any_kind_is_known_by_what_it_says(tmp_path):
    write_record(tmp_path / "x.json", FORMATS["hashes"], {"files": {}})
    table = [{"model": "m", "select": "coupled", "ratio": 0.1, "n": 1, "coupled": 1, "of": 2}]
    write_table(table, tmp_path / "t.parquet", FORMATS["coupling"], {"dimensions": []})
    assert read_any(tmp_path / "x.json") == (None, {"kind": "hashes", "version": 1, "files": {}})
    found, record = read_any(tmp_path / "t.parquet")
    assert (found.to_pylist(), record["kind"]) == (table, "coupling")
    for name, kind in (("x.json", "coupling"), ("x.json", "riddle"), ("t.parquet", "hashes")):
        path = tmp_path / f"other-{name}"
        form = Format(kind, version=1, columns={"index": "int64"} if "t." in name else None)
        write_table([{"index": 1}], path, form, {}) if "t." in name else write_record(path, form, {})
        with pytest.raises(UncoupleError, match=rf"other-{name}: of the kind `{kind}`, which this code does not know"):
            read_any(path)
    with pytest.raises(UncoupleError, match=r"none\.json: no such file"):
        read_any(tmp_path / "none.json")


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(UncoupleError, match=r"none\.parquet: no such file.*mask"):
        read_table(tmp_path / "none.parquet", MASK)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_table(table_file, share):
    whole = table_file.read_bytes()
    table_file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UncoupleError, match=r"mask\.parquet: not a readable.*Delete it and run"):
        read_table(table_file, MASK)


def test_a_table_that_is_not_parquet(table_file):
    table_file.write_text("prompt,response\na,b\n" * 50)
    with pytest.raises(UncoupleError, match=r"mask\.parquet: not a readable Parquet file.*Delete it and run"):
        read_table(table_file, MASK)


def test_a_table_with_spoilt_data(table_file):
    whole = bytearray(table_file.read_bytes())
    whole[4:400] = bytes(396)
    table_file.write_bytes(whole)
    with pytest.raises(UncoupleError, match=r"mask\.parquet: its bytes are not those that were written.*Delete it and"):
        read_table(table_file, MASK)


def test_a_table_of_another_kind(table_file):
    with pytest.raises(
        UncoupleError, match=r"mask\.parquet: a file of kind `samples` was expected, and this is one of kind `mask`"
    ):
        read_table(table_file, SAMPLES)


def test_a_table_that_is_not_ours(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "theirs.parquet")
    with pytest.raises(
        UncoupleError,
        match=r"theirs\.parquet: a file of kind `mask` was expected, and this is none that Uncouple wrote",
    ):
        read_table(tmp_path / "theirs.parquet", MASK)


def test_a_table_of_another_version(tmp_path):
    write_table([{"index": 1}], tmp_path / "t.parquet", MASK, METADATA | {"version": 2})
    with pytest.raises(UncoupleError, match=r"t\.parquet: mask of format version 2.*reads version 1.*Delete it"):
        read_table(tmp_path / "t.parquet", MASK)
    assert read_table(tmp_path / "t.parquet", dataclasses.replace(MASK, version=2))[1]["version"] == 2


# JSON and hashes


def test_json_comes_back(tmp_path):
    value = {"b": [1, None, "é"], "a": {"x": 1e-5}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value


def test_json_that_is_missing_or_broken(tmp_path):
    with pytest.raises(UncoupleError, match=r"none\.json: no such record"):
        read_json(tmp_path / "none.json", "record")
    for content in (b'{"a": ', b"\xff\xfe", b""):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(UncoupleError, match=r"x\.json: this record is not valid JSON"):
            read_json(tmp_path / "x.json", "record")


MODEL = Format("model", version=3, keys=("a",))
RECORD = {"kind": "model", "version": 3, "über": [1e-5, None], "a": "uncouple-sha256:"}


def test_a_record_comes_back_and_can_be_read_by_a_person(tmp_path):
    write_record(tmp_path / "x.json", MODEL, RECORD)
    assert read_record(tmp_path / "x.json", MODEL) == RECORD
    assert '"kind": "model",\n' in (tmp_path / "x.json").read_text()


def test_a_record_that_was_edited_is_refused(tmp_path):
    write_record(tmp_path / "x.json", MODEL, RECORD)
    text = (tmp_path / "x.json").read_text()
    (tmp_path / "x.json").write_text(text.replace("1e-05", "2e-05"))
    with pytest.raises(UncoupleError, match=r"x\.json: its bytes are not those that were written.*edited.*Delete it"):
        read_record(tmp_path / "x.json", MODEL)


def test_records_and_tables_are_not_taken_for_each_other(table_file, tmp_path):
    write_record(tmp_path / "x.json", MODEL, RECORD)
    with pytest.raises(UncoupleError, match=r"x\.json: not a readable Parquet file"):
        read_table(tmp_path / "x.json", MODEL)
    with pytest.raises(UncoupleError, match=r"mask\.parquet: this mask is not valid JSON"):
        read_record(table_file, MASK)
    with pytest.raises(UncoupleError, match="tables: this mask cannot be read"):
        read_table(table_file.parent, MASK)


def test_other_readers_can_verify_the_pages_of_a_table(table_file):
    """And read it, seal or not."""
    assert pq.read_table(table_file, page_checksum_verification=True).num_rows == 1000
    content = bytearray(table_file.read_bytes())
    start = pq.ParquetFile(table_file).metadata.row_group(0).column(0).total_compressed_size
    content[start // 2] ^= 1
    table_file.write_bytes(content)
    with pytest.raises(OSError, match="(?i)crc|checksum"):
        pq.read_table(table_file, page_checksum_verification=True)


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_the_hash_of_a_file(tmp_path, size):
    data = bytes(i % 251 for i in range(size))
    (tmp_path / "x").write_bytes(data)
    assert file_sha256(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_a_digest_keeps_its_parts_apart():
    prints = [digest(*parts) for parts in (("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("", "abc"), ())]
    assert len(set(prints)) == len(prints)
    assert all(len(text) == 16 and int(text, 16) >= 0 for text in prints)
    assert digest("é") == digest("é".encode())
