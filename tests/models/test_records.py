"""What a model folder's record says, and that files which are not those it lists are noticed whatever their dates."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, write_mask
from safetensors.torch import load_file, save_file

from uncouple.errors import UncoupleError
from uncouple.evaluation.judges.causal import causal_judge
from uncouple.models import fingerprints as records
from uncouple.models.fetch import fetch_model
from uncouple.models.fingerprints import HASHES_NAME, RECORD_NAME, missing_files
from uncouple.models.folders import describe_model, model_files, model_record
from uncouple.records.files import file_sha256, write_json, write_record
from uncouple.records.formats import MODEL
from uncouple.variants.checkpoints import apply_mask, restore_base
from uncouple.variants.variant import open_variants

PRINTS = ("fingerprint", "tokenizer", "generation")


@pytest.fixture
def copy(model_folder, tmp_path):
    """A model folder that a test may break."""
    shutil.copytree(model_folder, tmp_path / "model")
    (tmp_path / "model/README.md").write_text("a card")
    return tmp_path / "model"


@pytest.fixture
def fetched(copy, tmp_path, monkeypatch):
    """A folder that was fetched from it, of files of its own, and that has been opened once."""
    monkeypatch.setattr(records, "SETTLED_NS", 0)
    fetch_model(tmp_path / "fetched", path=copy)
    for path in (tmp_path / "fetched").iterdir():
        if path.is_symlink():
            target = path.resolve()
            path.unlink()
            shutil.copy2(target, path)
    model_record(tmp_path / "fetched")
    return tmp_path / "fetched"


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that are hashed from here on."""
    names = []

    def hash_file(path, *ended):
        names.append(path.name)
        return file_sha256(path, *ended)

    monkeypatch.setattr(records, "file_sha256", hash_file)
    return names


def edit_weights(folder):
    """Other values at the same size."""
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# What it says


def test_every_file_of_the_model_is_recorded(fetched):
    record = json.loads((fetched / RECORD_NAME).read_text())
    assert set(record["files"]) == {p.name for p in model_files(fetched)} - {RECORD_NAME}
    assert {"tokenizer.json", "chat_template.jinja", "generation_config.json", "README.md"} < set(record["files"])
    for name, (size, sha256) in record["files"].items():
        assert (size, sha256) == ((fetched / name).stat().st_size, file_sha256(fetched / name))


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("model.safetensors", "fingerprint"),
        ("config.json", "fingerprint"),
        ("tokenizer.json", "tokenizer"),
        ("tokenizer_config.json", "tokenizer"),
        ("chat_template.jinja", "tokenizer"),
        ("vocab.txt", "tokenizer"),
        ("tokenizer.model", "tokenizer"),
        ("1_Pooling/config.json", "tokenizer"),
        ("generation_config.json", "generation"),
        ("README.md", None),
        ("LICENSE.txt", None),
        ("model.safetensors.index.json", None),
    ],
)
def test_which_fingerprint_a_file_changes(copy, name, changed):
    before = model_record(copy)
    (copy / name).parent.mkdir(exist_ok=True)
    if name == "model.safetensors":
        edit_weights(copy)
    else:
        with (copy / name).open("a") as file:
            file.write("\n")
    after = model_record(copy)
    assert [key for key in PRINTS if before[key] != after[key]] == ([changed] if changed else [])
    assert before["files"].get(name) != after["files"][name]


def test_a_file_that_is_removed_changes_its_fingerprint(copy):
    before = model_record(copy)
    (copy / "chat_template.jinja").unlink()
    (copy / "generation_config.json").unlink()
    after = model_record(copy)
    assert [key for key in PRINTS if before[key] != after[key]] == ["tokenizer", "generation"]


def test_the_same_files_give_the_same_record_whatever_their_dates(copy, tmp_path):
    fetch_model(tmp_path / "one/m", path=copy)
    first = (tmp_path / "one/m" / RECORD_NAME).read_bytes()
    os.utime(copy / "model.safetensors", (0, 0))
    fetch_model(tmp_path / "two/m", path=copy)
    model_record(tmp_path / "two/m")
    assert (tmp_path / "two/m" / RECORD_NAME).read_bytes() == first


def test_a_record_of_an_older_version_is_refused_with_what_to_do(fetched):
    record = model_record(fetched)
    old = record | {"version": 1}
    for write in (lambda path: write_record(path, MODEL, old), lambda path: write_json(path, old)):
        write(fetched / RECORD_NAME)
        with pytest.raises(UncoupleError, match=r"uncouple.json: .*version.*run the step.*`fetch`.*`apply`"):
            model_record(fetched)


# Whether the files are those that it lists


def test_files_that_were_hashed_are_not_hashed_again(fetched, hashed):
    assert model_record(fetched)["name"] == "fetched"
    assert hashed == []
    assert (fetched / HASHES_NAME).exists()


def test_weights_with_an_older_date_and_the_same_size_are_noticed(fetched):
    """As `mv`, `cp -p` and `rsync -a` put them there."""
    edit_weights(fetched)
    os.utime(fetched / "model.safetensors", (1_000_000_000, 1_000_000_000))
    with pytest.raises(UncoupleError, match=r"model.safetensors: not the file that uncouple.json records"):
        model_record(fetched)


def test_weights_with_their_very_date_are_noticed(fetched):
    """Written in place and dated back: only the time of the change itself tells, which nobody can set."""
    before = (fetched / "model.safetensors").stat()
    content = bytearray((fetched / "model.safetensors").read_bytes())
    content[-1] ^= 1
    with (fetched / "model.safetensors").open("r+b") as file:
        file.write(content)
    os.utime(fetched / "model.safetensors", ns=(before.st_atime_ns, before.st_mtime_ns))
    after = (fetched / "model.safetensors").stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    with pytest.raises(UncoupleError, match=r"model.safetensors: not the file"):
        model_record(fetched)


def test_the_target_of_a_link_counts(copy, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "SETTLED_NS", 0)
    fetch_model(tmp_path / "linked", path=copy)
    model_record(tmp_path / "linked")
    edit_weights(copy)
    os.utime(copy / "model.safetensors", (1_000_000_000, 1_000_000_000))
    with pytest.raises(UncoupleError, match=r"linked/model.safetensors: not the file"):
        model_record(tmp_path / "linked")


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja", "generation_config.json"])
def test_other_files_are_noticed_as_weights_are(fetched, name):
    content = (fetched / name).read_text()
    (fetched / name).write_text(content[:-1] + " ")
    os.utime(fetched / name, (1_000_000_000, 1_000_000_000))
    with pytest.raises(UncoupleError, match=f"{name}: not the file that uncouple.json records"):
        model_record(fetched)
    (fetched / name).unlink()
    with pytest.raises(UncoupleError, match=f"{name}: not the file that uncouple.json records"):
        model_record(fetched)


def test_a_file_that_was_added_is_noticed(fetched):
    (fetched / "added_tokens.json").write_text("{}")
    with pytest.raises(UncoupleError, match=r"added_tokens.json: uncouple.json does not list this file.*Remove it"):
        model_record(fetched)


def test_a_file_with_another_date_alone_is_hashed_and_taken(fetched, hashed):
    os.utime(fetched / "model.safetensors", (1_000_000_000, 1_000_000_000))
    model_record(fetched)
    assert hashed == ["model.safetensors"]
    model_record(fetched)
    assert hashed == ["model.safetensors"]


def test_a_file_that_has_only_just_changed_is_hashed_again(copy, tmp_path, hashed):
    """It may change once more within the tick of the clock."""
    fetch_model(tmp_path / "fetched", path=copy)
    model_record(tmp_path / "fetched")
    del hashed[:]
    model_record(tmp_path / "fetched")
    assert "model.safetensors" in hashed


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe", b'{"files": {}}'])
def test_a_lost_or_broken_cache_only_costs_hashing(fetched, hashed, content):
    (fetched / HASHES_NAME).unlink()
    if content is not None:
        (fetched / HASHES_NAME).write_bytes(content)
    record = model_record(fetched)
    assert sorted(hashed) == sorted(record["files"])


def test_a_folder_that_cannot_be_written_only_costs_hashing(fetched, hashed, monkeypatch):
    def refuse(*_):
        raise PermissionError("no")

    (fetched / HASHES_NAME).unlink()
    monkeypatch.setattr(records, "write_record", refuse)
    for _ in range(2):
        model_record(fetched)
    assert hashed.count("model.safetensors") == 2


def test_a_folder_of_the_users_is_hashed_each_time_and_not_written_to(copy):
    before = sorted(p.name for p in copy.iterdir())
    first = model_record(copy)["fingerprint"]
    edit_weights(copy)
    os.utime(copy / "model.safetensors", (1_000_000_000, 1_000_000_000))
    assert model_record(copy)["fingerprint"] != first
    assert sorted(p.name for p in copy.iterdir()) == before


def test_what_is_measured_of_a_variant_carries_all_three(fetched):
    (variant,), record = open_variants(fetched, [("origin", None)]), model_record(fetched)
    prints = {"weights": record["fingerprint"], "tokenizer": record["tokenizer"], "generation": record["generation"]}
    assert variant.about("torch.float32", "cpu")["fingerprints"] == prints
    assert len(set(prints.values())) == 3


def test_a_causal_judge_whose_card_was_changed_is_not_used(fetched):
    (fetched / "README.md").write_text('template = """%s, %s. Is it safe?"""')
    with pytest.raises(UncoupleError, match=r"README.md: not the file that uncouple.json records"):
        causal_judge(fetched, fetched / "README.md", dtype="float32", device="cpu", batch_size=1)


# Missing files, for the workflow


def test_missing_files_are_named(fetched):
    assert missing_files(fetched) == []
    (fetched / "model.safetensors").unlink()
    (fetched / "tokenizer.json").write_text("{}")
    assert missing_files(fetched) == ["model.safetensors", "tokenizer.json"]
    (fetched / RECORD_NAME).write_text("{}")
    assert missing_files(fetched) == [RECORD_NAME]
    assert missing_files(fetched / "gone") == [RECORD_NAME]


def test_what_a_file_system_fails_to_show_is_not_missing(fetched, monkeypatch):
    def fail(*_):
        raise UncoupleError("a stale file handle")

    monkeypatch.setattr(records, "read_model_record", fail)
    assert missing_files(fetched) == []
    (fetched / RECORD_NAME).unlink()
    assert missing_files(fetched) == [RECORD_NAME]


def test_a_link_whose_target_went_is_missing(copy, tmp_path):
    fetch_model(tmp_path / "linked", path=copy)
    (copy / "model.safetensors").rename(copy / "model.bak")
    assert missing_files(tmp_path / "linked") == ["model.safetensors"]


def test_records_are_read_without_anything_heavy():
    heavy = "[m for m in ('numpy', 'torch', 'pyarrow') if m in sys.modules]"
    script = f"import sys, uncouple.models.fingerprints; print({heavy})"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# Checkpoints


def test_a_checkpoint_takes_neither_the_cache_nor_the_record_for_its_own(fetched, tmp_path):
    mask = write_mask(tmp_path / "m.parquet", fetched, {"model.layers.0.mlp.up_proj": [0, 7]})
    apply_mask(fetched, mask, tmp_path / "s")
    record, base = model_record(tmp_path / "s"), model_record(fetched)
    assert [key for key in PRINTS if record[key] != base[key]] == ["fingerprint"]
    assert HASHES_NAME not in record["files"]
    restore_base(tmp_path / "s", tmp_path / "again")
    assert {p.name for p in (tmp_path / "again").iterdir()} == {p.name for p in fetched.iterdir()} - {HASHES_NAME}
    assert model_record(tmp_path / "again") == base == describe_model(fetched, base["name"], base["source"])


def test_a_checkpoint_whose_tokenizer_was_changed_is_not_restored(fetched, tmp_path):
    mask = write_mask(tmp_path / "m.parquet", fetched, {"model.layers.0.mlp.up_proj": [0, 7]})
    apply_mask(fetched, mask, tmp_path / "s")
    (tmp_path / "s/chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(UncoupleError, match=r"its chat_template.jinja would be another.*changed since it was made"):
        restore_base(tmp_path / "s", tmp_path / "again")
