"""Perplexity against the obvious loop: one window at a time, transformers' own loss."""

import hashlib
import json
import math
import shutil

import datasets
import numpy as np
import pytest
import torch
from conftest import FAMILY_CONFIGS, TEXTS, write_mask
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from uncouple.data.sources import Rows, Source
from uncouple.errors import UncoupleError
from uncouple.evaluation.perplexity import (
    cut_windows,
    exponentiated_mean,
    measure_perplexity,
    read_text,
    window_losses,
)
from uncouple.models.head import HEAD_BYTES
from uncouple.models.load import load_model, load_tokenizer
from uncouple.records.files import read_table
from uncouple.records.formats import METRICS

TEXT = "".join(f" \n = Part {i} = \n \n {question} \n {answer} \n" for i, (question, answer) in enumerate(TEXTS))
WINDOW = 32


@pytest.fixture
def text(tmp_path):
    """A text as WikiText-2 is written, of a few hundred tokens."""
    path = tmp_path / "text.raw"
    path.write_text(TEXT, encoding="utf-8")
    return path


def slow_join(text):
    """The rows of a text joined by a blank line, letter by letter."""
    rows, row = [], ""
    for letter in text:
        row += letter
        if letter == "\n":
            rows.append(row)
            row = ""
    if row:
        rows.append(row)
    joined = ""
    for number, row in enumerate(rows):
        if number:
            joined += "\n\n"
        if any(not letter.isspace() for letter in row):
            joined += row
    return joined


def slow_losses(model, ids, window):
    """The truth: one window at a time, and the loss that transformers itself makes of it."""
    losses = []
    while len(ids) >= window:
        first, ids = torch.tensor([ids[:window]]), ids[window:]
        with torch.no_grad():
            losses.append(float(model(input_ids=first, labels=first).loss))
    return losses


def measure(model, path, output, **changes):
    """Rows by window, the perplexity's by its name, and the metadata; the text is a file's, or that of a `source`."""
    options = {"window": WINDOW, "windows": 0, "batch_size": 3, "dtype": "float32"}
    options |= {"device": "cpu", "source": Rows(path=str(path))}
    measure_perplexity(model, output, **options | changes)
    table, record = read_table(output, METRICS)
    # The perplexity is of no window.
    rows = {row["item"] or row["metric"]: row for row in table.to_pylist()}
    assert len(rows) == len(table)
    return rows, record


def refused(model, path, tmp_path, match, **changes):
    with pytest.raises(UncoupleError, match=match):
        measure(model, path, tmp_path / "out.parquet", **changes)
    assert not (tmp_path / "out.parquet").exists()


# The text


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab= \n\t\u2028\x0b\x0c\x1cé", max_size=40))
def test_rows_are_joined_by_a_blank_line(tmp_path_factory, text):
    assume(text.strip())
    path = tmp_path_factory.getbasetemp() / "rows.raw"
    path.write_text(text, encoding="utf-8", newline="")
    assert read_text(Rows(path=str(path))) == slow_join(text)


def test_line_breaks_of_windows_and_a_mark_of_byte_order_change_nothing(tmp_path):
    (tmp_path / "a").write_bytes(TEXT.encode())
    (tmp_path / "b").write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    assert read_text(Rows(path=str(tmp_path / "a"))) == read_text(Rows(path=str(tmp_path / "b")))


def test_the_real_text_is_that_of_the_hub(real_data):
    """The Hub's test split has 4358 rows, and begins with an empty one."""
    text = read_text(Rows(path=str(real_data / "wikitext2/wiki.test.raw")))
    assert text.startswith("\n\n = Robert Boulter = \n\n\n\n\n Robert Boulter is an English film")
    raw = (real_data / "wikitext2/wiki.test.raw").read_text(encoding="utf-8")
    assert text == slow_join(raw)
    assert len(raw.split("\n")) - 1 == 4358


def hub_source(tmp_path, monkeypatch, rows):
    """A local folder stands for a data set of the Hub."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "dataset").mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "dataset/test.jsonl").write_text(lines, encoding="utf-8")
    return Source(hub=str(tmp_path / "dataset"), revision="0" * 40, split="test")


def test_a_hub_data_set_gives_what_its_file_gives(model_folder, text, tmp_path, monkeypatch):
    rows = [{"text": line + "\n" if line.strip() else ""} for line in TEXT.removesuffix("\n").split("\n")]
    hub = hub_source(tmp_path, monkeypatch, rows)
    from_hub, hub_record = measure(model_folder, None, tmp_path / "hub.parquet", source=hub)
    from_file, file_record = measure(model_folder, text, tmp_path / "file.parquet")
    assert from_hub == from_file
    assert hub_record["text"]["sha256"] == file_record["text"]["sha256"]
    assert hub_record["text"]["source"] == f"{tmp_path / 'dataset'}@{'0' * 40}:test"


@pytest.mark.parametrize("row", [{"content": "a"}, {"text": None}, {"text": 7}])
def test_a_hub_data_set_without_text_is_refused(tmp_path, monkeypatch, row):
    hub = hub_source(tmp_path, monkeypatch, [row])
    with pytest.raises(UncoupleError, match="row 1: no text in a column `text`"):
        read_text(hub)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, r"text\.raw: no such text file"),
        (b"", r"text\.raw: the file is empty"),
        (b" \n \n", r"text\.raw: the file is empty"),
        ("déjà vu".encode("latin-1"), r"text\.raw: not UTF-8.*Convert"),
        (b"one\ntw\0o\n", r"text\.raw, line 2: a NUL byte.*Remove"),
        (b"Name three rivers.", r"text\.raw: \d+ tokens, fewer than the 32 of one window\. Lower the window to \d+ or"),
    ],
)
def test_a_text_that_cannot_be_measured_is_refused(model_folder, tmp_path, content, match):
    if content is not None:
        (tmp_path / "text.raw").write_bytes(content)
    refused(model_folder, tmp_path / "text.raw", tmp_path, match)


def test_a_folder_is_refused(model_folder, tmp_path):
    refused(model_folder, tmp_path, tmp_path, "this is a folder. Name a text file")


# Windows


@given(st.integers(1, 200), st.integers(2, 40), st.integers(0, 9))
def test_windows_follow_each_other_and_the_tail_is_dropped(tokens, window, windows):
    ids = list(range(1000, 1000 + tokens))
    if tokens < window:
        with pytest.raises(UncoupleError, match=f"{tokens} tokens, fewer than the {window}"):
            cut_windows(ids, window, windows)
        return
    found = cut_windows(ids, window, windows).tolist()
    truth = [ids[start : start + window] for start in range(0, tokens, window)]
    truth = [part for part in truth if len(part) == window]
    assert found == (truth[:windows] if windows else truth)


@pytest.mark.parametrize("window", [0, 1, 257])
def test_a_window_that_the_model_does_not_take_is_refused(model_folder, text, tmp_path, window):
    refused(model_folder, text, tmp_path, f"the window is {window} tokens; this model takes 2 to 256", window=window)


def test_the_longest_window_is_the_models(model_folder, text, tmp_path):
    named, record = measure(model_folder, text, tmp_path / "a.parquet", window="max")
    assert (record["window"], named["perplexity"]["of"] % 255) == (256, 0)
    assert measure(model_folder, text, tmp_path / "b.parquet", window=None)[0] == named
    assert measure(model_folder, text, tmp_path / "c.parquet", window=256)[0] == named


# Losses


def load(folder):
    """Model, and the token ids of the text as the tokenizer itself gives them."""
    model, tokenizer = load_model(folder, "float32", "cpu"), load_tokenizer(folder)[0]
    return model, tokenizer(slow_join(TEXT))["input_ids"]


@pytest.mark.parametrize("family", FAMILY_CONFIGS)
def test_losses_equal_one_window_at_a_time(make_model, monkeypatch, family):
    model, ids = load(make_model(family))
    truth = slow_losses(model, ids, WINDOW)
    assert len(truth) > 7
    cut = cut_windows(ids, WINDOW, 0)
    for batch_size in (1, 3, 100):
        np.testing.assert_allclose(window_losses(model, cut, batch_size), truth, rtol=1e-6)
    # Parts of 5 tokens, which end neither with a window nor with a batch.
    monkeypatch.setitem(HEAD_BYTES, "cpu", 5 * 4 * model.config.vocab_size)
    np.testing.assert_allclose(window_losses(model, cut, 3), truth, rtol=1e-6)


def test_the_table_is_what_the_loop_comes_to(model_folder, text, tmp_path, capsys):
    model, ids = load(model_folder)
    truth = np.array(slow_losses(model, ids, WINDOW))
    rows, record = measure(model_folder, text, tmp_path / "out.parquet")
    assert len(ids) % WINDOW
    assert f"drops the last {len(ids) % WINDOW} tokens" in capsys.readouterr().err
    interval = stats.t.interval(0.95, len(truth) - 1, truth.mean(), stats.sem(truth))
    whole = rows.pop("perplexity")
    assert whole["value"] == pytest.approx(math.exp(truth.mean()), rel=1e-6)
    assert (whole["low"], whole["high"]) == pytest.approx(tuple(map(math.exp, interval)), rel=1e-5)
    assert (whole["n"], whole["of"]) == (len(truth), len(truth) * (WINDOW - 1))
    assert {row["model"] for row in rows.values()} == {model_folder.name}
    assert {row["dimension"] for row in [whole, *rows.values()]} == {"general"}
    assert list(rows) == [f"{i:04d}" for i in range(len(truth))]
    assert {row["metric"] for row in rows.values()} == {"nll"}
    assert [row["value"] for row in rows.values()] == pytest.approx(truth.tolist(), rel=1e-6)
    assert {(row["low"], row["high"], row["n"], row["of"]) for row in rows.values()} == {(None, None, 1, WINDOW - 1)}
    assert record["text"] == {"source": str(text), "sha256": hashlib.sha256(slow_join(TEXT).encode()).hexdigest()}
    said = {key: record[key] for key in ("window", "windows", "dtype", "model", "variant", "base", "mask", "adapter")}
    assert said == {
        "window": WINDOW,
        "windows": len(truth),
        "dtype": "float32",
        "model": model_folder.name,
        "variant": "origin",
        "base": "origin",
        "mask": None,
        "adapter": None,
    }


def test_the_first_windows_alone(model_folder, text, tmp_path):
    whole, _ = measure(model_folder, text, tmp_path / "whole.parquet")
    rows, record = measure(model_folder, text, tmp_path / "two.parquet", windows=2)
    losses = [whole[f"{i:04d}"]["value"] for i in range(2)]
    assert rows["perplexity"]["value"] == pytest.approx(math.exp(sum(losses) / 2), rel=1e-6)
    assert (rows["perplexity"]["n"], record["windows"], len(rows)) == (2, 2, 3)
    one, _ = measure(model_folder, text, tmp_path / "one.parquet", windows=1)
    assert (one["perplexity"]["low"], one["perplexity"]["high"]) == (None, None)
    assert one["perplexity"]["value"] == pytest.approx(math.exp(losses[0]), rel=1e-6)


def test_a_masks_weights_are_zero(model_folder, text, tmp_path):
    name, index = "model.layers.0.mlp.up_proj", list(range(0, 6144, 3))
    model, ids = load(model_folder)
    weight = model.get_submodule(name).weight
    write_mask(tmp_path / "mask.parquet", model_folder, {name: index})
    origin, _ = measure(model_folder, text, tmp_path / "origin.parquet")
    rows, record = measure(
        model_folder, text, tmp_path / "spin.parquet", variants=[("spin", tmp_path / "mask.parquet")]
    )
    for place in index:
        weight[place // 64, place % 64] = 0
    truth = slow_losses(model, ids, WINDOW)
    assert [row["value"] for row in rows.values()][1:] == pytest.approx(truth, rel=1e-6)
    assert abs(rows["perplexity"]["value"] / origin["perplexity"]["value"] - 1) > 1e-3
    assert rows["perplexity"]["variant"] == record["variant"] == "spin"
    assert record["mask"]["variant"] == "v"


def test_a_loss_that_is_not_finite_names_its_window(model_folder):
    model, ids = load(model_folder)
    cut = cut_windows(ids, WINDOW, 4)
    # A token that stands in the third window alone.
    new = next(i for i in range(model.config.vocab_size) if i not in cut[:2] and i not in cut[3] and i != cut[2, -1])
    cut[2, 5] = new
    model.get_input_embeddings().weight[new] = math.nan
    with pytest.raises(UncoupleError, match="window 2: its loss is not finite.*float32"):
        window_losses(model, cut, 3)


def test_an_architecture_that_is_not_known_is_refused(model_folder, text, tmp_path):
    shutil.copytree(model_folder, tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(config | {"model_type": "nemotron"}))
    refused(tmp_path / "model", text, tmp_path, "'nemotron' is not known")


# Intervals


@settings(deadline=None)
@given(st.lists(st.floats(-5, 20), min_size=2, max_size=30).filter(lambda values: np.std(values) > 1e-6))
def test_the_interval_is_exp_of_that_of_the_mean(values):
    found = exponentiated_mean(np.array(values))
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert found["value"] == pytest.approx(np.exp(np.mean(values)), rel=1e-9)
    assert math.log(found["low"]) == pytest.approx(low, rel=1e-6, abs=1e-6)
    assert math.log(found["high"]) == pytest.approx(high, rel=1e-6, abs=1e-6)


def test_an_interval_beyond_the_largest_number_is_infinite():
    found = exponentiated_mean(np.array([0.0, 1000.0]))
    assert (found["low"], found["value"], found["high"]) == (0.0, math.exp(500), math.inf)


# The real model


@pytest.mark.slow
def test_the_real_model_on_the_real_text_equals_the_loop(real_model, real_data, tmp_path):
    path = real_data / "wikitext2/wiki.test.raw"
    rows, _ = measure(real_model, path, tmp_path / "out.parquet", window=512, windows=2, batch_size=2)
    model, tokenizer = load_model(real_model, "float32", "cpu"), load_tokenizer(real_model)[0]
    ids = tokenizer(slow_join(path.read_text(encoding="utf-8")))["input_ids"][:1024]
    truth = slow_losses(model, ids, 512)
    assert [row["value"] for row in rows.values()][1:] == pytest.approx(truth, rel=1e-6)


@pytest.mark.slow
def test_the_real_models_known_perplexity(real_model, real_data):
    """An independent prototype measured 24.3 on the first windows of the file as it stands, its lines not joined."""
    model, tokenizer = load_model(real_model, "float32", "cpu"), load_tokenizer(real_model)[0]
    text = (real_data / "wikitext2/wiki.test.raw").read_text(encoding="utf-8")
    losses = window_losses(model, cut_windows(tokenizer(text)["input_ids"], 2048, 4), 1)
    assert math.exp(losses.mean()) == pytest.approx(24.3, abs=0.1)
