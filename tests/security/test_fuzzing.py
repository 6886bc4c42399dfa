"""Whatever is in a file of somebody else's, reading it ends in an error that says so: no crash, no memory without end.

Set UNCOUPLE_FUZZ=10000 for as many wrong files a reader.
"""

import json
import os
import shutil
import subprocess
import sys

import gguf
import numpy as np
import pytest
import yaml
from conftest import ROOT
from data.raw import numbered, write_csv, write_parquet
from records import test_rot
from security.fuzzing import READERS

from uncouple.records.sealed import SEAL

COUNT = int(os.environ.get("UNCOUPLE_FUZZ", 150))
# Loading models takes most of it: these are given fewer.
SLOW = {"gguf": 10, "judge": 4, "mask": 2, "shard": 2}
# Memory of the machine that a wrong file may take, in MB.
MOST = 200
every_file = test_rot.run


def write_gguf(path):
    """A tiny Llama in a GGUF file."""
    writer = gguf.GGUFWriter(path, "llama")
    sizes = {"context_length": 32, "embedding_length": 8, "block_count": 1, "feed_forward_length": 16}
    for key, value in (sizes | {"head_count": 2, "head_count_kv": 2}).items():
        getattr(writer, f"add_{key}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(4)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([2, 3, 3] + [6] * 256)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    rng = np.random.default_rng(0)

    def add(name, *shape):
        writer.add_tensor(name, rng.normal(size=shape).astype(np.float32))

    add("token_embd.weight", len(tokens), 8)
    add("output_norm.weight", 8)
    add("output.weight", len(tokens), 8)
    for name, shape in {"attn_q": (8, 8), "attn_k": (8, 8), "attn_v": (8, 8), "attn_output": (8, 8)}.items():
        add(f"blk.0.{name}.weight", *shape)
    for name, shape in {"ffn_gate": (16, 8), "ffn_up": (16, 8), "ffn_down": (8, 16)}.items():
        add(f"blk.0.{name}.weight", *shape)
    add("blk.0.attn_norm.weight", 8)
    add("blk.0.ffn_norm.weight", 8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory, every_file, encoder):
    """Valid files of each reader, and what they belong to."""
    made = tmp_path_factory.mktemp("fuzz")
    shutil.copytree(every_file / "base", made / "model")
    shutil.copytree(made / "model", made / "recorded")
    shutil.copytree(encoder, made / "encoder")
    shutil.copytree(made / "model", made / "plain", ignore=shutil.ignore_patterns("uncouple.json", ".hashed*"))
    valid = {
        "samples": ["privacy.samples"],
        "answers": ["a.answers"],
        "verdicts": ["v.verdicts"],
        "metrics": ["m.metrics"],
        "shard": ["fairness.score-shard"],
        "mask": ["m.mask"],
        "adapter": ["t.adapter"],
        "header": ["base/model.safetensors"],
        "record": ["base/uncouple.json"],
        "config": ["base/config.json"],
        "judge": ["j.judge"],
        "raw": ["raw.jsonl"],
    }
    for name in READERS:
        (made / "valid" / name).mkdir(parents=True)
        for file in valid.get(name, []):
            shutil.copy(every_file / file, made / "valid" / name)
    (made / "shards").mkdir()
    for name in ("privacy", "general"):
        shutil.copy(every_file / f"{name}.score-shard", made / f"shards/{name}")
    index = {"metadata": {}, "weight_map": {"a": "model.safetensors"}}
    (made / "valid/config/index.json").write_text(json.dumps(index))
    write_csv(made / "valid/raw/a.csv", numbered(5))
    write_parquet(made / "valid/raw/a.parquet", numbered(5))
    write_gguf(made / "valid/gguf/a.gguf")
    shutil.copy(ROOT / "config.yaml", made / "valid/experiment")
    small = {"models": {"m": {"path": "resources", "layers": 2}}, "variants": {"s": {"kind": "suppress", "n": [1, 2]}}}
    config = yaml.safe_load((ROOT / "config.yaml").read_text()) | small
    (made / "valid/experiment/small.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    for number, text in enumerate(["unsafe\nO3", "safe", " Response: Safe, O12", "I think that it is \u00fcnsafe"]):
        (made / f"valid/reply/{number}.txt").write_text(text)
    (made / "valid/template/a.txt").write_text("Is {answer} a safe answer to {question}?")
    (made / "valid/template/card.md").write_text('# A\n\ntemplate = """Is %s to %s safe?"""\n')
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_wrong_file_is_refused_and_nothing_else_happens(folder, name):
    count = max(COUNT // SLOW.get(name, 1), 20)
    command = [sys.executable, "-m", "security.fuzzing", name, str(count), "0", str(folder)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths})
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    print(name, found)
    assert found["mb"] < MOST
    # That many are found wrong says that it is the reader that is tried. Any text is a reply.
    assert name == "reply" or found["refused"] > count * 0.1


def test_every_reader_has_valid_files(folder):
    unsealed = {"header", "config", "template", "gguf", "experiment", "raw", "reply"}
    for name in READERS:
        files = list((folder / "valid" / name).iterdir())
        assert files
        assert all(SEAL in path.read_bytes() for path in files) == (name not in unsealed)
