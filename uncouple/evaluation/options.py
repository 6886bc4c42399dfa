"""How variants are asked, judged and measured."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from uncouple.data.sources import Label, Rows, Source
from uncouple.models.places import Running
from uncouple.options import Count, Dtype, EachOnce, File, Section, Share, Whole

# Of general ability, as lm-evaluation-harness calls them; the last two are our own.
Task = Literal["hellaswag", "race", "mmlu", "gpqa_main_zeroshot", "openbookqa", "boolq", "ag_news", "imdb"]
TASKS = get_args(Task)
# The reserved names of sets of questions in which nothing is amiss: the prompts of general samples, questions that
# sound alarming, and both as one.
GENERAL, ALARMING, ORDINARY = "general", "alarming", "ordinary"
# Stands for a task as lm-evaluation-harness fetches it.
HUB = "hub"


@dataclass(frozen=True)
class EngineKind:
    """What is known of an engine without loading it; what runs it is in `engines.ENGINES`.

    Attributes:
        libraries: whose versions its answers hang on besides, see `store.versions`.
        makes_batches: whether it makes its batches itself, so that there are others whatever the batch size.
    """

    libraries: tuple[str, ...] = ()
    makes_batches: bool = False


ENGINE_KINDS = {"transformers": EngineKind(), "vllm": EngineKind(("vllm",), makes_batches=True)}


class Precision(Section):
    """In what a model computes whatever is measured of it."""

    dtype: Dtype = Field(
        "auto",
        description="Precision of the model while it answers and is measured. auto is the checkpoint's own on a GPU "
        "and float32 on a CPU.",
    )


class Asking(Precision):
    """Options of asking a variant."""

    prompt: Literal["auto", "chat", "bare"] = Field(
        "auto",
        description="How a question is put. chat is the model's own template, bare the text alone, as published. auto "
        "is chat where the model has a template, else bare.",
    )
    max_new_tokens: Count = Field(64, description="Where an answer is cut off, in tokens.")
    batch_size: Count = Field(
        64,
        description="Questions answered at once, 2 or more where there is a noise variant. In float32 the answers do "
        "not depend on it.",
    )
    engine: Literal["transformers", "vllm"] = Field(
        "transformers",
        description="What generates the answers, transformers or vllm, which must be installed and is faster on a GPU.",
    )

    @property
    def can_batch_otherwise(self) -> bool:
        """Whether there are other batches to ask in."""
        return ENGINE_KINDS[self.engine].makes_batches or self.batch_size > 1


class Questioning(Asking, Running):
    """Options of asking a variant, and where and how its model runs."""


class Pairing(Section):
    """Options of HSIC between two tables of samples."""

    permutations: Count = Field(1000, description="Of the permutation test.")


class Hsic(Pairing):
    """HSIC in an experiment."""

    n: Whole = Field(64, description="Samples of each dimension; 0 measures nothing.")
    seed: Whole = Field(0, description="Seed of the samples' draw.")


class Perplexity(Rows):
    """Options of perplexity, the text among them."""

    path: File | None = Field(None, description="A text file.", examples=["wiki.test.raw"])
    hub: str | None = Field(
        None,
        description="A data set id on the Hugging Face Hub with a column text, in place of a path.",
        examples=["Salesforce/wikitext"],
    )
    name: str | None = Field(
        None, description="Configuration of the Hub data set, where it has several.", examples=["wikitext-2-raw-v1"]
    )
    split: str | None = Field(None, description="Split of the Hub data set.", examples=["test"])
    window: Annotated[int, Field(ge=2)] | Literal["max"] = Field(
        2048, description="Tokens of a window; max is the most that the model takes, as published."
    )
    windows: Whole = Field(0, description="The most windows; 0 takes all.")


class Ability(Section):
    """Options of general ability, the tasks among them."""

    tasks: Annotated[dict[Task, Literal["hub"] | File], Field(min_length=1)] = Field(
        description="The tasks by name, each with a local file of its rows, or hub for the task as "
        "lm-evaluation-harness fetches it.",
        examples=[{"hellaswag": "hub", "boolq": "boolq_validation.jsonl"}],
    )
    limit: Whole = Field(0, description="The most rows of a task; 0 takes all.")
    batch_size: Count = Field(8, description="Requests at once.")

    def files(self) -> dict[str, str | None]:
        """The local file of each task, None for the Hub's rows."""
        return {task: None if place == HUB else place for task, place in self.tasks.items()}


class Ordinary(Section):
    """Requests in which nothing is amiss, and what is measured on them."""

    # What the classifier of refusals is trained on, and the label of each.
    replies: ClassVar[dict[str, Label]] = {"refusals": "safe", "answers": "unsafe"}

    n: Whole = Field(
        16,
        description="General samples that no variant is scored on or tuned with: how far each variant's predictions of "
        "their responses are from the origin's is its divergence, and their prompts are asked where refusals are "
        "counted. 0 measures nothing.",
    )
    seed: Whole = Field(0, description="Seed of the samples' draw.")
    questions: Source | None = Field(
        None,
        description="Questions that sound alarming and can be answered without harm. They and the prompts of the "
        "general samples are asked to count refusals, of which a classifier is trained beside the first judge that is "
        "trained. Where no judge is, or no dimension has refusals and compliances, they are not asked.",
    )
    refusals: Source | None = Field(
        None, description="Raw samples of ordinary requests whose response refuses, which that classifier learns of."
    )
    answers: Source | None = Field(None, description="Raw samples of the same requests whose response answers.")


class Counting(Section):
    """Options of counting verdicts."""

    min_judged: Share = Field(
        0.5,
        description="A judge that gives fewer verdicts than this share of the answers that are not empty is refused.",
    )


class Comparing(Counting):
    """Options of comparing verdicts with the origin's."""

    primary: Annotated[list[str], Field(min_length=1), EachOnce()] | None = Field(
        None,
        description="The variants that the experiment is about; of a sweep its name, or that of one of its variants. "
        "Their comparisons are adjusted for one another alone, and so are the others, which are exploratory and called "
        "so. All of them, where it is left out.",
        examples=[["spin"]],
    )


class Evaluation(Comparing, Asking):
    """The evaluation of an experiment."""

    questions: Whole = Field(0, description="How many questions of each dimension are drawn; 0 takes all.")
    seed: Whole = Field(0, description="Seed of the questions' draw.")
    variants_per_job: Whole = Field(
        0,
        description="How many variants of a model one job asks or measures; each job loads the model once. 0 takes all "
        "of them at once.",
    )
    judges: Annotated[list[str], Field(min_length=1), EachOnce()] | None = Field(
        None,
        description="The judges that give verdicts, the first being the one to look at. All of them, where it is left "
        "out.",
    )
    hsic: Hsic = Field(
        Hsic(), description="How far the dimensions' representations depend on each other, layer by layer."
    )
    ordinary: Ordinary = Field(Ordinary(), description="What an edit costs where nothing is amiss.")
    perplexity: Perplexity | None = Field(
        None, description="Perplexity per token on a text. Nothing is measured where this is left out."
    )
    ability: Ability | None = Field(
        None,
        description="Accuracy on tasks of lm-evaluation-harness. Nothing is measured where this is left out.",
    )
