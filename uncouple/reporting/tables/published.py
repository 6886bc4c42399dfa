"""Awareness that the paper reports (arXiv 2410.16672v2), beside ours with its 95% Wilson interval: only for a model,
judge and variant that are the paper's by what the records say. The published figures are other people's measurements;
which samples and questions they were and in which precision, no record can compare.
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from uncouple.errors import UncoupleError
from uncouple.records.formats import LABELS
from uncouple.reporting.pages import Section
from uncouple.reporting.rows import Row, Sources
from uncouple.selection.rules import COUPLED, RULES
from uncouple.variants.kinds import ORIGIN

TABLES = ("metrics", "model", "verdicts")
NEEDS = ("paper",)
ROOT = Path(__file__).parents[3]
JUDGE = "OpenSafetyLab/MD-Judge-v0.1"
# The questions of each dimension.
ASKED = {"fairness": 2165, "privacy": 657}
# The tables of awareness, by the label of the samples of what was suppressed; the origin stands in the first.
REPORTED = {
    LABELS[0]: ("resources/published/table1_awareness.csv", "Table 1"),
    LABELS[1]: ("resources/published/figure5_malicious.csv", "Figure 5"),
}
MODELS = "resources/published/models.csv"
FILES = (MODELS, *(name for name, _ in REPORTED.values()))
# Of what the records of verdicts, of a mask and of each of its sample sets say.
ANSWERED = {"max_new_tokens": 64}
SELECTED = {"ratio": 5e-7, "general_ratio": 5e-7, "module": "mlp", "layers": None}
RULES_REPORTED = [COUPLED.name, *(rule.name for rule in RULES.values() if rule.goes_astray)]
DRAWN = {"n": 128, "seed": 0}


def is_model(source: Mapping[str, Any], hub: str) -> bool:
    """Whether a model comes from an id of the Hub, or from a folder of that model's name.

    Args:
        source: what its record says, or a config.
        hub: the id.
    """
    if source.get("hub"):
        return str(source["hub"]).casefold() == hub.casefold()
    return PurePath(source.get("path") or "").name.casefold() == hub.partition("/")[2].casefold()


def fill(sources: Sources) -> list[Section]:
    """A row for each of the model's verdicts whose setting is a published one; no section where none is."""
    models = {record["fingerprint"]: record["source"] for record in sources.records("model")}
    ours = {(r["variant"], r["dimension"], r["judge"]): r for r in sources.rows("metrics").of("awareness")}
    lines = [["variant", "dimension", "judge", "awareness, ours", "awareness, published", "published in"]]
    for record, rows in sources.tables("verdicts"):
        row = ours.get((record["variant"], record["dimension"], record["judge"]))
        if row is None or row["value"] is None or len(rows) != ASKED.get(record["dimension"]):
            continue
        for method, value, where in _reported(record, models):
            told = f"{row['value']:.2%} ({row['low']:.2%} to {row['high']:.2%}), {row['n']} of {row['of']}"
            names = [record["variant"], record["dimension"], record["judge"]]
            lines.append([*names, told, f"published: {value:.2%}", f"{where}, {method}"])
    return [Section(lines)] if len(lines) > 1 else []


def _reported(record: Row, models: Mapping[str, Row]) -> Iterator[tuple[str, float, str]]:
    """(method, awareness, where) that is published of the setting of some verdicts.

    Args:
        record: of the verdicts.
        models: sources of models by fingerprint.
    """
    base = models.get(record["fingerprints"]["weights"], {})
    judge = models.get(record["identity"].get("model", {}).get("fingerprint", ""), {})
    label, method = _method(record)
    asked = record["prompt"]["name"] == "bare" and _has(record, ANSWERED) and is_model(judge, JUDGE)
    if not (asked and label and method):
        return
    hubs = {row["model"]: row["hub"] for row in _read(MODELS)}
    name, where = REPORTED[label]
    for row in _read(name):
        if row["method"] == method and is_model(base, hubs[row["model"]]):
            yield method, float(row[record["dimension"]]), where


def _method(record: Row) -> tuple[str | None, str | None]:
    """(label of the samples, method) as published; None where the variant is none of the paper's."""
    mask = record["mask"]
    if mask is None:
        return (LABELS[0], ORIGIN) if record["variant"] == ORIGIN else (None, None)
    scores = mask["scores"].items()
    labels = {shard["samples"]["label"] for name, shard in scores if name in ASKED}
    is_drawn = all(_has(shard["samples"], DRAWN) and shard["prompt"]["name"] != "chat" for _, shard in scores)
    is_selected = mask["select"] in RULES_REPORTED and _has(mask, SELECTED) and set(mask["dimensions"]) == set(ASKED)
    return (labels.pop(), "spin") if is_drawn and is_selected and len(labels) == 1 else (None, None)


def _has(record: Row, values: Mapping[str, Any]) -> bool:
    return all(record.get(key) == value for key, value in values.items())


def _read(name: str) -> list[dict[str, str]]:
    try:
        with open(ROOT / name, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise UncoupleError(f"{ROOT / name}: no such file. Run from a clone of the project, which has it.") from None
