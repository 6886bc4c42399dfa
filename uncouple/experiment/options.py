"""A whole experiment: its sections, put together out of the rooms that read them, and how they go together."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, get_args

from pydantic import Field

from uncouple.data.sources import Label, Source
from uncouple.evaluation.judges.refusal import Refusal
from uncouple.evaluation.judges.registry import Judge
from uncouple.evaluation.judges.replies import REFUSAL
from uncouple.evaluation.options import ALARMING, GENERAL, ORDINARY, Evaluation, Ordinary
from uncouple.experiment.sweeps import Sweep, find_sweeps
from uncouple.models.places import Model
from uncouple.options import File, Section, by_kind
from uncouple.reporting.options import Figures
from uncouple.reporting.tables import published
from uncouple.scoring.options import ShardedScoring
from uncouple.selection.options import Suppress
from uncouple.tuning.options import Tune
from uncouple.variants.kinds import ORIGIN, Noise, Origin, VariantKind, is_named

# A new kind is one file, and its line here.
Variant = Origin | Suppress | Tune | Noise
VARIANTS: dict[str, type[VariantKind]] = by_kind(get_args(Variant))

# Sets of samples and questions that are of no dimension.
RESERVED = (GENERAL, ALARMING, ORDINARY, REFUSAL)
# A name is a part of paths, and a file system takes 255 bytes.
SHORT = "(?!.{151})"
# Figures and tables of judges, and of all models, lie beside those of each model.
ModelName = Annotated[str, Field(pattern=f"^{SHORT}(?!(judges|models)$)[A-Za-z0-9][A-Za-z0-9._-]*$")]
DimensionName = Annotated[str, Field(pattern=f"^{SHORT}(?!({'|'.join(RESERVED)})$)[a-z][a-z0-9_]*$")]
VariantName = Annotated[str, Field(pattern=f"^{SHORT}[A-Za-z][A-Za-z0-9._+-]*$")]
JudgeName = Annotated[str, Field(pattern=f"^{SHORT}(?!{REFUSAL}$)[a-z][a-z0-9_-]*$")]
Folder = Annotated[str, Field(pattern="^[A-Za-z0-9._/][A-Za-z0-9._/+@=,-]*$")]
Variants = Annotated[dict[VariantName, Annotated[Variant, Field(discriminator="kind")]], Field(min_length=1)]
Judges = Annotated[dict[JudgeName, Annotated[Judge, Field(discriminator="kind")]], Field(min_length=1)]


class Test(Section):
    """Labelled samples of other origin."""

    label: Label = Field(description="Of all rows of the source.")
    source: Source = Field(description="Where the rows are.")


class Dimension(Section):
    """A concern."""

    # What two sets of replies are of no use without the other, and the label of each.
    replies: ClassVar[dict[str, Label]] = {"refusals": "safe", "compliances": "unsafe"}

    safe: Source | None = Field(None, description="Raw samples whose response is as it should be.")
    unsafe: Source | None = Field(None, description="Raw samples whose response is not as it should be.")
    refusals: Source | None = Field(
        None,
        description="Raw samples whose response is a short refusal or caution. Of these and the compliances half train "
        "a trained judge, beside the safe and unsafe samples, and the other half tests it.",
    )
    compliances: Source | None = Field(
        None, description="Raw samples whose response is short and goes along with a harmful request."
    )
    questions: Source = Field(description="Raw questions for evaluation.")
    test: Annotated[list[Test], Field(min_length=1)] | None = Field(
        None,
        description="Labelled samples of other origin, a list of sources with a label each, that a trained judge is "
        "tested on and never trained on.",
        examples=[[{"label": "unsafe", "source": {"path": "labelled.csv", "where": {"harmful": 1}}}]],
    )
    phrases: File | None = Field(
        None,
        description="Cautionary phrases, one a line; counted in the answers, and taken for a safe answer by a judge "
        "that looks for them.",
        examples=["resources/phrases/fairness.txt"],
    )


@dataclass(frozen=True)
class Group:
    """Variants whose base one job loads once.

    Attributes:
        base: the variant whose checkpoint that is; the origin's is the model itself.
        variants: their names.
        edited: those that are opened with a mask or an adapter.
        suffix: of the rule's name, where there are several such groups.
    """

    base: str
    variants: list[str]
    edited: list[str]
    suffix: str


class Experiment(Section):
    """An experiment of Uncouple.

    config.yaml holds every key with its default; a file of experiments/ is laid over it, and `null` takes a key away.
    """

    results: Folder = Field(
        "results",
        description="The folder that everything is made in. Give each experiment its own, and none undoes another's "
        "work.",
    )
    store: Folder = Field(
        "results/store",
        description="The folder that expensive results are kept in by what they are made of, so that no experiment "
        "makes them twice. It may be shared by users, and deleted at any time.",
    )
    models: Annotated[dict[ModelName, Model], Field(min_length=1)] = Field(
        description="The base models, by the name that paths and figures use. Each says where it comes from (a wheel, "
        "a local folder or the Hub) and how many decoder layers it has."
    )
    dimensions: Annotated[dict[DimensionName, Dimension], Field(min_length=1)] = Field(
        description="The concerns, by name, two or more. Each has raw samples by label, and questions."
    )
    general: Source = Field(description="Raw samples of ordinary tasks. Weights in the top of this set are left alone.")
    scoring: ShardedScoring = Field(ShardedScoring(), description="How weights are scored. An edit here scores anew.")
    variants: Variants = Field(
        description="The models derived from each base, by name, in the order of the figures. A list instead of a "
        "value makes a variant of each of its entries (a sweep)."
    )
    judges: Judges = Field(
        description="What can give verdicts, by name. evaluation.judges says which of them do.",
        examples=[
            "md-judge: {kind: causal, hub: OpenSafetyLab/MD-Judge-v0.1, revision: ..., template: card}",
            "llama-guard: {kind: causal, hub: meta-llama/Llama-Guard-3-8B, revision: ...}",
        ],
    )
    evaluation: Evaluation = Field(
        Evaluation(), description="How the variants are asked and judged. An edit here asks or judges anew."
    )
    figures: Figures = Field(
        Figures(),
        description="What is drawn. An edit here, or of the style file, draws the figures anew and scores and asks "
        "nothing.",
    )

    @property
    def masked(self) -> list[str]:
        """Variants that have a mask."""
        return [name for name, variant in self.variants.items() if variant.has_mask]

    @property
    def noises(self) -> list[str]:
        """Variants that are the origin once more, in other batches."""
        return [name for name, variant in self.variants.items() if variant.is_noise]

    @property
    def groups(self) -> list[Group]:
        """The variants that one job asks."""
        return self._groups(list(self.variants))

    @property
    def measured_groups(self) -> list[Group]:
        """The variants that one job measures: all but noises, which are the origin."""
        return self._groups([name for name in self.variants if name not in self.noises])

    @property
    def plain_groups(self) -> list[Group]:
        """Those of them that one job measures on text in which no prompt is told: an adapter would not act."""
        return self._groups([name for name in self.variants if name not in self.noises and name not in self.adapted])

    @property
    def tuned(self) -> list[str]:
        """Variants that are fine-tuned."""
        return [name for name, variant in self.variants.items() if isinstance(variant, Tune)]

    @property
    def adapted(self) -> list[str]:
        """Those of them that are an adapter."""
        return [name for name, variant in self.variants.items() if variant.has_adapter]

    def tuning(self, variant: str) -> Tune:
        """A variant that is fine-tuned."""
        found = self.variants[variant]
        if not isinstance(found, Tune):
            raise KeyError(f"{variant} is not tuned")
        return found

    def is_edited(self, variant: str) -> bool:
        """Whether a variant is opened with a mask or an adapter."""
        return self.variants[variant].has_mask or self.variants[variant].has_adapter

    def _groups(self, names: list[str]) -> list[Group]:
        by_base: dict[str, list[str]] = {}
        # Their order in a config is that of the figures, and no job's.
        for name in sorted(names):
            by_base.setdefault(self.opened_from(name), []).append(name)
        step = self.evaluation.variants_per_job or len(names)
        parts = [
            (base, its[start : start + step])
            for base, its in sorted(by_base.items(), key=lambda item: (item[0] != ORIGIN, item[0]))
            for start in range(0, len(its), step)
        ]
        return [
            Group(base, part, [name for name in part if self.is_edited(name)], f"_{number}" if len(parts) > 1 else "")
            for number, (base, part) in enumerate(parts, start=1)
        ]

    @property
    def judging(self) -> list[str]:
        """The judges that give verdicts."""
        return self.evaluation.judges or list(self.judges)

    @property
    def judging_models(self) -> list[str]:
        """Those of them that run a model."""
        return [name for name in self.judging if self.judges[name].runs_model]

    @property
    def trained(self) -> list[str]:
        """Those of them that are trained."""
        return [name for name in self.judging if self.judges[name].is_trained]

    @property
    def refusals_beside(self) -> str | None:
        """The judge beside which a classifier of refusals is trained: the first that can be; None where none can."""
        dimensions, ordinary = self.dimensions.values(), self.evaluation.ordinary
        if not (any(d.refusals for d in dimensions) and ordinary.refusals and ordinary.answers):
            return None
        can = (
            name
            for name, judge in self.judges.items()
            if judge.is_trained and all(getattr(dimension, key) for dimension in dimensions for key in judge.needs)
        )
        return next(can, None)

    @property
    def refusal_judge(self) -> Refusal:
        """The classifier of refusals, which has its encoder from the judge that it is trained beside."""
        beside = self.judges[self.refusals_beside or ""]
        return Refusal(**beside.model_dump(include=set(Refusal.model_fields) - {"kind"}))

    @property
    def ordinary(self) -> list[str]:
        """The sets of ordinary questions that are asked, to count refusals of."""
        ordinary = self.evaluation.ordinary
        given = {GENERAL: ordinary.n, ALARMING: ordinary.questions}
        return [name for name, there in given.items() if there and self.refusals_beside]

    @property
    def asked(self) -> list[str]:
        """All sets of questions."""
        return [*self.dimensions, *self.ordinary]

    @property
    def counted(self) -> list[str]:
        """Dimensions whose cautionary phrases are counted."""
        return [name for name, dimension in self.dimensions.items() if dimension.phrases]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of dimensions that HSIC is measured between."""
        return list(itertools.combinations(self.dimensions, 2)) if self.evaluation.hsic.n else []

    @property
    def measured(self) -> list[str]:
        """What figures and tables can show; see `reporting.parts.is_wanted`."""
        found = {
            "awareness": True,
            "agreement": len(self.judging) > 1,
            "language": self.counted,
            "perplexity": self.evaluation.perplexity,
            "divergence": self.evaluation.ordinary.n,
            "ability": self.evaluation.ability,
            "hsic": self.pairs,
            "placement": self.masked,
            "coupling": self.masked,
            "sweeps": self.sweeps,
            "models": len(self.models) > 1,
            "pairs": len(self.dimensions) > 1,
            "refusal": self.ordinary,
            "judges": self.trained,
            # Without this judge nothing of ours is measured as theirs was.
            "paper": any(published.is_model(self.judges[name].model_dump(), published.JUDGE) for name in self.judging),
        }
        return [name for name, there in found.items() if there]

    @cached_property
    def sweeps(self) -> list[Sweep]:
        """Variants that are alike but for one key."""
        return find_sweeps(self.variants)

    @property
    def stable(self) -> list[str]:
        """Variants with a mask that are in a sweep."""
        swept = {name for sweep in self.sweeps for name in sweep.values}
        return [name for name in self.masked if name in swept]

    @property
    def general_draws(self) -> list[tuple[int, int]]:
        """(n, seed) of the general samples that variants are made with, of each seed the most."""
        most: dict[int, int] = {}
        drawn = [(wanted.seed, wanted.n) for wanted in map(self.suppressing, self.masked)]
        drawn += [(wanted.seed, wanted.counts().get(GENERAL, 0)) for wanted in map(self.tuning, self.tuned)]
        for seed, n in drawn:
            if n:
                most[seed] = max(n, most.get(seed, 0))
        return [(n, seed) for seed, n in sorted(most.items())]

    def opened_from(self, variant: str) -> str:
        """The variant whose checkpoint a variant's base is; see `variants.kinds`."""
        return self.variants[variant].opened_from(variant)

    def coupled_by(self, variant: str) -> list[str]:
        """The dimensions that a variant couples."""
        return self.suppressing(variant).dimensions or list(self.dimensions)

    def suppressing(self, variant: str) -> Suppress:
        """A variant that is suppressed: those that have a mask are."""
        found = self.variants[variant]
        if not isinstance(found, Suppress):
            raise KeyError(f"{variant} has no mask")
        return found

    def faults(self) -> Iterator[str]:
        """What a section cannot say alone: keys that go together, values that other keys bound."""
        keep = self.scoring.keep
        replies: list[tuple[str, Dimension | Ordinary]] = [(f"dimensions.{n}", d) for n, d in self.dimensions.items()]
        for where, section in [*replies, ("evaluation.ordinary", self.evaluation.ordinary)]:
            given = [key for key in section.replies if getattr(section, key)]
            if len(given) == 1:
                (missing,) = set(section.replies) - set(given)
                yield f"{where}.{missing}: missing, and {given[0]} are of no use without"
        for ratio in self.figures.ratios:
            if ratio > keep:
                yield f"figures.ratios: {ratio:g} is above scoring.keep, {keep:g}"
        for name in self.judging:
            yield from self._judge_faults(name)
        for name in self.evaluation.primary or ():
            if not any(is_named(variant, [name]) for variant in self.variants):
                yield f"evaluation.primary: {name!r} is not among variants ({', '.join(self.variants)})"
        for name, dimension in self.dimensions.items():
            if self.pairs and not dimension.safe:
                yield (
                    f"dimensions.{name}.safe: missing, and HSIC needs it; set evaluation.hsic.n to 0 to measure none"
                )
        for name, variant in self.variants.items():
            yield from variant.faults(f"variants.{name}", name, self)

    def sample_faults(self, where: str, dimension: str, label: Label, *, general: bool = False) -> Iterator[str]:
        """That there are samples of a dimension for a variant, which may have general ones or not."""
        known = self.dimensions.get(dimension)
        if not known and not (general and dimension == GENERAL):
            yield f"{where}.dimensions: {dimension!r} is not among dimensions ({', '.join(self.dimensions)})"
        elif known and getattr(known, label) is None:
            yield f"{where}.label: dimensions.{dimension} has no {label} samples"

    def _judge_faults(self, name: str) -> Iterator[str]:
        if name not in self.judges:
            yield f"evaluation.judges: {name!r} is not among judges ({', '.join(self.judges)})"
            return
        for dimension, values in self.dimensions.items():
            for key in self.judges[name].needs:
                if not getattr(values, key):
                    yield f"dimensions.{dimension}.{key}: missing, and the judge {name} needs it"
