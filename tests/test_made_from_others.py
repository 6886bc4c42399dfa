"""Variants of variants in the workflow: a tuned model is suppressed, a suppressed one tuned, an adapter measured."""

import pytest
from safetensors.torch import load_file

from uncouple.models.folders import model_record
from uncouple.records.files import read_any, read_table
from uncouple.records.formats import ANSWERS, MASK, METRICS
from uncouple.records.verify import verify_paths

TUNE = {"kind": "tune", "n": 3, "learn_from": ["privacy"], "epochs": 1}
SUPPRESS = {"kind": "suppress", "ratio": 0.02, "general_ratio": 0.03, "n": 3}
CHAIN = {
    "fft": TUNE | {"method": "fft", "rate": 1.0e-3},
    "reft": TUNE | {"method": "reft", "rank": 2},
    "mixed": TUNE | {"method": "lora", "rank": 2, "learn_from": ["general", "privacy"], "shares": [0.4, 0.6], "n": 3},
    "few": SUPPRESS | {"select": "union"},
    "both": SUPPRESS | {"of": "fft"},
    "later": TUNE | {"method": "dora", "rank": 2, "of": "spin"},
}


@pytest.fixture
def chained(clone):
    # The general samples that are learnt are those that are scored, so that one is left to be ordinary.
    clone.config["variants"]["spin"]["checkpoint"] = True
    clone.config["variants"] |= CHAIN
    return clone


def test_each_is_made_measured_and_compared(chained):
    chained.snakemake()
    results = chained.folder / "results"
    checkpoints = results / "checkpoints/tiny"
    records = {name: model_record(checkpoints / name) for name in ("fft", "mixed", "later", "spin")}
    origin = model_record(results / "models/tiny")
    assert {record["name"] for record in records.values()} == {origin["name"]}
    assert records["later"]["source"]["of"]["fingerprint"] == records["spin"]["fingerprint"]
    # Scores, mask and answers of what is made from a checkpoint are of that one.
    assert (
        read_table(results / "masks/tiny/both.parquet", MASK)[1]["model"]["fingerprint"]
        == (records["fft"]["fingerprint"])
    )
    assert {path.parent.parent.name for path in (results / "scores/tiny").glob("*/*/*.parquet")} == {"origin", "fft"}
    weights = {"fft": records["fft"], "both": records["fft"], "later": records["later"], "reft": origin}
    for variant, record in weights.items():
        about = read_table(results / f"answers/tiny/{variant}/privacy.parquet", ANSWERS)[1]
        assert about["fingerprints"]["weights"] == record["fingerprint"], variant
    assert about["adapter"]["method"] == "reft"
    rows = read_table(results / "metrics/tiny/metrics.parquet", METRICS)[0].to_pylist()
    told = {(row["metric"], row["variant"]) for row in rows}
    for variant in CHAIN:
        assert {("difference", variant), ("divergence", variant)} <= told, variant
        # An adapter would not act where no prompt is told.
        assert (("perplexity", variant) in told) == (variant != "reft")
    assert {name for metric, name in told if metric == "training_loss"} == {"fft", "reft", "mixed", "later"}
    divergence = {row["variant"]: row["value"] for row in rows if row["metric"] == "divergence"}
    assert divergence["origin"] == 0
    assert all(divergence[variant] > 0 for variant in CHAIN)
    checked, faults = verify_paths([results], model_record)
    assert faults == []
    assert {"tuning", "adapter", "sweeps"} <= {read_any(path)[1]["kind"] for path in checked}
    assert chained.stale() == {}


def test_an_edit_of_a_variant_reaches_what_is_made_from_it_and_no_others(chained):
    plan = chained.stale()
    assert plan["tune_model"] == 3
    assert plan["tune_adapter"] == 1
    for gone in ("few", "mixed", "later", "reft"):
        chained.config["variants"].pop(gone)
    plan = chained.stale()
    # The scores of `both` are of the tuned model, shard by shard; those of the origin are there.
    assert (plan["tune_model"], plan["score_shard"], plan["make_mask"]) == (1, 6, 1)
    assert "write_checkpoint" not in plan


def test_what_is_suppressed_of_a_tuned_model_keeps_its_other_weights(chained):
    for gone in ("few", "mixed", "later", "reft"):
        chained.config["variants"].pop(gone)
    chained.config["variants"]["both"]["checkpoint"] = True
    chained.snakemake("--", "results/checkpoints/tiny/both/uncouple.json")
    tuned, both = (
        load_file(chained.folder / f"results/checkpoints/tiny/{v}/model.safetensors") for v in ("fft", "both")
    )
    changed = {name for name in tuned if (tuned[name] != both[name]).any()}
    assert changed
    for name in changed:
        assert not both[name][tuned[name] != both[name]].any()
