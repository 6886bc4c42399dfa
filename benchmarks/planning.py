"""How long a person waits for Snakemake where an experiment is large: its Snakefile, a plan, and redrawn figures.

    python -m benchmarks.planning --from results

Three figures, each in a copy of the clone:

- the Snakefile's own parse, of the default experiment: what `snakemake --list` takes more than Snakemake's start;
- a dry run of 4 models with 40 variants each, of which nothing is made;
- an edited figure on finished results of experiments/paper.yaml: from the command to the redrawn figures, one for each
  model; and beside it an edit of what all figures share. The results are stand-ins, empty files of the right names, but
  for the tables that figures are drawn from. Those have the rows of a finished run (--from; `make run` makes one) under
  the paper's names of models and variants. It is checked that nothing else runs.
"""

import argparse
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import yaml

from benchmarks.common import describe_machine, report
from uncouple.evaluation.statistics import rate
from uncouple.experiment.config import read_experiment
from uncouple.experiment.paths import Paths
from uncouple.models.fingerprints import read_model_record
from uncouple.records.files import read_table, write_record, write_table
from uncouple.records.formats import COUPLING, METRICS, MODEL, PLACEMENT

ROOT = Path(__file__).parent.parent
COPIED = ("uncouple", "workflow", "rules", "envs", "resources", "experiments", "config.yaml")
VARIANTS = {
    "ratio": {"kind": "suppress", "ratio": [i * 1e-6 for i in range(1, 15)]},
    "draw": {"kind": "suppress", "seed": list(range(1, 13))},
    "control": {"kind": "suppress", "select": "random", "select_seed": list(range(12))},
}
PAPER = ("--configfile", "experiments/paper.yaml")
# The shipped run's judges stand for the paper's.
JUDGES = {"embedding": "md-judge", "phrases": "phrases", "refusal": "refusal"}
FIGURE = "awareness"


def snakemake(folder, *arguments):
    """(what it says, its seconds)."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "snakemake", "--cores", "all", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    output, seconds = done.stdout + done.stderr, time.perf_counter() - start
    if done.returncode:
        sys.exit(output)
    return output, seconds


def copy_clone(folder):
    for name in COPIED:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)


def time_parse(folder, repeats=3):
    """Seconds of `snakemake --list` less those of an empty Snakefile, each the least of some."""
    (folder / "empty").write_text("rule all:\n")
    found = []
    for arguments in ((), ("--snakefile", "empty", "--workflow-profile", "none")):
        found.append(min(snakemake(folder, "--list", *arguments)[1] for _ in range(repeats)))
    return found[0] - found[1]


def time_plan(folder):
    """(seconds, jobs) of a dry run of 4 models with 40 variants each."""
    hub = {"hub": "organization/model", "revision": "0" * 40, "layers": 28}
    experiment = {"results": "results/large", "variants": VARIANTS}
    experiment["models"] = {"SmolLM2-135M-Instruct": None} | {f"m{i}": hub for i in range(4)}
    (folder / "large.yaml").write_text(yaml.safe_dump(experiment))
    output, seconds = snakemake(folder, "--dry-run", "--quiet", "host", "--configfile", "large.yaml")
    return seconds, int(re.search(r"(?m)^total +(\d+)$", output)[1])


def rows_of(table, model, variants, tasks):
    """The rows of a finished run's metrics, under the names of a model and of variants that its own stand for."""
    rows = table.to_pylist()
    own = {name: [row for row in rows if row["variant"] == name] for name in dict.fromkeys(r["variant"] for r in rows)}
    edited = itertools.cycle([name for name in own if name not in (None, "origin", "noise")])
    found = [row | {"model": model} for row in own.get(None, [])]
    for variant in variants:
        name = variant if variant in ("origin", "noise") else next(edited)
        found += [row | {"model": model, "variant": variant, "judge": JUDGES.get(row["judge"])} for row in own[name]]
        found += [
            {
                "model": model,
                "variant": variant,
                "dimension": "general",
                "metric": "acc",
                "task": task,
                **rate(100, 200),
            }
            for task in tasks
            if variant != "noise"
        ]
    return [row for row in found if row["metric"] not in ("chosen", "chosen_p", "picked", "jaccard")]


def stand_in(folder, source):
    """Finished results of the paper's experiment, which are empty but for records and what figures are drawn from."""
    experiment = read_experiment(folder / PAPER[1])
    paths, (model, *_) = Paths(experiment), sorted((source / "models").iterdir())
    summary, _ = snakemake(folder, "--summary", *PAPER)
    for line in summary.splitlines():
        if line.startswith(f"{experiment.results}/"):
            path = folder / line.split("\t")[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    # A folder that its record does not describe would count as not made.
    about = read_model_record(model)
    for record in map(folder.joinpath, paths.records()):
        # Each says where it belongs: of a model its name, of a checkpoint the variant too.
        top, name, *variant, _ = record.relative_to(folder / experiment.results).parts
        write_record(record, MODEL, about | {"name": name, "source": {"variant": variant[0] if variant else None}})
        for name, (size, _) in about["files"].items():
            (record.parent / name).parent.mkdir(exist_ok=True)
            with open(record.parent / name, "wb") as file:
                file.truncate(size)
    for judge in experiment.trained:
        for name in [*experiment.dimensions, "refusal"]:
            shutil.copy(source / f"judges/embedding/{name}.json", folder / paths.trained_judge(judge, name))
    metrics, told = read_table(source / f"metrics/{model.name}/metrics.parquet", METRICS)
    for name in experiment.models:
        rows = rows_of(metrics, name, experiment.variants, experiment.evaluation.ability.files())
        write_table(rows, folder / paths.metrics("metrics", name), METRICS, told | {"measured": "metrics"})
        for form in (PLACEMENT, COUPLING):
            table, made = read_table(source / f"metrics/{model.name}/{form.kind}.parquet", form)
            rows = [row | {"model": name} for row in table.to_pylist()]
            write_table(rows, folder / paths.metrics(form.kind, name), form, made)
    snakemake(folder, "--force", paths.sweeps(), *PAPER)


def time_figures(folder, source):
    """For an edited figure, and for what all share, (seconds, jobs) of the figures that are drawn again."""
    stand_in(folder, source)
    snakemake(folder, "--touch", *PAPER)
    # Drawn once: Snakemake then knows with what code.
    rules, _ = snakemake(folder, "--list-rules", *PAPER)
    drawing = re.findall(r"(?m)^draw_(?:figure_\w+|judge)$", rules)
    output, _ = snakemake(folder, *PAPER, "--forcerun", *drawing, "--until", *drawing)
    plan, _ = snakemake(folder, "--dry-run", *PAPER)
    if "Nothing to be done" not in plan:
        sys.exit(f"The stand-ins are not taken for finished results:\n{plan[-3000:]}")
    yield redraw(folder, f"uncouple/reporting/figures/{FIGURE}.py", {f"draw_figure_{FIGURE}"})
    yield redraw(folder, "uncouple/reporting/drawing.py", set(rules_in(output)))


def redraw(folder, path, expected):
    """(seconds, jobs) of figures that are drawn again after an edit of a file of their code."""
    # A statement more in each function.
    text = (folder / path).read_text()
    (folder / path).write_text(re.sub(r'(?m)^    """(?s:.*?)"""$', r"\g<0>\n    1 + 1", text))
    output, seconds = snakemake(folder, *PAPER)
    if set(ran := rules_in(output)) != expected:
        sys.exit(f"These ran: {sorted(ran)}, and these should have: {sorted(expected)}.")
    return seconds, ran.total()


def rules_in(output):
    """How many jobs of each rule ran, by what Snakemake said."""
    found = Counter(re.findall(r"(?m)^(?:local)?rule (\w+):$", output))
    del found["all"]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, default="results", help="the results of a finished run")
    parser.add_argument("--json", help="write the figures here as well")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_clone(folder)
        rows.append({"what": "the Snakefile's parse", "seconds": time_parse(folder), "jobs": None, "bar": 1.5})
        seconds, jobs = time_plan(folder)
        rows.append({"what": "dry run, 4 models x 40 variants", "seconds": seconds, "jobs": jobs, "bar": 10.0})
        names = {"an edited figure, paper.yaml": 25.0, "edited code of all its figures": None}
        for (what, bar), (seconds, jobs) in zip(
            names.items(), time_figures(folder, arguments.source.resolve()), strict=True
        ):
            rows.append({"what": what, "seconds": seconds, "jobs": jobs, "bar": bar})
    print(describe_machine("cpu"))
    report(rows, arguments.json)


if __name__ == "__main__":
    main()
