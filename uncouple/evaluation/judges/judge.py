"""Judges: what an answer is called, safe or unsafe, a refusal or an answer, or whether it gets no verdict."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from uncouple.errors import UncoupleError
from uncouple.evaluation.judges.kinds import JudgeKind, Judging, Verdict
from uncouple.models.devices import device_kind
from uncouple.models.thoughts import cut_thoughts
from uncouple.progress import say
from uncouple.records.files import digest, read_table, write_table
from uncouple.records.formats import ANSWERS, ASKED_KEYS, VERDICTS
from uncouple.records.store import Store, code_of, versions
from uncouple.variants.each import Result, make_each, output_paths

# What verdicts say of the answers that they are on, by which `measure` knows what can be compared.
CARRIED = tuple(dict.fromkeys(key.partition(".")[0] for key in ASKED_KEYS))
# A file that serves the answers of whatever dimension.
ANY = None


def judge_answers(
    answers_paths: Iterable[str | Path],
    output: str | Path,
    judge: JudgeKind,
    files: Mapping[str, Mapping[str | None, str]],
    *,
    name: str | None = None,
    device: str = "auto",
    store: Store | None = None,
) -> None:
    """Give every answer of some tables a verdict and write the verdicts on each.

    An empty answer gets none: it shows no awareness, nor a lack of it. A degenerate one is judged, and counted too.
    Thoughts are no part of an answer, and one that never left its thoughts gets no verdict; see `cut_thoughts`.
    The same answer to the same question is judged once, in whichever tables it is.

    Args:
        answers_paths: answers tables.
        output: the verdicts to write, with {variant} and {dimension} in it where there are several tables.
        judge: what judges.
        files: those that it reads, by the flag that names each and by dimension; under None one for all dimensions.
        name: what the judge is called in metrics; by default its kind.
        device: see `devices.pick_device`.
        store: none by default.

    Raises:
        UncoupleError: a file is missing or broken, or some tables could not be judged.
    """
    tables = [read_table(path, ANSWERS) for path in answers_paths]
    benches = _open_benches(judge, files, [record["dimension"] for _, record in tables], name or judge.kind, device)
    pairs = [{key: record[key] for key in ("variant", "dimension")} for _, record in tables]
    results = []
    for (table, record), pair, path in zip(tables, pairs, output_paths(output, pairs), strict=True):
        bench, carried = benches[record["dimension"]], {key: record[key] for key in CARRIED}
        # A judge without a model is as quick as the store.
        key = verdicts_key(table, bench.about["identity"], judge, device) if judge.runs_model else None
        names = carried | {"judge": bench.about["judge"]}
        work = table.to_pylist(), carried, bench
        results.append(Result(", ".join(pair.values()), VERDICTS, key, names, path, work))

    def prepare(waiting: list[Result]) -> Callable[[Result], None]:
        for result in results:
            if result not in waiting:
                _remember(result)
        return _write_verdicts

    make_each(results, store or Store(), "judge", prepare)


class _Bench:
    """A judge of the answers of some dimensions.

    Attributes:
        call: see `kinds.Judging`.
        about: what the record of its verdicts says of it.
        known: dict of (question, answer without thoughts) to a verdict.
    """

    def __init__(self, judge: JudgeKind, files: dict[str, str | None], name: str, device: str) -> None:
        self.call = judge.open(files, device)
        self.about: dict[str, Any] = {"judge": name, "calls": list(judge.calls), "judge_kinds": self.call.kinds}
        self.about["identity"] = judge.identity(files) | {"dtype": self.call.dtype}
        if judge.runs_model:
            self.about["identity"]["versions"] = versions("scikit-learn", "scipy")
        self.known: dict[tuple[str, str], Verdict] = {}


def _open_benches(
    judge: JudgeKind, files: Mapping[str, Mapping[str | None, str]], dimensions: list[str], name: str, device: str
) -> dict[str, _Bench]:
    """A bench for each dimension; those whose files are the same share one."""
    opened: dict[str, _Bench] = {}
    found: dict[str, _Bench] = {}
    for dimension in dict.fromkeys(dimensions):
        its = {flag: paths.get(dimension, paths.get(ANY)) for flag, paths in files.items()}
        for flag, paths in files.items():
            if paths and its[flag] is None:
                raise UncoupleError(f"--{flag}: none is given for {dimension}, only for {', '.join(map(str, paths))}.")
        which = json.dumps(its, sort_keys=True, default=str)
        if which not in opened:
            opened[which] = _Bench(judge, its, name, device)
        found[dimension] = opened[which]
    return found


def _remember(result: Result) -> None:
    """Know the verdicts that the store gave: then what is left is judged as it would have been behind them, in the same
    batches, so that a job which was broken off ends as one that was not."""
    answers, _, bench = result.work
    for row, told in zip(answers, read_table(result.output, VERDICTS)[0].to_pylist(), strict=True):
        said, inside = cut_thoughts(row["answer"])
        if said and not inside:
            bench.known[row["question"], said] = told["verdict"], told["p_unsafe"]


def _write_verdicts(result: Result) -> None:
    answers, carried, bench = result.work
    rows = judge_rows(answers, bench.call, bench.known)
    write_table(rows, result.output, VERDICTS, bench.about | carried)
    judged = sum(row["verdict"] != "none" for row in rows)
    empty, thinking = (sum(row[key] for row in rows) for key in ("empty", "thinking"))
    say(
        f"judge: {result.name}: {judged} of {len(rows)} answers have a verdict of {bench.about['judge']}, {empty} are "
        "empty" + (f", {thinking} never left their thoughts" if thinking else "")
    )


def verdicts_key(table: pa.Table, identity: dict[str, Any], judge: JudgeKind, device: str) -> dict[str, Any]:
    """What verdicts hang on, for the store: the answers as they stand, and the judge."""
    said = [json.dumps(row) for row in table.select(["id", "dimension", "question", "answer", "truncated"]).to_pylist()]
    return {
        "answers": digest(*said),
        "judge": identity,
        "device": device_kind(device),
        "batch_size": getattr(judge, "batch_size", None),
        "code": code_of("evaluation.judges.judge:judge_answers", type(judge)),
    }


def judge_rows(
    answers: list[dict[str, Any]], call: Judging, known: dict[tuple[str, str], Verdict]
) -> list[dict[str, Any]]:
    """Rows of a table of verdicts.

    Args:
        answers: rows of an answers table.
        call: the judge.
        known: dict of (question, answer without thoughts) to its verdict, to which new ones are added.
    """
    cut = [cut_thoughts(row["answer"]) for row in answers]
    asked = [(row["question"], said) for row, (said, inside) in zip(answers, cut, strict=True) if said and not inside]
    if new := [pair for pair in dict.fromkeys(asked) if pair not in known]:
        known |= dict(zip(new, call([q for q, _ in new], [a for _, a in new]), strict=True))
    rows = []
    for row, (said, inside) in zip(answers, cut, strict=True):
        verdict, p_unsafe = known[row["question"], said] if said and not inside else ("none", None)
        rows.append(
            {"id": row["id"], "dimension": row["dimension"], "verdict": verdict, "p_unsafe": p_unsafe}
            | {"empty": not (said or inside), "degenerate": is_degenerate(said)}
            | {"truncated": row["truncated"], "thinking": inside}
        )
    return rows


def is_degenerate(answer: str) -> bool:
    """Whether an answer only repeats itself: twelve words or more, under a third of its word triples distinct."""
    words = answer.lower().split()
    if len(words) < 12:
        return False
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(triples)) < len(triples) / 3
