"""The classifier of refusals: whether an answer refuses what was asked, which is no matter of how safe it is."""

from typing import ClassVar, Literal

from pydantic import Field

from uncouple.errors import UncoupleError
from uncouple.evaluation.judges.embedding import Classifier
from uncouple.evaluation.judges.kinds import Judging, Verdict
from uncouple.evaluation.judges.replies import REFUSAL
from uncouple.records.files import read_record
from uncouple.records.formats import JUDGE, LABELS


class Refusal(Classifier):
    """It says whether an answer refuses, whatever was asked, and not whether that is right.

    An experiment has one beside its first trained judge, with the same encoder, by the name of `refusal`.
    """

    about: ClassVar = "tells refusals from answers, a classifier trained on both"
    calls: ClassVar = ("refusal", "answer")

    kind: Literal["refusal"] = Field("refusal", description="What kind of judge it is.")

    def open(self, files: dict[str, str | None], device: str) -> Judging:
        (classifier,) = self.given(files, "classifier")
        record = read_record(classifier, JUDGE)
        if record["dimension"] != REFUSAL:
            raise UncoupleError(
                f"{classifier}: a judge of {record['dimension']}, and no classifier of refusals. Give one that was "
                f"trained on samples of the dimension {REFUSAL}."
            )
        judging, called = super().open(files, device), dict(zip(LABELS, self.calls, strict=True))

        def call(questions: list[str], answers: list[str]) -> list[Verdict]:
            return [(called[verdict], None) for verdict, _ in judging(questions, answers)]

        return Judging(call, kinds={called[label]: record["kinds"][label] for label in LABELS})
