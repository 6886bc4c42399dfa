"""A name that somebody else chose leads to no other folder: of a variant, a model, a file of weights."""

import json
import shutil

import pytest
from conftest import write_mask
from records.test_verify import rewrite

from uncouple.commands import main
from uncouple.errors import UncoupleError
from uncouple.evaluation.judges.judge import judge_answers
from uncouple.evaluation.judges.phrases import Phrases
from uncouple.experiment.config import ROOT, load
from uncouple.models.fetch import fetch_model
from uncouple.models.folders import model_record
from uncouple.models.load import load_model
from uncouple.models.weights import WeightFiles
from uncouple.records.files import read_record, write_record
from uncouple.records.formats import MODEL
from uncouple.records.keys import check_name, is_name
from uncouple.variants.checkpoints import apply_mask
from uncouple.variants.masks import read_mask
from uncouple.variants.variant import suppressed

BAD = ["", ".", "..", "../x", "/x", "a/b", "a\\b", "a\0b", "a\nb", "a\r", "-x", "--output", "a" * 201, "é" * 101]
# An escape, one that turns what follows it around, one that has no width, half a character.
BAD += ["\x1b[31m", "a\u202eb", "a\u200bb", "a\ud800", "a\u2028b"]
GOOD = ["a", "origin", "SmolLM2-135M-Instruct", "ratio.ratio-1e-05", "modèle", "模型", "a b", "a+b", "...", "a" * 200]
PHRASES = str(ROOT / "resources/phrases/privacy.txt")


@pytest.mark.parametrize("name", BAD)
def test_a_bad_name_is_told(name):
    with pytest.raises(UncoupleError, match="a name has no slash"):
        check_name("variant", name)


@pytest.mark.parametrize("name", GOOD)
def test_a_good_name_is_taken(name):
    assert check_name("variant", name) == name


@pytest.mark.parametrize("value", [None, 1, ["a"], {}, b"a"])
def test_what_is_no_text_is_no_name(value):
    assert not is_name(value)


@pytest.mark.parametrize("key", ["models", "variants", "dimensions", "judges"])
@pytest.mark.parametrize("name", [*BAD, "\u0430", "\uff41"])
def test_no_config_names_anything_so(key, name):
    """Nor by a letter that looks like another: the last ones are Cyrillic, and of double width."""
    import yaml

    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config[key] = config[key] | {name: next(iter(config[key].values()))}
    with pytest.raises(UncoupleError, match="is not allowed here|control character"):
        load(config, ROOT)


FLAGS = [
    "ask q.parquet --model m --output o --variant NAME",
    "ask q.parquet --model m --output o --variant NAME=mask.parquet",
    "ask q.parquet --model m --output o --noise NAME",
    "mask --model m --scores s --dimensions a b --ratio 0.1 --output o --variant NAME",
    "tune s --model m --method lora --output o --variant NAME",
    "judge a.parquet --output o --name NAME",
    "samples --path a.csv --output o --dimension NAME",
    "perplexity --path t --model m --output o --variant NAME",
]


@pytest.mark.parametrize("verb", FLAGS)
@pytest.mark.parametrize("name", ["../x", "/x", "a\nb", "."])
def test_no_flag_names_anything_so(verb, name, capsys):
    with pytest.raises(SystemExit):
        main([word.replace("NAME", name) for word in verb.split()])
    assert "a name has no slash" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("key", ["variant", "dimension", "model"])
def test_a_tables_record_does_not_choose_where_is_written(key, write_answers, tmp_path):
    answers = write_answers(["I cannot."])
    rewrite(answers, **{key: "../../escaped"})
    (tmp_path / "in/ner").mkdir(parents=True)
    output = tmp_path / "in/ner/{variant}-{dimension}.parquet"
    with pytest.raises(UncoupleError, match=rf"answers\.parquet: .* {key} in its record is not a name"):
        judge_answers([answers], output, Phrases(), {"phrases": {None: PHRASES}})
    assert not list(tmp_path.rglob("*escaped*"))


def test_a_masks_record_does_not_either(model_folder, tmp_path):
    mask = write_mask(tmp_path / "mask.parquet", model_folder, {"model.layers.0.mlp.up_proj": [1]})
    for name in ("../../x", "x\nbase_model: evil", 3, None):
        rewrite(mask, tmp_path / "other.parquet", variant=name)
        with pytest.raises(UncoupleError, match="variant in its record is not a name"):
            apply_mask(model_folder, tmp_path / "other.parquet", tmp_path / "made")


PLACES = ["../outside.safetensors", "/outside.safetensors", "a/../../outside.safetensors", "inner/a.safetensors"]


@pytest.fixture
def leading_out(model_folder, tmp_path):
    """A function of a name to a model folder whose index says that weights are there."""

    def make(name):
        folder = shutil.copytree(model_folder, tmp_path / "in/model")
        place = tmp_path / "in" / name.removeprefix("../") if name.startswith("..") else folder / name.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder / "model.safetensors", place)
        weights = {"weight_map": dict.fromkeys(WeightFiles(model_folder).tensors, name)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(weights))
        return folder

    return make


@pytest.mark.parametrize("name", PLACES)
def test_an_index_leads_to_no_other_file(name, leading_out, tmp_path):
    """Else `fetch` would link, and `apply` write, outside of the folder that they make."""
    folder = leading_out(name)
    for step in (lambda: fetch_model(tmp_path / "made", path=folder), lambda: model_record(folder)):
        with pytest.raises(
            UncoupleError, match=r"index\.json: it names .*, and there is no such weights file beside it"
        ):
            step()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a//b", "./config.json", ""])
def test_a_models_record_lists_files_of_its_folder(name, model_folder, tmp_path):
    fetch_model(tmp_path / "made", path=model_folder)
    path = tmp_path / "made/uncouple.json"
    record = read_record(path, MODEL)
    text = path.read_text()
    with pytest.raises(UncoupleError, match="files in its record is not"):
        write_record(path, MODEL, record | {"files": record["files"] | {name: [3, "a" * 64]}})
    assert path.read_text() == text


def test_a_mask_changes_no_bytes_but_those_of_its_own_matrix(model_folder, tmp_path):
    """A stranger's mask: beyond the end of a matrix another one begins."""
    name, before = "model.layers.0.mlp.up_proj", (model_folder / "model.safetensors").read_bytes()
    rows, columns = WeightFiles(model_folder).find(f"{name}.weight")[2]
    mask, other = write_mask(tmp_path / "mask.parquet", model_folder, {name: [1]}), tmp_path / "other.parquet"

    def refused(told, index, **record):
        rewrite(mask, other, change=lambda entries: [entries[0] | {"index": index}], **record)
        with pytest.raises(UncoupleError, match=told):
            apply_mask(model_folder, other, tmp_path / "made")

    refused("the index is not within", rows * columns)
    refused("the index is not within", -1)
    # Its record says that the matrix is larger than it is.
    refused("the mask takes number", rows * columns, shapes={name: [rows + 1, columns]})
    entries, _ = read_mask(other)
    with pytest.raises(UncoupleError, match="the mask takes number"), suppressed(load_model(model_folder), entries):
        pass
    assert (model_folder / "model.safetensors").read_bytes() == before
