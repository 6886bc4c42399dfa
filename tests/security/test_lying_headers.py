"""A header that promises what the file does not hold is told before memory is taken for it."""

import json
import re
import struct
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.raw import numbered
from security.test_fuzzing import write_gguf

from uncouple.data.sources import Source, read_rows
from uncouple.errors import UncoupleError
from uncouple.models import gguf
from uncouple.models.weights import WeightFiles, read_header
from uncouple.records import parsing
from uncouple.records.limits import bounded


def tensor(first=0, last=8, dtype="F32", shape=(2,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


def write(path, header, data=bytes(8), length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


LIES = {
    "overlap": {"a": tensor(), "b": tensor()},
    "half an overlap": {"a": tensor(), "b": tensor(4, 12)},
    "hole at the start": {"a": tensor(4, 12)},
    "hole between": {"a": tensor(0, 4, shape=(1,)), "b": tensor(8, 12, shape=(1,))},
    "past the end": {"a": tensor(0, 80, shape=(20,))},
    "far past the end": {"a": tensor(2**62, 2**62 + 8)},
    "backwards": {"a": tensor(8, 0)},
    "size that overflows": {"a": tensor(shape=(2**32, 2**32))},
    "size that overflows to what is there": {"a": tensor(shape=(2**62, 4, 2))},
    "size that overflows, of a dtype that is not known": {"a": tensor(dtype="F4", shape=(2**62, 4))},
    "fewer bytes than its shape": {"a": tensor(shape=(3,))},
    "size beyond all": {"a": tensor(shape=(10**300,))},
    "very many dimensions": {"a": tensor(shape=[2] * 100_000)},
    "negative shape": {"a": tensor(shape=(-2, -1))},
    "negative offset": {"a": tensor(-8, 0)},
    "shape of text": {"a": tensor(shape=("2",))},
    "shape of truth": {"a": tensor(0, 4, shape=(True,))},
    "fraction": {"a": tensor(0.0, 8.0)},
    "NaN": b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}',
    "a name twice": b'{"a": ' + json.dumps(tensor()).encode() + b', "a": ' + json.dumps(tensor()).encode() + b"}",
    "a key twice": b'{"a": {"dtype": "F32", "dtype": "F16", "shape": [2], "data_offsets": [0, 8]}}',
    "dtype that is none": {"a": tensor(dtype=3)},
    "list": [1, 2],
    "text": "a",
    "nested": b"[" * 200_000,
    "very long number": b'{"a": ' + b"9" * 10_000 + b"}",
    "no JSON": b"\xff\xfe{",
}


@pytest.mark.parametrize("header", LIES.values(), ids=LIES)
def test_a_lie_in_safetensors_is_told(header, tmp_path):
    with pytest.raises(UncoupleError, match="not a whole safetensors file") as caught:
        read_header(write(tmp_path / "model.safetensors", header))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("length", [2**60, 2**64 - 1, 10**9, 0, 1])
def test_a_lie_about_the_header_is_told(length, tmp_path):
    told = "its header does not fit" if length > 1 else "its header is not as it should be"
    with pytest.raises(UncoupleError, match=f"not a whole safetensors file .{told}"):
        read_header(write(tmp_path / "model.safetensors", {"a": tensor()}, length=length))


def test_a_header_that_is_the_whole_of_a_large_file_is_not_read(tmp_path):
    path = tmp_path / "model.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 3 * 10**9))
        file.truncate(3 * 10**9 + 8)
    with pytest.raises(UncoupleError, match="its header has 3,000,000,000 bytes"):
        read_header(path)


def test_many_tensors_on_the_same_bytes_are_told(tmp_path):
    path = write(tmp_path / "model.safetensors", {str(i): tensor() for i in range(100_000)})
    with pytest.raises(UncoupleError, match="overlap"):
        WeightFiles(tmp_path)
    assert path.exists()


def test_an_honest_header_is_read(tmp_path):
    header = {
        "__metadata__": {"a": "b"},
        "b": tensor(8, 12, "F16", (2,)),
        "a": tensor(),
        "c": tensor(12, 12, shape=(0,)),
    }
    start = 8 + len(json.dumps(header))
    found = read_header(write(tmp_path / "model.safetensors", header, bytes(12)))
    assert found == {"a": ("F32", (2,), start), "b": ("F16", (2,), start + 8), "c": ("F32", (0,), start + 12)}


# Parquet: a small file that becomes a large table.


READ = """
import resource, sys
import pyarrow.parquet
from uncouple.data.sources import Source, read_rows
from uncouple.errors import UncoupleError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_rows(Source(path=sys.argv[1]))
except UncoupleError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt": pa.nulls(10**8), "response": pa.nulls(10**8)},
        {"prompt": pa.DictionaryArray.from_arrays(np.zeros(2 * 10**5, np.int32), ["a" * 50_000])},
        {"prompt": pa.array(["a" * (4 * 10**8)])},
        {"prompt": pa.array([[0] * (3 * 10**7)], pa.list_(pa.int64()))},
    ],
    ids=["rows", "one text", "long text", "list"],
)
def test_a_small_table_that_becomes_a_large_one_is_told(columns, tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path, compression="zstd")
    names = [*columns]
    del columns
    assert path.stat().st_size < 10**6
    # In a process of its own: what others freed there could be taken without any more from the system.
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True)
    said, taken = done.stdout.rsplit(None, 1)
    told = "it says that there are" if "response" in names else "it takes more than|not a readable"
    assert re.search(rf"a\.parquet: ({told})", said), done
    assert int(taken) * 1024 < 2 * parsing.ROOM


def test_an_honest_table_is_read(tmp_path):
    rows = numbered(20_000)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert list(read_rows(Source(path=str(tmp_path / "a.parquet"))).values()) == rows


def test_text_that_is_no_utf8_is_told(tmp_path):
    wrong = pa.array([b"\xff\xfe"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": wrong, "response": wrong}), tmp_path / "a.parquet")
    with pytest.raises(UncoupleError, match="not a readable Parquet file"):
        read_rows(Source(path=str(tmp_path / "a.parquet")))


# GGUF


@pytest.mark.parametrize("field", ["version", "tensors", "keys", "key", "list", "nested", "nothing"])
def test_a_lie_in_gguf_is_told(field, tmp_path):
    data = bytearray(write_gguf(tmp_path / "a.gguf").read_bytes())
    gguf.check_gguf(tmp_path / "a.gguf")
    tokens = data.find(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens")
    places = {"version": (4, 4, 9), "tensors": (8, 8, 2**60), "keys": (16, 8, 2**60), "key": (24, 8, 2**63)}
    places |= {"list": (tokens + 8, 8, 2**60), "nested": (tokens + 4, 4, 9), "nothing": (0, 4, 0)}
    place, size, value = places[field]
    data[place : place + size] = value.to_bytes(size, "little")
    (tmp_path / "a.gguf").write_bytes(data)
    with pytest.raises(UncoupleError, match=r"a\.gguf: not a GGUF model that can be read"):
        gguf.convert_gguf(tmp_path, "a.gguf", tmp_path / "made")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("place", "size", "value", "said"),
    [(0, 4, 2**30, "a tensor of 1073741824 dimensions"), (4, 8, 2**40, "weights in")],
)
def test_a_lie_about_a_tensor_of_gguf_is_told(place, size, value, said, tmp_path):
    data = bytearray(write_gguf(tmp_path / "a.gguf").read_bytes())
    place += data.rfind(b"token_embd.weight") + len(b"token_embd.weight")
    data[place : place + size] = value.to_bytes(size, "little")
    (tmp_path / "a.gguf").write_bytes(data)
    with pytest.raises(UncoupleError, match=said):
        gguf.check_gguf(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("llama.block_count", 2**31, "2,147,483,648 layers in 12 tensors"),
        ("llama.block_count", 2, r"its config is of a model of 5,\d{3} weights, and it holds 4,\d{3}"),
        ("llama.feed_forward_length", 2**25, r"its config is of a model of 805,\d{3},\d{3} weights"),
    ],
)
def test_a_model_that_its_gguf_does_not_hold_is_refused(key, value, said, tmp_path):
    """The rest would be drawn at random."""
    data = bytearray(write_gguf(tmp_path / "a.gguf").read_bytes())
    place = data.find(key.encode()) + len(key) + 4
    data[place : place + 4] = value.to_bytes(4, "little")
    (tmp_path / "a.gguf").write_bytes(data)
    with pytest.raises(UncoupleError, match=said):
        gguf.convert_gguf(tmp_path, "a.gguf", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_what_a_block_takes_is_bounded():
    with pytest.raises(UncoupleError, match="x: it takes more than 100 MB of memory"), bounded("x", 10**8):
        bytearray(2 * 10**8)
    with pytest.raises(UncoupleError, match="x: it takes more than 1 s"), bounded("x", 10**8, 1):
        time.sleep(60)
    # And nothing after it.
    assert len(bytearray(2 * 10**8)) == 2 * 10**8
