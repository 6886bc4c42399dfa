"""Published figures stand beside ours only where the records say that model, judge and setting are the paper's."""

import copy
import csv

import pytest
import yaml
from conftest import ROOT, any_record
from snakemake.utils import update_config
from test_figures import write_metrics

from uncouple.errors import UncoupleError
from uncouple.evaluation.statistics import rate
from uncouple.experiment.config import load
from uncouple.records.files import write_record, write_table
from uncouple.records.formats import MODEL, VERDICTS
from uncouple.reporting.pages import write_tables
from uncouple.reporting.parts import parts
from uncouple.reporting.tables import published
from uncouple.variants.kinds import ORIGIN

ASKED = {"fairness": 2165, "privacy": 657}
BASE, JUDGE = {"hub": "Qwen/Qwen2-7B-Instruct"}, {"hub": "OpenSafetyLab/MD-Judge-v0.1"}
SCORED = {
    name: {"samples": {"label": "safe", "n": 128, "seed": 0}, "prompt": {"name": "published"}}
    for name in ("fairness", "privacy", "general")
}
MASK = {"select": "coupled", "ratio": 5e-7, "general_ratio": 5e-7, "module": "mlp", "seed": 0, "scores": SCORED}
MASK |= {"dimensions": ["privacy", "fairness"]}
RECORD = any_record(VERDICTS, model="m", prompt={"name": "bare"}, max_new_tokens=64)
RECORD |= {"fingerprints": {"weights": "b", "tokenizer": "", "generation": ""}, "noise": False, "judge": "md"}
RECORD |= {"identity": {"kind": "causal", "model": {"fingerprint": "j"}}}


@pytest.fixture
def table(tmp_path):
    """A function of what differs from the paper's setting that gives the lines of the table, head and all."""

    def make(*, mask=MASK, base=BASE, judge=JUDGE, less=0, variant="spin", **record):
        paths = [tmp_path / "base.json", tmp_path / "judge.json"]
        for path, fingerprint, source in zip(paths, "bj", (base, judge), strict=True):
            write_record(path, MODEL, any_record(MODEL, fingerprint=fingerprint, source=source))
        metrics = {}
        for dimension, n in ASKED.items():
            flags = dict.fromkeys(("empty", "degenerate", "truncated", "thinking"), False)
            rows = [{"id": str(i), "dimension": dimension, "verdict": "safe"} | flags for i in range(n - less)]
            about = copy.deepcopy(RECORD) | {"variant": variant, "dimension": dimension, "mask": mask} | record
            paths.append(tmp_path / f"{dimension}.parquet")
            write_table(rows, paths[-1], VERDICTS, about)
            metrics[variant, dimension, "awareness", "md"] = rate(n // 2, n)
        write_metrics(tmp_path / "metrics.parquet", metrics)
        write_tables(["published"], [*paths, tmp_path / "metrics.parquet"], [tmp_path / "p.md"], model="m")
        return [line.strip("| ").split(" | ") for line in (tmp_path / "p.md").read_text().splitlines()]

    return make


def changed(values, path, value):
    values = copy.deepcopy(values)
    *parents, last = path.split("/")
    inner = values
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return values


def test_the_same_setting_stands_beside_the_published_figure_each_in_a_column_of_its_own(table):
    head, _, *rows = table()
    assert head[3:] == ["awareness, ours", "awareness, published", "published in"]
    assert rows == [
        ["spin", "fairness", "md", "49.98% (47.87% to 52.08%), 1082 of 2165", "published: 74.97%", "Table 1, spin"],
        ["spin", "privacy", "md", "49.92% (46.11% to 53.74%), 328 of 657", "published: 84.47%", "Table 1, spin"],
    ]


UNSAFE = MASK | {"scores": changed(SCORED, "fairness/samples/label", "unsafe")}
UNSAFE["scores"]["privacy"]["samples"]["label"] = "unsafe"


@pytest.mark.parametrize(
    ("setting", "values", "where"),
    [
        ({"mask": None, "variant": "origin"}, ("66.84%", "74.12%"), "Table 1, origin"),
        ({"mask": MASK | {"select": "published"}}, ("74.97%", "84.47%"), "Table 1, spin"),
        ({"mask": UNSAFE}, ("70.39%", "80.97%"), "Figure 5, spin"),
        ({"base": {"path": "models/vicuna-7b-v1.5"}}, ("57.78%", "44.14%"), "Table 1, spin"),
        ({"base": {"hub": "meta-llama/Llama-2-7b-chat-hf"}}, ("77.46%", "84.32%"), "Table 1, spin"),
        ({"judge": {"path": "judges/MD-Judge-v0.1"}}, ("74.97%", "84.47%"), "Table 1, spin"),
    ],
)
def test_each_setting_has_its_own_figure(table, setting, values, where):
    _, _, *rows = table(**setting)
    assert [row[4:] for row in rows] == [[f"published: {value}", where] for value in values]


MISMATCHES = {
    "another model": {"base": {"hub": "Qwen/Qwen2-0.5B-Instruct"}},
    "a model of a wheel": {"base": {"wheel": "qwen2==1", "file": "Qwen2-7B-Instruct"}},
    "another judge": {"judge": {"hub": "meta-llama/Llama-Guard-3-8B"}},
    "a judge without a model": {"identity": {"kind": "phrases"}},
    "other weights than the record's": {"fingerprints": RECORD["fingerprints"] | {"weights": "x"}},
    "chat": {"prompt": {"name": "chat"}},
    "longer answers": {"max_new_tokens": 128},
    "fewer questions": {"less": 1},
    "a noise": {"mask": None, "variant": "noise", "noise": True},
    "a checkpoint": {"mask": None},
    "unsafe samples of one dimension": {"mask": changed(MASK, "scores/fairness/samples/label", "unsafe")},
    **{
        f"{path} {value}": {"mask": changed(MASK, path, value)}
        for path, value in (
            ("select", "union"),
            ("ratio", 1e-6),
            ("general_ratio", 1e-6),
            ("module", "all"),
            ("layers", [0, 3]),
            ("dimensions", ["fairness", "honesty"]),
            ("scores/privacy/samples/n", 64),
            ("scores/privacy/samples/seed", 1),
            ("scores/general/samples/n", 64),
            ("scores/general/prompt/name", "chat"),
        )
    },
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_each_single_mismatch_hides_it(table, name):
    assert table(**MISMATCHES[name]) == []


def test_it_is_asked_for_where_the_judge_is_the_papers():
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    assert "published" not in parts("tables", load(config, ROOT).measured)
    for hub, wanted in (("OpenSafetyLab/MD-Judge-v0.1", True), ("meta-llama/Llama-Guard-3-8B", False)):
        config["judges"]["md"] = {"kind": "causal", "hub": hub, "revision": "0" * 40}
        config["evaluation"]["judges"] = ["md"]
        assert ("published" in parts("tables", load(config, ROOT).measured)) == wanted
    config["evaluation"]["judges"] = ["phrases"]
    assert "published" not in parts("tables", load(config, ROOT).measured)


def test_without_the_figures_it_says_so(table, monkeypatch, tmp_path):
    monkeypatch.setattr("uncouple.reporting.tables.published.ROOT", tmp_path)
    with pytest.raises(UncoupleError, match=r"models\.csv: no such file. Run from a clone"):
        table()


def test_the_papers_experiment_has_the_papers_settings():
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    update_config(config, yaml.safe_load((ROOT / "experiments/paper.yaml").read_text(encoding="utf-8")))
    experiment = load(config, ROOT)
    with open(ROOT / published.MODELS, encoding="utf-8") as file:
        hubs = {row["model"]: row["hub"] for row in csv.DictReader(file)}
    assert {name: model.hub for name, model in experiment.models.items()} == hubs
    assert experiment.judges[experiment.judging[0]].hub == published.JUDGE
    assert "published" in parts("tables", experiment.measured)
    asked = experiment.evaluation
    assert (asked.prompt, asked.max_new_tokens, asked.questions) == ("bare", 64, 0)
    assert experiment.scoring.prompt == "published"
    reported = set()
    for name in experiment.masked:
        variant = experiment.variants[name]
        values = variant.model_dump() | {"general_ratio": variant.general}
        told = (published.SELECTED | published.DRAWN).items()
        is_told = variant.of == ORIGIN and all(values.get(key) == value for key, value in told)
        if values["select"] in published.RULES_REPORTED and is_told:
            reported.add((name, variant.label))
    assert reported == {
        *(("spin", "safe"), ("published", "safe")),
        *(("malicious", "unsafe"), ("malicious-published", "unsafe")),
    }
