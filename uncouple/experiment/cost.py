"""What an experiment would take, before it runs: jobs, hours of a card, disk and memory, by stage.

An estimate from four numbers: weights P of the model, tokens T, and the card's rates. Forward and backward take 6 P T
operations and forward alone 2 P T, at the share COMPUTE of the card's rate. A step of decoding reads all weights, at
the share BANDWIDTH of the memory's rate, or multiplies for the whole batch, whichever takes longer. To each job comes
the start of a process and the reading of the weights.

Source: counts of operations by Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from uncouple.data.sources import Source
from uncouple.errors import UncoupleError
from uncouple.evaluation.judges.kinds import ModelJudge
from uncouple.evaluation.judges.replies import REFUSAL
from uncouple.evaluation.options import GENERAL
from uncouple.experiment.options import Group
from uncouple.experiment.paths import Paths
from uncouple.experiment.sizes import CARDS, GB, Assumed, Shape, find_config, measure_shape

# What of a card's rates is reached: the first as an H200 scored in the shape of Qwen2-7B (benchmarks/results; 6 P T in
# 5.6 s), the second a usual share that was measured on none.
COMPUTE, BANDWIDTH = 0.2, 0.5
# Seconds until a process computes, and bytes a second that weights are read with.
START, READING = 10.0, 1e9
# Memory of a process besides weights and what grows with a batch.
PROCESS = 2 * GB
CHARACTERS_PER_TOKEN = 4
# Of a chat template, and of a judge's instructions.
TEMPLATE_TOKENS, JUDGE_TOKENS = 30, 400
# The plan of scoring is for samples up to so long, as that of `uncouple memory`.
LONGEST = 512
# Bytes of a kept score in a shard (measured), and of an answer or a verdict.
SCORE_BYTES, ROW_BYTES = 6, 500
# Of WikiText-2's test split, taken for a text that is not here.
TEXT_TOKENS = 340_000
# Of each task (parts that each have the limit, rows, requests a row, tokens a request), roughly. Choices of one token
# are one request.
TASKS = {
    "hellaswag": (1, 10_042, 4, 100),
    "race": (1, 1_045, 4, 450),
    "mmlu": (57, 14_042, 1, 150),
    "gpqa_main_zeroshot": (1, 448, 4, 250),
    "openbookqa": (1, 500, 4, 30),
    "boolq": (1, 3_270, 1, 150),
    "ag_news": (1, 7_600, 4, 80),
    "imdb": (1, 25_000, 2, 300),
}
SET = re.compile(r"(?P<dimension>.+)-(?P<label>\w+)-n(?P<n>\d+)-seed(?P<seed>\d+)")


@dataclass(frozen=True)
class Job:
    """A job that is still to be run: its stage, seconds of the card, bytes that it leaves on the disk, and bytes of the
    card's memory that it needs at most."""

    stage: str
    seconds: float = 0.0
    disk: float = 0.0
    memory: float = 0.0


class Estimate:
    """What is still to be made of an experiment, and what that takes. A file that is there counts as made; what the
    store may have counts as not made, since its names are known only where the models are.

    Args:
        paths: of the experiment; relative ones are looked up from the working directory.
        assumed: see `sizes.Assumed`.

    Attributes:
        notes: dict of what was assumed, in words, to what for.
    """

    def __init__(self, paths: Paths, assumed: Assumed) -> None:
        self.paths, self.experiment, self.assumed = paths, paths.experiment, assumed
        self.card = CARDS[assumed.card]
        self.notes: dict[str, set[str]] = {}
        self._kept: dict[Any, Any] = {}

    @cached_property
    def jobs(self) -> list[Job]:
        """The jobs of all stages that run a model or write one."""
        found = list(self._fetched_judges())
        for model in self.experiment.models:
            for stage in (self._fetched, self._scored, self._selected, self._tuned, self._asked, self._judged):
                found += stage(model)
            found += self._measured(model)
        return found

    # Rates

    def compute(self, operations: float) -> float:
        """Seconds of so many operations."""
        return operations / (self.card.rate * COMPUTE)

    def decode(self, shape: Shape, rows: int, batch: int, tokens: int) -> float:
        """Seconds of so many new tokens of each row, a batch at a time."""
        seconds = 0.0
        for count in filter(None, [batch] * (rows // batch) + [rows % batch]):
            reading = (shape.size + count * shape.token * tokens) / (self.card.bandwidth * BANDWIDTH)
            seconds += tokens * max(reading, self.compute(2 * shape.weights * count))
        return seconds

    def _job(self, stage: str, model: str, seconds: float, memory: float, disk: float = 0.0) -> Job:
        """A job that loads a model, over all its GPUs.

        Args:
            seconds: besides the start.
            memory: bytes of the fullest GPU.
        """
        seconds += START + self.shape(model).files / READING
        return Job(stage, self._gpus(model) * seconds, disk, memory)

    def _gpus(self, model: str) -> int:
        return self.assumed.gpus if self.experiment.models[model].device == "all" else 1

    # Sizes

    def shape(self, model: str) -> Shape:
        """Sizes of a model as it is asked and measured."""
        dtype = self.experiment.evaluation.dtype
        return self._once(("shape", model), lambda: measure_shape(self._config(model), dtype, self.card.kind))

    def _config(self, model: str) -> dict[str, Any]:
        return find_config(Path(self.paths.model(model)).parent, self.experiment.models[model])

    def _judge_shape(self, name: str) -> Shape:
        """Sizes of a judge's model."""
        judge = self.experiment.judges[name]
        assert isinstance(judge, ModelJudge)

        def measure() -> Shape:
            config = find_config(Path(self.paths.judge_model(name)).parent, judge)
            return measure_shape(config, getattr(judge, "dtype", "auto"), self.card.kind)

        return self._once(("judge", name), measure)

    def _plan(self, model: str) -> tuple[Any, int]:
        """(plan of the first score shard, which the others are like; how many weights it scores)."""
        from uncouple.models.families import find_linear_layers, target_names
        from uncouple.models.load import pick_dtype
        from uncouple.models.skeleton import make_skeleton
        from uncouple.scoring.memory import plan_scoring

        options, config, base = self.experiment.scoring, self._config(model), self.experiment.models[model]
        skeleton = make_skeleton(config, pick_dtype(config, options.dtype, self.card.kind))
        names = target_names(config, options.module, *options.layer_ranges(base.layers)[0])
        scored = sum(layer.weight.numel() for layer in find_linear_layers(skeleton, names).values())
        machine = self.card.kind, self.card.memory, LONGEST
        try:
            return plan_scoring(skeleton, names, *machine, options.most_tokens, self._gpus(model)), scored
        except UncoupleError as error:
            raise UncoupleError(f"{model} on {self.assumed.card}: {error} Or take another --card.") from None

    def _is_large(self, judge: str) -> bool:
        """Whether a judge's model takes time; an encoder takes seconds."""
        kind = self.experiment.judges.get(judge)
        return kind is not None and kind.runs_model and not kind.is_encoder

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    # Tokens

    def sample_tokens(self, dimension: str, label: str, n: int, seed: int) -> int:
        """Tokens of a sample set."""
        source = self.experiment.general
        if dimension != GENERAL:
            source = getattr(self.experiment.dimensions[dimension], label)
        path, tokens = self.paths.samples(dimension, label, n, seed), float(self.assumed.sample_tokens)
        if measured := self._measure_rows(path, source, ("prompt", "response")):
            tokens = measured[1]
        else:
            self.notes.setdefault(f"{tokens:g} tokens a sample", set()).add(Path(path).stem)
        return round(n * (tokens + self._template(self.experiment.scoring.prompt)))

    def questions(self, name: str) -> tuple[int, float]:
        """(how many questions a set has, tokens of one)."""
        evaluation, path, fields = self.experiment.evaluation, self.paths.questions(name), ("question",)
        if name in self.experiment.dimensions:
            source, most = self.experiment.dimensions[name].questions, evaluation.questions
        elif name == GENERAL:
            path, fields, most = self.paths.ordinary(), ("prompt",), evaluation.ordinary.n
            source = self.experiment.general
        else:
            assert evaluation.ordinary.questions is not None
            source, most = evaluation.ordinary.questions, 0
        count, tokens = self.assumed.questions, float(self.assumed.question_tokens)
        if measured := self._measure_rows(path, source, fields):
            count, tokens = measured
        else:
            self.notes.setdefault(f"{most or count} questions of {tokens:g} tokens", set()).add(name)
        # Those that are not here may be as many as are wanted.
        count = min(count, most) if most and measured else most or count
        return count, tokens + self._template(evaluation.prompt)

    def _template(self, prompt: str) -> int:
        return TEMPLATE_TOKENS if prompt in ("auto", "chat") else 0

    def _measure_rows(self, path: str, source: Source, fields: tuple[str, ...]) -> tuple[int, float] | None:
        """(rows, tokens of one) of a table that was drawn, or of the local file that it is drawn from."""
        if not (exists(path) or source.path):
            return None
        which = path if exists(path) else str(source.record())
        return self._once((which, fields), lambda: measure_rows(path, source, fields))

    def text_tokens(self) -> int:
        """Tokens of the text that perplexity is measured on."""
        text = self.experiment.evaluation.perplexity
        assert text is not None
        if text.path:
            tokens = Path(text.path).stat().st_size // CHARACTERS_PER_TOKEN
        else:
            tokens = TEXT_TOKENS
            self.notes.setdefault(f"{tokens:,} tokens of a text", set()).add(str(text.hub))
        window = text.window if isinstance(text.window, int) else tokens
        return min(tokens, text.windows * window) if text.windows else tokens

    # Stages

    def _fetched(self, model: str) -> Iterator[Job]:
        if not exists(self.paths.model(model)):
            yield Job("fetch", disk=self.shape(model).files)

    def _fetched_judges(self) -> Iterator[Job]:
        for name in filter(self._is_large, self.experiment.judging):
            if not exists(self.paths.judge_model(name)):
                yield Job("fetch", disk=self._judge_shape(name).files)

    def _scored(self, model: str) -> Iterator[Job]:
        for path in filter(is_missing, self.paths.all_shards(model)):
            plan, scored = self._once(("plan", model), lambda: self._plan(model))
            drawn = SET.fullmatch(Path(path).parent.name)
            assert drawn is not None
            tokens = self.sample_tokens(drawn["dimension"], drawn["label"], int(drawn["n"]), int(drawn["seed"]))
            seconds = self.compute(6 * self.shape(model).weights * tokens * len(plan.passes))
            yield self._job("score", model, seconds, plan.peak, scored * self.experiment.scoring.keep * SCORE_BYTES)

    def _selected(self, model: str) -> Iterator[Job]:
        yield from (Job("mask") for _ in filter(is_missing, self.paths.masks(model)))
        for name in self.experiment.masked:
            if self.experiment.variants[name].has_checkpoint and is_missing(self.paths.checkpoint(model, name)):
                yield Job("checkpoint", disk=self.shape(model).files)

    def _tuned(self, model: str) -> Iterator[Job]:
        for name in self.experiment.tuned:
            wanted = self.experiment.tuning(name)
            made = self.paths.checkpoint if wanted.has_checkpoint else self.paths.adapter
            if exists(made(model, name)):
                continue
            shape = self.shape(model)
            plan, _ = self._once(("plan", model), lambda: self._plan(model))
            tokens = sum(
                self.sample_tokens(dimension, "safe" if dimension == GENERAL else wanted.label, count, wanted.seed)
                for dimension, count in wanted.counts().items()
            )
            batch = plan.token * wanted.batch_size * tokens / wanted.n
            seconds = self.compute(6 * shape.weights * tokens * wanted.epochs)
            memory = PROCESS + wanted.how.weight_bytes * shape.weights / self._gpus(model) + batch
            yield self._job("fine-tune", model, seconds, memory, shape.files if wanted.has_checkpoint else 0)

    def _asked(self, model: str) -> Iterator[Job]:
        asked = self.experiment.evaluation
        for group in self.experiment.groups:
            seconds, rows, widest = 0.0, 0, 0.0
            for name in group.variants:
                # A noise takes a third of the batch.
                batch = max(1, asked.batch_size // (3 if self.experiment.variants[name].is_noise else 1))
                for dimension in self.experiment.asked:
                    if exists(self.paths.answers(model, name, dimension)):
                        continue
                    shape, (count, tokens) = self.shape(model), self.questions(dimension)
                    seconds += self.compute(2 * shape.weights * count * tokens)
                    seconds += self.decode(shape, count, batch, asked.max_new_tokens)
                    rows, widest = rows + count, max(widest, batch * (tokens + asked.max_new_tokens) * shape.token)
            if rows:
                memory = PROCESS + (self.shape(model).size + widest) / self._gpus(model)
                yield self._job("ask", model, seconds, memory, rows * ROW_BYTES)

    def _judged(self, model: str) -> Iterator[Job]:
        experiment, new = self.experiment, self.experiment.evaluation.max_new_tokens
        judges = dict.fromkeys(experiment.judging, list(experiment.dimensions))
        judges |= {REFUSAL: experiment.asked} if experiment.ordinary else {}
        for judge, names in judges.items():
            each = [(variant, name) for variant in experiment.variants for name in names]
            missing = [name for v, name in each if is_missing(self.paths.verdicts(model, v, name, judge))]
            if not missing:
                continue
            sizes = [self.questions(dimension) for dimension in missing]
            disk = sum(count for count, _ in sizes) * ROW_BYTES
            if not self._is_large(judge):
                yield Job("judge", disk=disk)
                continue
            shape = self._judge_shape(judge)
            tokens = sum(count * (its + new + JUDGE_TOKENS) for count, its in sizes)
            seconds = START + shape.files / READING + self.compute(2 * shape.weights * tokens)
            yield Job("judge", seconds, disk, PROCESS + shape.size)

    def _measured(self, model: str) -> Iterator[Job]:
        experiment, evaluation = self.experiment, self.experiment.evaluation
        plain, every = experiment.plain_groups, experiment.measured_groups
        ordinary, hsic = evaluation.ordinary, evaluation.hsic
        if evaluation.perplexity:
            yield from self._forward("perplexity", model, plain, "perplexity/{}", self.text_tokens)
        if evaluation.ability:
            tokens = ability_tokens(evaluation.ability.tasks, evaluation.ability.limit)
            yield from self._forward("ability", model, plain, "ability/{}", lambda: tokens)
        if ordinary.n:

            def draw() -> int:
                return self.sample_tokens(GENERAL, "safe", ordinary.n, ordinary.seed)

            # The origin's own predictions are made besides.
            yield from self._forward("divergence", model, every, "divergence/{}", draw, more=1)
        for pair in experiment.pairs:

            def both(pair: tuple[str, str] = pair) -> int:
                return sum(self.sample_tokens(dimension, "safe", hsic.n, hsic.seed) for dimension in pair)

            yield from self._forward("hsic", model, every, f"hsic/{{}}/{'-'.join(pair)}", both)

    def _forward(
        self, stage: str, model: str, groups: Iterable[Group], part: str, tokens: Callable[[], int], more: int = 0
    ) -> Iterator[Job]:
        """Jobs that take so many tokens forward for each of their variants, and for as many more."""
        for group in groups:
            count = sum(is_missing(self.paths.metrics(part.format(name), model)) for name in group.variants)
            if count:
                shape = self.shape(model)
                seconds = self.compute(2 * shape.weights * tokens() * (count + more))
                yield self._job(stage, model, seconds, PROCESS + shape.size / self._gpus(model))


def exists(path: str) -> bool:
    """Whether a file of the results is there."""
    return Path(path).exists()


def is_missing(path: str) -> bool:
    """Whether it is still to be made."""
    return not exists(path)


def measure_rows(path: str, source: Source, fields: Iterable[str]) -> tuple[int, float]:
    """(rows, tokens of one) of a table of samples or questions, or where it was not drawn yet of all its source.

    Args:
        path: of the table.
        source: a local file.
        fields: what of a row the model reads.
    """
    from uncouple.data.sources import check_rows, read_rows
    from uncouple.records.files import read_any

    if exists(path):
        table, _ = read_any(path)
        assert table is not None
        rows = table.to_pylist()
    else:
        rows = check_rows(read_rows(source), source.fields(*fields), source)
    return len(rows), sum(len(row[field]) for row in rows for field in fields) / len(rows) / CHARACTERS_PER_TOKEN


def ability_tokens(tasks: Iterable[str], limit: int) -> int:
    """Tokens of the requests of tasks of general ability, of which each takes so many rows at most; 0 takes all."""
    total = 0
    for parts, rows, requests, tokens in map(TASKS.__getitem__, tasks):
        total += (min(rows, parts * limit) if limit else rows) * requests * tokens
    return total


def cost_table(jobs: Iterable[Job]) -> list[str]:
    """Lines of a table of jobs: a row a stage, in the order in which they come, and the sum."""
    by_stage: dict[str, list[Job]] = {}
    for job in jobs:
        by_stage.setdefault(job.stage, []).append(job)
    lines = [f"{'stage':<12}{'jobs':>8}{'card hours':>12}{'disk GB':>10}{'memory GB':>11}"]
    for stage, its in [*by_stage.items(), ("in all", sum(by_stage.values(), []))]:
        hours, disk = sum(job.seconds for job in its) / 3600, sum(job.disk for job in its) / GB
        memory = max((job.memory for job in its), default=0) / GB
        lines.append(f"{stage:<12}{len(its):>8}{hours:>12.2f}{disk:>10.2f}{memory:>11.1f}")
    return lines
