"""What an estimate of cost reckons with: cards, what is assumed, and sizes of models that need not be here."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from uncouple.errors import UncoupleError
from uncouple.experiment.config import ROOT
from uncouple.models.places import Place
from uncouple.options import Count, OneOf, Section

GB = 10**9
SHAPES = "resources/shapes.json"


@dataclass(frozen=True)
class Card:
    """What computes: operations a second in bfloat16 without sparsity (of a CPU in float32), bytes of memory, and
    bytes a second that it is read with, by the makers' data sheets."""

    rate: float
    memory: int
    bandwidth: float
    kind: str = "cuda"


CARDS = {
    "a100-40gb": Card(312e12, 40 * GB, 1.555e12),
    "a100-80gb": Card(312e12, 80 * GB, 2.039e12),
    "h100": Card(989e12, 80 * GB, 3.35e12),
    "h200": Card(989e12, 141 * GB, 4.8e12),
    "l40s": Card(362e12, 48 * GB, 0.864e12),
    "rtx4090": Card(165e12, 24 * GB, 1.008e12),
    # Those of docs/measurements.md: scoring and asking SmolLM2 run at 0.2e12 there, a fifth of this.
    "two-cores": Card(1e12, 8 * GB, 20e9, "cpu"),
}


class Assumed(Section):
    """What an estimate takes for granted where it cannot be measured yet."""

    card: Annotated[str, OneOf(tuple(CARDS))] = Field("h100", description="What it is to run on.")
    gpus: Count = Field(1, description="Over how many a model with `device: all` is spread.")
    sample_tokens: Count = Field(150, description="Tokens of a sample, where neither its table nor its file is here.")
    questions: Count = Field(1000, description="Questions of a dimension, where they are not here.")
    question_tokens: Count = Field(30, description="Tokens of such a question.")


@dataclass(frozen=True)
class Shape:
    """Sizes of a model.

    Attributes:
        weights: how many it has.
        files: bytes of its files.
        size: bytes of it on the card.
        token: bytes that the keys and values of one token take there.
    """

    weights: int
    files: int
    size: int
    token: int


def find_config(folder: str | Path, place: Place) -> dict[str, Any]:
    """config.json of a model that need not be here: of its folder, of those that SHAPES lists, or from the Hub.

    Args:
        folder: that it is fetched to.
        place: where it comes from.

    Raises:
        UncoupleError: it cannot be had.
    """
    from uncouple.models.folders import read_config

    for known in (folder, place.path):
        if known and (Path(known) / "config.json").is_file():
            return read_config(known)
    name = place.hub or place.wheel or str(place.path)
    listed: dict[str, dict[str, Any]] = json.loads((ROOT / SHAPES).read_text(encoding="utf-8"))
    if name in listed:
        return listed[name]
    try:
        return read_config(place.hub or folder)
    except UncoupleError as error:
        raise UncoupleError(f"{name}: its config.json is not here ({error}) Or write it into {SHAPES}.") from None


def measure_shape(config: dict[str, Any], dtype: str, kind: str) -> Shape:
    """Sizes of a model, of which nothing but the config is here.

    Args:
        config: see `find_config`.
        dtype: `float32`, `bfloat16`, `float16`, or `auto`, see `load.pick_dtype`.
        kind: `cpu` or `cuda`.
    """
    from uncouple.models.load import pick_dtype
    from uncouple.models.skeleton import make_skeleton

    here, stored = (pick_dtype(config, *how).itemsize for how in ((dtype, kind), ("auto", "cuda")))
    skeleton = make_skeleton(config, pick_dtype(config, dtype, kind))
    weights, told = sum(p.numel() for p in skeleton.parameters()), skeleton.config
    heads = getattr(told, "num_key_value_heads", None) or told.num_attention_heads
    width = getattr(told, "head_dim", None) or told.hidden_size // told.num_attention_heads
    token = 2 * told.num_hidden_layers * heads * width * here
    return Shape(weights, weights * stored, weights * here, token)
