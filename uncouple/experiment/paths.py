"""What lies where in the results folder of an experiment.

Each path's parts have wildcards of Snakemake as defaults: without arguments a path is the pattern of a rule.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from uncouple.evaluation.judges.kinds import Places
from uncouple.evaluation.judges.replies import REFUSAL
from uncouple.evaluation.options import GENERAL, Ordinary
from uncouple.experiment.options import Dimension, Experiment, Group
from uncouple.models.fingerprints import RECORD_NAME
from uncouple.reporting.pages import FORMS
from uncouple.reporting.parts import FIGURE_FORMS
from uncouple.tuning.methods import ADAPTER, CURVE
from uncouple.variants.kinds import ORIGIN

# What is measured on text in which no prompt is told.
PLAIN = ("perplexity", "ability")


@dataclass(frozen=True)
class Paths:
    """Paths of an experiment.

    Attributes:
        experiment: its files are paths as the working directory sees them.
    """

    experiment: Experiment

    def under(self, path: str) -> str:
        """A path in the results folder."""
        return f"{self.experiment.results}/{path}"

    def log(self, path: str) -> str:
        """The log of the step that makes a file."""
        return self._beside(path, "logs", ".log")

    def benchmark(self, path: str) -> str:
        """How long that step took, and what memory."""
        return self._beside(path, "benchmarks", ".tsv")

    def _beside(self, path: str, folder: str, suffix: str) -> str:
        made = path.removeprefix(f"{self.experiment.results}/")
        if made.endswith(f"/{RECORD_NAME}"):
            made = made.removesuffix(f"/{RECORD_NAME}")
        else:
            made = made.removesuffix(PurePosixPath(made).suffix)
        return self.under(f"{folder}/{made}{suffix}")

    def steps(self, model: str) -> list[str]:
        """The long steps of a model and of the judges, as VERB=FILE, the file being what tells how long each took."""
        experiment, measured = self.experiment, self.experiment.measured
        made = {"fetch": [self.model(model), *self.judge_models()], "score": self.all_shards(model)}
        written = [name for name, variant in experiment.variants.items() if variant.has_checkpoint]
        made["apply"] = [self.checkpoint(model, name) for name in written if name in experiment.masked]
        tuned = {name: self.checkpoint if name in written else self.adapter for name in experiment.tuned}
        made["tune"] = [place(model, name) for name, place in tuned.items()]
        made["train-judge"] = [self.trained_judge(judge, "training") for judge in self._trainers()]
        made["ask"] = [self.answers_of(group, model) for group in experiment.groups]
        judges = [*experiment.judging, *([REFUSAL] if experiment.ordinary else [])]
        made["judge"] = [self.judged_by(judge, model) for judge in judges]
        for key in ("perplexity", "ability", "divergence"):
            groups = experiment.plain_groups if key in PLAIN else experiment.measured_groups
            made[key] = [self.metrics_of(key, group, model) for group in groups if key in measured]
        pairs = [f"hsic/{one}-{other}" for one, other in experiment.pairs]
        made["hsic"] = [self.metrics_of(pair, group, model) for pair in pairs for group in experiment.measured_groups]
        return [f"{verb}={self.benchmark(path)}" for verb, paths in made.items() for path in paths]

    # Models and judges

    def model(self, model: str = "{model}") -> str:
        return self.under(f"models/{model}/{RECORD_NAME}")

    def base(self, model: str = "{model}", variant: str = ORIGIN) -> str:
        """What the variants of a group are opened from: a variant's checkpoint, or for the origin the model."""
        return self.model(model) if variant == ORIGIN else self.checkpoint(model, variant)

    def base_of(self, model: str, variant: str) -> str:
        """What a variant is opened from."""
        return self.base(model, self.experiment.opened_from(variant))

    def judge_model(self, judge: str = "{judge}") -> str:
        return self.under(f"judges/{judge}/model/{RECORD_NAME}")

    def trained_judge(self, judge: str = "{judge}", dimension: str = "{dimension}") -> str:
        return self.under(f"judges/{judge}/{dimension}.json")

    def trained_judges(self, judge: str = "{judge}") -> list[str]:
        """What a trained judge is in each dimension, and the classifier of refusals beside it."""
        names = [*self.experiment.dimensions, *([REFUSAL] if self.experiment.refusals_beside else [])]
        return [self.trained_judge(judge, name) for name in names]

    def judge_files(self, judge: str) -> dict[str, dict[str, str]]:
        """What a judge reads besides the answers: by the flag that names it, the path of each dimension."""
        if judge == REFUSAL:
            return self._refusal_files()
        folder = self.judge_model(judge).removesuffix(f"/{RECORD_NAME}")
        files: dict[str, dict[str, str]] = {}
        for name, dimension in self.experiment.dimensions.items():
            places = Places(dimension.phrases, folder, self.trained_judge(judge, name))
            for flag, path in self.experiment.judges[judge].files(places).items():
                files.setdefault(flag, {})[name] = path
        return files

    def _refusal_files(self) -> dict[str, dict[str, str]]:
        beside = self.experiment.refusals_beside or ""
        folder = self.judge_model(beside).removesuffix(f"/{RECORD_NAME}")
        files = self.experiment.refusal_judge.files(Places(None, folder, self.trained_judge(beside, REFUSAL)))
        return {flag: dict.fromkeys(self.experiment.asked, path) for flag, path in files.items()}

    def records(self) -> list[str]:
        """The records of all folders that hold a model: bases, judges and checkpoints."""
        return [*map(self.model, self.experiment.models), *self.judge_models(), *self.checkpoints()]

    def judge_models(self) -> list[str]:
        """The records of the judges' folders."""
        wanted = {*self.experiment.judging_models, *self._trainers()}
        return [self.judge_model(name) for name in self.experiment.judges if name in wanted]

    def _trainers(self) -> list[str]:
        """Judges that are trained: the refusal classifier is, beside one that may give no verdicts."""
        beside = self.experiment.refusals_beside
        return list(dict.fromkeys([*self.experiment.trained, *([beside] if beside else [])]))

    # Samples and questions

    def samples(
        self, dimension: str = "{dimension}", label: str = "{label}", n: str | int = "{n}", seed: str | int = "{seed}"
    ) -> str:
        """Samples that are drawn."""
        return self.sample_set(f"{dimension}-{label}-n{n}-seed{seed}")

    def sample_set(self, name: str = "{sample_set}") -> str:
        return self.under(f"samples/{name}.parquet")

    def all_samples(self, dimension: str = "{dimension}", label: str = "{label}") -> str:
        """All samples of a label, or all replies of a kind."""
        return self.sample_set(f"{dimension}-{label}-all")

    def ordinary(self) -> str:
        """General samples that no variant is made with."""
        return self.sample_set(f"{GENERAL}-ordinary")

    def test_samples(self, dimension: str = "{dimension}", test: str | int = "{test}") -> str:
        return self.sample_set(f"{dimension}-test{test}")

    def questions(self, dimension: str = "{dimension}") -> str:
        return self.under(f"samples/questions/{dimension}.parquet")

    def replies(self) -> list[str]:
        """Short replies that trained judges learn of; those of one dimension help the judges of others."""
        return [
            self.all_samples(name, key)
            for name, dimension in sorted(self.experiment.dimensions.items())
            for key in Dimension.replies
            if getattr(dimension, key)
        ]

    def judge_samples(self) -> list[str]:
        """Labelled samples that trained judges are trained on, and what tells refusals."""
        found = [self.all_samples(name, label) for name in self.experiment.dimensions for label in ("safe", "unsafe")]
        refusals = [self.all_samples(REFUSAL, key) for key in Ordinary.replies]
        return found + (refusals if self.experiment.refusals_beside else [])

    def tests(self) -> list[str]:
        """What trained judges are tested on, and never trained on."""
        return [
            self.test_samples(name, number)
            for name, dimension in self.experiment.dimensions.items()
            for number in range(len(dimension.test or []))
        ]

    def hsic_samples(self, *dimensions: str) -> list[str]:
        hsic = self.experiment.evaluation.hsic
        return [self.samples(dimension, "safe", hsic.n, hsic.seed) for dimension in dimensions]

    # Scores, masks and checkpoints

    def scores(
        self,
        model: str = "{model}",
        base: str = "{base}",
        sample_set: str = "{sample_set}",
        first: str = "{first}",
        last: str = "{last}",
    ) -> str:
        """Scores of a model's weights, those of the variant that is the base."""
        return self.under(f"scores/{model}/{base}/{sample_set}/layers-{first}-{last}.parquet")

    def shards(self, model: str, variant: str) -> list[str]:
        """All score shards that a variant of a model is selected from."""
        experiment, wanted = self.experiment, self.experiment.suppressing(variant)
        sets = [f"{dimension}-{wanted.label}" for dimension in experiment.coupled_by(variant)] + [f"{GENERAL}-safe"]
        return [
            self.scores(model, wanted.of, f"{name}-n{wanted.n}-seed{wanted.seed}", f"{first:03d}", f"{last:03d}")
            for name in sets
            for first, last in experiment.scoring.layer_ranges(experiment.models[model].layers)
        ]

    def all_shards(self, model: str) -> list[str]:
        """All score shards of a model, each once."""
        masked = self.experiment.masked
        return list(dict.fromkeys(path for variant in masked for path in self.shards(model, variant)))

    def mask(self, model: str = "{model}", variant: str = "{variant}") -> str:
        return self.under(f"masks/{model}/{variant}.parquet")

    def masks(self, model: str) -> list[str]:
        return [self.mask(model, variant) for variant in self.experiment.masked]

    def checkpoint(self, model: str = "{model}", variant: str = "{variant}") -> str:
        return self.under(f"checkpoints/{model}/{variant}/{RECORD_NAME}")

    def adapter(self, model: str = "{model}", variant: str = "{variant}") -> str:
        return self.under(f"checkpoints/{model}/{variant}/{ADAPTER}")

    def edit(self, model: str = "{model}", variant: str = "{variant}") -> str:
        """The mask or the adapter that a variant's base is opened with."""
        return (self.mask if self.experiment.variants[variant].has_mask else self.adapter)(model, variant)

    def curve(self, model: str = "{model}", variant: str = "{variant}") -> str:
        """The learning curve of a tuned variant."""
        return self.under(f"checkpoints/{model}/{variant}/{CURVE}")

    def tuning_samples(self, variant: str) -> list[str]:
        """What a variant is tuned on."""
        wanted = self.experiment.tuning(variant)
        return [
            self.samples(name, "safe" if name == GENERAL else wanted.label, count, wanted.seed)
            for name, count in wanted.counts().items()
        ]

    def checkpoints(self, models: Iterable[str] | None = None) -> list[str]:
        """The checkpoints of those variants that have one, of all models or of some."""
        return [
            self.checkpoint(model, name)
            for model in (self.experiment.models if models is None else models)
            for name, variant in self.experiment.variants.items()
            if variant.has_checkpoint
        ]

    def adapters(self) -> list[str]:
        """The adapters of those variants that are one."""
        experiment = self.experiment
        return [self.adapter(model, name) for model in experiment.models for name in experiment.adapted]

    # Answers, verdicts and metrics

    def answers(self, model: str = "{model}", variant: str = "{variant}", dimension: str = "{dimension}") -> str:
        return self.under(f"answers/{model}/{variant}/{dimension}.parquet")

    def answers_of(self, group: Group, model: str = "{model}") -> str:
        """What the log of the job that asks a group of variants is called after."""
        return self.under(f"answers/{model}/variants{group.suffix}.parquet")

    def all_answers(self, model: str, dimensions: list[str] | None = None) -> list[str]:
        """Every variant's answers to all sets of questions, or to some."""
        wanted = self.experiment.asked if dimensions is None else dimensions
        return [self.answers(model, variant, dimension) for variant in self.experiment.variants for dimension in wanted]

    def verdicts(
        self,
        model: str = "{model}",
        variant: str = "{variant}",
        dimension: str = "{dimension}",
        judge: str = "{judge}",
    ) -> str:
        return self.under(f"verdicts/{model}/{variant}/{dimension}.{judge}.parquet")

    def judged_by(self, judge: str, model: str = "{model}") -> str:
        """What the log of the job that gives a judge's verdicts is called after."""
        return self.under(f"verdicts/{model}/{judge}.parquet")

    def all_verdicts(self, model: str) -> list[str]:
        experiment = self.experiment
        return [
            self.verdicts(model, variant, dimension, judge)
            for variant in experiment.variants
            for dimension in experiment.asked
            for judge in [
                *(experiment.judging if dimension in experiment.dimensions else []),
                *([REFUSAL] if experiment.ordinary else []),
            ]
        ]

    def metrics(self, part: str, model: str = "{model}") -> str:
        """A tidy table: `metrics` of all, a part of it such as `perplexity/spin`, or a sister with other columns."""
        return self.under(f"metrics/{model}/{part}.parquet")

    def metrics_of(self, part: str, group: Group, model: str = "{model}") -> str:
        """What the log of the job that measures something of a group of variants is called after."""
        return self.metrics(f"{part}/variants{group.suffix}", model)

    def metrics_parts(self, model: str) -> list[str]:
        """The parts of the one metrics table."""
        experiment = self.experiment
        parts = ["awareness", *(["language"] if experiment.counted else [])]
        parts += ["stability"] if experiment.stable else []
        parts += ["choice"] if experiment.sweeps else []
        measured = [key for key in ("perplexity", "divergence", "ability") if key in experiment.measured]
        for name, variant in experiment.variants.items():
            if not variant.is_noise:
                own = [key for key in measured if not (name in experiment.adapted and key in PLAIN)]
                parts += [f"{key}/{name}" for key in own]
                parts += [f"hsic/{name}/{one}-{other}" for one, other in experiment.pairs]
        return [*(self.metrics(part, model) for part in parts), *(self.curve(model, name) for name in experiment.tuned)]

    def sweeps(self) -> str:
        """Which variants are alike but for one key."""
        return self.under("metrics/sweeps.parquet")

    # Figures and tables

    def figure(self, model: str = "{model}", figure: str = "{figure}", suffix: str = "png") -> str:
        return self.under(f"figures/{model}/{figure}.{suffix}")

    def judge_figure(self, judge: str = "{judge}", suffix: str = "png") -> str:
        return self.figure("judges", judge, suffix)

    def table(self, model: str = "{model}", table: str = "{table}", suffix: str = "md") -> str:
        return self.under(f"tables/{model}/{table}.{suffix}")

    def shown(self, kinds: Iterable[str], model: str) -> list[str]:
        """The files of some kinds that figures and tables of a model are made from, if the experiment has them."""
        masked = self.experiment.masked
        found = {
            "metrics": [self.metrics("metrics", model)],
            "placement": [self.metrics("placement", model)] if masked else [],
            "coupling": [self.metrics("coupling", model)] if masked else [],
            "times": [self.metrics("times", model)],
            "sweeps": [self.sweeps()] if self.experiment.sweeps else [],
            "model": [self.model(model), *map(self.judge_model, self.experiment.judging_models)],
            "answers": self.all_answers(model),
            "verdicts": self.all_verdicts(model),
        }
        return [path for kind, paths in found.items() if kind in kinds for path in paths]

    def figures(
        self,
        figures: Iterable[str],
        tables: Iterable[str],
        figures_across: Iterable[str] = (),
        tables_across: Iterable[str] = (),
    ) -> list[str]:
        """Every figure and table of the experiment: these of each model, and those `across` all models."""
        made = [self.judge_figure(judge, suffix) for judge in self.experiment.trained for suffix in FIGURE_FORMS]
        for model in self.experiment.models:
            made += [self.figure(model, name, suffix) for name in figures for suffix in FIGURE_FORMS]
            made += [self.table(model, name, suffix) for name in tables for suffix in FORMS]
        made += [self.figure("models", name, suffix) for name in figures_across for suffix in FIGURE_FORMS]
        return made + [self.table("models", name, suffix) for name in tables_across for suffix in FORMS]
