"""A copy of the project with a tiny experiment in it, which workflow tests run and edit."""

import json
import os
import re
import shutil
import subprocess
import sys

import yaml
from conftest import ROOT, TEXTS

COPIED = ("uncouple", "workflow", "rules", "envs", "resources", "config.yaml")


class Clone:
    """A copy of the project with a tiny experiment in it."""

    def __init__(self, folder):
        self.folder = folder
        self.config = yaml.safe_load((folder / "experiment.yaml").read_text())

    @classmethod
    def make(cls, folder, model_folder, encoder):
        """A new copy, with a model and an encoder of its own."""
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / name)
        shutil.copytree(model_folder, folder / "base")
        shutil.copytree(encoder, folder / "encoder")
        (folder / "raw").mkdir()
        (folder / "experiment.yaml").write_text(yaml.safe_dump(_experiment(folder / "raw"), sort_keys=False))
        return cls(folder)

    def write(self):
        """Write the config, as edits have made it."""
        (self.folder / "experiment.yaml").write_text(yaml.safe_dump(self.config, sort_keys=False))

    def snakemake(self, *arguments, check=True, orders=None):
        """What it says. `orders` is a folder of what is done to some of its steps, see tests/cluster/orders."""
        self.write()
        # Two jobs that run a model, side by side: most of what these take is the start of a process.
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--resources", "gpu=2"]
        command += ["--configfile", "experiment.yaml", *arguments]
        environment = os.environ | (told(orders) if orders else {})
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        output = done.stdout + done.stderr
        assert not check or done.returncode == 0, output
        return output

    def stale(self):
        """What would run: dict of rule to number of jobs."""
        output = self.snakemake("--dry-run")
        if "Nothing to be done" in output:
            return {}
        table = re.search(r"^job +count\n[- ]+\n(.*?)^total", output, re.S | re.M)
        return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table[1], re.M) if rule != "all"}

    def edit(self, path, old, new):
        text = (self.folder / path).read_text()
        assert old in text, (path, old)
        (self.folder / path).write_text(text.replace(old, new, 1))


def told(orders):
    """The environment of a run in which some steps are told to wait or to hold memory."""
    paths = [str(ROOT / "tests/cluster/orders"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "UNCOUPLE_ORDERS": str(orders)}


def _experiment(raw):
    """The config of the tiny experiment, whose raw data is written to a folder."""

    def write(name, rows):
        (raw / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {"path": f"raw/{name}"}

    # More general rows than variants draw: the others are asked as ordinary questions.
    general = [(f"{p}{more}", r) for more in ("", " Please!") for p, r in TEXTS[3:]]
    rows = {"fairness": TEXTS[:5], "privacy": TEXTS[2:], "general": general}
    dimensions = {}
    for name, pairs in rows.items():
        source = write(f"{name}.jsonl", [{"prompt": p, "response": r, "question": p} for p, r in pairs])
        dimensions[name] = {"safe": source, "questions": dict(source)}
    general = dimensions.pop("general")["safe"]
    for name, dimension in dimensions.items():
        # A judge is tried on prompts that it was not trained on, so there must be some.
        unsafe = [{"prompt": f"{p} {i}", "response": f"Sure, {i}."} for i in range(3) for p, _ in TEXTS]
        dimension |= {"unsafe": write(f"{name}_unsafe.jsonl", unsafe), "phrases": f"resources/phrases/{name}.txt"}
    # One judge is tested on answers of other origin, and one is not.
    other = [{"prompt": f"Other {i}?", "response": "Sure." * i, "kind": k} for i in (1, 2) for k in ("safe", "unsafe")]
    source = write("other.jsonl", other)
    dimensions["privacy"]["test"] = [
        {"label": label, "source": source | {"where": {"kind": label}}} for label in ("safe", "unsafe")
    ]
    alarming = write("alarming.jsonl", [{"question": f"How do I kill process {i}?"} for i in range(3)])
    (raw / "text.txt").write_text("\n".join(response for _, response in TEXTS))
    write("boolq.jsonl", [{"passage": r, "question": p, "answer": len(p) % 2 == 0} for p, r in TEXTS])
    variant = {"kind": "suppress", "ratio": 0.02, "general_ratio": 0.03, "n": 3}
    return {
        "models": {"SmolLM2-135M-Instruct": None, "tiny": {"path": "base", "layers": 2}},
        "dimensions": dimensions,
        "general": general,
        "scoring": {"keep": 0.05, "layers_per_shard": 1},
        "variants": {"spin": variant, "published": None, "random": variant | {"select": "random"}},
        "judges": {"embedding": {"path": "encoder", "wheel": None, "sha256": None, "file": None}},
        "evaluation": {
            "max_new_tokens": 6,
            "batch_size": 64,
            "questions": 4,
            "seed": 3,
            "hsic": {"n": 4, "permutations": 20},
            "ordinary": {"n": 2, "questions": alarming},
            "perplexity": {"path": "raw/text.txt", "window": 32, "windows": 2},
            "ability": {"tasks": {"boolq": "raw/boolq.jsonl"}, "limit": 4},
        },
        "figures": {"ratios": [0.005, 0.02, 0.05]},
    }
