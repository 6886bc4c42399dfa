"""How a model is fine-tuned."""

from typing import Annotated

from pydantic import Field

from uncouple.options import Count, OneOf, Section, Whole
from uncouple.tuning.methods import METHODS, Method


class Tuning(Section):
    """Options of one fine-tuning."""

    method: Annotated[str, OneOf(tuple(METHODS))] = Field(
        description=f"What is trained: {'; '.join(f'{method.name} {method.about}' for method in METHODS.values())}.",
        examples=list(METHODS),
    )
    epochs: Count = Field(3, description="How often each sample is seen.")
    rate: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="The learning rate, which falls to 0 along a line. The method's own, where it is left out: "
        f"{', '.join(f'{method.rate:g} of {method.name}' for method in METHODS.values())}.",
        examples=[2e-5],
    )
    batch_size: Count = Field(8, description="Samples of one step.")
    rank: Count | None = Field(
        None,
        description="How many directions it has in each place where it acts. The method's own, where it is left out: "
        f"{', '.join(f'{method.rank} of {method.name}' for method in METHODS.values() if method.rank)}.",
        examples=[16],
    )
    tune_seed: Whole = Field(0, description="Seed of the samples' order and of what is drawn to begin with.")

    @property
    def how(self) -> Method:
        """The method that `method` names."""
        return METHODS[self.method]

    @property
    def own_rate(self) -> float:
        """The learning rate, the method's own where none is given."""
        return self.how.rate if self.rate is None else self.rate

    @property
    def own_rank(self) -> int | None:
        """The rank, the method's own where none is given."""
        return self.how.rank if self.rank is None else self.rank
