"""Configs: the default one holds, every fault is told by its key, and manual and schema say the same."""

import copy
import datetime

import pytest
import yaml
from conftest import ROOT

from uncouple.data.sources import Source
from uncouple.errors import UncoupleError
from uncouple.evaluation.options import Evaluation
from uncouple.experiment.config import load
from uncouple.models.places import Model
from uncouple.reporting.options import Figures
from uncouple.scoring.options import ShardedScoring
from uncouple.selection.options import Suppress
from uncouple.variants.kinds import Origin

DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
MODEL = next(iter(DEFAULT["models"]))
GONE = object()


def changed(changes):
    """The default config with the values at some dotted keys set, or taken away (GONE)."""
    config = copy.deepcopy(DEFAULT)
    for where, value in changes.items():
        *parents, last = [MODEL if part == "MODEL" else part for part in where.split(".")]
        place = config
        for part in parents:
            place = place.setdefault(part, {})
        if value is GONE:
            del place[last]
        else:
            place[last] = value
    return config


def resolved(**changes):
    return load(changed({k.replace("__", "."): v for k, v in changes.items()}), ROOT)


def faults(changes):
    """The lines that a config with these changes is refused with."""
    with pytest.raises(UncoupleError) as caught:
        load(changed(changes), ROOT)
    head, *lines = str(caught.value).splitlines()
    assert head == "the config is not right:"
    assert lines
    return [line.strip() for line in lines]


# The default config


def test_the_default_config_holds():
    config = load(DEFAULT, ROOT)
    assert list(config.variants) == ["origin", "noise", "spin", "published", "random"]
    assert config.variants["origin"] == Origin()


def test_the_config_given_is_left_as_it_was():
    before = copy.deepcopy(DEFAULT)
    load(DEFAULT, ROOT)
    assert before == DEFAULT


def test_defaults_are_filled_in():
    config = resolved(variants={"mine": {"kind": "suppress"}}, scoring=GONE, evaluation=GONE, figures=GONE)
    assert (config.scoring, config.evaluation, config.figures) == (ShardedScoring(), Evaluation(), Figures())
    assert config.variants["mine"] == Suppress()
    assert config.judging == ["embedding", "phrases"]
    assert config.general.duplicates == "error"


def test_a_key_of_the_users_own_stays_beside_the_defaults():
    variant = resolved(variants__spin={"kind": "suppress", "ratio": 3e-5, "n": 12}).variants["spin"]
    assert (variant.ratio, variant.n, variant.module) == (3e-5, 12, "mlp")


def test_null_takes_a_key_away():
    local = {"path": "tests", "wheel": None, "sha256": None, "file": None}
    config = resolved(
        variants__spin=None,
        general__duplicates=None,
        scoring__keep=None,
        **{f"models__MODEL__{k}": v for k, v in local.items()},
    )
    assert list(config.variants) == ["origin", "noise", "published", "random"]
    assert config.general.duplicates == "error"
    assert config.scoring.keep == ShardedScoring().keep
    assert config.models[MODEL] == Model(path="tests", layers=30)


def test_a_dimension_that_is_taken_away_needs_no_raw_data():
    third = {"third": {"safe": {"path": "none.jsonl"}, "questions": {"path": "none.jsonl"}}}
    assert faults({"dimensions": DEFAULT["dimensions"] | third})
    assert resolved(dimensions=DEFAULT["dimensions"] | {"third": None}).dimensions.keys() == {"fairness", "privacy"}


def test_a_dimension_without_safe_samples_is_enough_where_nothing_needs_them():
    origin = {"variants": {"origin": {"kind": "origin"}}, "evaluation__judges": ["phrases"]}
    assert resolved(dimensions__privacy__safe=GONE, evaluation__hsic={"n": 0}, **origin)
    assert resolved(dimensions__privacy=None, dimensions__fairness__safe=GONE, **origin)


def test_a_hub_source_with_all_that_it_needs_holds():
    hub = {"hub": "a/b", "revision": "0" * 40, "split": "train", "where": {"x.y": True}, "columns": {"prompt": ["q"]}}
    assert resolved(general=hub).general == Source(**hub)


# Sweeps


# Faults: (what is changed, what the line must say)
HUB = {"hub": "a/b", "revision": "0" * 40, "split": "train"}
FAULTS = {
    "unknown key at the top": ({"evalution": {}}, "top level", "'evalution'", "did you mean 'evaluation'"),
    "unknown key of a variant": (
        {"variants.spin.ration": 1e-5},
        "variants.spin",
        "'ration'",
        "did you mean 'ratio'",
        "allowed: kind, of, label, n, seed, select, ratio",
    ),
    "unknown key of a source": ({"general.colums": {}}, "general", "'colums'", "did you mean 'columns'"),
    "unknown key like no other": ({"scoring.qqqq": 1}, "scoring", "'qqqq'", "allowed: prompt, module, keep"),
    "text for a whole number": ({"variants.spin.n": "64"}, "variants.spin.n", '"64"', "integer"),
    "text for a section": ({"scoring": "fast"}, "scoring", '"fast"', "object"),
    "text for a list": ({"evaluation.judges": "phrases"}, "evaluation.judges", '"phrases"', "array"),
    "text for a boolean": ({"variants.spin.checkpoint": "yes"}, "variants.spin.checkpoint", '"yes"', "boolean"),
    "a date for text": ({"results": datetime.date(2025, 1, 1)}, "results", "2025-01-01", "string"),
    "1e-5 as text": ({"variants.spin.ratio": "1e-5"}, "variants.spin.ratio", '"1e-5"', "number", "1.0e-5"),
    "1e-5 as text in a list": ({"figures.ratios": [1e-4, "1e-5"]}, "figures.ratios.1", '"1e-5"', "1.0e-5"),
    "ratio too high": ({"variants.spin.ratio": 2}, "variants.spin.ratio", "2", "above 0 and at most 0.1"),
    "ratio of zero": ({"variants.spin.ratio": 0}, "variants.spin.ratio", "0", "above 0 and at most 0.1"),
    "ratio that is no number": ({"variants.spin.ratio": float("nan")}, "variants.spin.ratio", "nan"),
    "n of zero": ({"variants.spin.n": 0}, "variants.spin.n", "at least 1"),
    "a fraction for n": ({"variants.spin.n": 64.5}, "variants.spin.n", "64.5", "integer"),
    "negative seed": ({"evaluation.seed": -1}, "evaluation.seed", "-1", "at least 0"),
    "ratio above keep": ({"variants.spin.ratio": 1e-2}, "variants.spin.ratio", "0.01", "scoring.keep, 0.001", "raise"),
    "general ratio above keep": ({"variants.spin.general_ratio": 1e-2}, "variants.spin.general_ratio", "scoring.keep"),
    "figure ratio above keep": ({"figures.ratios": [1e-5, 1e-2]}, "figures.ratios", "0.01", "scoring.keep, 0.001"),
    "missing raw samples": (
        {"dimensions.privacy.safe.path": "resources/none.jsonl"},
        "dimensions.privacy.safe.path",
        "resources/none.jsonl",
    ),
    "missing general samples": ({"general.path": "none.csv"}, "general.path", "none.csv"),
    "missing questions file": ({"dimensions.privacy.questions.path": "none.csv"}, "privacy.questions.path", "none.csv"),
    "missing phrases file": ({"dimensions.privacy.phrases": "none.txt"}, "dimensions.privacy.phrases", "none.txt"),
    "no phrases for the judge": ({"dimensions.privacy.phrases": GONE}, "dimensions.privacy.phrases", "judge phrases"),
    "missing style file": ({"figures.style": "none.mplstyle"}, "figures.style", "none.mplstyle"),
    "raw data of unknown suffix": ({"general.path": "raw.txt"}, "general.path", "'raw.txt'", "csv|jsonl|parquet"),
    "no questions": ({"dimensions.privacy.questions": GONE}, "dimensions.privacy", "'questions'", "missing"),
    "unknown variant kind": ({"variants.spin.kind": "train"}, "variants.spin.kind", "'train'", "origin, suppress"),
    "no variant kind": ({"variants.spin.kind": GONE}, "variants.spin", "'kind'", "missing"),
    "made from nothing that is known": (
        {"variants.spin.of": "fft"},
        "variants.spin.of",
        "'fft'",
        "origin, noise, spin",
    ),
    "made from what has no checkpoint": ({"variants.spin.of": "random"}, "spin.of", "random has no checkpoint", "true"),
    "made from a noise": ({"variants.spin.of": "noise"}, "variants.spin.of", "noise has no checkpoint"),
    "made from itself": ({"variants.spin.of": "spin"}, "variants.spin.of", "spin is made from spin", "no beginning"),
    "layers that the model has not": ({"variants.spin.layers": [20, 30]}, "spin.layers", "[20, 30]", "0 to 29"),
    "layers upside down": ({"variants.spin.layers": [9, 3]}, "variants.spin.layers", "[9, 3]"),
    "one layer number": ({"variants.spin.layers": [9]}, "variants.spin", "layers"),
    "unknown selection": (
        {"variants.spin.select": "all"},
        "variants.spin.select",
        "'all'",
        "coupled, published, A-only",
    ),
    "unknown primary": ({"evaluation.primary": ["spun"]}, "evaluation.primary", "'spun'", "spin"),
    "unknown judge": ({"evaluation.judges": ["oracle"]}, "evaluation.judges", "'oracle'", "embedding, phrases"),
    "unknown kind of judge": ({"judges.phrases.kind": "oracle"}, "judges.phrases.kind", "'oracle'", "causal"),
    "a judge from nowhere": ({"judges.mine": {"kind": "causal"}}, "judges.mine", "wheel, path, hub", "none is given"),
    "a judge of no commit": (
        {"judges.mine": {"kind": "causal", "hub": "a/b"}},
        "judges.mine",
        "'revision' too; `python -m uncouple pin FILE` writes it in",
    ),
    "questions of a branch": (
        {"dimensions.privacy.questions": {"hub": "a/b", "revision": "main", "split": "x"}},
        "dimensions.privacy.questions.revision",
        "'main' must match ^[0-9a-f]{40}$; `python -m uncouple pin FILE` writes it in",
    ),
    "a missing judge folder": (
        {"judges.mine": {"kind": "causal", "path": "none"}},
        "judges.mine.path",
        "no folder none",
    ),
    "a missing template": (
        {"judges.mine": {"kind": "causal", "path": "tests", "template": "none.txt"}},
        "judges.mine.template",
        "none.txt",
    ),
    "a template for an encoder": ({"judges.embedding.template": "README.md"}, "judges.embedding.template", "causal"),
    "a precision for an encoder": ({"judges.embedding.dtype": "bfloat16"}, "judges.embedding.dtype", "causal"),
    "phrases with a model": ({"judges.phrases.path": "tests"}, "judges.phrases.path", "no such key"),
    "a missing test of a judge": (
        {"dimensions.privacy.test": [{"label": "safe", "source": {"path": "none.csv"}}]},
        "dimensions.privacy.test.0.source.path",
        "none.csv",
    ),
    "no unsafe samples for the judge": (
        {"dimensions.privacy.unsafe": GONE},
        "dimensions.privacy.unsafe",
        "the judge embedding needs it",
    ),
    "a missing text": ({"evaluation.perplexity": {"path": "none"}}, "evaluation.perplexity.path", "no file none"),
    "a text from nowhere": ({"evaluation.perplexity": {"window": 64}}, "evaluation.perplexity", "none is given"),
    "a window that is a word": (
        {"evaluation.perplexity": {"path": "README.md", "window": "all"}},
        "evaluation.perplexity.window",
    ),
    "a missing task file": (
        {"evaluation.ability": {"tasks": {"boolq": "none.jsonl"}}},
        "evaluation.ability.tasks.boolq",
        "no file none.jsonl",
    ),
    "an unknown task": ({"evaluation.ability": {"tasks": {"trivia": "hub"}}}, "ability.tasks", "'trivia'", "hellaswag"),
    "no tasks": ({"evaluation.ability": {}}, "evaluation.ability", "'tasks'", "missing"),
    "an origin of another name": ({"variants.base": {"kind": "origin"}}, "variants.base", "must be called origin"),
    "a key that noise has not": ({"variants.noise.n": 3}, "variants.noise.n", "noise has no such key"),
    "a noise that cannot differ": ({"evaluation.batch_size": 1}, "variants.noise", "with evaluation.batch_size 1"),
    "unknown dimension in a variant": (
        {"variants.spin.dimensions": ["fairness", "safety"]},
        "variants.spin.dimensions",
        "'safety'",
        "fairness, privacy",
    ),
    "one dimension in a variant": ({"variants.spin.dimensions": ["fairness"]}, "variants.spin.dimensions", "fairness"),
    "a key that an origin has not": ({"variants.origin.n": 3}, "variants.origin.n", "origin has no such key"),
    "label without samples": (
        {"variants.spin.label": "unsafe", "dimensions.privacy.unsafe": GONE, "evaluation.judges": ["phrases"]},
        "variants.spin.label",
        "dimensions.privacy has no unsafe samples",
    ),
    "path and hub of a source": ({"general.hub": "a/b"}, "general", "both path and hub", "null"),
    "neither path nor hub": ({"general": {}}, "general", "path, hub", "none is given"),
    "hub source without revision": (
        {"general": {"hub": "a/b", "split": "train"}},
        "general",
        "hub needs the key 'revision'",
    ),
    "hub source without split": ({"general": HUB | {"split": None}}, "general", "hub needs the key 'split'"),
    "revision that is no commit": (
        {"general": HUB | {"revision": "main"}},
        "general.revision",
        "'main'",
        "[0-9a-f]{40}",
    ),
    "refusals without compliances": (
        {"dimensions.privacy.compliances": None},
        "dimensions.privacy.compliances",
        "missing, and refusals are of no use without",
    ),
    "ordinary refusals without answers": (
        {"evaluation.ordinary.answers": None},
        "evaluation.ordinary.answers",
        "missing, and refusals are of no use without",
    ),
    **{
        f"a dimension called {name}": (
            {f"dimensions.{name}": DEFAULT["dimensions"]["privacy"]},
            f"dimensions: the name '{name}'",
        )
        for name in ("general", "alarming", "ordinary", "refusal")
    },
    "a judge called refusal": ({"judges.refusal": {"kind": "phrases"}}, "judges: the name 'refusal'"),
    "no safe samples for HSIC": (
        {"dimensions.privacy.safe": GONE, "variants": {"origin": {"kind": "origin"}}, "evaluation.judges": ["phrases"]},
        "dimensions.privacy.safe: missing, and HSIC needs it; set evaluation.hsic.n to 0 to measure none",
    ),
    "results that a shell would read": ({"results": "re;sults"}, "results", "'re;sults'", "must match"),
    "results that are an option": ({"results": "-x"}, "results", "'-x'", "must match"),
    "results with a line break": ({"results": "results\n"}, "results: 'results\\n' has a line break"),
    "a path with a NUL": (
        {"general.path": "a\0.csv"},
        "general.path: 'a\\x00.csv' has a line break, or another control",
    ),
    "a list with a line break": ({"evaluation.judges": ["phrases\n"]}, "evaluation.judges.0: 'phrases\\n' has a line"),
    "a name with a line break": ({"variants.spin\n": {"kind": "suppress"}}, "variants: the name 'spin\\n' has a line"),
    "a wheel that is an option": ({"models.MODEL.wheel": "--pre==1"}, f"models.{MODEL}.wheel", "'--pre==1'"),
    "a device that is none": ({"models.MODEL.device": "gpu"}, f"models.{MODEL}.device", "'gpu'", "auto|all|cpu|cuda"),
    "a template option that is a list": (
        {"models.MODEL.template_options": {"tools": [1]}},
        f"models.{MODEL}.template_options.tools",
        "[1]",
    ),
    "missing layers": ({"models.MODEL.layers": GONE}, f"models.{MODEL}", "'layers'", "missing"),
    "wheel without sha256": ({"models.MODEL.sha256": GONE}, f"models.{MODEL}", "wheel needs the key 'sha256'"),
    "wheel without file": ({"models.MODEL.file": GONE}, f"models.{MODEL}", "wheel needs the key 'file'"),
    "wheel of no one version": ({"models.MODEL.wheel": "some>=1"}, f"models.{MODEL}.wheel", "'some>=1'", "=="),
    "wheel and hub": ({"models.MODEL.hub": "a/b", "models.MODEL.revision": "0" * 40}, "both wheel and hub", "null"),
    "hub model without revision": (
        {"models.MODEL": {"hub": "a/b", "layers": 2}},
        f"models.{MODEL}",
        "hub needs the key 'revision'",
    ),
    "missing model folder": ({"models.MODEL": {"path": "none", "layers": 2}}, f"models.{MODEL}.path", "no folder none"),
    "module not scored": (
        {"variants.spin.module": "attention"},
        "variants.spin.module",
        "attention",
        "scoring.module is mlp",
    ),
    "dimension called general": ({"dimensions.general": {}}, "dimensions", "'general'"),
    "variant of a strange name": ({"variants.a b": {"kind": "origin"}}, "variants", "'a b'"),
    "a number for a variant's name": ({"variants": {1: {"kind": "origin"}}}, "variants", "1"),
    "a boolean for a dimension's name": ({"dimensions": {False: {}}}, "dimensions", "False"),
    "no models": ({"models": {}}, "models"),
    "models taken away": ({"models": None}, "top level", "'models'", "missing"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_by_its_key(name):
    changes, *said = FAULTS[name]
    lines = faults(changes)
    assert any(all(part in line for part in said) for line in lines), lines
    assert len(lines) == 1


def test_what_is_made_from_each_other_is_told_of_both():
    twin = {"kind": "suppress", "of": "spin", "checkpoint": True}
    one, other = faults({"variants.spin.of": "twin", "variants.twin": twin})
    assert "variants.spin.of: spin is made from twin is made from spin, which has no beginning" in one
    assert "variants.twin.of: twin is made from spin is made from twin" in other


def test_one_dimension_only_is_told_of_every_variant_that_needs_two():
    lines = faults({"dimensions.privacy": None})
    assert [line.split(":")[0] for line in lines] == ["variants.spin", "variants.published", "variants.random"]
    assert all("two dimensions or more" in line and "fairness" in line for line in lines)


def test_one_dimension_is_enough_for_an_origin():
    assert resolved(dimensions__privacy=None, variants={"origin": {"kind": "origin"}})


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        pytest.param({"scoring.foo": 1, "scoring.bar": 2}, ["'foo'", "'bar'"], id="two unknown"),
        pytest.param({"models": GONE, "general": GONE}, ["'models'", "'general'"], id="two missing"),
        pytest.param({"variants.a b": {}, "variants.c d": {}}, ["'a b'", "'c d'"], id="two strange names"),
        pytest.param({"variants.spin.n": 0, "scoring.keep": 0}, ["variants.spin.n", "scoring.keep"], id="two places"),
        pytest.param({"general.path": "x.csv", "variants.spin.ratio": 0.05}, ["x.csv", "0.05"], id="two of our own"),
    ],
)
def test_all_faults_are_told_at_once(changes, keys):
    lines = faults(changes)
    assert all(any(key in line for line in lines) for key in keys), lines
    assert len(set(lines)) == len(lines)


def test_whole_numbers_are_whole_for_the_commands_that_take_them():
    """A command refuses `--n 64.0`, so a config must refuse it too or make it 64."""
    try:
        n = resolved(variants__spin__n=64.0).variants["spin"].n
    except UncoupleError:
        return
    assert isinstance(n, int)
