"""Nothing of what others made is ever run: no pickle, no code of a model's own, no expression in a config."""

import ast
import contextlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, write_mask

from uncouple.commands import main
from uncouple.errors import UncoupleError
from uncouple.experiment.config import read_experiment
from uncouple.experiment.pins import check_pins
from uncouple.models.folders import check_folder
from uncouple.models.load import load_model, load_tokenizer

# What reads a pickle or runs a text. torch.load is looked at apart.
FORBIDDEN = {"pickle", "joblib", "shelve", "marshal", "dill", "cloudpickle", "runpy", "code"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}
CALLS |= {"yaml.full_load", "yaml.load_all", "pickle.load", "pickle.loads", "subprocess.getoutput"}
# The published code keeps its scores as pickles, and its time is measured with them.
PICKLES_ITS_OWN = "benchmarks/scoring.py"
SOURCES = [*ROOT.glob("uncouple/**/*.py"), *ROOT.glob("benchmarks/*.py")]
RULES = [*ROOT.glob("rules/*.smk"), ROOT / "workflow/Snakefile"]


def faults(text, name=""):
    """What in a source may run what others made."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [module for module in modules if module.partition(".")[0] in FORBIDDEN]
        if isinstance(node, ast.Call):
            called, given = ast.unparse(node.func), {key.arg: ast.unparse(key.value) for key in node.keywords}
            found += [called] if called in CALLS else []
            found += [called] if called == "torch.load" and given.get("weights_only") != "True" else []
            found += [called] if given.get("shell", "False") != "False" or "allow_pickle" in given else []
            found += [called] if given.get("trust_remote_code", "False") != "False" else []
            loads = called.endswith("from_pretrained") and called.partition(".")[0].startswith("Auto")
            # In two places the options come as a dict.
            safe = "trust_remote_code" in given or "from_file" in given.values()
            found += [called] if loads and not safe else []
    return [] if name == PICKLES_ITS_OWN else found


def test_no_source_runs_what_others_made():
    wrong = {str(path): faults(path.read_text(), str(path.relative_to(ROOT))) for path in SOURCES}
    assert {path: found for path, found in wrong.items() if found} == {}
    for path in RULES:
        words = re.findall(r"\b(?:eval|exec|pickle|joblib|os\.system|subprocess|yaml\.load)\b", path.read_text())
        assert not words, path


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "eval(x)",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p, allow_pickle=True)",
        "yaml.load(t, Loader=yaml.Loader)",
        "subprocess.run(c, shell=True)",
        "AutoModel.from_pretrained(f)",
        "AutoTokenizer.from_pretrained(f, trust_remote_code=True)",
    ],
)
def test_what_would_is_found(text):
    assert faults(text)


class Hostile:
    """What a pickle of it does where it is read by a reader that lets it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def ran(tmp_path):
    """A file that is there once something was run."""
    return tmp_path / "ran"


@pytest.fixture(params=["bin", "pt", "npy", "pkl"])
def pickled(request, tmp_path, ran):
    """A file that runs something when it is unpickled."""
    path = tmp_path / f"file.{request.param}"
    if request.param == "npy":
        np.save(path, np.array([Hostile(ran)], dtype=object), allow_pickle=True)
    elif request.param == "pkl":
        path.write_bytes(pickle.dumps(Hostile(ran)))
    else:
        torch.save({"a": Hostile(ran)}, path)
    return path


# Each verb that takes a file, with {} in its place, and {model} where a sound model is needed.
VERBS = [
    "samples --path {} --dimension privacy --output out",
    "samples --path {} --questions --dimension privacy --output out",
    "score {} --model {model} --output out",
    "mask --model {model} --scores {} --dimensions a b --ratio 0.1 --output out",
    "apply --model {model} --mask {} --output out",
    "ask {} --model {model} --output out",
    "ask q --model {model} --mask {} --output out",
    "tune {} --model {model} --method lora --output out",
    "train-judge {} --encoder {model} --output out",
    "judge {} --output out --phrases p",
    "judge a --judge embedding --classifier {} --model {model} --output out",
    "judge a --judge causal --model {model} --template {} --output out",
    "perplexity --path {} --model {model} --output out",
    "divergence {} --model {model} --output out",
    "ability boolq={} --model {model} --output out",
    "hsic {} {} --model {model} --output out",
    "measure awareness {} --output out",
    "measure language {} --phrases privacy=p --output out",
    "measure collect {} --output out",
    "measure placement {} --output out",
    "measure choice {} --sweeps {} --output out",
    "measure stability {} --sweeps {} --output out",
    "measure coupling --model {model} --scores {} --dimensions a b --ratios 0.1 --output out",
    "figures awareness --from {} --model m --output out.png --style resources/figures.mplstyle",
    "tables summary --from {} --model m --output out.md",
    "verify {}",
    "pin {} --check",
    "cost --experiment {}",
]
# Each that takes a model folder.
FOLDER_VERBS = [
    "fetch --path {} --output out",
    "score s --model {} --output out",
    "apply --model {} --mask m --output out",
    "ask q --model {} --output out",
    "tune s --model {} --method lora --output out",
    "divergence s --model {} --output out",
    "restore {} --output out",
    "judge a --judge causal --model {} --output out",
]


def run_verb(words, monkeypatch, tmp_path, capsys):
    """The exit status of a verb, and what it says."""
    monkeypatch.chdir(tmp_path)
    try:
        status = main(words)
    except SystemExit as end:
        status = end.code
    return status, capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_a_pickle_in_the_place_of_a_file_is_refused(verb, pickled, ran, model_folder, monkeypatch, tmp_path, capsys):
    words = [word.replace("{model}", str(model_folder)).replace("{}", str(pickled)) for word in verb.split()]
    status, told = run_verb(words, monkeypatch, tmp_path, capsys)
    # Of raw rows the name alone says that it is none.
    assert status == (2 if "jsonl" in told and "samples" in verb else 1), told
    assert "error: " in told
    assert "Traceback" not in told
    assert not ran.exists()


@pytest.mark.parametrize("verb", FOLDER_VERBS)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.npy"])
def test_a_pickle_in_the_place_of_weights_is_refused(verb, name, ran, model_folder, monkeypatch, tmp_path, capsys):
    folder = shutil.copytree(model_folder, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({"a": Hostile(ran)}, folder / name)
    status, told = run_verb(verb.replace("{}", str(folder)).split(), monkeypatch, tmp_path, capsys)
    assert status == 1, told
    assert "error: " in told
    assert not ran.exists()
    # How it is converted is told where it can be.
    if verb.startswith(("fetch", "ask", "tune")):
        assert ("convert_bin: true" in told) == (name == "pytorch_model.bin")


def test_a_pickle_beside_sound_weights_is_not_read(ran, model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "m")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth"):
        torch.save({"a": Hostile(ran)}, folder / name)
    load_model(folder, "float32", "cpu")
    load_tokenizer(folder)
    assert not ran.exists()


def with_code(folder, ran, **changes):
    """Put a module beside a model that says when it is imported, and have its settings ask for it."""
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nfrom transformers import LlamaForCausalLM as Evil\n")
    places = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil", "AutoModel": "evil.Evil"}
    for name, more in (("config.json", {"auto_map": places}), ("tokenizer_config.json", {})):
        value = json.loads((folder / name).read_text()) | more
        if name.startswith("tokenizer"):
            value |= {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
        (folder / name).write_text(json.dumps(value | changes.get(name.partition(".")[0], {})))
    return folder


@pytest.mark.parametrize("own", [{}, {"config": {"model_type": "evil"}}], ids=["known", "of its own"])
def test_a_models_own_code_is_not_run_and_nobody_is_asked(own, ran, model_folder, tmp_path, monkeypatch):
    folder = with_code(shutil.copytree(model_folder, tmp_path / "m"), ran, **own)
    # Asked by the library, somebody in a hurry says yes.
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    for load in (lambda: load_model(folder, "float32", "cpu"), lambda: load_tokenizer(folder)):
        with contextlib.suppress(UncoupleError):
            load()
    assert not ran.exists()
    assert not list(tmp_path.rglob("transformers_modules"))


def test_an_encoders_own_code_is_not_run(ran, encoder_copy, tmp_path, monkeypatch):
    from uncouple.evaluation.judges.classifier import mean_states

    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder = with_code(encoder_copy, ran)
    with contextlib.suppress(UncoupleError):
        mean_states(["a"], folder)
    assert not ran.exists()


def test_code_on_the_hub_is_not_asked_for(model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attn_implementation": "someone/kernels"}))
    with pytest.raises(UncoupleError, match=r"config\.json: `attn_implementation` names code on the Hub"):
        check_folder(folder)


def test_a_folder_that_leads_to_another_model_is_refused(model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "m")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else", "peft_type": "LORA"}')
    with pytest.raises(UncoupleError, match=r"adapter_config\.json: an adapter of peft, .* another model"):
        load_model(folder, "float32", "cpu")


def test_a_config_that_is_a_program_to_snakemake_is_refused_by_the_verbs(ran, tmp_path):
    """Snakemake itself runs it: see SECURITY.md."""
    config = tmp_path / "x.yaml"
    config.write_text(f"__use_yte__: true\na: ?__import__('os').system('touch {ran}')\n")
    for read in (read_experiment, check_pins):
        with pytest.raises(UncoupleError, match="by the key __use_yte__ Snakemake would run"):
            read(config)
    assert not ran.exists()
    code = "import sys; from snakemake.common.configfile import load_configfile; load_configfile(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(config)], check=True)
    assert ran.exists()


def test_a_judges_card_is_read_and_not_run(ran, tmp_path):
    from uncouple.evaluation.judges.causal import read_template

    card = tmp_path / "card.md"
    card.write_text('template = """\\x"""\n')
    with pytest.raises(UncoupleError, match="no one `template` with two %s"):
        read_template(card)
    # Of what stands behind the text nothing is read.
    card.write_text(f'template = """%s %s""" + str(__import__("os").system("touch {ran}")) + """"""\n')
    assert read_template(card) == "{question} {answer}"
    assert not ran.exists()


def test_a_mask_is_no_pickle_either(model_folder, tmp_path):
    path = write_mask(tmp_path / "mask.parquet", model_folder, {"model.layers.0.mlp.up_proj": [1]})
    assert path.read_bytes()[:4] == b"PAR1"
