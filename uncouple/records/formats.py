"""The formats: what each file that Uncouple writes has in it. Read it as their documentation.

A table is Parquet, a record is a JSON object, tensors are safetensors. What each says of itself (a table and tensors
in their metadata) begins with `kind`, `version` and a seal; see `files`. Light to import: Snakemake reads it whenever
it starts.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uncouple.records.checks import (
    Check,
    as_recorded,
    ascending,
    entries_of_each_matrix,
    filled,
    no_verdict_of,
    one_of,
    top_of_each_matrix,
    unique,
    within,
)
from uncouple.records.keys import key_fault

if TYPE_CHECKING:
    import pyarrow as pa

# What a file says of itself, and a row of a table.
Record = dict[str, Any]
LABELS = ("safe", "unsafe")
CALLS = (*LABELS, "refusal", "answer", "none")
# The columns of a metrics table that say whose row it is, and together name it.
METRIC_KEYS = ("model", "variant", "dimension", "metric", "judge", "task", "layer", "item")


@dataclass(frozen=True)
class Format:
    """What a kind of file has in it.

    Attributes:
        kind: what its record says that it is.
        version: raised with each change that code of before cannot read.
        keys: what its record must say, besides; a dot reaches into an object of it.
        columns: of a table, in order, by name; None for a JSON record. A type is one of Arrow's, or `name`, a text
            that many rows share, or `tokens`, a list of token ids; with a question mark it may be null.
            A column with `{dimension}` in its name is there for each of the record's dimensions.
        checks: what must be true of the rows; see `checks`.
        made_by: the module that makes it, whose fingerprint is the table's `code` where no other is given.
        places: where it lies in a results folder, by what its record says, or all of its rows; `*` stands for any name.
    """

    kind: str
    version: int
    keys: tuple[str, ...] = ()
    columns: dict[str, str] | None = None
    checks: tuple[Check, ...] = ()
    made_by: str | None = None
    places: tuple[str, ...] = ()

    def schema(self, record: Record) -> "pa.Schema":
        """The Arrow schema of a table with this record."""
        import pyarrow as pa

        types = {"name": pa.dictionary(pa.int32(), pa.string()), "tokens": pa.list_(pa.int32())}
        types |= {"bools": pa.list_(pa.bool_())}
        columns = self.columns or {}
        fields = []
        for is_each, group in itertools.groupby(columns, lambda name: "{dimension}" in name):
            names = list(group)
            for dimension in record["dimensions"] if is_each else [""]:
                for name in names:
                    kind = columns[name].rstrip("?")
                    fields.append((name.format(dimension=dimension), types.get(kind) or pa.type_for_alias(kind)))
        return pa.schema(fields)

    def record_faults(self, record: Record) -> Iterator[str]:
        """One sentence if something is missing from a record, and one for each key that holds what it should not."""
        if missing := [key for key in self.keys if not _has(record, key)]:
            yield f"its record does not say {', '.join(missing)}"
        for key in self.keys:
            if key not in missing and (fault := key_fault(self.kind, key, value_at(record, key))):
                yield fault

    def shape_faults(self, table: "pa.Table", record: Record) -> Iterator[str]:
        """One sentence for each column that is missing, too many, of another type, or null where it may not be."""
        expected = self.schema(record)
        if missing := [name for name in expected.names if name not in table.column_names]:
            yield f"there is no column {', '.join(missing)}"
        if added := [name for name in table.column_names if name not in expected.names]:
            yield f"a column {', '.join(added)}, which this kind of file does not have"
        if missing or added:
            return
        if table.column_names != expected.names:
            yield f"its columns are {', '.join(table.column_names)}, and should be {', '.join(expected.names)}"
        # A column of a dimension may be null, by any name.
        never_null = {name for name, kind in (self.columns or {}).items() if not kind.endswith("?")}
        for field in expected:
            if (found := table.schema.field(field.name).type) != field.type:
                yield f"the column {field.name} is of type {found}, and should be {field.type}"
            elif table[field.name].null_count and field.name in never_null:
                yield f"the column {field.name} has {table[field.name].null_count} rows without a value"

    def row_faults(self, table: "pa.Table", record: Record) -> Iterator[str]:
        """One sentence for each check that its rows fail; of a table whose shape is right."""
        for check in self.checks:
            yield from check(table, record)


def _has(record: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(record, dict) or part not in record:
            return False
        record = record[part]
    return True


def value_at(record: Any, key: str) -> Any:
    """What a record says under a key; a dot reaches into an object."""
    for part in key.split("."):
        record = record[part]
    return record


_TEXTS = {"id": "string", "dimension": "string"}
# What is measured of a variant says which one it was, and what of the model decides the result.
_PRINTS = ("fingerprints.weights", "fingerprints.tokenizer", "fingerprints.generation")
# What decides a result besides, though in float32 a device no more than a near tie.
MACHINE_KEYS = ("dtype", "device", "versions")
VARIANT_KEYS = ("model", "variant", "base", "mask", "adapter", *MACHINE_KEYS, *_PRINTS)
# How answers are asked for.
ASKING_KEYS = ("questions", "prompt", "max_new_tokens", "engine", "batches")
ASKED_KEYS = (*VARIANT_KEYS, "dimension", *ASKING_KEYS, "noise")

# `set` is the name of the file, which says what they are for: one that is of another name now is in another's place.
SAMPLES = Format(
    "samples",
    version=2,
    keys=("set", "dimension", "label", "source", "n", "seed", "available", "fingerprint"),
    columns=_TEXTS | dict.fromkeys(("label", "prompt", "response", "source"), "string"),
    checks=(filled("id", "prompt", "response"), unique("id"), one_of("label", LABELS))
    + (as_recorded("dimension", "label"),),
    made_by="data.samples",
    places=("samples/{set}.parquet",),
)

QUESTIONS = Format(
    "questions",
    version=1,
    keys=("dimension", "source", "n", "seed", "available", "fingerprint"),
    columns=_TEXTS | {"question": "string", "source": "string"},
    checks=(filled("id", "question"), unique("id"), as_recorded("dimension")),
    made_by="data.samples",
    places=("samples/questions/{dimension}.parquet",),
)

# The top `keep` of each matrix's weights, for one model, one range of layers and one sample set.
SCORE_SHARD = Format(
    "score shard",
    version=3,
    keys=("model.name", "model.base", "model.fingerprint", "model.tokenizer")
    + ("samples.dimension", "samples.fingerprint", "layers", "module", "prompt", "keep", *MACHINE_KEYS, "matrices"),
    columns={"module": "name", "index": "int64", "score": "float32"},
    checks=(top_of_each_matrix,),
    made_by="scoring.score",
    places=(
        "scores/{model[name]}/{model[base]}/{samples[dimension]}-{samples[label]}-n{samples[n]}-seed{samples[seed]}/"
        "layers-{layers[0]:03d}-{layers[1]:03d}.parquet",
    ),
)

_SELECTED = ("dimensions", "select", "ratio", "general_ratio", "module", "layers", "seed", "scores")
_MASK_KEYS = ("variant", "model.name", "model.fingerprint", *_SELECTED)

# Selected weights with their original values; a rank is 0 for the highest score, null for what is in no shard.
MASK = Format(
    "mask",
    version=2,
    keys=(*_MASK_KEYS, "shapes"),
    columns={"module": "name", "index": "int64", "value": "float32"}
    | {"score_{dimension}": "float32?", "rank_{dimension}": "int64?", "rank_general": "int64?"},
    checks=(entries_of_each_matrix,),
    made_by="selection.select",
    places=("masks/{model[name]}/{variant}.parquet", "checkpoints/{model[name]}/{variant}/uncouple/mask.parquet"),
)

ANSWERS = Format(
    "answers",
    version=3,
    keys=ASKED_KEYS,
    columns=_TEXTS | {"question": "string", "answer": "string", "tokens": "int32", "truncated": "bool"},
    checks=(filled("id", "question"), unique("id"), as_recorded("dimension"), within("tokens", 0, float("inf"))),
    made_by="evaluation.answers",
    places=("answers/{model}/{variant}/{dimension}.parquet",),
)

# The tokens of the origin's answers, stop token and all, which the store keeps for variants that may begin as it does,
# and which of them no other order of sums would replace.
REPLIES = Format("replies", version=2, columns={"tokens": "tokens", "sure": "bools"}, made_by="evaluation.answers")

# p_unsafe is null where the judge gives none. Of an empty answer, and of one that never left its thoughts, there is no
# verdict.
VERDICTS = Format(
    "verdicts",
    version=3,
    keys=(*ASKED_KEYS, "judge", "calls", "identity", "judge_kinds"),
    columns=_TEXTS
    | {"verdict": "string", "p_unsafe": "float32?"}
    | dict.fromkeys(("empty", "degenerate", "truncated", "thinking"), "bool"),
    checks=(filled("id"), unique("id"), as_recorded("dimension"), one_of("verdict", CALLS))
    + (within("p_unsafe", 0, 1), no_verdict_of("empty", "thinking")),
    made_by="evaluation.judges.judge",
    places=("verdicts/{model}/{variant}/{dimension}.{judge}.parquet",),
)

# The one table that figures are drawn from: a column where a fact has one and null where not, never a name to be
# parsed. `item` is what else a row is of: a phrase, a window, a kind of reply, the other judge. What each metric is
# stands with the function that measures it.
METRICS = Format(
    "metrics",
    version=2,
    keys=("confidence",),
    columns={"model": "string", "variant": "string?", "dimension": "string", "metric": "string"}
    | {"judge": "string?", "task": "string?", "layer": "int32?", "item": "string?"}
    | {"value": "float64?", "low": "float64?", "high": "float64?", "n": "int64?", "of": "int64?"},
    checks=(filled("model", "dimension", "metric"), unique(*METRIC_KEYS), ascending("low", "value", "high"))
    + (ascending("n", "of"),),
    made_by="evaluation.collect",
    places=(
        "metrics/{model}/{measured}/{variant}.parquet",
        "metrics/{model}/{measured}/{variant}/{dimension}.parquet",
        "metrics/{model}/{measured}.parquet",
        "checkpoints/{model}/{variant}/uncouple/curve.parquet",
    ),
)

# How many weights of each matrix a mask takes.
PLACEMENT = Format(
    "placement",
    version=1,
    columns={"model": "string", "variant": "string", "layer": "int32", "module": "string", "n": "int64", "of": "int64"},
    checks=(unique("model", "variant", "layer", "module"), ascending("n", "of")),
    made_by="selection.placement",
    places=("metrics/{model}/placement.parquet",),
)

# Which variants are alike but for one key; see `experiment.sweeps`. `number` is a value that has its place on an axis.
SWEEPS = Format(
    "sweeps",
    version=1,
    columns=dict.fromkeys(("key", "series", "variant", "value"), "string") | {"number": "float64?"},
    checks=(filled("key", "variant"), unique("key", "series", "variant")),
    made_by="experiment.sweeps",
    places=("metrics/sweeps.parquet",),
)

# What each long step took, as Snakemake measured it: `memory` in bytes, resident at most; null where
# nothing was measured. `step` is the verb that it ran, `file` what Snakemake wrote of it.
TIMES = Format(
    "times",
    version=1,
    columns=dict.fromkeys(("model", "step", "file"), "string")
    | dict.fromkeys(("seconds", "cpu_seconds", "memory"), "float64?"),
    checks=(filled("model", "step", "file"), unique("file"), within("seconds", 0, float("inf"))),
    made_by="experiment.times",
    places=("metrics/*/times.parquet",),
)

# How many weights each rule selects at a ratio, and how many of them are in the coupled set of that ratio.
COUPLING = Format(
    "coupling",
    version=1,
    keys=("dimensions",),
    columns={"model": "string", "select": "string", "ratio": "float64"}
    | dict.fromkeys(("n", "coupled", "of"), "int64"),
    checks=(unique("model", "select", "ratio"), within("ratio", 0, 1), ascending("coupled", "n", "of")),
    made_by="selection.select",
    places=("metrics/{model}/coupling.parquet",),
)

# Who a model folder is: its files with their sizes and SHA-256, and three fingerprints; see `models.folders`.
MODEL = Format(
    "model",
    version=2,
    keys=("name", "source", "layers", "files", "fingerprint", "tokenizer", "generation"),
    places=(
        "models/{name}/uncouple.json",
        "judges/*/model/uncouple.json",
        "checkpoints/{name}/{source[variant]}/uncouple.json",
        # The base's own, which a checkpoint keeps.
        "checkpoints/*/*/uncouple/base.json",
    ),
)

# The files of a model folder as they were when last hashed. It may be deleted at any time.
HASHES = Format("hashes", version=1, keys=("files",))

# Of a mask, all but its rows and shapes: what made a checkpoint.
CHECKPOINT = Format(
    "checkpoint", version=2, keys=_MASK_KEYS, places=("checkpoints/{model[name]}/{variant}/uncouple/config.json",)
)

_MADE_OF = ("variant", "model.name", "model.fingerprint", "model.tokenizer", "samples", "n", "prompt", *MACHINE_KEYS)
_TUNED_KEYS = (*_MADE_OF, "method", "epochs", "rate", "batch_size", "rank", "tune_seed", "steps")

# What made a fine-tuned model or an adapter.
TUNING = Format(
    "tuning", version=1, keys=_TUNED_KEYS, places=("checkpoints/{model[name]}/{variant}/uncouple/config.json",)
)

# What moves a model's hidden states: safetensors, with its record in the metadata; see `variants.reft`.
ADAPTER = Format(
    "adapter",
    version=1,
    keys=(*_TUNED_KEYS, "positions"),
    places=("checkpoints/{model[name]}/{variant}/adapter.safetensors",),
)

# A trained judge of one dimension, with how good it is; see `judges.training`.
JUDGE = Format(
    "judge",
    version=3,
    keys=("judge", "dimension", "encoder.fingerprint", "threshold", "coefficients", "intercept", "centres", "kinds")
    + ("training", "held_out", "test", "code"),
    places=("judges/{judge}/{dimension}.json",),
)

FORMATS = {
    known.kind: known
    for known in (SAMPLES, QUESTIONS, SCORE_SHARD, MASK, ANSWERS, REPLIES, VERDICTS, METRICS, PLACEMENT, COUPLING)
    + (TIMES, SWEEPS, MODEL, HASHES, CHECKPOINT, TUNING, ADAPTER, JUDGE)
}
