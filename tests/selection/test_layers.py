"""A range of layers: what all layers give, of those alone."""

import pytest

# Of the same scores as every other selection here.
from selection.test_masks import SELECTION, score_set, shard_paths  # noqa: F401

from uncouple.errors import UncoupleError
from uncouple.models.folders import model_record
from uncouple.selection.select import make_mask
from uncouple.variants.masks import read_mask


def entries(model_folder, shards, path, **changed):
    make_mask(model_folder, shards, path, SELECTION.model_copy(update=changed), variant="v")
    found, record = read_mask(path, model_record(model_folder))
    return {name: index.tolist() for name, (index, _) in found.items()}, record


def test_weights_of_other_layers_are_left_alone(model_folder, shard_paths, tmp_path):  # noqa: F811
    whole, _ = entries(model_folder, shard_paths, tmp_path / "whole.parquet")
    first, record = entries(model_folder, shard_paths, tmp_path / "first.parquet", layers=[0, 0])
    second, _ = entries(model_folder, shard_paths, tmp_path / "second.parquet", layers=[1, 1])
    assert first
    assert second
    assert first | second == whole
    assert all(".layers.0." in name for name in first)
    assert all(".layers.1." in name for name in second)
    assert record["layers"] == [0, 0]
    assert all(".layers.0." in name for name in record["shapes"])


@pytest.mark.parametrize("layers", [[1, 0], [0, 2]])
def test_a_range_that_is_none_of_the_models(model_folder, shard_paths, tmp_path, layers):  # noqa: F811
    with pytest.raises(UncoupleError, match="is no range of this model's, which are 0 to 1"):
        entries(model_folder, shard_paths, tmp_path / "m.parquet", layers=layers)
