"""Kinds of variants, a class each: what keys it takes, and what others need to know of it.

A new kind is one such class, in the room that makes its variants, and its line in `experiment.options.Variant`.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from uncouple.options import Section

# The name of the variant that every other is compared with.
ORIGIN = "origin"


class VariantKind(Section):
    """A variant of each base model, as an experiment declares it."""

    # What it is, after its name.
    about: ClassVar[str]
    # Whether its weights are those of the base but for a mask's.
    has_mask: ClassVar[bool] = False
    # Whether it is the origin once more, asked in other batches.
    is_noise: ClassVar[bool] = False
    # Where figures show it: the lower the earlier.
    rank: ClassVar[int] = 2

    @property
    def has_checkpoint(self) -> bool:
        """Whether a checkpoint of it is written."""
        return False

    def faults(self, where: str, name: str, experiment: Any) -> Iterator[str]:
        """What does not go together with other sections of an `experiment.options.Experiment`."""
        return iter(())


class Origin(VariantKind):
    """The base model as it is."""

    about: ClassVar = "is the base as it is"
    rank: ClassVar = 0

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
    rank: ClassVar = 1

    kind: Literal["noise"] = Field("noise", description="What kind of variant it is.")

    def faults(self, where: str, name: str, experiment: Any) -> Iterator[str]:
        if not experiment.evaluation.can_batch_otherwise:
            yield (
                f"{where}: it asks in other batches, and with evaluation.batch_size 1 there are none; raise that, or "
                "take the variant away (null)"
            )
