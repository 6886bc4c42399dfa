"""Variants of variants: what each is opened from, and where that lies."""

import pytest
import yaml
from conftest import ROOT

from uncouple.experiment.config import load
from uncouple.experiment.paths import Paths


@pytest.fixture
def paths():
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config["variants"] |= {
        "again": {"kind": "suppress", "of": "spin", "checkpoint": True, "n": 32},
        "thrice": {"kind": "suppress", "of": "again"},
        "control": {"kind": "suppress", "of": "spin", "select": "random"},
    }
    return Paths(load(config, ROOT))


def test_one_job_asks_what_is_opened_from_one_folder(paths):
    groups = [(group.base, group.variants, group.edited) for group in paths.experiment.groups]
    assert groups == [
        ("origin", ["noise", "origin", "published", "random", "spin"], ["published", "random", "spin"]),
        ("again", ["thrice"], ["thrice"]),
        ("spin", ["again", "control"], ["again", "control"]),
    ]
    assert [group.suffix for group in paths.experiment.groups] == ["_1", "_2", "_3"]


def test_scores_and_masks_are_of_the_checkpoint_that_a_variant_is_made_from(paths):
    model = next(iter(paths.experiment.models))
    assert paths.base_of(model, "spin") == paths.model(model)
    assert paths.base_of(model, "again") == paths.checkpoint(model, "spin")
    assert paths.base_of(model, "thrice") == paths.checkpoint(model, "again")
    sets = {path.rsplit("/", 1)[0] for path in paths.shards(model, "again")}
    assert sets == {f"results/scores/{model}/spin/{name}-safe-n32-seed0" for name in ("fairness", "privacy", "general")}
    assert all(path.startswith(f"results/scores/{model}/origin/") for path in paths.shards(model, "spin"))
