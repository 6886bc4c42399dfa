"""How weights are selected, and the kind of variant that has them suppressed."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from uncouple.models.families import Module
from uncouple.options import EachOnce, OneOf, Section, Share, Whole, narrowed
from uncouple.selection.rules import COUPLED, RULES, Rule
from uncouple.variants.kinds import Drawn

Layers = Annotated[list[Whole], Field(min_length=2, max_length=2)]
Names = Annotated[list[str], Field(min_length=2), EachOnce()]


class Selection(Section):
    """Options of one mask."""

    select: Annotated[str, OneOf(tuple(RULES))] = Field(
        COUPLED.name,
        description=f"Which weights. {'; '.join(f'{rule.name}, {rule.about}' for rule in RULES.values())}.",
    )
    ratio: Share = Field(1e-5, description="Share of each matrix that is a dimension's top (the paper's q).")
    general_ratio: Share | None = Field(
        None,
        description="Share of each matrix that is the general set's top (the paper's p). The ratio, where it is left "
        "out.",
        examples=[1e-5],
    )
    module: Module = Field("mlp", description="Which linear layers, mlp, attention or all.")
    layers: Layers | None = Field(
        None,
        description="The first and the last of the decoder layers that weights are taken of, counted from 0. All of "
        "them, where it is left out.",
        examples=[[0, 9]],
    )
    dimensions: Names | None = Field(
        None,
        description="The dimensions that couple, the first being A. All of them, where it is left out; then a new "
        "dimension changes the variant.",
        examples=[["fairness", "privacy"]],
    )
    select_seed: Whole = Field(0, description="Seed of the random selection.")

    @property
    def rule(self) -> Rule:
        """The rule that `select` names."""
        return RULES[self.select]

    @property
    def general(self) -> float:
        """Share that is the general set's top."""
        return self.ratio if self.general_ratio is None else self.general_ratio


class Suppress(Selection, Drawn):
    """The base model with selected weights at zero."""

    about: ClassVar = "sets selected weights to zero"
    has_mask: ClassVar = True

    kind: Literal["suppress"] = Field("suppress", description="What kind of variant it is.")
    ratio: float = narrowed(Selection, "ratio", gt=0, le=0.1)
    general_ratio: Annotated[float, Field(gt=0, le=0.1)] | None = narrowed(Selection, "general_ratio")
    checkpoint: bool = Field(
        False, description="Whether a checkpoint is written. Evaluation needs none.", examples=[True]
    )

    @property
    def has_checkpoint(self) -> bool:
        return self.checkpoint

    def faults(self, where: str, name: str, experiment: Any) -> Iterator[str]:
        yield from super().faults(where, name, experiment)
        scoring, known = experiment.scoring, experiment.dimensions
        for key in ("ratio", "general_ratio"):
            if (value := getattr(self, key) or 0) > scoring.keep:
                yield (
                    f"{where}.{key}: {value:g} is above scoring.keep, {scoring.keep:g}; raise that, which scores anew"
                )
        if scoring.module not in ("all", self.module):
            yield f"{where}.module: {self.module} is not scored (scoring.module is {scoring.module})"
        for model, base in experiment.models.items():
            if self.layers and not self.layers[0] <= self.layers[1] < base.layers:
                yield f"{where}.layers: {self.layers} is no range of the layers 0 to {base.layers - 1} of {model}"
        dimensions = self.dimensions or list(known)
        if len(dimensions) < 2:
            yield f"{where}: two dimensions or more are needed, and there is only {', '.join(dimensions)}"
        for dimension in dimensions:
            yield from experiment.sample_faults(where, dimension, self.label)
