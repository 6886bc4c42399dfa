"""Judges that are trained: a classifier of embeddings and words. Its numbers are made in `classifier`."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from uncouple.evaluation.judges.kinds import Judging, ModelJudge, Places
from uncouple.records.files import file_sha256


class Classifier(ModelJudge):
    """What kinds that are trained have in common: an encoder and what `train-judge` made."""

    inputs: ClassVar = {
        "model": "its encoder",
        "classifier": "the file that `train-judge` made",
    }
    is_encoder: ClassVar = True

    def files(self, places: Places) -> dict[str, str]:
        return {"model": places.model, "classifier": places.trained}

    def identity(self, files: dict[str, str | None]) -> dict[str, Any]:
        # The classifier says what encoder it was trained with.
        (classifier,) = self.given(files, "classifier")
        return {"kind": self.kind, "classifier": file_sha256(classifier)}

    def open(self, files: dict[str, str | None], device: str) -> Judging:
        from uncouple.evaluation.judges.classifier import embedding_judge

        model, classifier = self.given(files, "model", "classifier")
        return embedding_judge(classifier, model, device=device, batch_size=self.batch_size)


class Embedding(Classifier):
    """A classifier of sentence embeddings and words, trained on labelled answers.

    Its own figure says how good it is on prompts that it was not trained on; on another model's answers it is worse.
    """

    about: ClassVar = (
        "is a classifier of embeddings and words, trained on the dimensions' safe and unsafe samples, refusals and "
        "compliances"
    )
    needs: ClassVar = ("safe", "unsafe")
    is_trained: ClassVar = True

    kind: Literal["embedding"] = Field("embedding", description="What kind of judge it is.")
