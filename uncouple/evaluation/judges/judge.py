"""Judges: whether an answer is safe, unsafe, or gets no verdict."""

from pathlib import Path

from uncouple.evaluation.judges.kinds import JudgeKind
from uncouple.models.thoughts import cut_thoughts
from uncouple.progress import say
from uncouple.records.files import read_table, write_table
from uncouple.records.formats import ANSWERS, VERDICTS

# What verdicts say of the answers that they are on, by which `measure` knows what can be compared.
CARRIED = ("model", "variant", "mask", "fingerprints", "dimension", "questions")
CARRIED += ("prompt", "dtype", "max_new_tokens", "engine", "batches", "noise")


def judge_answers(
    answers_path: str | Path,
    output: str | Path,
    judge: JudgeKind,
    files: dict[str, str | None],
    *,
    name: str | None = None,
    device: str = "auto",
) -> None:
    """Give every answer a verdict and write the verdicts.

    An empty answer gets none: it shows no awareness, nor a lack of it. A degenerate one is judged, and counted too.
    Thoughts are no part of an answer, and one that never left its thoughts gets no verdict; see `cut_thoughts`.

    Args:
        answers_path: an answers table.
        output: the verdicts to write.
        judge: what judges.
        files: those that it reads, by the flag that names each.
        name: what the judge is called in metrics; by default its kind.
        device: see `devices.pick_device`.
    """
    table, record = read_table(answers_path, ANSWERS)
    answers = table.to_pylist()
    call, name = judge.open(files, device), name or judge.kind
    cut = [cut_thoughts(row["answer"]) for row in answers]
    said, thinking = [text for text, _ in cut], [inside for _, inside in cut]
    empty = [not (said[i] or thinking[i]) for i in range(len(answers))]
    asked = [i for i in range(len(answers)) if not (empty[i] or thinking[i])]
    called = call([answers[i]["question"] for i in asked], [said[i] for i in asked]) if asked else []
    verdicts = dict(zip(asked, called, strict=True))
    rows = []
    for i, row in enumerate(answers):
        verdict, p_unsafe = verdicts.get(i, ("none", None))
        rows.append(
            {"id": row["id"], "dimension": row["dimension"], "verdict": verdict, "p_unsafe": p_unsafe}
            | {"empty": empty[i], "degenerate": is_degenerate(said[i])}
            | {"truncated": row["truncated"], "thinking": thinking[i]}
        )
    metadata = {"judge": name}
    metadata["identity"] = judge.identity(files) | {"dtype": getattr(call, "dtype", None)}
    metadata["judge_kinds"] = getattr(call, "kinds", None)
    metadata |= {key: record[key] for key in CARRIED}
    write_table(rows, output, VERDICTS, metadata)
    judged = sum(row["verdict"] != "none" for row in rows)
    say(
        f"judge: {record['variant']}, {record['dimension']}: {judged} of {len(answers)} answers have a verdict of "
        f"{name}, {sum(empty)} are empty" + (f", {sum(thinking)} never left their thoughts" if any(thinking) else "")
    )


def is_degenerate(answer):
    """Whether an answer only repeats itself: twelve words or more, under a third of its word triples distinct."""
    words = answer.lower().split()
    if len(words) < 12:
        return False
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(triples)) < len(triples) / 3
