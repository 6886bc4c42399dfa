"""From scores to masks: which weights couple, and how many each rule selects."""

import math
import zlib
from fractions import Fraction

import numpy as np
import pyarrow as pa

from uncouple.errors import UncoupleError
from uncouple.models.families import target_names
from uncouple.models.folders import model_record, read_config
from uncouple.models.weights import WeightFiles
from uncouple.progress import say
from uncouple.records.columns import module_column
from uncouple.records.files import write_table
from uncouple.records.formats import COUPLING, MASK
from uncouple.scoring.shards import read_scores, top_count
from uncouple.selection.rules import RULES, find_ranks, select_random, smallest_count
from uncouple.variants.masks import check_model


def make_mask(model_folder, shards, output, *, dimensions, select, ratio, general_ratio, module, seed, variant):
    """Select weights and write them as a mask.

    Args:
        model_folder: the base model, for the original values.
        shards: score shards of all the dimensions and of the general set.
        output: the mask to write.
        dimensions: those that couple, the first of them being A.
        select: one of `terms.SELECTIONS`.
        ratio: share of each matrix that is a dimension's top (the paper's q).
        general_ratio: share that is the general set's top (the paper's p).
        module: `mlp`, `attention` or `all`.
        seed: for `random`.
        variant: the variant's name, for the record.

    Raises:
        UncoupleError: shards that do not belong together or to the model, a ratio above what they keep,
            or one so small that nothing is selected.
    """
    record = model_record(model_folder)
    scores = read_scores(shards, dimensions)
    names = _targets(model_folder, record, scores, module, max(ratio, general_ratio))
    selected = select_weights(scores, names, select, ratio, general_ratio, seed)
    if not any(map(len, selected.values())):
        raise UncoupleError(
            f"{variant}: `{select}` at ratio {ratio:g} (general {general_ratio:g}) selects no weight of any matrix. "
            + _smallest_ratio(scores, names, select, ratio, general_ratio)
        )
    files = WeightFiles(model_folder)
    chosen = [name for name in names if len(selected[name])]

    parts = []
    for name in chosen:
        index = selected[name]
        part = {"index": index, "value": files.read(f"{name}.weight", index)}
        for dimension, tops in scores.tops.items():
            top, score = tops[name]
            ranks = find_ranks(top, index)
            if dimension != "general":
                # Rank -1, of a weight that is not in the top, takes the NaN at the end, which stands for null.
                part[f"score_{dimension}"] = np.append(score, np.float32(np.nan))[ranks]
            part[f"rank_{dimension}"] = ranks
        parts.append(part)
    columns = {"module": module_column(chosen, [len(selected[name]) for name in chosen])}
    for key in parts[0]:
        values = np.concatenate([part[key] for part in parts])
        unknown = values < 0 if key.startswith("rank_") else np.isnan(values) if key.startswith("score_") else None
        columns[key] = pa.array(values, mask=unknown)
    metadata = {
        "variant": variant,
        "model": {key: record[key] for key in ("name", "source", "fingerprint")},
        "dimensions": list(dimensions),
        "select": select,
        "ratio": ratio,
        "general_ratio": general_ratio,
        "module": module,
        "seed": seed,
        "scores": scores.records,
        "shapes": {name: scores.shapes[name] for name in names},
    }
    table = pa.table(columns)
    write_table(table, output, MASK, metadata)
    say(f"mask: {variant}: {table.num_rows:,} weights of {len(chosen)} matrices by `{select}` at ratio {ratio:g}")


def select_weights(scores, names, select, ratio, general_ratio, seed):
    """Selected indices of each matrix.

    Args:
        scores: `shards.Scores`.
        names: modules to select in.
        select, ratio, general_ratio, seed: as in `make_mask`.

    Returns:
        dict of module to int64 (k,), ascending.
    """
    selected = {}
    for name in names:
        size = scores.size(name)
        tops = [scores.tops[dimension][name][0][: top_count(ratio, size)] for dimension in scores.dimensions]
        general = scores.tops["general"][name][0][: top_count(general_ratio, size)]
        if select == "random":
            count = len(RULES["coupled"](tops, general))
            selected[name] = select_random(count, size, [seed, zlib.crc32(name.encode())])
        else:
            selected[name] = RULES[select](tops, general)
    return selected


def count_selected(model_folder, shards, output, *, dimensions, module, ratios):
    """Write how many weights each rule selects at each ratio: the tidy table behind the coupling figure.

    The general set's ratio is the dimensions' own, as in the paper. Columns `model, select, ratio, n, coupled, of`,
    where `coupled` says how many of the n are in the coupled set of that ratio.
    """
    record = model_record(model_folder)
    scores = read_scores(shards, dimensions)
    names = _targets(model_folder, record, scores, module, max(ratios))
    of = sum(scores.size(name) for name in names)
    rows = []
    for ratio in ratios:
        coupled = select_weights(scores, names, "coupled", ratio, ratio, 0)
        for select in RULES:
            selected = select_weights(scores, names, select, ratio, ratio, 0)
            shared = sum(len(np.intersect1d(selected[name], coupled[name])) for name in names)
            counts = {"n": sum(map(len, selected.values())), "coupled": shared, "of": of}
            rows.append({"model": record["name"], "select": select, "ratio": ratio} | counts)
    write_table(rows, output, COUPLING, {"dimensions": list(dimensions)})


def _targets(model_folder, record, scores, module, ratio):
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
    names = target_names(read_config(model_folder), module)
    if missing := [name for name in names if name not in scores.shapes]:
        raise UncoupleError(
            f"the score shards have no scores of {missing[0]}. Score `{module}` modules, and give all shards."
        )
    return names


def _smallest_ratio(scores, names, select, ratio, general_ratio):
    """What to tell where nothing is selected; the general ratio follows the ratio where the two were equal."""
    tied, best = ratio == general_ratio, None
    for name in names:
        size = scores.size(name)
        lists = [scores.tops[dimension][name][0] for dimension in scores.dimensions]
        general = scores.tops["general"][name][0]
        count = smallest_count(select, lists, general, None if tied else top_count(general_ratio, size))
        if count and (best is None or Fraction(count, size) < best):
            best = Fraction(count, size)
    if best is None:
        return f"No ratio up to what the shards keep ({scores.keep:g}) does: raise scoring.keep, or use other samples."
    # Rounded up, so that the ratio as printed still takes as many.
    digits = 10 ** (5 - math.floor(math.log10(best)))
    return f"The smallest ratio that does is {float(Fraction(math.ceil(best * digits), digits)):g}."
