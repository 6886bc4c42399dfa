"""Checkpoints differ from the base in the mask's entries alone, and restore gives the base back bit for bit."""

import subprocess
import sys

import pytest
import torch
from conftest import ROOT, write_mask
from safetensors.torch import load_file, save_file

from uncouple.errors import UncoupleError
from uncouple.models.folders import model_record
from uncouple.models.load import load_model, load_tokenizer
from uncouple.variants.checkpoints import apply_mask, restore_base
from uncouple.variants.masks import read_mask
from uncouple.variants.variant import suppressed

ENTRIES = {"model.layers.0.mlp.up_proj": [0, 7, 6143], "model.layers.1.mlp.down_proj": [5, 100, 101, 6000]}


def folder_bytes(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(params=["float32", "bfloat16", "float16"])
def base(request, make_model):
    return make_model("llama", getattr(torch, request.param))


def test_a_checkpoint_differs_in_exactly_the_masks_entries_and_restores(base, tmp_path):
    before = folder_bytes(base)
    mask = write_mask(tmp_path / "mask.parquet", base, ENTRIES)
    apply_mask(base, mask, tmp_path / "suppressed")
    old, new = load_file(base / "model.safetensors"), load_file(tmp_path / "suppressed/model.safetensors")
    assert old.keys() == new.keys()
    for name in old:
        changed = (old[name] != new[name]).flatten().nonzero().flatten().tolist()
        assert changed == ENTRIES.get(name.removesuffix(".weight"), []), name
        assert all(new[name].flatten()[i] == 0 for i in changed)
    restore_base(tmp_path / "suppressed", tmp_path / "restored")
    assert folder_bytes(tmp_path / "restored") == before == folder_bytes(base)


def test_a_checkpoint_loads_and_gives_the_logits_of_the_mask_in_memory(model_folder, tmp_path):
    mask = write_mask(tmp_path / "mask.parquet", model_folder, ENTRIES)
    apply_mask(model_folder, mask, tmp_path / "suppressed")
    ids = torch.tensor([load_tokenizer(model_folder)[0]("Where does my neighbour live?")["input_ids"]])
    loaded, masked = load_model(tmp_path / "suppressed"), load_model(model_folder)
    original = masked(ids).logits
    with suppressed(masked, read_mask(mask, model_record(model_folder))[0]):
        assert torch.equal(loaded(ids).logits, masked(ids).logits)
        assert not torch.equal(original, masked(ids).logits)
    assert torch.equal(original, masked(ids).logits)


def test_a_checkpoint_says_what_made_it(model_folder, tmp_path):
    apply_mask(model_folder, write_mask(tmp_path / "mask.parquet", model_folder, ENTRIES), tmp_path / "s")
    card = (tmp_path / "s/README.md").read_text()
    assert "7 of the 12,288 weights" in card
    assert "`coupled` of fairness, privacy, ratio 0.1" in card
    assert (tmp_path / "s/uncouple/config.json").exists()
    assert model_record(tmp_path / "s")["fingerprint"] != model_record(model_folder)["fingerprint"]


def test_a_base_in_several_files_with_a_readme_of_its_own(model_folder, tmp_path):
    folder = tmp_path / "base"
    load_model(model_folder).save_pretrained(folder, max_shard_size="100KB")
    load_tokenizer(model_folder)[0].save_pretrained(folder)
    (folder / "README.md").write_text("the base's own card")
    assert len(list(folder.glob("*.safetensors"))) > 1
    before = folder_bytes(folder)
    apply_mask(folder, write_mask(tmp_path / "mask.parquet", folder, ENTRIES), tmp_path / "s")
    assert "Uncouple" in (tmp_path / "s/README.md").read_text()
    restore_base(tmp_path / "s", tmp_path / "again")
    assert folder_bytes(tmp_path / "again") == before


def test_a_checkpoint_that_was_changed_since_is_not_restored(model_folder, tmp_path):
    apply_mask(model_folder, write_mask(tmp_path / "mask.parquet", model_folder, ENTRIES), tmp_path / "s")
    weights = load_file(tmp_path / "s/model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, tmp_path / "s/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UncoupleError, match="changed since it was made"):
        restore_base(tmp_path / "s", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_plain_model_is_not_restored(model_folder, tmp_path):
    with pytest.raises(UncoupleError, match="not a suppressed checkpoint"):
        restore_base(model_folder, tmp_path / "again")


def test_apply_stays_under_300_mb_for_a_base_of_400_mb(tmp_path, make_model):
    """The real command in a process of its own, on weights larger than the bar."""
    folder = tmp_path / "base"
    folder.mkdir()
    for path in make_model("llama").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights["padding"] = torch.zeros(100_000_000)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    mask = write_mask(tmp_path / "mask.parquet", folder, ENTRIES)
    # The peak of this address space alone: getrusage's would count the parent's at the fork too.
    measure = (
        "import sys; from uncouple.commands import main; status = main(sys.argv[1:]);"
        "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')]); sys.exit(status)"
    )
    command = [sys.executable, "-c", measure, "apply", "--model", folder, "--mask", mask, "--output", tmp_path / "s"]
    peak = int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout) / 1024
    assert peak < 300, f"{peak:.0f} MB"
