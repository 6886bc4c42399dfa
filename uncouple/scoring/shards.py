"""Score shards: the top-scoring weights of a range of layers, on disk."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from uncouple.errors import UncoupleError
from uncouple.records.columns import group_by_module, module_column
from uncouple.records.files import read_table, write_table
from uncouple.records.formats import MACHINE_KEYS, SCORE_SHARD, Record
from uncouple.variants.kinds import base_name

# Flat row-major indices and scores of the top entries of a matrix, by rank.
Top = tuple[NDArray[np.int64], NDArray[np.float32]]
# Numbers that hardly repeat: their bytes, each kind together, compress to half of what a dictionary takes.
ENCODING = {"use_dictionary": ["module"], "column_encoding": dict.fromkeys(("index", "score"), "BYTE_STREAM_SPLIT")}


def write_shard(path: str | Path, tops: Mapping[str, Top], metadata: dict[str, Any]) -> None:
    """Write a shard.

    Args:
        path: file.
        tops: dict of module to (index, score), as `top_entries` gives them.
        metadata: what made it; see `scoring.score_layers`.
    """
    index, score = zip(*tops.values(), strict=True)
    columns = {
        "module": module_column(tops, [len(i) for i in index]),
        "index": np.concatenate(index),
        "score": np.concatenate(score),
    }
    table = pa.table(columns, schema=SCORE_SHARD.schema(metadata))
    write_table(table, path, SCORE_SHARD, metadata, **ENCODING)


def about_model(record: Record) -> Record:
    """What a shard says of the model; see `folders.model_record`."""
    return {key: record[key] for key in ("name", "source", "fingerprint", "tokenizer")} | {"base": base_name(record)}


def about_samples(record: Record) -> Record:
    """What a shard says of the samples, from their table's metadata."""
    return {key: record.get(key) for key in ("dimension", "label", "n", "seed", "source", "fingerprint")}


@dataclass
class Scores:
    """The top weights of one model on several sample sets.

    Attributes:
        tops: dict of dimension (and `general`) to dict of module to (index int64 (k,), score float32 (k,)), by rank.
        shapes: dict of module to its shape.
        records: dict of dimension to the metadata of its shards, without what differs between shards.
    """

    tops: dict[str, dict[str, Top]]
    shapes: dict[str, Sequence[int]]
    records: dict[str, dict[str, Any]]

    @property
    def dimensions(self) -> list[str]:
        return [name for name in self.tops if name != "general"]

    @property
    def keep(self) -> float:
        return min(record["keep"] for record in self.records.values())

    def size(self, module: str) -> int:
        return math.prod(self.shapes[module])


# What all shards of one selection must have in common; those of one dimension, all but what is per shard.
_SHARED = ("model", "prompt", "keep", *MACHINE_KEYS, "module")
_PER_SHARD = ("layers", "tokens", "responses_cut", "matrices")


def read_scores(paths: Iterable[str | Path], dimensions: Sequence[str]) -> Scores:
    """Put shards together by the dimension of their samples.

    Args:
        paths: shard files, in any order.
        dimensions: those wanted; `general` is always wanted.

    Raises:
        UncoupleError: a shard is broken, one is missing or there twice, or they do not belong together.
    """
    scores = Scores({}, {}, {})
    first: dict[str, str | Path] = {}
    for path in paths:
        table, metadata = read_table(path, SCORE_SHARD)
        dimension = metadata["samples"]["dimension"]
        record = {k: v for k, v in metadata.items() if k not in _PER_SHARD}
        if record["dtype"] == "float32":
            record["device"] = None  # It changes nothing but the order of what is as good as equal.
        for other, keys in ((next(iter(first), dimension), _SHARED), (dimension, record)):
            known = scores.records.get(other, record)
            if differs := [key for key in keys if known.get(key) != record.get(key)]:
                raise UncoupleError(
                    f"{path} and {first.get(other, 'another')} do not belong together: other {', '.join(differs)}."
                )
        scores.records.setdefault(dimension, record)
        first.setdefault(dimension, path)
        tops = scores.tops.setdefault(dimension, {})
        if overlap := [name for name in metadata["matrices"] if name in tops]:
            raise UncoupleError(
                f"{path}: {overlap[0]} of {dimension} is in another of the shards as well. Give each once."
            )
        empty = (np.empty(0, np.int64), np.empty(0, np.float32))
        tops |= dict.fromkeys(metadata["matrices"], empty) | group_by_module(table, ("index", "score"))
        scores.shapes |= {name: matrix["shape"] for name, matrix in metadata["matrices"].items()}
    for dimension in (*dimensions, "general"):
        if dimension not in scores.tops:
            raise UncoupleError(
                f"no score shard of {dimension} is among the files given ({', '.join(scores.tops)} are)."
            )
        if missing := [name for name in scores.shapes if name not in scores.tops[dimension]]:
            raise UncoupleError(f"the {dimension} shards have no scores of {missing[0]}. Give all shards of the model.")
    scores.tops = {dimension: scores.tops[dimension] for dimension in (*dimensions, "general")}
    return scores
