"""The report's first words: each sentence from planted metrics, and none that says more than they do."""

import re

import pytest
from conftest import any_record
from test_figures import plain, write_metrics

from uncouple.evaluation.statistics import rate
from uncouple.records.files import write_table
from uncouple.records.formats import PLACEMENT, VERDICTS
from uncouple.reporting.facts import Facts, listed, several
from uncouple.reporting.rows import Sources
from uncouple.reporting.tables.answer import ANSWERS, fill

DIMENSIONS, JUDGES = ("fairness", "privacy"), ("embedding", "phrases")
SELECT = {"spin": "coupled", "random": "random"}


def compared(value, low, high, n=12, *, p=1.0, effect=False, detectable=0.2):
    """What stands of one comparison of a variant, by metric."""
    return {
        "difference": plain(value, n, 64, low, high),
        "p_holm": plain(p, n, n),
        "effect": plain(float(effect), n, 64),
        "detectable": plain(detectable, n, 64),
    }


NONE, GAIN = compared(-0.1, -0.22, 0.01), compared(0.25, 0.16, 0.37, 16, p=0.0003, effect=True)
LOSS, STILL = compared(-0.2, -0.32, -0.1, 15, p=0.006, effect=True), compared(0.0, -0.06, 0.06, 0)


def planted(found, noise=True, judges=JUDGES):
    """Metrics of an origin, a noise and variants; `found` has what is compared by variant, dimension and judge, which
    else is as the origin's."""
    rows = {}
    for dimension in DIMENSIONS:
        for judge in judges:
            for variant in ("origin", *["noise"] * noise, "spin", "random"):
                rows[variant, dimension, "awareness", judge] = rate(32, 64)
                if variant == "noise":
                    rows[variant, dimension, "difference", judge] = plain(0.0, 0, 64, -0.06, 0.06)
                elif variant != "origin":
                    told = found.get((variant, dimension, judge), STILL)
                    rows |= {(variant, dimension, metric, judge): row for metric, row in told.items()}
        if noise:
            rows["noise", dimension, "batch"] = plain(21.0, None, 64)
    return rows


@pytest.fixture
def tell(tmp_path):
    """A function of planted rows to the sentences by question."""
    counts = [
        {"model": "m", "variant": variant, "layer": layer, "module": "mlp.up_proj", "n": 40, "of": 1000}
        for variant in SELECT
        for layer in (0, 1)
    ]
    write_table(counts, tmp_path / "placement", PLACEMENT, {})
    paths = [tmp_path / "placement"]
    for variant, select in SELECT.items():
        mask = {"select": select, "dimensions": list(DIMENSIONS), "module": "mlp", "ratio": 1e-5}
        mask["scores"] = {"general": {"samples": {"n": 64}}}
        about = any_record(VERDICTS, model="m", variant=variant, base="origin", mask=mask)
        about |= {"dimension": "privacy", "judge": "embedding"}
        write_table([], paths[0].with_name(variant), VERDICTS, about)
        paths.append(paths[0].with_name(variant))

    def told(rows):
        (section,) = fill(Sources([*paths, write_metrics(tmp_path / "metrics", rows)], "m"))
        assert section.texts
        assert section.lines[0] == ["question", "answer"]
        return {about: sentences.splitlines() for about, sentences in section.lines[1:]}

    return told


def test_what_was_done_names_weights_rule_ratio_and_controls(tell):
    assert tell(planted({}))["what was done"] == [
        "noise is origin asked again in other batches: a control, which changes by arithmetic alone.",
        "spin sets 80 of 2,000 weights to zero: coupled of fairness and privacy, mlp, ratio 1e-05.",
        "random sets 80 of 2,000 weights to zero: random of fairness and privacy, mlp, ratio 1e-05: a control.",
    ]


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"base": "tuned"}, "tuned is a model of its own, fine-tuned."),
        ({"base": "origin"}, "tuned is a model of its own."),
        ({"adapter": {"method": "reft", "n": 32}}, "tuned is fine-tuned by reft on 32 samples: an adapter."),
        (
            {"base": "first", "mask": {"select": "union", "dimensions": ["a", "b"], "module": "all", "ratio": 0.01}},
            "tuned sets weights of first to zero: union of a and b, all, ratio 0.01.",
        ),
        ({}, "tuned is a model of its own."),
    ],
)
def test_a_variant_that_is_tuned_is_told_as_such(tmp_path, record, told):
    rows = {
        ("tuned", "privacy", "awareness", "phrases"): rate(1, 2),
        ("tuned", "privacy", "effect", "phrases"): plain(0.0),
    }
    metrics = Sources([write_metrics(tmp_path / "metrics", rows)], "m").rows("metrics")
    assert list(ANSWERS["what was done"](Facts(metrics, {}, {"tuned": record}))) == [told]


def test_an_effect_stands_with_interval_and_adjusted_p_and_what_is_none_beside(tell):
    found = {("spin", "privacy", "embedding"): GAIN, ("spin", "fairness", "embedding"): NONE}
    answer = tell(planted(found))
    assert answer["what it did"] == [
        "fairness: no effect of spin (-10.0 points) and random (+0.0 points) by embedding.",
        "privacy: spin is more aware, +25.0 points (+16.0 to +37.0, p 0.0003 adjusted): an effect by embedding.",
        "privacy: no effect of random (+0.0 points) by embedding.",
        "By phrases nothing is an effect.",
    ]
    assert answer["how sure"] == [
        "fairness: no effect is not no difference. Ruled out is only what lies beyond these intervals of "
        "95% each: spin -22.0 to +1.0 and random -6.0 to +6.0.",
        "fairness: 64 questions show a difference of 20.0 points or more 80% of the time, smaller ones less often.",
        "privacy: no effect is not no difference. Ruled out is only what lies beyond these intervals of "
        "95% each: random -6.0 to +6.0.",
        "privacy: 64 questions show a difference of 20.0 points or more 80% of the time, smaller ones less often.",
        "noise changed 0 of 64 verdicts on fairness and 0 of 64 verdicts on privacy.",
    ]


def test_what_is_not_among_the_primary_comparisons_is_called_exploratory(tell):
    rows = planted({("spin", "privacy", "embedding"): GAIN, ("random", "privacy", "phrases"): GAIN})
    told = tell(rows)
    assert "exploratory" not in str(told)
    # Of the family of two that spin is in, fewer questions are needed than of the four of all.
    rows |= {("random", d, "exploratory", judge): plain(1.0) for d in DIMENSIONS for judge in JUDGES}
    rows["spin", "fairness", "difference", "embedding"] = NONE["difference"]
    told = tell(rows)
    assert "by embedding." in told["what it did"][1]
    assert told["what it did"][-1] == "By phrases, effects are: random on privacy (+25.0 points, exploratory)."
    of_two = told["what to do next"][0]
    of_four = tell({key: row for key, row in rows.items() if key[2] != "exploratory"})["what to do next"][0]
    n, more = (int(re.search(r"about ([\d,]+) questions", text)[1].replace(",", "")) for text in (of_two, of_four))
    assert n < more


def test_where_nothing_is_an_effect_it_is_said(tell):
    told = tell(planted({("spin", "fairness", "embedding"): NONE}))
    assert told["what it did"][0].startswith("Nothing is an effect: by no judge")
    # The control's cost does not matter then.
    assert told["what it cost"] == [
        "Not measured: refusals of ordinary questions, perplexity, divergence and general ability."
    ]
    text = " ".join(sentence for sentences in told.values() for sentence in sentences)
    for word in ("costs nothing", "unchanged", "no cost", "safe to"):
        assert word not in text


def test_an_effect_of_another_judge_or_of_a_control_is_told(tell):
    found = {("spin", "fairness", "phrases"): LOSS, ("random", "privacy", "embedding"): GAIN}
    told = tell(planted(found))["what it did"]
    assert "By phrases, effects are: spin on fairness (-20.0 points)." in told
    assert any(s.startswith("privacy: random is more aware") and s.endswith("though of a control.") for s in told)
    assert not any(sentence.startswith("Nothing is an effect") for sentence in told)


def refusing(rise, low, high, effect, only):
    """A gain of awareness of both dimensions, and what it costs in refusals."""
    rows = planted({("spin", dimension, "embedding"): GAIN for dimension in DIMENSIONS})
    rows["spin", "ordinary", "refusal_difference", "refusal"] = plain(rise, 30, 96, low, high)
    rows["spin", "ordinary", "refusal_effect", "refusal"] = plain(float(effect), 30, 96)
    rows |= {("spin", dimension, "only_refuses", "embedding"): plain(float(only)) for dimension in DIMENSIONS}
    return rows


def test_what_refuses_everything_is_said_to_only_refuse_more(tell):
    answer = tell(refusing(0.3, 0.22, 0.4, effect=True, only=True))
    assert [s for s in answer["what it did"] if "spin only refuses more" in s] == [
        f"{dimension}: spin only refuses more. Awareness rose, +25.0 points (+16.0 to +37.0, p 0.0003 adjusted), but "
        "is not shown to have risen by more than refusals of ordinary questions did, by embedding."
        for dimension in DIMENSIONS
    ]
    assert not any("more aware" in sentence for sentences in answer.values() for sentence in sentences)
    assert (
        "spin refuses ordinary questions more often, +30.0 points (+22.0 to +40.0, 96 questions): an effect."
        in (answer["what it cost"])
    )
    assert any(s.startswith("Try a smaller ratio, or other layers: spin (1e-05)") for s in answer["what to do next"])


def test_what_refuses_the_dimensions_questions_alone_is_not(tell):
    answer = tell(refusing(0.01, -0.02, 0.05, effect=False, only=False))
    assert sum("spin is more aware" in sentence for sentence in answer["what it did"]) == 2
    assert not any("only refuses" in sentence for sentences in answer.values() for sentence in sentences)
    assert answer["what it cost"][0] == (
        "spin: refusals of 96 ordinary questions +1.0 points, no effect; ruled out is a rise of more than 5.0 points."
    )
    assert not any("smaller ratio" in sentence for sentence in answer["what to do next"])


def test_a_judge_that_is_not_to_be_trusted_is_told_before_its_rates(tell):
    rows = planted({("spin", "privacy", "embedding"): GAIN})
    assert not any("trust" in sentence or "judge than" in sentence for s in tell(rows).values() for sentence in s)
    rows[None, "privacy", "kind", "embedding", None, None, "compliance"] = rate(100, 200)
    answer = tell(rows)
    assert answer["what it did"][0] == "What follows is by embedding, which is not to be trusted, see below."
    assert answer["how sure"][-1].startswith("Do not trust embedding on privacy: it calls 100 of 200")
    assert answer["what to do next"][0].startswith("Take a better judge than embedding:")


def test_without_a_noise_nobody_knows_what_arithmetic_does(tell):
    answer = tell(planted({}, noise=False))
    assert answer["how sure"][-1] == (
        "No noise was asked, so how many verdicts change by arithmetic alone is not known."
    )
    assert answer["what to do next"][-1] == "Add a variant of the kind noise."
    assert not any("noise" in sentence for sentence in answer["what was done"])


def test_the_questions_that_an_observed_difference_needs(tell):
    advice = tell(planted({("spin", "fairness", "embedding"): compared(-0.1, -0.2, 0.0, 12)}))["what to do next"]
    # Four comparisons: ((2.4977 sqrt(12 / 64) + 0.8416 sqrt(12 / 64 - 0.01)) / 0.1)^2 = 206.2.
    assert advice == [
        "fairness: were -10.0 points of spin the truth, about 207 questions would show it 80% of the time; 64 were "
        "asked.",
        "Take more samples: spin took fewer than the paper's 128 of a set.",
    ]
    advice = tell(planted({("spin", "fairness", "embedding"): compared(0.001, -0.2, 0.2, 12)}))["what to do next"]
    assert "more than 100,000 questions" in advice[0]
    assert tell(planted({}))["what to do next"][0] == "Try a larger ratio: spin (1e-05) changed no verdict."


def test_too_few_questions_are_told(tell):
    found = {(v, d, "embedding"): compared(0.0, -0.5, 0.5, 0, detectable=None) for v in SELECT for d in DIMENSIONS}
    assert (
        "fairness: 64 questions are too few to show any difference 80% of the time." in tell(planted(found))["how sure"]
    )


@pytest.mark.parametrize(
    ("rise", "told"),
    [
        # Four windows that rise by 0.1 and spread by 0.01: 0.1 within 3.182 * 0.011547 / 2.
        ((0.09, 0.09, 0.11, 0.11), "perplexity is 1.105 times the origin's (1.085 to 1.126, paired by 4 windows)."),
        (
            (0.0, 0.0, 0.2, 0.2),
            "perplexity is 1.105 times the origin's (0.920 to 1.328, paired by 4 windows); ruled out is more than "
            "1.328 times.",
        ),
        ((0.1,), "perplexity is 1.105 times the origin's, in the one window of text, so nothing is ruled out."),
        (
            (50.0,),
            "perplexity is above a hundred million times the origin's, in the one window of text, so nothing is ruled "
            "out.",
        ),
    ],
)
def test_perplexity_is_paired_by_its_windows(tell, rise, told):
    rows = planted({("spin", "privacy", "embedding"): GAIN})
    for number, added in enumerate(rise):
        for variant, more in (("origin", 0), ("spin", added)):
            # Windows differ by more than a variant does.
            row = plain(2.0 + number + more, 1, 31)
            rows[variant, "general", "nll", None, None, None, f"{number:04d}"] = row
    assert tell(rows)["what it cost"][0] == f"spin: {told}"


def test_other_costs_stand_with_their_intervals(tell):
    rows = planted({("spin", "privacy", "embedding"): GAIN})
    rows["spin", "general", "divergence"] = plain(0.0634, 32, 900, 0.0512, 0.0785)
    rows["random", "general", "divergence"] = plain(0.001, 32, 900, 0.0, 0.002)
    for variant, right in (("origin", 0.5), ("spin", 0.45)):
        for task in ("boolq", "mmlu"):
            rows[variant, "general", "acc", None, task] = plain(right, 100, 100, right - 0.1, right + 0.1)
    assert tell(rows)["what it cost"] == [
        "spin: predictions of ordinary responses diverge by 0.063 nats a token (0.051 to 0.079).",
        "spin: accuracies, the origin's behind each: boolq 45.0% (50.0%), mmlu 45.0% (50.0%); they are not compared in "
        "pairs, and the figure of ability has their intervals.",
        "Not measured: refusals of ordinary questions and perplexity.",
    ]


def test_nothing_but_the_origin(tmp_path):
    metrics = write_metrics(tmp_path / "metrics", {("origin", "privacy", "awareness", "phrases"): rate(1, 2)})
    (section,) = fill(Sources([metrics], "m"))
    assert section.lines[2][1] == "Nothing is compared: no variant but origin was asked and judged."


def test_a_long_sweep_is_cut_short():
    assert listed([]) == ""
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed([str(n) for n in range(10)]) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"
    assert several("abcdefghij")[7:] == ["h", "The same of 2 more is in the tables and figures."]
    assert several("abcdefgh") == list("abcdefgh")
