import json
import shutil

import numpy as np
import pytest
import torch
from conftest import TEXTS, score_with
from safetensors.torch import load_file

from uncouple.data.samples import make_samples
from uncouple.data.sources import Source
from uncouple.errors import UncoupleError
from uncouple.models.folders import model_record
from uncouple.records.files import read_table, write_table
from uncouple.records.formats import COUPLING, MASK, SCORE_SHARD
from uncouple.scoring.shards import read_scores
from uncouple.selection.options import Selection
from uncouple.selection.select import count_selected, make_mask
from uncouple.variants.masks import read_mask

SCORING = {"module": "mlp", "prompt": "chat", "keep": 0.2, "batch_tokens": 300, "dtype": "float32", "device": "cpu"}
DIMENSIONS = ["fairness", "privacy"]
SELECTION = Selection(select="coupled", ratio=0.1, general_ratio=0.1, module="mlp", dimensions=DIMENSIONS)


def score_set(folder, model_folder, dimension, rows, **changed):
    raw = folder / f"{dimension}.jsonl"
    raw.write_text("".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in rows))
    make_samples(Source(path=str(raw)), dimension, "safe", len(rows), 0, folder / f"{dimension}.parquet")
    paths = []
    for layer in (0, 1):
        paths.append(folder / f"{dimension}-{layer}.parquet")
        score_with(
            model_folder, folder / f"{dimension}.parquet", paths[-1], first=layer, last=layer, **SCORING | changed
        )
    return paths


@pytest.fixture(scope="module")
def shard_paths(model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scores")
    return [
        path
        for dimension, rows in (("fairness", TEXTS[:3]), ("privacy", TEXTS[2:5]), ("general", TEXTS[5:]))
        for path in score_set(folder, model_folder, dimension, rows)
    ]


def rewrite_metadata(path, target, **changed):
    """A copy of a file of ours with other metadata."""
    table, metadata = read_table(path, SCORE_SHARD)
    write_table(table, target, SCORE_SHARD, metadata | changed)
    return target


def test_a_mask_holds_the_selected_weights_with_value_score_and_rank(model_folder, shard_paths, tmp_path):
    make_mask(model_folder, shard_paths, tmp_path / "mask.parquet", SELECTION, variant="v")
    table, metadata = read_table(tmp_path / "mask.parquet", MASK)
    assert table.column_names == [
        *(
            "module",
            "index",
            "value",
            "score_fairness",
            "rank_fairness",
            "score_privacy",
            "rank_privacy",
            "rank_general",
        )
    ]
    weights, scores = load_file(model_folder / "model.safetensors"), read_scores(shard_paths, DIMENSIONS)
    rows = table.to_pylist()
    for name in scores.shapes:
        size, tops = scores.size(name), {d: t[name][0].tolist() for d, t in scores.tops.items()}
        k = int(0.1 * size)
        coupled = {i for i in tops["fairness"][:k] if i in tops["privacy"][:k] and i not in tops["general"][:k]}
        mine = [row for row in rows if row["module"] == name]
        assert [row["index"] for row in mine] == sorted(coupled)
        for row in mine:
            assert row["value"] == float(weights[f"{name}.weight"].flatten()[row["index"]])
            for dimension in DIMENSIONS:
                rank = tops[dimension].index(row["index"])
                assert row[f"rank_{dimension}"] == rank
                assert row[f"score_{dimension}"] == scores.tops[dimension][name][1][rank]
            general = tops["general"]
            assert row["rank_general"] == (general.index(row["index"]) if row["index"] in general else None)
    assert len(rows) > 20
    assert metadata["dimensions"] == DIMENSIONS
    assert metadata["scores"]["privacy"]["samples"]["n"] == 3


def test_random_takes_as_many_of_each_matrix_as_coupled(model_folder, shard_paths, tmp_path):
    for select in ("coupled", "random"):
        make_mask(
            model_folder, shard_paths, tmp_path / select, SELECTION.model_copy(update={"select": select}), variant="v"
        )
    coupled, random = read_mask(tmp_path / "coupled")[0], read_mask(tmp_path / "random")[0]
    assert {n: len(i) for n, (i, _) in coupled.items()} == {n: len(i) for n, (i, _) in random.items()}
    assert any(not np.array_equal(coupled[n][0], random[n][0]) for n in coupled)


def test_a_smaller_ratio_comes_from_the_same_shards_exactly(model_folder, shard_paths, tmp_path):
    """Shards that keep less give the same mask."""
    folder = tmp_path / "less"
    folder.mkdir()
    less = [
        path
        for dimension, rows in (("fairness", TEXTS[:3]), ("privacy", TEXTS[2:5]), ("general", TEXTS[5:]))
        for path in score_set(folder, model_folder, dimension, rows, keep=0.05)
    ]
    chosen = SELECTION.model_copy(update={"ratio": 0.05, "general_ratio": 0.04})
    for name, paths in (("more", shard_paths), ("same", less)):
        make_mask(model_folder, paths, tmp_path / f"{name}.parquet", chosen, variant="v")
    more, same = read_mask(tmp_path / "more.parquet")[0], read_mask(tmp_path / "same.parquet")[0]
    assert more.keys() == same.keys()
    assert all(np.array_equal(more[n][0], same[n][0]) for n in more)


def test_counts_by_ratio_equal_the_masks(model_folder, shard_paths, tmp_path):
    ratios = [0.02, 0.1]
    count_selected(model_folder, shard_paths, tmp_path / "c", SELECTION, ratios=ratios)
    counts = {(r["select"], r["ratio"]): r["n"] for r in read_table(tmp_path / "c", COUPLING)[0].to_pylist()}
    for select in ("coupled", "published", "union"):
        for ratio in ratios:
            chosen = SELECTION.model_copy(update={"select": select, "ratio": ratio, "general_ratio": ratio})
            make_mask(model_folder, shard_paths, tmp_path / "m", chosen, variant="v")
            assert read_table(tmp_path / "m", MASK)[0].num_rows == counts[select, ratio]


def test_a_ratio_above_keep_is_refused_with_the_number_to_set(model_folder, shard_paths, tmp_path):
    with pytest.raises(UncoupleError, match=r"ratio 0.3 is above 0.2.*Set scoring.keep to 0.3"):
        make_mask(model_folder, shard_paths, tmp_path / "m", SELECTION.model_copy(update={"ratio": 0.3}), variant="v")
    assert not (tmp_path / "m").exists()


def test_a_ratio_that_selects_nothing_names_the_smallest_that_does(model_folder, shard_paths, tmp_path):
    nothing = SELECTION.model_copy(update={"ratio": 1e-4, "general_ratio": 1e-4})
    with pytest.raises(UncoupleError, match=r"selects no weight.*smallest ratio that does is (\S+)\.$") as error:
        make_mask(model_folder, shard_paths, tmp_path / "m", nothing, variant="v")
    smallest = float(str(error.value).rsplit(" ", 1)[1].rstrip("."))
    enough = SELECTION.model_copy(update={"ratio": smallest, "general_ratio": smallest})
    make_mask(model_folder, shard_paths, tmp_path / "m", enough, variant="v")
    assert read_table(tmp_path / "m", MASK)[0].num_rows > 0
    below = smallest - 1 / (64 * 96)
    with pytest.raises(UncoupleError, match="selects no weight"):
        make_mask(
            model_folder,
            shard_paths,
            tmp_path / "n",
            SELECTION.model_copy(update={"ratio": below, "general_ratio": below}),
            variant="v",
        )


def test_shards_of_another_model_are_refused(make_model, shard_paths, tmp_path):
    other = make_model("llama", seed=1)
    with pytest.raises(UncoupleError, match="made from another model"):
        make_mask(other, shard_paths, tmp_path / "m", SELECTION, variant="v")


@pytest.fixture
def other_template(model_folder, tmp_path):
    """The same model with another chat template."""
    shutil.copytree(model_folder, tmp_path / "other")
    template = tmp_path / "other/chat_template.jinja"
    template.write_text(template.read_text().replace("<|end|>", "<|end|> "))
    return tmp_path / "other"


def test_shards_of_another_chat_template_are_refused(model_folder, other_template, shard_paths, tmp_path):
    with pytest.raises(UncoupleError, match="made from another tokenizer or chat template"):
        make_mask(other_template, shard_paths, tmp_path / "m", SELECTION, variant="v")
    # The weights are those of the mask, whatever text is made into tokens by.
    make_mask(model_folder, shard_paths, tmp_path / "m", SELECTION, variant="v")
    read_mask(tmp_path / "m", model_record(other_template))


def test_shards_of_two_chat_templates_do_not_belong_together(other_template, shard_paths, tmp_path):
    (tmp_path / "scores").mkdir()
    others = score_set(tmp_path / "scores", other_template, "general", TEXTS[5:])
    with pytest.raises(UncoupleError, match="do not belong together: other model"):
        read_scores([*shard_paths[:-2], *others], DIMENSIONS)


def test_a_mask_of_another_model_is_refused(model_folder, make_model, shard_paths, tmp_path):
    make_mask(model_folder, shard_paths, tmp_path / "m", SELECTION, variant="v")
    with pytest.raises(UncoupleError, match="made from another model"):
        read_mask(tmp_path / "m", model_record(make_model("llama", seed=1)))


def test_a_truncated_shard_is_named(model_folder, shard_paths, tmp_path):
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(shard_paths[0].read_bytes()[:-100])
    with pytest.raises(UncoupleError, match=r"broken.parquet.*truncated.*Delete it"):
        make_mask(model_folder, [broken, *shard_paths[1:]], tmp_path / "m", SELECTION, variant="v")


def test_a_shard_of_another_format_version_is_refused(model_folder, shard_paths, tmp_path):
    old = rewrite_metadata(shard_paths[0], tmp_path / "old.parquet", version=99)
    with pytest.raises(UncoupleError, match=r"old.parquet.*format version 99.*reads version 3"):
        make_mask(model_folder, [old, *shard_paths[1:]], tmp_path / "m", SELECTION, variant="v")


@pytest.mark.parametrize(("key", "value"), [("prompt", "bare"), ("dtype", "bfloat16"), ("keep", 0.5), ("versions", {})])
def test_shards_scored_in_different_ways_are_refused(model_folder, shard_paths, tmp_path, key, value):
    other = rewrite_metadata(shard_paths[-1], tmp_path / "other.parquet", **{key: value})
    with pytest.raises(UncoupleError, match=f"do not belong together: other {key}"):
        read_scores([*shard_paths[:-1], other], DIMENSIONS)


def test_shards_of_two_devices_belong_together_in_float32_alone(model_folder, shard_paths, tmp_path):
    other = rewrite_metadata(shard_paths[-1], tmp_path / "other.parquet", device="cuda A100")
    read_scores([*shard_paths[:-1], other], DIMENSIONS)
    half = [rewrite_metadata(path, tmp_path / path.name, dtype="bfloat16") for path in [*shard_paths[:-1], other]]
    with pytest.raises(UncoupleError, match="do not belong together: other device"):
        read_scores(half, DIMENSIONS)


def test_missing_and_repeated_shards_are_refused(shard_paths):
    with pytest.raises(UncoupleError, match=r"the privacy shards have no scores of model.layers.1"):
        read_scores([p for p in shard_paths if p.name != "privacy-1.parquet"], DIMENSIONS)
    with pytest.raises(UncoupleError, match="no score shard of privacy"):
        read_scores([p for p in shard_paths if not p.name.startswith("privacy")], DIMENSIONS)
    with pytest.raises(UncoupleError, match="in another of the shards as well"):
        read_scores([*shard_paths, shard_paths[0]], DIMENSIONS)


def test_modules_that_were_not_scored_are_refused(model_folder, shard_paths, tmp_path):
    with pytest.raises(UncoupleError, match="Score `attention` modules"):
        make_mask(
            model_folder, shard_paths, tmp_path / "m", SELECTION.model_copy(update={"module": "attention"}), variant="v"
        )


def test_values_of_half_precision_weights_are_exact(make_model, tmp_path):
    folder = make_model("llama", torch.bfloat16)
    shards = [
        path
        for dimension, rows in (("fairness", TEXTS[:3]), ("privacy", TEXTS[2:5]), ("general", TEXTS[5:]))
        for path in score_set(tmp_path, folder, dimension, rows)
    ]
    make_mask(folder, shards, tmp_path / "m", SELECTION, variant="v")
    weights = load_file(folder / "model.safetensors")
    for name, (index, value) in read_mask(tmp_path / "m", model_record(folder))[0].items():
        assert torch.equal(weights[f"{name}.weight"].flatten()[torch.tensor(index)].float(), torch.tensor(value))
    shutil.rmtree(tmp_path)
