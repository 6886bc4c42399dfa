# What the rules share: the experiment, its paths, and functions of wildcards. Light: every cluster job reads this.
import atexit
import contextlib
import csv
import functools
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(workflow.basedir).parent
sys.path.insert(0, str(ROOT))

from uncouple.errors import UncoupleError
from uncouple.data.sources import Columns, Source
from uncouple.evaluation.judges.replies import REFUSAL
from uncouple.evaluation.options import ALARMING, Asking, Comparing, GENERAL, Ordinary, Pairing
from uncouple.experiment.config import load
from uncouple.experiment.options import Dimension, RESERVED
from uncouple.experiment.paths import Paths
from uncouple.experiment.status import tail
from uncouple.experiment.sweeps import value_text
from uncouple.models.fingerprints import OTHER_PATTERNS, PICKLED, RECORD_NAME, content_fingerprint, missing_files
from uncouple.models.places import Base, Place, Placed, Running
from uncouple.options import Scalar, to_flags, with_files
from uncouple.progress import say
from uncouple.records.files import digest
from uncouple.records.fingerprint import fingerprint
from uncouple.records.layout import WORKFLOW_RESULTS, put_aside
from uncouple.records.plan import stamp, tell_plan, told_plan
from uncouple.reporting.pages import FORMS
from uncouple.reporting.parts import FIGURE_FORMS, as_rst, caption, find_figure, of_all_models, of_each_model, parts
from uncouple.scoring.options import Scoring
from uncouple.selection.options import Selection
from uncouple.tuning.options import Tuning
from uncouple.variants.kinds import ORIGIN

# `python -m uncouple` in a job is this clone's package, run by the interpreter that runs Snakemake.
for variable, folder in (("PYTHONPATH", ROOT), ("PATH", Path(sys.executable).parent)):
    os.environ[variable] = os.pathsep.join(filter(None, [str(folder), os.environ.get(variable)]))


def from_root(path):
    """A path of the config, which is relative to the clone, as jobs see it from the working directory."""
    return path if ROOT == Path.cwd() or os.path.isabs(path) else str(ROOT / path)


def rules_digest():
    """Digest of what the rules say."""
    return digest(*(path.read_bytes() for path in sorted(ROOT.glob("rules/*.smk"))))


# A cluster's job reads this anew, perhaps days later. It runs with the config and the rules that its run was planned with,
# whatever was edited meanwhile: Snakemake takes what it makes for what was planned.
PLAN = {} if workflow.is_main_process else told_plan()
if PLAN:
    if PLAN["rules"] != rules_digest():
        raise WorkflowError(f"{ROOT}/rules: not those that this run was planned with. Start the run again.")
    config.clear()
    config.update(PLAN["config"])
CODE = PLAN.get("code", {})
# Taken before any code is read: what is edited meanwhile is not what was planned with.
STAMP = workflow.is_main_process and stamp()


try:
    EXPERIMENT = with_files(load(config, ROOT), from_root)
except UncoupleError as error:
    raise WorkflowError(str(error))

# A job that finds a file of the results spoilt, or in the place of another, puts it aside: the next run makes it again.
os.environ[WORKFLOW_RESULTS] = EXPERIMENT.results
EVALUATION, PATHS = EXPERIMENT.evaluation, Paths(EXPERIMENT)
# A resource of the rules and no param, for where results are kept changes none of them.
STORE = EXPERIMENT.store
TASKS = EVALUATION.ability.files() if EVALUATION.ability else {}
# The prompts of ordinary samples as questions; of two samples with the same one, the first.
PROMPTS = Source(path=PATHS.ordinary(), columns=Columns(question=["prompt"]), duplicates="drop")
OWN_TASKS = [path.stem for path in (ROOT / "uncouple/evaluation/tasks").glob("*.yaml")]


wildcard_constraints:
    model="|".join(map(re.escape, EXPERIMENT.models)),
    variant="|".join(map(re.escape, EXPERIMENT.variants)),
    base="|".join(map(re.escape, EXPERIMENT.variants)),
    dimension="|".join(map(re.escape, [*EXPERIMENT.dimensions, *RESERVED])),
    label="safe|unsafe",
    replies="|".join(Dimension.replies | Ordinary.replies),
    judge="|".join(map(re.escape, EXPERIMENT.judges)),
    sample_set=r"[a-z0-9_]+-(safe|unsafe)-n\d+-seed\d+",
    test=r"\d+",
    n=r"\d+",
    seed=r"\d+",
    first=r"\d\d\d+",
    last=r"\d\d\d+",


def code_of(verb, what=None, parts=()):
    """Fingerprint of all code that a verb runs: its function, its flags, and the modules that it picks by name."""
    file = f"commands.{verb.replace('-', '_')}"
    roots = [f"{file}:run_{what}" if what else f"{file}:run", f"{file}:add_{what or 'flags'}", *parts]
    key = " ".join(roots)
    if key not in CODE:
        CODE[key] = fingerprint(*roots)
    return CODE[key]


# Snakemake compares a rule's params as a set of values, in which two that change places are the same. So each carries its
# name, as a flag does, and all options of a section are one param. They come from a function of wildcards that does not
# ask for the inputs: what is derived from those is not compared.


def flags(*sections, but=(), **values):
    """Sections, each alone or with the one that it extends and whose options are wanted, and values, as flags of the
    command, quoted for the shell; what is None is left out."""
    parts = []
    for section in sections:
        section, of = section if isinstance(section, tuple) else (section, None)
        parts += to_flags(section, of=of, but=but)
    for name, value in values.items():
        if value is not None:
            parts += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(parts)


def source_of(wildcards):
    """Where rows come from: samples of a label, replies of a kind, questions or tests of a dimension, or what is of none."""
    if "test" in wildcards.keys():
        return test_of(wildcards).source
    key = wildcards.get("label") or wildcards.get("replies") or "questions"
    if wildcards.dimension in EXPERIMENT.dimensions:
        return getattr(EXPERIMENT.dimensions[wildcards.dimension], key)
    if wildcards.dimension == GENERAL:
        return PROMPTS if key == "questions" else EXPERIMENT.general
    return getattr(EVALUATION.ordinary, key)


def question_draw(wildcards):
    """How many questions of a dimension are drawn, and how; ordinary ones are all asked."""
    if wildcards.dimension not in EXPERIMENT.dimensions:
        return ""
    return flags(n=EVALUATION.questions or None, seed=EVALUATION.seed)


def test_of(wildcards):
    """A source of labelled samples of other origin, and their label."""
    return EXPERIMENT.dimensions[wildcards.dimension].test[int(wildcards.test)]


def source_flags(wildcards):
    return flags(source_of(wildcards))


def local_file(rows):
    """The file that rows come from, whose edit makes a step stale; nothing where it is on the Hub."""
    return [rows.path] if rows and rows.path else []


@functools.cache
def content_of(*paths):
    """The content of a user's files: Snakemake looks at dates, and the clock of who edited them may be behind."""
    told = [path for path in paths if path and path != PROMPTS.path]
    return f"content {content_fingerprint(told, told[0])}" if told else ""


def row_content(wildcards):
    return content_of(source_of(wildcards).path)


def fetched(wildcards):
    """What the config says of a model, or of a judge's model."""
    return EXPERIMENT.judges[wildcards.judge] if "judge" in wildcards.keys() else EXPERIMENT.models[wildcards.model]


def model_flags(wildcards):
    """The flags that tell `uncouple fetch` where a model comes from."""
    found = fetched(wildcards)
    if "model" in wildcards.keys():
        return flags((found, Base))
    return f"--encoder {flags((found, Place))}" if found.is_encoder else flags((found, Place))


def local_model_files(wildcards):
    """The files of a model or judge in a local folder, whose edit fetches it anew; nothing for a wheel or the Hub."""
    if (path := fetched(wildcards).path) is None:
        return []
    weights = PICKLED if fetched(wildcards).convert_bin else "*.safetensors"
    found = {p for pattern in (weights, *OTHER_PATTERNS) for p in Path(path).glob(pattern)}
    return sorted(str(p) for p in found if p.is_file() and p.name != RECORD_NAME)


def source_content(wildcards):
    """The content of a model's files in a local folder: Snakemake looks at dates, and what is moved there has an old one."""
    made = PATHS.judge_model(wildcards.judge) if "judge" in wildcards.keys() else PATHS.model(wildcards.model)
    return f"content {content_fingerprint(local_model_files(wildcards), str(Path(made).parent))}"


def placed(wildcards):
    """Where a model runs."""
    return flags((EXPERIMENT.models[wildcards.model], Placed))


def running(wildcards):
    """Where a model runs, and what its chat template is told."""
    return flags((EXPERIMENT.models[wildcards.model], Running))


def one_of(names):
    """A wildcard's constraint to some names; where there are none, to what no name is."""
    return "|".join(map(re.escape, sorted(names))) or r"(?!)"


def tuning_flags(wildcards):
    variant = EXPERIMENT.tuning(wildcards.variant)
    return flags((variant, Tuning), prompt=EXPERIMENT.scoring.prompt)


def mask_flags(wildcards):
    variant = EXPERIMENT.variants[wildcards.variant]
    dimensions = {"dimensions": EXPERIMENT.coupled_by(wildcards.variant), "general_ratio": variant.general}
    return flags((variant.model_copy(update=dimensions), Selection))


def coupling_variant():
    """The variant whose scores the coupling figure is drawn from: the first of the origin, of the default rule, that there is."""
    default = Selection().select

    def is_further(name):
        return EXPERIMENT.opened_from(name) != ORIGIN, EXPERIMENT.variants[name].select != default

    return min(EXPERIMENT.masked, key=is_further)


def coupling_flags(wildcards):
    variant = coupling_variant()
    chosen = {"dimensions": EXPERIMENT.coupled_by(variant), "module": EXPERIMENT.variants[variant].module}
    return flags(**chosen, ratios=EXPERIMENT.figures.ratios)


def origin_flags(base):
    """A function of wildcards: the origin's model, where variants are opened from a checkpoint."""

    def told(wildcards):
        record = PATHS.model(wildcards.model)
        return flags(origin=None if base == ORIGIN else str(Path(record).parent))

    return told


def sweep_flags():
    """The sweeps of the experiment, a flag each."""
    parts = []
    for sweep in EXPERIMENT.sweeps:
        values = [
            f"{name}={json.dumps(v if isinstance(v, Scalar) else value_text(v))}" for name, v in sweep.values.items()
        ]
        parts += ["--sweep", sweep.key, sweep.series, *values]
    return shlex.join(parts)


def variant_flags(names):
    """A function of wildcards: variants as flags of the verbs that measure them. A noise is asked in other batches, which
    the package chooses."""

    def told(wildcards):
        parts = []
        for name in names:
            variant = EXPERIMENT.variants[name]
            edit = f"={PATHS.edit(wildcards.model, name)}" if EXPERIMENT.is_edited(name) else ""
            parts += ["--noise" if variant.is_noise else "--variant", f"{name}{edit}"]
        return shlex.join(parts)

    return told


def judge_of(wildcards):
    """(name, what the config says) of a judge; of a rule that has no such wildcard, the classifier of refusals."""
    name = wildcards.get("judge", REFUSAL)
    return name, EXPERIMENT.judges[name] if name in EXPERIMENT.judges else EXPERIMENT.refusal_judge


def record_of_judge(name):
    """The record of its model's folder."""
    return PATHS.judge_model(EXPERIMENT.refusals_beside if name == REFUSAL else name)


def judge_inputs(wildcards):
    """What a judge needs besides the answers: of its model's folder, the record."""
    name, _ = judge_of(wildcards)
    record = record_of_judge(name)
    paths = [path for by_dimension in PATHS.judge_files(name).values() for path in by_dimension.values()]
    return list(dict.fromkeys(record if f"{path}/".startswith(f"{Path(record).parent}/") else path for path in paths))


def judge_content(wildcards):
    """The content of what a judge needs and no step makes, such as its phrases."""
    return content_of(*(path for path in judge_inputs(wildcards) if not path.startswith(f"{EXPERIMENT.results}/")))


def judge_flags(wildcards):
    (name, judge), files = judge_of(wildcards), {}
    for flag, paths in PATHS.judge_files(name).items():
        same = len(set(paths.values())) == 1
        files[flag] = next(iter(paths.values())) if same else [f"{name}={path}" for name, path in paths.items()]
    own = flags(judge, but={*Place.model_fields, *files, *judge.inputs})
    return f"{flags(name=name, judge=judge.kind, **files)} {own}".strip()


def all_answers(wildcards):
    return PATHS.all_answers(wildcards.model)


def judged_answers(wildcards):
    """The answers that judges are for: those to the dimensions' questions."""
    return PATHS.all_answers(wildcards.model, list(EXPERIMENT.dimensions))


def counted_answers(wildcards):
    """The answers in which phrases are counted."""
    return PATHS.all_answers(wildcards.model, EXPERIMENT.counted)


def all_verdicts(wildcards):
    return PATHS.all_verdicts(wildcards.model)


EACH = {"sweeps": list(dict.fromkeys(sweep.key for sweep in EXPERIMENT.sweeps))}
ALL_FIGURES = {
    name: part for name, part in parts("figures", EXPERIMENT.measured, EACH).items() if part.TABLE != "judge"
}
ALL_TABLES = parts("tables", EXPERIMENT.measured)
ALL_METRICS = [PATHS.metrics("metrics", model) for model in EXPERIMENT.models]
FIGURES, TABLES = of_each_model(ALL_FIGURES), of_each_model(ALL_TABLES)
FIGURES_ACROSS, TABLES_ACROSS = of_all_models(ALL_FIGURES), of_all_models(ALL_TABLES)
DRAWN = [(name, part, "{model}") for name, part in FIGURES.items()]
DRAWN += [(name, part, "models") for name, part in FIGURES_ACROSS.items()]
# Snakemake takes captions from files alone, and these are docstrings: a word of one draws nothing.
CAPTIONS = Path(tempfile.mkdtemp(prefix="uncouple-captions-"))
atexit.register(shutil.rmtree, CAPTIONS, ignore_errors=True)


def caption_file(part):
    """The caption of a figure or table, as a file for the report."""
    path = CAPTIONS / f"{part.__name__}.rst"
    path.write_text(caption(part), encoding="utf-8")
    return str(path)


def answer_of(model):
    """What the report says first: the answers of a model, as far as they are written; see the table of that name."""
    if not (path := Path(PATHS.table(model, "answer", "csv"))).exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    told = [f"**{as_rst(model)}**"]
    for row in rows:
        told += [f"*{as_rst(row['question'])}*"] + [f"- {as_rst(line)}" for line in row["answer"].splitlines()]
    return told


def report_file():
    """The report's first words: the answers, how to read it, and of each judge what its kind's docstring says."""
    path = CAPTIONS / "workflow.rst"
    judges = {name: caption(type(EXPERIMENT.judges[name])) for name in EXPERIMENT.judging}
    told = [line for model in EXPERIMENT.models for line in answer_of(model)]
    told += [(ROOT / "workflow/report/workflow.rst").read_text(encoding="utf-8")]
    told += [f"The judge ``{name}``: {text}" for name, text in judges.items()]
    path.write_text("\n\n".join(told), encoding="utf-8")
    return str(path)


def needs_each(part):
    """The kind of file that says for what a figure is drawn, where it is not drawn once."""
    return [part.EACH] if hasattr(part, "EACH") else []


def figure_sources(part, model):
    """The tables that a figure is drawn from, of a model or of all models."""
    if model == "models":
        return ALL_METRICS
    return lambda wildcards: PATHS.shown({part.TABLE, *needs_each(part)}, wildcards.model)


def table_sources(wildcards):
    return PATHS.shown({kind for part in TABLES.values() for kind in part.TABLES}, wildcards.model)


# Snakemake looks at the record alone: the step that makes a folder would never run again for the weights lost from it.
# A run that goes on may just be making one, so nothing is moved beside it.
if workflow.is_main_process and not any(Path(".snakemake/locks").glob("*")):
    for record in filter(os.path.exists, PATHS.records()):
        if lost := missing_files(Path(record).parent):
            say(f"{record} counts as not made: {', '.join(lost)} lost or of another version.")
            # Whoever may not write here is told by the step that reads it.
            with contextlib.suppress(OSError):
                put_aside(Path(record))
