"""Fine-tuning: what is learnt from which tokens, and what is written; each method on tiny models."""

import json
import math

import pytest
import torch
from conftest import FAMILY_CONFIGS, TEXTS, relative_error
from safetensors.torch import load_file, save_file

from uncouple.errors import UncoupleError
from uncouple.models.folders import model_record
from uncouple.models.load import load_model, load_tokenizer
from uncouple.models.prompts import encode_samples
from uncouple.records.files import read_record, read_table
from uncouple.records.formats import METRICS, SAMPLES, TUNING
from uncouple.records.verify import verify_paths
from uncouple.tuning import trainer
from uncouple.tuning.checkpoints import write_tuned
from uncouple.tuning.methods import METHODS
from uncouple.tuning.options import Tuning
from uncouple.tuning.tune import tune_model
from uncouple.variants.reft import read_adapter

# At which tiny models learn in a few steps.
QUICK = {"fft": 3e-3, "lora": 3e-2, "dora": 3e-2, "reft": 3e-2}


def mean_loss(folder, tables, weights=None):
    """The truth: mean negative log-likelihood of all response tokens, sample by sample, by the model's own loss."""
    model, (tokenizer, prompt) = load_model(folder, "float32", "cpu"), load_tokenizer(folder, "auto")
    total = count = 0
    for table in tables:
        for e in encode_samples(tokenizer, read_table(table, SAMPLES)[0].to_pylist(), prompt, 256):
            labels = torch.tensor([[-100] * e.start + e.ids[e.start :]])
            loss = model(input_ids=torch.tensor([e.ids]), labels=labels).loss
            total, count = total + float(loss) * (len(e.ids) - e.start), count + len(e.ids) - e.start
    return total / count, count


def curve_of(folder):
    """(values, tokens) of a learning curve."""
    rows = read_table(folder / "uncouple/curve.parquet", METRICS)[0].to_pylist()
    assert [row["item"] for row in rows] == [f"{step:05d}" for step in range(1, len(rows) + 1)]
    return [row["value"] for row in rows], [row["n"] for row in rows]


def same_folder(a, b):
    names = {p.relative_to(a) for p in a.rglob("*") if p.is_file()}
    assert names == {p.relative_to(b) for p in b.rglob("*") if p.is_file()}
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in names if name.suffix == ".safetensors")


@pytest.mark.parametrize("family", FAMILY_CONFIGS)
def test_the_first_loss_is_the_bases_own_whatever_the_family(make_model, tables, tune, family):
    folder = make_model(family)
    truth, tokens = mean_loss(folder, tables)
    values, counts = curve_of(tune(folder, method="reft", epochs=1, batch_size=10))
    assert counts == [tokens]
    assert math.isclose(values[0], truth, rel_tol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_lowers_the_loss_from_the_bases(model_folder, tables, tune, method):
    values, _ = curve_of(tune(model_folder, method=method, epochs=8, batch_size=10, rate=QUICK[method]))
    # The low-rank methods drop out some of what they see, which changes nothing as long as they add nothing.
    assert math.isclose(values[0], mean_loss(model_folder, tables)[0], rel_tol=1e-5)
    assert values[-1] < 0.95 * values[0]


@pytest.mark.parametrize("method", METHODS)
def test_a_gpus_settings_learn_the_same_but_for_rounding(model_folder, tune, method, monkeypatch):
    """Its activations are made again on the way back, and its products are of bfloat16."""
    options = {"method": method, "epochs": 6, "batch_size": 10, "rate": QUICK[method]}
    truth, _ = curve_of(tune(model_folder, **options))
    plain = trainer.SFTConfig
    for changed, far in (({"gradient_checkpointing": True}, 1e-5), ({"bf16": True}, 0.03)):
        monkeypatch.setattr(trainer, "SFTConfig", lambda *a, c=changed, **named: plain(*a, **named | c))
        values, _ = curve_of(tune(model_folder, **options))
        assert values == pytest.approx(truth, rel=far)
    assert values != truth


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if name != "reft"])
def test_the_model_that_is_written_has_learnt(model_folder, tables, tune, method):
    output = tune(model_folder, method=method, epochs=4, batch_size=10, rate=QUICK[method])
    assert mean_loss(output, tables)[0] < 0.95 * mean_loss(model_folder, tables)[0]


def test_an_adapter_has_orthonormal_rows_after_training(model_folder, tune):
    output = tune(model_folder, method="reft", epochs=8, rate=QUICK["reft"], rank=5)
    tensors = read_adapter(output / "adapter.safetensors", model_record(model_folder))[0].tensors()
    for layer in range(2):
        rotation, weight = tensors[f"{layer}.rotation"], tensors[f"{layer}.weight"]
        assert rotation.shape == (5, 64)
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(5), rtol=0, atol=1e-5)
        # It began as R, and something was learnt.
        assert relative_error(weight, rotation) > 1e-2


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "phi3"])
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_merged_weights_give_the_logits_of_the_unmerged(make_model, method, family):
    torch.manual_seed(0)
    how, ids = METHODS[method], torch.arange(40).reshape(2, 20) + 6
    model = load_model(make_model(family), "float32", "cpu")
    base = model(input_ids=ids).logits
    trained = how.prepare(model, 4)
    with torch.no_grad():
        for part in trained.parameters():
            if part.requires_grad:
                part.add_(torch.randn_like(part), alpha=0.1)
        unmerged = trained.eval()(input_ids=ids).logits
        merged = how.merged(trained)(input_ids=ids).logits
    assert relative_error(unmerged, base) > 0.1
    torch.testing.assert_close(merged, unmerged, rtol=1e-4, atol=1e-4 * float(unmerged.abs().max()))


def test_the_trainer_sees_scorings_tokens_and_each_sample_once_an_epoch(model_folder, tables, tune, monkeypatch):
    seen, plain = [], trainer._Trainer.compute_loss

    def spy(self, model, inputs, *others, **named):
        for ids, labels, mask in zip(*(inputs[key] for key in ("input_ids", "labels", "attention_mask")), strict=True):
            seen.append((ids[mask.bool()].tolist(), labels[mask.bool()].tolist()))
            assert (labels[~mask.bool()] == -100).all()
        return plain(self, model, inputs, *others, **named)

    monkeypatch.setattr(trainer._Trainer, "compute_loss", spy)
    _, counts = curve_of(tune(model_folder, method="lora", epochs=2, batch_size=3))
    tokenizer, prompt = load_tokenizer(model_folder, "auto")
    samples = [sample for table in tables for sample in read_table(table, SAMPLES)[0].to_pylist()]
    truth = [(e.ids, [-100] * e.start + e.ids[e.start :]) for e in encode_samples(tokenizer, samples, prompt, 256)]
    assert len(truth) == len(TEXTS) == 7
    assert sorted(seen) == sorted(2 * truth)
    assert len(counts) == 2 * 3
    assert sum(counts) == 2 * sum(label != -100 for _, labels in truth for label in labels)


def test_a_seed_gives_the_same_weights_and_another_others(model_folder, tune):
    first, again, other = (tune(model_folder, method="lora", epochs=1, batch_size=3, tune_seed=s) for s in (1, 1, 2))
    assert same_folder(first, again)
    assert curve_of(first) == curve_of(again)
    assert not same_folder(first, other)
    # Nor does it see the samples in the same order.
    assert curve_of(first)[1] != curve_of(other)[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILY_CONFIGS)
def test_weights_of_a_model_that_learnt_nothing_are_the_bases_bit_for_bit(make_model, tmp_path, family, dtype):
    base, folder = make_model(family, dtype), tmp_path / "written"
    folder.mkdir()
    write_tuned(base, folder, load_model(base, "float32", "cpu"))
    assert same_folder(base, folder)


def test_a_base_in_several_files_keeps_them_and_shared_weights_stay_shared(make_model, tmp_path):
    base, folder = tmp_path / "base", tmp_path / "written"
    folder.mkdir()
    model = load_model(make_model("llama", tie_word_embeddings=True), "float32", "cpu")
    model.save_pretrained(base, max_shard_size="100KB")
    load_tokenizer(make_model("llama"))[0].save_pretrained(base)
    # Some bases hold what is shared by each of its names.
    (path,) = [p for p in base.glob("*.safetensors") if "model.embed_tokens.weight" in load_file(p)]
    tensors = load_file(path)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, path, {"format": "pt"})
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(2)
    write_tuned(base, folder, model)
    assert len(list(folder.glob("*.safetensors"))) > 1
    found = load_file(folder / path.name)
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert torch.equal(found[name], 2 * tensors["model.embed_tokens.weight"])


def test_a_tuned_model_says_what_made_it_and_is_a_model_like_others(model_folder, tables, tune):
    output = tune(model_folder, method="fft", epochs=2)
    record, base = model_record(output), model_record(model_folder)
    assert record["name"] == model_folder.name
    assert record["source"] == {"variant": "v", "of": {key: base[key] for key in ("name", "fingerprint")}}
    assert record["fingerprint"] != base["fingerprint"]
    assert record["tokenizer"] == base["tokenizer"]
    told = read_record(output / "uncouple/config.json", TUNING)
    assert (told["method"], told["rate"], told["rank"], told["steps"], told["n"]) == ("fft", 2e-5, None, 2, 7)
    assert [samples["dimension"] for samples in told["samples"]] == ["privacy", "general"]
    assert {row["dimension"] for row in read_table(output / "uncouple/curve.parquet", METRICS)[0].to_pylist()} == {
        "mixed"
    }
    assert "7 samples by `fft`" in (output / "README.md").read_text()
    assert verify_paths([output], model_record)[1] == []
    # It can be tuned on.
    assert (
        json.loads((tune(output, method="reft", epochs=1) / "uncouple/config.json").read_text())["model"]["fingerprint"]
        == record["fingerprint"]
    )


def test_what_was_made_before_is_made_again_and_nothing_lies_beside_it(model_folder, tables, tmp_path):
    output = tmp_path / "here/tuned"
    for seed in (0, 1):
        options = Tuning(method="reft", epochs=1, tune_seed=seed)
        tune_model(model_folder, tables, output, options, device="cpu")
        assert read_record(output / "uncouple/config.json", TUNING)["tune_seed"] == seed
        assert list(output.parent.iterdir()) == [output]


def test_bad_input_is_refused_before_anything_is_trained(model_folder, tables, tmp_path, samples_of):
    def refused(words, samples=tables, output=tmp_path / "o", **options):
        with pytest.raises(UncoupleError, match=words):
            tune_model(model_folder, samples, output, Tuning(**{"method": "fft"} | options), device="cpu")
        assert not output.is_dir() or [p.name for p in output.iterdir()] == ["mine.txt"]

    refused("has none", rank=4)
    refused("would count twice", samples=[tables[0], tables[0]])
    long = samples_of("fairness", [("word " * 400, "Yes.")])
    refused("sample 1 .*the model's window is 256", samples=[long])
    refused("no such file", samples=[tmp_path / "none.parquet"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    refused("not to be lost", output=tmp_path / "full")


def test_a_loss_that_is_not_finite_is_an_error_and_leaves_no_model(model_folder, tables, tmp_path):
    with pytest.raises(UncoupleError, match="loss of step 2 is not finite"):
        tune_model(model_folder, tables, tmp_path / "o", Tuning(method="fft", rate=1e30, epochs=3), device="cpu")
    assert not (tmp_path / "o").exists()
