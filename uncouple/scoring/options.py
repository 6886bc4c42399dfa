"""How weights are scored."""

from typing import Literal

from pydantic import Field

from uncouple.models.families import Module
from uncouple.models.prompts import Prompt
from uncouple.options import Count, Dtype, Section, Share, Whole, narrowed


class Prompting(Section):
    """How a model reads samples, whatever is measured on them."""

    prompt: Prompt = Field(
        "auto",
        description="How prompt and response become tokens. chat is the model's own template, bare the text after the "
        "tokenizer's special tokens, published is bare without the response's first token, as the published code does "
        "it. auto is chat where the model has a template, else bare.",
    )


class Scoring(Prompting):
    """Options of one scoring job: they decide its scores, or its speed."""

    module: Module = Field(
        "mlp", description="Which linear layers are scored, mlp, attention or all. Variants choose among these."
    )
    keep: Share = Field(
        1e-3,
        description="Share of each matrix's weights whose scores are kept. No variant's ratio may be above it.",
    )
    batch_tokens: Count | Literal["auto"] = Field(
        "auto", description="Tokens of one batch. auto takes what fits into memory."
    )
    dtype: Dtype = Field(
        "auto",
        description="Precision of the model while scoring. auto is the checkpoint's own on a GPU and float32 on a CPU.",
    )

    @property
    def most_tokens(self) -> int | None:
        """The most tokens of a batch, None for what fits into memory."""
        return None if self.batch_tokens == "auto" else self.batch_tokens


class ShardedScoring(Scoring):
    """The scoring of an experiment, cut into jobs."""

    keep: float = narrowed(Scoring, "keep", gt=0, le=0.1)
    layers_per_shard: Whole = Field(
        0,
        description="Decoder layers that one scoring job takes; each job loads the whole model and is a pass over the "
        "samples. 0 takes all of them at once, which is fastest where the memory allows it.",
    )

    def layer_ranges(self, layers: int) -> list[tuple[int, int]]:
        """(first, last) of each score shard of a model with so many decoder layers."""
        step = self.layers_per_shard or layers
        return [(first, min(first + step, layers) - 1) for first in range(0, layers, step)]
