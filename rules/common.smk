# What the rules share: the resolved config, paths, and functions of wildcards. Light: every cluster job reads this.
import json
import os
import shlex
import sys
from pathlib import Path

import yaml

ROOT = Path(workflow.basedir).parent
sys.path.insert(0, str(ROOT))

from uncouple.config import resolve
from uncouple.errors import UncoupleError
from uncouple.fingerprint import fingerprint

# `python -m uncouple` in a job is this clone's package, run by the interpreter that runs Snakemake.
for variable, folder in (("PYTHONPATH", ROOT), ("PATH", Path(sys.executable).parent)):
    os.environ[variable] = os.pathsep.join(filter(None, [str(folder), os.environ.get(variable)]))

try:
    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
    config = resolve(config, schema, ROOT)
except UncoupleError as error:
    raise WorkflowError(str(error))

RESULTS = config["results"]
LOGS = f"{RESULTS}/logs"
BENCHMARKS = f"{RESULTS}/benchmarks"
SUPPRESSED = [name for name, variant in config["variants"].items() if variant["kind"] == "suppress"]


wildcard_constraints:
    model="|".join(map(re.escape, config["models"])),
    variant="|".join(map(re.escape, config["variants"])),
    dimension="|".join(map(re.escape, [*config["dimensions"], "general"])),
    label="safe|unsafe",
    judge="|".join(config["evaluation"]["judges"]),
    sample_set=r"[a-z0-9_]+-(safe|unsafe)-n\d+-seed\d+",
    n=r"\d+",
    seed=r"\d+",
    first=r"\d\d\d+",
    last=r"\d\d\d+",


def from_root(path):
    """A path of the config, which is relative to the clone, as jobs see it from the working directory."""
    return path if ROOT == Path.cwd() or os.path.isabs(path) else str(ROOT / path)


def source_of(wildcards):
    """Where the rows of a dimension come from: its samples of a label, its questions, or the general samples."""
    if wildcards.dimension == "general":
        return config["general"]
    return config["dimensions"][wildcards.dimension][wildcards.get("label", "questions")]


def raw_file(wildcards):
    """The raw file that a table is drawn from; nothing where it comes from the Hub."""
    source = source_of(wildcards)
    return [from_root(source["path"])] if "path" in source else []


def source_flags(wildcards):
    """The flags that tell `uncouple samples` where to read."""
    source = source_of(wildcards)
    flags = []
    for key in ("path", "hub", "revision", "name", "split", "duplicates"):
        if key in source:
            flags += [f"--{key}", from_root(source[key]) if key == "path" else source[key]]
    for column, value in source.get("where", {}).items():
        flags += ["--where", f"{column}={json.dumps(value)}"]
    for field, columns in source.get("columns", {}).items():
        flags += [f"--{field}-column", *columns]
    return shlex.join(flags)


def local_model_files(wildcards):
    """The files of a model in a local folder, whose edit fetches it anew; nothing for a wheel or the Hub."""
    path = config["models"][wildcards.model].get("path")
    if path is None:
        return []
    return sorted(str(p) for pattern in ("*.json", "*.safetensors") for p in Path(from_root(path)).glob(pattern))


def model_flags(wildcards):
    """The flags that tell `uncouple fetch` where a model comes from."""
    flags = []
    for key, value in config["models"][wildcards.model].items():
        flags += [f"--{key}", from_root(value) if key == "path" else str(value)]
    return shlex.join(flags)


def scoring_memory_mb(wildcards, input):
    """Weights and accumulators in float32 and the batch: about four times the files, and two GB to work in."""
    return 2000 + 4 * sum(p.stat().st_size for p in Path(input.model).parent.glob("*.safetensors")) // 10**6


def threads_of_gpu_job():
    """All cores, or this job's share of them where --resources gpu=N lets N such jobs run side by side."""
    gpus = workflow.global_resources.get("gpu")
    return max(1, workflow.cores // (gpus.value if gpus and gpus.value else 1))


def variant_value(key):
    """A function of wildcards: the value of one key of the variant."""
    return lambda wildcards: config["variants"][wildcards.variant].get(key)


def variant_dimensions(variant):
    """The dimensions that a variant couples."""
    return config["variants"][variant].get("dimensions", list(config["dimensions"]))


def general_ratio(wildcards):
    variant = config["variants"][wildcards.variant]
    return variant.get("general_ratio", variant["ratio"])


def layer_ranges(model):
    """(first, last) of each score shard of a model."""
    layers = config["models"][model]["layers"]
    step = config["scoring"]["layers_per_shard"] or layers
    return [(first, min(first + step, layers) - 1) for first in range(0, layers, step)]


def shards(model, variant):
    """All score shards that a variant of a model is selected from."""
    wanted = config["variants"][variant]
    sets = [f"{dimension}-{wanted['label']}" for dimension in variant_dimensions(variant)] + ["general-safe"]
    return [
        f"{RESULTS}/scores/{model}/{name}-n{wanted['n']}-seed{wanted['seed']}/layers-{first:03d}-{last:03d}.parquet"
        for name in sets
        for first, last in layer_ranges(model)
    ]


def variant_mask(wildcards):
    """The mask of a suppressed variant; nothing for the origin."""
    return [f"{RESULTS}/masks/{wildcards.model}/{wildcards.variant}.parquet"] if wildcards.variant in SUPPRESSED else []


def all_verdicts(model):
    return [
        f"{RESULTS}/verdicts/{model}/{variant}/{dimension}.{judge}.parquet"
        for variant in config["variants"]
        for dimension in config["dimensions"]
        for judge in config["evaluation"]["judges"]
    ]


def coupling_variant():
    """The variant whose samples the coupling figure is drawn from: the first `coupled` one, or the first there is."""
    coupled = [name for name in SUPPRESSED if config["variants"][name]["select"] == "coupled"]
    return (coupled or SUPPRESSED)[0]


def all_figures():
    """Every figure and table of the experiment."""
    names = ["figures/{model}/awareness.png", "tables/{model}/summary.md"]
    if SUPPRESSED:
        names += ["figures/{model}/placement.png", "figures/{model}/coupling.png", "tables/{model}/selections.md"]
    return [f"{RESULTS}/{name.format(model=model)}" for model in config["models"] for name in names]


def all_checkpoints():
    """The checkpoints of those variants that ask for one."""
    return [
        f"{RESULTS}/checkpoints/{model}/{variant}/uncouple.json"
        for model in config["models"]
        for variant in SUPPRESSED
        if config["variants"][variant]["checkpoint"]
    ]
