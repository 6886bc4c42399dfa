"""Kinds of variants, a class each: what keys it takes, and what others need to know of it.

A new kind is one such class, in the room that makes its variants, and its line in `experiment.options.Variant`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from uncouple.data.sources import Label
from uncouple.options import Count, Section, Whole

# The name of the variant that every other is compared with.
ORIGIN = "origin"


def base_name(record: Mapping[str, Any]) -> str:
    """The variant that a model folder holds, by its record, see `models.folders.model_record`: the origin, or the one
    that the checkpoint is of."""
    return record["source"].get("variant", ORIGIN)


def is_named(variant: str, names: Iterable[str]) -> bool:
    """Whether a variant is among some names, or is one of a sweep that is: `ratio.ratio-1e-05` is of `ratio`."""
    return any(variant == name or variant.startswith(f"{name}.") for name in names)


class VariantKind(Section):
    """A variant of each base model, as an experiment declares it."""

    # What it is, after its name.
    about: ClassVar[str]
    # Whether its weights are those of the base but for a mask's.
    has_mask: ClassVar[bool] = False
    # Whether it is the origin once more, asked in other batches.
    is_noise: ClassVar[bool] = False
    # Where figures show it: the lower the earlier.
    place: ClassVar[int] = 2

    @property
    def has_checkpoint(self) -> bool:
        """Whether a checkpoint of it is written."""
        return False

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter moves its hidden states, in prompts alone."""
        return False

    def opened_from(self, name: str) -> str:
        """The variant whose checkpoint its base is, by name; the origin's is the model itself.

        Args:
            name: its own.
        """
        return ORIGIN

    def faults(self, where: str, name: str, experiment: Any) -> Iterator[str]:
        """What does not go together with other sections of an `experiment.options.Experiment`."""
        return iter(())


class Derived(VariantKind):
    """A variant that is made from another."""

    of: str = Field(
        ORIGIN,
        description="The variant that it is made from: origin, or one that has a checkpoint, so that a tuned model can "
        "be suppressed and a suppressed one tuned.",
    )

    def opened_from(self, name: str) -> str:
        return self.of

    def faults(self, where: str, name: str, experiment: Any) -> Iterator[str]:
        variants = experiment.variants
        if self.of == ORIGIN:
            return
        if self.of not in variants:
            yield f"{where}.of: {self.of!r} is not among variants ({', '.join(variants)})"
        elif not variants[self.of].has_checkpoint:
            yield (
                f"{where}.of: {self.of} has no checkpoint to start from; a suppressed variant has one where it says "
                "checkpoint: true"
            )
        else:
            above = [name]
            while isinstance(it := variants.get(above[-1]), Derived) and it.of not in above:
                above.append(it.of)
            if isinstance(it, Derived):
                yield f"{where}.of: {' is made from '.join([*above, it.of])}, which has no beginning"


class Drawn(Derived):
    """A variant that is made with samples."""

    label: Label = Field("safe", description="Label of the dimensions' samples, safe or unsafe.")
    n: Count = Field(
        64,
        description="Samples drawn: to suppress, of each set, the general one included; to tune, in all.",
    )
    seed: Whole = Field(0, description="Seed of the samples' draw.")


class Origin(VariantKind):
    """The base model as it is."""

    about: ClassVar = "is the base as it is"
    place: ClassVar = 0

    kind: Literal["origin"] = Field("origin", description="What kind of variant it is.")

    def faults(self, where: str, name: str, experiment: Any) -> Iterator[str]:
        if name != ORIGIN:
            yield f"{where}: the variant of the kind {self.kind} must be called {ORIGIN}"


class Noise(VariantKind):
    """The base model asked once more, in other batches."""

    about: ClassVar = (
        "is the origin asked again in other batches, which shows how many verdicts flip by arithmetic alone"
    )
    is_noise: ClassVar = True
    place: ClassVar = 1

    kind: Literal["noise"] = Field("noise", description="What kind of variant it is.")

    def faults(self, where: str, name: str, experiment: Any) -> Iterator[str]:
        if not experiment.evaluation.can_batch_otherwise:
            yield (
                f"{where}: it asks in other batches, and with evaluation.batch_size 1 there are none; raise that, or "
                "take the variant away (null)"
            )
