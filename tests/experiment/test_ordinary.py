"""Which ordinary questions an experiment asks, and by what refusals of them are told."""

import pytest
from conftest import ROOT
from experiment.test_config import DEFAULT, GONE, changed, resolved

from uncouple.experiment.config import load
from uncouple.experiment.paths import Paths


@pytest.mark.parametrize(
    ("changes", "beside"),
    [
        ({}, "embedding"),
        # It need not judge, and may have another name.
        ({"evaluation.judges": ["phrases"]}, "embedding"),
        ({"judges": {"mine": DEFAULT["judges"]["embedding"]}, "evaluation.judges": ["mine"]}, "mine"),
        ({"dimensions.privacy.refusals": GONE, "dimensions.privacy.compliances": GONE}, "embedding"),
        # Nothing to train, or nothing to train it on.
        ({"judges.embedding": GONE, "evaluation.judges": ["phrases"]}, None),
        ({"evaluation.ordinary.refusals": GONE, "evaluation.ordinary.answers": GONE}, None),
        (
            {f"dimensions.{d}.{key}": GONE for d in ("fairness", "privacy") for key in ("refusals", "compliances")},
            None,
        ),
        ({"dimensions.privacy.unsafe": GONE, "evaluation.judges": ["phrases"]}, None),
    ],
)
def test_ordinary_questions_are_asked_where_refusals_can_be_told(changes, beside):
    experiment = load(changed(changes), ROOT)
    assert experiment.refusals_beside == beside
    assert experiment.asked == ["fairness", "privacy", *(["general", "alarming"] if beside else [])]
    assert ("refusal" in experiment.measured) == bool(beside)
    paths = Paths(experiment)
    asked = {path for path in paths.all_verdicts("m") if path.endswith(".refusal.parquet")}
    assert len(asked) == (5 * 4 if beside else 0)
    if beside:
        assert experiment.refusal_judge.wheel == experiment.judges[beside].wheel
        assert paths.judge_files("refusal")["classifier"] == dict.fromkeys(
            experiment.asked, f"results/judges/{beside}/refusal.json"
        )
        assert f"results/judges/{beside}/model/uncouple.json" in paths.records()


@pytest.mark.parametrize(("key", "left"), [("n", ["alarming"]), ("questions", ["general"])])
def test_either_set_of_ordinary_questions_may_be_left_out(key, left):
    assert resolved(**{f"evaluation__ordinary__{key}": {"n": 0, "questions": GONE}[key]}).ordinary == left
