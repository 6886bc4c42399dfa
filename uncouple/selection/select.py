"""From scores to masks: which weights couple, and how many each rule selects."""

import math
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from uncouple.errors import UncoupleError
from uncouple.models.families import target_names
from uncouple.models.folders import model_record, read_config
from uncouple.models.weights import WeightFiles
from uncouple.progress import say
from uncouple.records.columns import module_column, top_count
from uncouple.records.files import write_table
from uncouple.records.formats import COUPLING, MASK
from uncouple.scoring.shards import Scores, read_scores
from uncouple.selection.options import Selection
from uncouple.selection.rules import COUPLED, RULES, find_ranks
from uncouple.variants.masks import check_model


def make_mask(
    model_folder: str | Path, shards: list[str], output: str | Path, options: Selection, *, variant: str
) -> None:
    """Select weights and write them as a mask.

    Args:
        model_folder: the base model, for the original values.
        shards: score shards of all the dimensions and of the general set.
        output: the mask to write.
        options: how they are selected; `dimensions` are told.
        variant: the variant's name, for the record.

    Raises:
        UncoupleError: shards that do not belong together or to the model, a ratio above what they keep,
            or one so small that nothing is selected.
    """
    record = model_record(model_folder)
    scores = read_scores(shards, options.dimensions or [])
    names = _targets(model_folder, record, scores, options, max(options.ratio, options.general))
    selected = select_weights(scores, names, options)
    if not any(map(len, selected.values())):
        raise UncoupleError(
            f"{variant}: `{options.select}` at ratio {options.ratio:g} (general {options.general:g}) selects no weight "
            f"of any matrix. {_smallest_ratio(scores, names, options)}"
        )
    chosen = {name: selected[name] for name in names if len(selected[name])}
    metadata = {
        "variant": variant,
        "model": {key: record[key] for key in ("name", "source", "fingerprint")},
        "dimensions": list(scores.dimensions),
        "select": options.select,
        "ratio": options.ratio,
        "general_ratio": options.general,
        "module": options.module,
        "layers": options.layers,
        "seed": options.select_seed,
        "scores": scores.records,
        "shapes": {name: scores.shapes[name] for name in names},
    }
    table = _mask_table(WeightFiles(model_folder), scores, chosen)
    write_table(table, output, MASK, metadata)
    say(
        f"mask: {variant}: {table.num_rows:,} weights of {len(chosen)} matrices by `{options.select}` at ratio "
        f"{options.ratio:g}"
    )


def _mask_table(files: WeightFiles, scores: Scores, chosen: dict[str, Any]) -> pa.Table:
    """The rows of a mask: each selected weight with its original value, and its scores and ranks.

    Args:
        chosen: dict of module to int64 (k,), the selected weights.
    """
    parts = []
    for name, index in chosen.items():
        part = {"index": index, "value": files.read(f"{name}.weight", index)}
        for dimension, tops in scores.tops.items():
            top, score = tops[name]
            ranks = find_ranks(top, index)
            if dimension != "general":
                # Rank -1, of a weight that is not in the top, takes the NaN at the end, which stands for null.
                part[f"score_{dimension}"] = np.append(score, np.float32(np.nan))[ranks]
            part[f"rank_{dimension}"] = ranks
        parts.append(part)
    columns = {"module": module_column(chosen, [len(index) for index in chosen.values()])}
    for key in parts[0]:
        values = np.concatenate([part[key] for part in parts])
        unknown = values < 0 if key.startswith("rank_") else np.isnan(values) if key.startswith("score_") else None
        columns[key] = pa.array(values, mask=unknown)
    return pa.table(columns)


def select_weights(scores: Scores, names: list[str], options: Selection) -> dict[str, NDArray[np.int64]]:
    """Selected indices of each matrix.

    Args:
        scores: of all dimensions and the general set.
        names: modules to select in.
        options: how.

    Returns:
        dict of module to int64 (k,), ascending.
    """
    selected = {}
    for name in names:
        size = scores.size(name)
        tops = [scores.tops[dimension][name][0][: top_count(options.ratio, size)] for dimension in scores.dimensions]
        general = scores.tops["general"][name][0][: top_count(options.general, size)]
        seed = [options.select_seed, zlib.crc32(name.encode())]
        selected[name] = options.rule.select(tops, general, size, seed)
    return selected


def count_selected(
    model_folder: str | Path, shards: list[str], output: str | Path, options: Selection, *, ratios: list[float]
) -> None:
    """Write how many weights each rule selects at each ratio: the tidy table behind the coupling figure.

    The general set's ratio is the dimensions' own, as in the paper. Columns `model, select, ratio, n, coupled, of`,
    where `coupled` says how many of the n are in the coupled set of that ratio.
    """
    record = model_record(model_folder)
    scores = read_scores(shards, options.dimensions or [])
    names = _targets(model_folder, record, scores, options, max(ratios))
    of = sum(scores.size(name) for name in names)
    rows = []
    for ratio in ratios:
        at_ratio = options.model_copy(update={"ratio": ratio, "general_ratio": None})
        coupled = select_weights(scores, names, at_ratio.model_copy(update={"select": COUPLED.name}))
        for rule in RULES.values():
            if rule.is_drawn:
                continue
            selected = select_weights(scores, names, at_ratio.model_copy(update={"select": rule.name}))
            shared = sum(len(np.intersect1d(selected[name], coupled[name])) for name in names)
            counts = {"n": sum(map(len, selected.values())), "coupled": shared, "of": of}
            rows.append({"model": record["name"], "select": rule.name, "ratio": ratio} | counts)
    write_table(rows, output, COUPLING, {"dimensions": list(scores.dimensions)})


def _targets(
    model_folder: str | Path, record: dict[str, Any], scores: Scores, options: Selection, ratio: float
) -> list[str]:
    """Modules to select in, once the shards are known to be of this model and to keep enough of it."""
    if len(scores.dimensions) < 2:
        raise UncoupleError(
            f"dimensions: {', '.join(scores.dimensions)} alone cannot couple. Name two or more, each once."
        )
    for shard_record in scores.records.values():
        check_model("these score shards", shard_record["model"], record)
    if ratio > scores.keep:
        raise UncoupleError(
            f"ratio {ratio:g} is above {scores.keep:g}, the share of each matrix that the score shards keep. "
            f"Set scoring.keep to {ratio:g} or more and score again."
        )
    config, (first, last) = read_config(model_folder), options.layers or (0, None)
    if last is not None and not first <= last < config["num_hidden_layers"]:
        raise UncoupleError(
            f"layers: {first} to {last} is no range of this model's, which are 0 to {config['num_hidden_layers'] - 1}."
        )
    names = target_names(config, options.module, first, last)
    if missing := [name for name in names if name not in scores.shapes]:
        raise UncoupleError(
            f"the score shards have no scores of {missing[0]}. Score `{options.module}` modules, and give all shards."
        )
    return names


def _smallest_ratio(scores: Scores, names: list[str], options: Selection) -> str:
    """What to tell where nothing is selected; the general ratio follows the ratio where the two were equal."""
    tied, best = options.ratio == options.general, None
    for name in names:
        size = scores.size(name)
        lists = [scores.tops[dimension][name][0] for dimension in scores.dimensions]
        general = scores.tops["general"][name][0]
        count = options.rule.smallest_count(lists, general, None if tied else top_count(options.general, size))
        if count and (best is None or Fraction(count, size) < best):
            best = Fraction(count, size)
    if best is None:
        return f"No ratio up to what the shards keep ({scores.keep:g}) does: raise scoring.keep, or use other samples."
    # Rounded up, so that the ratio as printed still takes as many.
    digits = 10 ** (5 - math.floor(math.log10(best)))
    return f"The smallest ratio that does is {float(Fraction(math.ceil(best * digits), digits)):g}."
