"""From verdicts to rates: what is counted, and what may be compared with what."""

import pytest
from evaluation.verdicts import MASK, OTHER_BATCHES, RECORD, UNLIKE

from uncouple.errors import UncoupleError
from uncouple.evaluation.awareness import FLAGS, measure_awareness
from uncouple.evaluation.statistics import difference_interval, exact_mcnemar, mean, rate
from uncouple.records.files import read_table
from uncouple.records.formats import METRIC_KEYS, METRICS


def measured(paths, tmp_path, **options):
    """The rows of measure_awareness, by (variant, dimension, metric.judge.item)."""
    measure_awareness(paths, tmp_path / "metrics.parquet", **options)
    table, record = read_table(tmp_path / "metrics.parquet", METRICS)
    assert table.column_names[:8] == list(METRIC_KEYS)
    assert record["confidence"] == 0.95
    rows = table.to_pylist()
    found = {
        (row["variant"], row["dimension"], ".".join(filter(None, (row["metric"], row["judge"], row["item"])))): row
        for row in rows
    }
    assert len(found) == len(rows)
    return found


def test_awareness_is_safe_of_safe_and_unsafe(write_verdicts, tmp_path):
    verdicts = ["safe"] * 3 + ["unsafe"] * 5 + ["none"] * 2
    path = write_verdicts("v", verdicts, empty={8}, degenerate={0, 1, 3}, truncated={4}, thinking={9})
    found = measured([path], tmp_path)
    counts = {metric: (row["n"], row["of"]) for (_, _, metric), row in found.items()}
    flags = {"empty": (1, 10), "degenerate": (3, 10), "truncated": (1, 10), "thinking": (1, 10)}
    assert counts == flags | {"awareness.phrases": (3, 8), "p_unsafe.phrases": (0, 8)}
    row = found["origin", "privacy", "awareness.phrases"]
    assert row == {k: row[k] for k in METRIC_KEYS} | rate(3, 8)
    assert [row[k] for k in METRIC_KEYS] == ["base", "origin", "privacy", "awareness", "phrases", None, None, None]


def test_awareness_of_several_variants_and_dimensions(write_verdicts, tmp_path):
    paths = [
        write_verdicts("a", ["safe", "unsafe"], variant="origin"),
        write_verdicts("b", ["safe", "safe"], variant="spin"),
        write_verdicts("c", ["unsafe"] * 3, variant="origin", dimension="fairness", questions="e" * 16),
        write_verdicts("d", ["none"] * 3, {0, 1, 2}, variant="spin", dimension="fairness", questions="e" * 16),
        write_verdicts("e", ["safe"], variant="spin", model="other", dimension="fairness", questions="d" * 16),
    ]
    found = measured(paths[:4], tmp_path)
    values = {key: row["value"] for key, row in found.items() if key[2] == "awareness.phrases"}
    assert values == {
        ("origin", "privacy", "awareness.phrases"): 0.5,
        ("spin", "privacy", "awareness.phrases"): 1.0,
        ("origin", "fairness", "awareness.phrases"): 0.0,
        ("spin", "fairness", "awareness.phrases"): None,
    }
    assert measured(paths[4:], tmp_path)["spin", "fairness", "empty"]["model"] == "other"


def refused(paths, tmp_path, *differ):
    """That two files are refused, both by name, and for these differences alone."""
    message = rf"two\.parquet and .*one\.parquet cannot be compared: their {', '.join(differ)} differ\. Make both"
    with pytest.raises(UncoupleError, match=message):
        measure_awareness(paths, tmp_path / "metrics.parquet")
    assert not (tmp_path / "metrics.parquet").exists()


@pytest.mark.parametrize("key", UNLIKE)
def test_verdicts_on_answers_that_were_made_otherwise_are_refused_by_name(write_verdicts, tmp_path, key):
    one = write_verdicts("one", ["safe"])
    refused([one, write_verdicts("two", ["safe"], **{"variant": "spin"} | MASK | UNLIKE[key])], tmp_path, key)
    # Of another dimension they are not compared.
    other = write_verdicts("two", ["safe"], **{"variant": "spin", "dimension": "fairness"} | MASK | UNLIKE[key])
    measure_awareness([one, other], tmp_path / "metrics.parquet")


def test_all_that_differs_is_named(write_verdicts, tmp_path):
    one = write_verdicts("one", ["safe"])
    two = write_verdicts("two", ["safe"], variant="spin", prompt="bare", dtype="bfloat16")
    refused([one, two], tmp_path, "dtype", "prompt")


def test_devices_may_differ_in_float32_alone(write_verdicts, tmp_path):
    def pair(dtype):
        one = write_verdicts("one", ["safe"], dtype=dtype)
        return [
            one,
            write_verdicts("two", ["safe"], **{"variant": "spin", "device": "cuda A100", "dtype": dtype} | MASK),
        ]

    refused(pair("bfloat16"), tmp_path, "device")
    measure_awareness(pair("float32"), tmp_path / "metrics.parquet")


def test_batches_may_differ_in_float32_alone_and_of_a_noise(write_verdicts, tmp_path):
    def pair(**record):
        return [
            write_verdicts("one", ["safe"], **record | {"variant": "origin", "noise": False}),
            write_verdicts("two", ["safe"], **{"variant": "spin", "batches": OTHER_BATCHES} | MASK | record),
        ]

    refused(pair(dtype="bfloat16"), tmp_path, "batches")
    measure_awareness(pair(), tmp_path / "metrics.parquet")
    measure_awareness(pair(dtype="bfloat16", noise=True, mask=None), tmp_path / "metrics.parquet")


def test_a_checkpoint_asked_as_a_model_has_weights_of_its_own_and_no_others(write_verdicts, tmp_path):
    """It has no mask, and all else must be the base's."""
    paths = [
        write_verdicts("one", ["safe"]),
        write_verdicts("two", ["safe"], **{"variant": "spin"} | UNLIKE["weights"]),
    ]
    measure_awareness(paths, tmp_path / "metrics.parquet")
    (tmp_path / "metrics.parquet").unlink()
    two = write_verdicts("two", ["safe"], **{"variant": "spin"} | UNLIKE["tokenizer"])
    refused([paths[0], two], tmp_path, "tokenizer")
    two = write_verdicts("two", ["safe"], **{"variant": "noise", "noise": True} | UNLIKE["weights"])
    refused([paths[0], two], tmp_path, "weights")


def test_its_weights_are_not_what_others_are_compared_with(write_verdicts, tmp_path):
    names = {"spin": UNLIKE["weights"], "origin": {}, "random": MASK}
    paths = [write_verdicts(name, ["safe"], variant=name, **record) for name, record in names.items()]
    measure_awareness(paths, tmp_path / "metrics.parquet")


@pytest.mark.parametrize("key", ["kind", "phrases", "classifier", "model", "template", "dtype"])
def test_verdicts_of_one_judge_that_was_not_the_same_are_refused_by_name(write_verdicts, tmp_path, key):
    identity = {"kind": "causal", "phrases": "p", "classifier": "c", "model": {"fingerprint": "f"}, "template": "t"}
    identity["dtype"] = "bfloat16"
    one = write_verdicts("one", ["safe"], identity=identity)
    two = write_verdicts("two", ["safe"], identity=identity | {key: "other"}, variant="spin")
    refused([one, two], tmp_path, f"judge's {key}")
    two = write_verdicts("two", ["safe"], identity=identity | {key: "other"}, variant="spin", judge="other")
    measure_awareness([one, two], tmp_path / "metrics.parquet")


def test_a_file_that_holds_no_verdicts_is_refused(write_answers, tmp_path):
    with pytest.raises(
        UncoupleError,
        match=r"answers\.parquet: a file of kind `verdicts` was expected, and this is one of kind `answers`",
    ):
        measure_awareness([write_answers(["a"])], tmp_path / "metrics.parquet")


# Comparison with the origin


def test_a_variant_is_compared_with_the_origin_question_by_question(write_verdicts, tmp_path):
    before = ["safe", "unsafe", "unsafe", "none", "safe", "unsafe", "unsafe"]
    after = ["safe", "safe", "safe", "safe", "none", "unsafe", "safe"]
    paths = [write_verdicts("o", before), write_verdicts("s", after, variant="spin")]
    found = measured(paths, tmp_path)
    # Five questions have a verdict both times; three of them were unsafe and are safe now.
    row = found["spin", "privacy", "difference.phrases"]
    assert (row["value"], row["n"], row["of"]) == (0.6, 3, 5)
    assert (row["low"], row["high"]) == difference_interval(3, 0, 5)
    row = found["spin", "privacy", "p.phrases"]
    assert (row["value"], row["n"], row["of"]) == (exact_mcnemar(3, 0), 3, 3)
    assert found["spin", "privacy", "p_holm.phrases"]["value"] == exact_mcnemar(3, 0)
    assert {m for variant, _, m in found if variant == "origin" and "phrases" in m} == {
        "awareness.phrases",
        "p_unsafe.phrases",
    }


def test_a_variant_that_changes_no_verdict_has_an_interval_all_the_same(write_verdicts, tmp_path):
    paths = [write_verdicts(name, ["safe", "unsafe"] * 32, variant=name) for name in ("origin", "spin")]
    row = measured(paths, tmp_path)["spin", "privacy", "difference.phrases"]
    assert (row["value"], row["n"], row["of"]) == (0, 0, 64)
    assert (row["low"], row["high"]) == pytest.approx((-0.0566, 0.0566), abs=1e-4)


def test_the_mean_p_unsafe_and_its_difference_are_of_the_questions_that_have_one(write_verdicts, tmp_path):
    verdicts = ["safe", "unsafe", "safe", "none", "unsafe", "safe"]
    before = write_verdicts("o", verdicts, p_unsafe=[0.25, 0.75, 0.125, 0.5, None, 0.25])
    after = write_verdicts("s", verdicts, p_unsafe=[0.5, 0.75, None, 0.5, 0.875, 0.375], variant="spin")
    found = measured([before, after], tmp_path)
    numbers = {key: {k: row[k] for k in ("value", "low", "high", "n", "of")} for key, row in found.items()}
    # A verdict of none counts nowhere, whatever its p.
    assert numbers["origin", "privacy", "p_unsafe.phrases"] == mean([0.25, 0.75, 0.125, 0.25], 0, 1) | {"n": 4, "of": 5}
    assert numbers["spin", "privacy", "p_unsafe.phrases"] == mean([0.5, 0.75, 0.875, 0.375], 0, 1) | {"n": 4, "of": 5}
    difference = mean([0.25, 0.0, 0.125], -1, 1) | {"n": 2, "of": 3}
    assert numbers["spin", "privacy", "p_unsafe_difference.phrases"] == difference


def test_of_a_judge_that_gives_no_p_unsafe_there_is_no_mean(write_verdicts, tmp_path):
    paths = [write_verdicts(name, ["safe", "unsafe"], variant=name) for name in ("origin", "spin")]
    found = measured(paths, tmp_path)
    for key, of in ((("origin", "p_unsafe"), 2), (("spin", "p_unsafe"), 2), (("spin", "p_unsafe_difference"), 0)):
        row = found[key[0], "privacy", f"{key[1]}.phrases"]
        assert [row[name] for name in ("value", "low", "high", "n", "of")] == [None, None, None, 0, of]


def test_a_trained_judges_rates_by_kind_of_answer_stand_beside_its_verdicts(write_verdicts, tmp_path):
    kinds = {"refusal": rate(97, 100), "compliance": rate(80, 100)}
    found = measured(
        [
            write_verdicts("a", ["safe"], judge="trained", judge_kinds=kinds),
            write_verdicts("b", ["safe"], judge="trained", judge_kinds=kinds, variant="spin"),
            write_verdicts("c", ["safe"], judge="untested", judge_kinds={}),
            write_verdicts("d", ["safe"], judge="phrases", judge_kinds=None),
        ],
        tmp_path,
    )
    rows = {key: row for key, row in found.items() if key[2].startswith("kind.")}
    assert {key: {k: row[k] for k in ("value", "low", "high", "n", "of")} for key, row in rows.items()} == {
        (None, "privacy", "kind.trained.refusal"): kinds["refusal"],
        (None, "privacy", "kind.trained.compliance"): kinds["compliance"],
        (None, "privacy", "kind.untested.refusal"): rate(0, 0),
        (None, "privacy", "kind.untested.compliance"): rate(0, 0),
    }


def test_holm_is_over_all_variants_and_dimensions_of_one_judge_but_not_the_noise(write_verdicts, tmp_path):
    base = ["unsafe"] * 12
    paths = []
    for dimension, questions in (("privacy", "f" * 16), ("fairness", "e" * 16)):
        for variant, safe in (("origin", 0), ("noise", 1), ("spin", 8), ("random", 6)):
            verdicts = ["safe"] * safe + base[safe:]
            about = {"variant": variant, "dimension": dimension, "questions": questions}
            about |= {"batches": OTHER_BATCHES, "noise": True} if variant == "noise" else {}
            paths.append(write_verdicts(f"{variant}-{dimension}", verdicts, **about))
            paths.append(write_verdicts(f"{variant}-{dimension}-x", base, judge="other", **about))
    found = measured(paths, tmp_path)
    for dimension in ("privacy", "fairness"):
        # Four comparisons: the two smallest p-values times 4, the others at least those and times 2.
        assert found["spin", dimension, "p_holm.phrases"]["value"] == pytest.approx(4 * exact_mcnemar(8, 0))
        assert found["random", dimension, "p_holm.phrases"]["value"] == pytest.approx(2 * exact_mcnemar(6, 0))
        assert found["spin", dimension, "p_holm.other"]["value"] == 1
        assert ("noise", dimension, "p_holm.phrases") not in found
        assert found["noise", dimension, "difference.phrases"]["n"] == 1


def test_primary_comparisons_and_the_others_are_adjusted_apart_and_those_are_called_exploratory(
    write_verdicts, tmp_path
):
    safe = {"origin": 0, "spin": 8, "ratio.ratio-1": 8, "ratio.ratio-2": 7, "ratios": 6}
    paths = [
        write_verdicts(name, ["safe"] * n + ["unsafe"] * (12 - n), variant=name, questions="f" * 16)
        for name, n in safe.items()
    ]

    def adjusted(**options):
        found = measured(paths, tmp_path, **options)
        p = {who: row["value"] for (who, _, metric), row in found.items() if metric == "p_holm.phrases"}
        times = {name: p[name] / exact_mcnemar(safe[name], 0) for name in p}
        explores = {who for who, _, metric in found if metric == "exploratory.phrases"}
        least = {who: row["value"] for (who, _, metric), row in found.items() if metric == "detectable.phrases"}
        return times, explores, least

    times, explores, least = adjusted()
    assert times == pytest.approx({"spin": 4, "ratio.ratio-1": 4, "ratio.ratio-2": 2, "ratios": 1})
    assert not explores
    times, explores, alone = adjusted(primary=["spin"])
    assert times == pytest.approx({"spin": 1, "ratio.ratio-1": 3, "ratio.ratio-2": 2, "ratios": 1})
    assert explores == {"ratio.ratio-1", "ratio.ratio-2", "ratios"}
    # One question is answered by fewer changes than one of four.
    assert alone["spin"] < least["spin"]
    # A sweep is of one name, which others may begin with.
    times, explores, _ = adjusted(primary=["ratio", "spin"])
    assert explores == {"ratios"}
    assert times["ratios"] == pytest.approx(1)


def test_a_primary_variant_that_is_none_is_told(write_verdicts, tmp_path):
    with pytest.raises(UncoupleError, match="'spun' is primary and no variant"):
        measured([write_verdicts("a", ["safe"])], tmp_path, primary=["spun"])


def test_variants_without_an_origin_have_rates_alone(write_verdicts, tmp_path):
    found = measured([write_verdicts("s", ["safe", "unsafe"], variant="spin")], tmp_path)
    assert {metric for _, _, metric in found} == {"awareness.phrases", "p_unsafe.phrases", *FLAGS}


def test_a_noise_in_the_origins_batches_is_refused(write_verdicts, tmp_path):
    paths = [write_verdicts(name, ["safe"], variant=name, noise=name == "noise") for name in ("origin", "noise")]
    message = r"the noise noise was asked in the same batches as origin \(base, privacy\).*Ask both again"
    with pytest.raises(UncoupleError, match=message):
        measure_awareness(paths, tmp_path / "m.parquet")


@pytest.mark.parametrize("most", [2, None])
def test_a_noise_alone_has_a_row_of_its_batches_beside_the_origins(write_verdicts, tmp_path, most):
    """None where the engine makes its batches itself."""
    paths = [
        write_verdicts("origin", ["safe"], batches=RECORD["batches"] | {"most": most}),
        write_verdicts("noise", ["safe"], variant="noise", batches=OTHER_BATCHES, noise=True),
        write_verdicts("spin", ["safe"], variant="spin", batches=OTHER_BATCHES),
    ]
    rows = {key: row for key, row in measured(paths, tmp_path).items() if key[2] == "batch"}
    assert {key: (row["value"], row["of"]) for key, row in rows.items()} == {("noise", "privacy", "batch"): (1, most)}


@pytest.mark.parametrize(
    ("gained", "flips", "effect"),
    # The exact p of 6 that all changed one way is 0.031, of 5 it is 0.062.
    [(6, 5, 1), (6, 6, 0), (6, 0, 1), (5, 0, 0), (8, 7, 1), (8, 9, 0)],
)
def test_an_effect_is_significant_and_more_than_arithmetic_alone_does(write_verdicts, tmp_path, gained, flips, effect):
    def verdicts(safe):
        return ["safe"] * safe + ["unsafe"] * (12 - safe)

    paths = [
        write_verdicts("origin", verdicts(0)),
        write_verdicts("spin", verdicts(gained), variant="spin"),
        write_verdicts("noise", verdicts(flips), variant="noise", batches=OTHER_BATCHES, noise=True),
    ]
    found = measured(paths, tmp_path)
    row = found["spin", "privacy", "effect.phrases"]
    assert [row[key] for key in ("value", "low", "high", "n", "of")] == [effect, None, None, gained, 12]
    assert ("noise", "privacy", "effect.phrases") not in found


def test_flips_of_another_dimension_or_judge_hide_no_effect(write_verdicts, tmp_path):
    origin, spin, noise = ["unsafe"] * 12, ["safe"] * 10 + ["unsafe"] * 2, ["safe"] * 12
    paths = [
        write_verdicts(f"{name}-{dimension}-{judge}", verdicts, variant=name, dimension=dimension, judge=judge, **about)
        for dimension, judge, flipped in (("privacy", "a", origin), ("privacy", "b", noise), ("fairness", "a", noise))
        for name, verdicts, about in (
            ("origin", origin, {}),
            ("spin", spin, {}),
            ("noise", flipped, {"batches": OTHER_BATCHES, "noise": True}),
        )
    ]
    found = measured(paths, tmp_path)
    effects = {key[1:]: row["value"] for key, row in found.items() if key[2].startswith("effect.")}
    assert effects == {("privacy", "effect.a"): 1, ("privacy", "effect.b"): 0, ("fairness", "effect.a"): 0}


def test_without_a_common_verdict_there_is_no_effect_to_speak_of(write_verdicts, tmp_path):
    paths = [
        write_verdicts("origin", ["safe", "none"], empty={1}),
        write_verdicts("spin", ["none", "safe"], empty={0}, variant="spin"),
    ]
    found = measured(paths, tmp_path, min_judged=0.1)
    assert found["spin", "privacy", "difference.phrases"]["value"] is None
    assert not [key for key in found if key[2].startswith(("effect", "p_holm"))]


def test_agreement_of_judges_is_over_what_both_call(write_verdicts, tmp_path):
    one = write_verdicts("one", ["safe", "unsafe", "none", "safe", "safe"])
    two = write_verdicts("two", ["safe", "safe", "safe", "none", "safe"], judge="embedding")
    found = measured([one, two], tmp_path)
    row = found["origin", "privacy", "agreement.phrases.embedding"]
    assert {key: row[key] for key in ("value", "low", "high", "n", "of")} == rate(2, 3)


def test_a_judge_that_gives_few_verdicts_is_refused_unless_told_otherwise(write_verdicts, tmp_path):
    # Three answers say something, and one of them has a verdict.
    path = write_verdicts("v", ["none", "none", "safe", "none", "none"], empty={0}, thinking={4})
    with pytest.raises(UncoupleError, match=r"v\.parquet: the judge phrases gave a verdict on 1 of 3.*--min-judged"):
        measure_awareness([path], tmp_path / "metrics.parquet")
    assert not (tmp_path / "metrics.parquet").exists()
    assert measured([path], tmp_path, min_judged=0.3)["origin", "privacy", "awareness.phrases"]["of"] == 1


def test_verdicts_that_are_given_twice_are_refused(write_verdicts, tmp_path):
    with pytest.raises(UncoupleError, match=r"b\.parquet: origin, privacy is given twice"):
        measure_awareness([write_verdicts("a", ["safe"]), write_verdicts("b", ["safe"])], tmp_path / "m.parquet")
