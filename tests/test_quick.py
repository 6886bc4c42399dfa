"""experiments/quick.yaml on a tiny model: every kind of variant is made, asked and measured, and every figure."""

import pytest
import yaml
from clone import Clone
from conftest import ROOT

from uncouple.experiment.config import lay_over, load, read_experiment
from uncouple.experiment.options import VARIANTS
from uncouple.experiment.paths import PLAIN, Paths
from uncouple.records.files import read_table
from uncouple.records.formats import ANSWERS, METRICS, VERDICTS
from uncouple.reporting.parts import FIGURE_FORMS, part_names
from uncouple.selection.rules import RULES
from uncouple.tuning.methods import METHODS

QUICK = ROOT / "experiments/quick.yaml"
# For so small a model: ratios that select some of its weights, and layers that it has.
RATIOS, LAYERS = [0.005, 0.01, 0.03, 0.05], [[0, 0], [1, 1]]


def tiny_variants():
    """The variants of the experiment, as the tiny model can have them."""
    found = yaml.safe_load(QUICK.read_text(encoding="utf-8"))["variants"]
    assert len(found["ratio"]["ratio"]) == len(RATIOS)
    for variant in found.values():
        is_tuned = "method" in variant
        variant |= {"n": 4} if is_tuned else {"kind": "suppress", "n": 3, "ratio": 0.02, "general_ratio": 0.03}
    found["published"]["select"], found["random"]["select"] = "published", "random"
    found["ratio"]["ratio"], found["layers"]["layers"] = RATIOS, LAYERS
    return found


def test_it_has_every_kind_of_variant():
    experiment = read_experiment(QUICK)
    variants = experiment.variants.values()
    assert {type(variant) for variant in variants} == set(VARIANTS.values())
    assert {experiment.variants[name].select for name in experiment.masked} == RULES.keys()
    assert {experiment.tuning(name).method for name in experiment.tuned} == METHODS.keys()
    made_from = {(type(v), type(experiment.variants[v.of])) for v in variants if getattr(v, "of", "origin") != "origin"}
    assert made_from == {(VARIANTS["suppress"], VARIANTS["tune"]), (VARIANTS["tune"], VARIANTS["suppress"])}
    assert {"ratio", "layers", "module", "select", "select_seed", "method"} == {s.key for s in experiment.sweeps}


@pytest.mark.slow
def test_each_variant_is_answered_judged_and_measured_and_each_figure_is_there(tmp_path, model_folder, encoder):
    (tmp_path / "clone").mkdir()
    clone = Clone.make(tmp_path / "clone", model_folder, encoder)
    clone.config["variants"] = tiny_variants()
    clone.config["scoring"] |= {"module": "all", "layers_per_shard": 0}
    clone.config["evaluation"]["ability"] = None
    clone.snakemake()
    default = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    experiment = load(lay_over(default, clone.config), clone.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(clone.folder)
        paths, names = Paths(experiment), list(experiment.variants)
        assert len(names) > 20
        assert all(read_table(path, ANSWERS)[0].num_rows for path in paths.all_answers("tiny"))
        assert all(read_table(path, VERDICTS)[0].num_rows for path in paths.all_verdicts("tiny"))
        rows = read_table(paths.metrics("metrics", "tiny"), METRICS)[0].to_pylist()
        drawn = {
            path.name.partition(".")[0].partition("-")[0] for path in (clone.folder / "results/figures/tiny").iterdir()
        }
        # Those of a judge and of several models lie beside a model's.
        assert drawn == set(part_names("figures")) - {"judge", "models"}
        for suffix in FIGURE_FORMS:
            assert (clone.folder / paths.judge_figure("embedding", suffix)).stat().st_size > 1000
    has = {metric: {r["variant"] for r in rows if r["metric"] == metric} for metric in {r["metric"] for r in rows}}
    assert has["awareness"] == set(names)
    assert has["divergence"] == has["hsic_unbiased"] == set(names) - set(experiment.noises)
    assert has[PLAIN[0]] == has["divergence"] - set(experiment.adapted)
