"""How a model is fine-tuned, and the kind of variant that is."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from uncouple.options import Count, EachOnce, OneOf, Section, Share, Whole
from uncouple.tuning.methods import METHODS, Method
from uncouple.variants.kinds import Drawn

Shares = Annotated[list[Share], Field(min_length=2)]


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


class Tune(Tuning, Drawn):
    """A fine-tuned model, or what moves the hidden states of one."""

    about: ClassVar = "fine-tunes it on samples"

    kind: Literal["tune"] = Field("tune", description="What kind of variant it is.")
    learn_from: Annotated[list[str], Field(min_length=1), EachOnce()] = Field(
        description="The dimensions whose samples are learnt, general among them where it is named. Several are mixed.",
        examples=[["privacy"]],
    )
    shares: Shares | None = Field(
        None,
        description="The share of each of them in the samples. The same of each, where it is left out.",
        examples=[[0.75, 0.25]],
    )

    @property
    def has_checkpoint(self) -> bool:
        return self.how.makes_model

    @property
    def has_adapter(self) -> bool:
        return not self.how.makes_model

    def opened_from(self, name: str) -> str:
        return name if self.has_checkpoint else self.of

    def counts(self) -> dict[str, int]:
        """How many samples of each dimension are drawn: what its share is, rounded down, and the rest of the first."""
        shares = self.shares or [1 / len(self.learn_from)] * len(self.learn_from)
        found = {name: int(self.n * share) for name, share in zip(self.learn_from, shares, strict=True)}
        found[self.learn_from[0]] += self.n - sum(found.values())
        return found

    def faults(self, where: str, name: str, experiment: Any) -> Iterator[str]:
        yield from super().faults(where, name, experiment)
        if self.rank and not self.how.rank:
            yield f"{where}.rank: the method {self.method} has none"
        shares = self.shares or []
        if shares and (len(shares) != len(self.learn_from) or abs(sum(shares) - 1) > 1e-6):
            yield f"{where}.shares: {shares} must be one share of each of {', '.join(self.learn_from)}, 1 in all"
        elif empty := [dimension for dimension, count in self.counts().items() if count < 1]:
            yield f"{where}.n: of {self.n} samples none is of {', '.join(empty)}"
        for dimension in self.learn_from:
            yield from experiment.sample_faults(where, dimension, self.label, general=True)
