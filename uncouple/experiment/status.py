"""How far an experiment is: each job's state, by model and stage.

Snakemake says it, in a dry run: it alone knows what is stale. It is a process of its own, so that nothing here imports
it, and what it prints is read: with `--debug-dag` every job, and in its plan each that would run, with the reason.
"""

import importlib.util
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from uncouple.errors import UncoupleError
from uncouple.experiment.config import ROOT
from uncouple.experiment.options import Experiment

# The rules of each stage, in the order in which they follow each other; one of several groups has a number behind it,
# and that of a figure its name.
STAGES = {
    "samples": ("draw_samples", "draw_ordinary", "take_samples", "take_replies", "take_test_samples", "draw_questions"),
    "models": ("fetch_model", "fetch_judge"),
    "scores": ("score_shard",),
    "masks": ("make_mask",),
    "checkpoints": ("write_checkpoint",),
    "tuning": ("tune_model", "tune_adapter"),
    "answers": ("ask_variants",),
    "verdicts": ("train_judge", "judge_answers", "judge_without_model", "tell_refusals"),
    "metrics": (
        *("measure_awareness", "measure_choice", "measure_language", "measure_perplexity", "measure_ability"),
        *("measure_divergence", "measure_hsic", "measure_placement", "measure_stability"),
        *("count_coupling", "find_sweeps", "collect_metrics", "measure_times"),
    ),
    "figures": ("draw_figure", "draw_judge", "write_tables", "write_tables_across"),
}
STAGE_OF = {rule: stage for stage, rules in STAGES.items() for rule in rules}
# The stage of jobs that are of no one model.
SHARED = "all models"
DONE, STALE, MISSING, RUNNING, FAILED = STATES = ("done", "stale", "missing", "running", "failed")

AGAIN = "an input is made again"
# How Snakemake begins each sentence of a reason, and what it comes to.
REASONS = {
    "Missing output files": "",
    "Incomplete output files": "",
    "Updated input files": "an input has changed",
    "Input files updated by another job": AGAIN,
    "Set of input files has changed": "there are other inputs",
    "Code has changed": "its rule has changed",
    "Software environment definition has changed": "its environment has changed",
}
PARAMS = "Params have changed since last execution"
LOCKED = "Directory cannot be locked"
# A code's fingerprint, as Snakemake tells a param; see `code_of` in rules/common.smk.
CODE = re.compile(r"'[0-9a-f]{16}'")
# What a step that failed has in its log: the command's own line, a bug's traceback, or what a shell or SLURM says.
FATAL = re.compile(
    r"^(?:(?:python -m )?uncouple .*error: |Traceback \(most recent call last\)"
    r"|slurmstepd: error: |.*: command not found)",
    re.M,
)
# Where workflow/profiles/slurm has what SLURM says of its jobs, from the working directory on.
SLURM_LOGS = "results/logs/slurm"
# Bytes of a log that are read, and characters of a line that are told.
TAIL, LONGEST = 16_384, 500


@dataclass(frozen=True)
class Job:
    """A job of an experiment.

    Attributes:
        state: one of STATES.
        why: of a stale one, the reasons, in words.
        log, said: of one that failed or runs, its log and the last line of it; both may be empty.
    """

    rule: str
    wildcards: dict[str, str]
    state: str = DONE
    why: tuple[str, ...] = ()
    log: str = ""
    said: str = ""

    @property
    def stage(self) -> str:
        return stage_of(self.rule)

    @property
    def model(self) -> str:
        return self.wildcards.get("model", SHARED)


def stage_of(rule: str) -> str:
    """The stage of a rule; empty for a target, which makes nothing."""
    return STAGE_OF.get(re.sub(r"(?<=^draw_figure)_.*|_\d+$", "", rule), "")


def find_status(experiment: Experiment, path: str | None, flags: Iterable[str] = ()) -> tuple[list[Job], bool]:
    """The state of every job of an experiment, in the working directory.

    Args:
        experiment: see `config.read_experiment`.
        path: its file, None for config.yaml alone.
        flags: of Snakemake's, besides.

    Returns:
        (jobs, whether a run of it holds the lock).

    Raises:
        UncoupleError: Snakemake is not here, or cannot plan the experiment.
    """
    plan = _plan(path, flags)
    lock = _lock_time() if LOCKED in plan else None
    logs = Path(SLURM_LOGS)
    planned = {_key(job): job for job in _planned(plan)}
    known = dict.fromkeys(re.findall(r"^selected job (\w+)\n    wildcards: (.*)$", plan, re.M))
    jobs = [_job(rule, wildcards, planned.get((rule, wildcards)), logs, lock) for rule, wildcards in known]
    return [job for job in jobs if job.stage], lock is not None


def _plan(path: str | None, flags: Iterable[str]) -> str:
    """What a dry run prints."""
    if importlib.util.find_spec("snakemake") is None:
        raise UncoupleError(
            f"Snakemake says what is stale, and {sys.executable} has none. Install envs/requirements.txt, and ask with "
            "the interpreter that has it."
        )
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow/Snakefile"), "--cores", "1"]
    command += ["--dry-run", "--debug-dag", "--rerun-incomplete", "--nocolor", *flags]
    command += ["--configfile", path] if path else []
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    output = done.stdout + "\n" + done.stderr
    if done.returncode:
        last = [line for line in output.splitlines() if line.strip()][-4:]
        raise UncoupleError("Snakemake cannot plan it:\n" + "\n".join(f"  {line}" for line in last))
    return output


def _planned(plan: str) -> Iterator[dict[str, str]]:
    """The jobs that would run: `rule`, and by their names what Snakemake tells of it, as it tells it."""
    for rule, told in re.findall(r"^(?:local)?rule (\w+):\n((?: {4}.*\n)+)", plan, re.M):
        yield {"rule": rule, "wildcards": "", **dict(re.findall(r"^ {4}(\w+): (.*)$", told, re.M))}


def _key(planned: dict[str, str]) -> tuple[str, str]:
    return planned["rule"], planned["wildcards"]


def _job(rule: str, wildcards: str, planned: dict[str, str] | None, slurm: Path, lock: float | None) -> Job:
    values = dict(part.split("=", 1) for part in wildcards.split(", ") if "=" in part)
    if planned is None:
        return Job(rule, values)
    reason = planned.get("reason", "")
    if "Missing output files" not in reason and "Incomplete output files" not in reason:
        return Job(rule, values, STALE, tuple(_told(reason)))
    logs = [Path(planned["log"])] if "log" in planned else []
    logs += sorted(slurm.glob(f"rule_{rule}/{'_'.join(values.values())}/*.log"), key=lambda log: log.stat().st_mtime)[
        -1:
    ]
    state, log, said = _unmade([log for log in logs if log.is_file()], planned.get("benchmark"), lock)
    return Job(rule, values, state, log=log, said=said)


def _told(reason: str) -> Iterator[str]:
    """The sentences of a reason, in words."""
    head, _, params = reason.partition(PARAMS)
    for sentence in [*head.split("; "), *params.split("; ")[1:]]:
        yield from (words for begins, words in REASONS.items() if words and sentence.startswith(begins))
    if params:
        values = params.partition("before: ")[2].replace(" now: ", ",").strip()
        if CODE.search(values):
            yield "its code has changed"
        if CODE.sub("", values).strip(", "):
            yield "its options have changed"


def _unmade(logs: list[Path], benchmark: str | None, lock: float | None) -> tuple[str, str, str]:
    """What became of a job whose outputs are not there: state, log and the last line of it.

    A step of which no benchmark was written, or an older one, was killed, if it began; of others the log alone tells.

    Args:
        logs: those that are there.
        lock: when a run that goes on began, None where none does.
    """
    for log in logs:
        if found := _fault(log):
            return FAILED, str(log), found
    if not logs:
        return MISSING, "", ""
    log, begun = logs[0], logs[0].stat().st_mtime
    said = tail(log).strip().rpartition("\n")[2][:LONGEST]
    if lock is not None and begun >= lock:
        return RUNNING, str(log), said
    killed = benchmark and not (Path(benchmark).is_file() and Path(benchmark).stat().st_mtime >= begun)
    return (FAILED, str(log), said) if killed else (MISSING, "", "")


def _fault(log: Path) -> str:
    """The line of a log that says why its step failed; empty where none does."""
    text = tail(log)
    if not (found := FATAL.search(text)):
        return ""
    lines = [line for line in text[found.start() :].splitlines() if line.strip()]
    # A traceback ends with what went wrong, and a fault of the user's begins with it.
    return (lines[-1] if lines[0].startswith("Traceback") else lines[0])[:LONGEST]


def tail(log: Path) -> str:
    """The end of a log, where what a bar wrote over itself is lines."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        return file.read().decode(errors="replace").replace("\r", "\n")


def _lock_time() -> float:
    """When the run began that goes on in the working directory."""
    return max((path.stat().st_mtime for path in Path(".snakemake/locks").glob("*")), default=0.0)


def status_table(jobs: Iterable[Job], models: Iterable[str]) -> list[str]:
    """Lines for people: for each model its stages, how many jobs are in which state, and below what failed.

    Args:
        models: their names, in order.
    """
    jobs, lines = list(jobs), []
    for model in (SHARED, *models):
        lines.append(model)
        for stage in STAGES:
            if its := [job for job in jobs if (job.model, job.stage) == (model, stage)]:
                lines.append(f"  {stage:<12} {', '.join(_counts(its))}")
    for state in (RUNNING, FAILED):
        if its := [job for job in jobs if job.state == state]:
            lines += ["", f"{state}:"]
            lines += [line for job in its for line in (f"  {job.log}", f"    {job.said or '(nothing in it)'}")]
    return lines


def _counts(jobs: list[Job]) -> Iterator[str]:
    for state in STATES:
        if its := [job for job in jobs if job.state == state]:
            why = Counter(", ".join(_own(job.why)) for job in its if job.why)
            told = "; ".join(reason if len(why) == 1 else f"{count}: {reason}" for reason, count in why.items())
            yield f"{len(its)} {state}" + (f" ({told})" if told else "")


def _own(why: tuple[str, ...]) -> tuple[str, ...]:
    """The reasons that are a job's own, where it has such."""
    return tuple(reason for reason in why if reason != AGAIN) or why
