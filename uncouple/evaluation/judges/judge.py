"""Judges: whether an answer is safe, unsafe, or gets no verdict."""

from uncouple.errors import UncoupleError
from uncouple.evaluation.judges.phrases import phrase_judge, read_phrases
from uncouple.models.thoughts import cut_thoughts
from uncouple.progress import say
from uncouple.records.files import digest, file_sha256, read_table, write_table
from uncouple.records.formats import ANSWERS, VERDICTS
from uncouple.terms import JUDGES

# What verdicts say of the answers that they are on, by which `measure` knows what can be compared.
CARRIED = ("model", "variant", "mask", "fingerprints", "dimension", "questions")
CARRIED += ("prompt", "dtype", "max_new_tokens", "engine", "batches", "noise")


def judge_answers(answers_path, output, *, judge, name=None, model=None, **options):
    """Give every answer a verdict and write the verdicts.

    An empty answer gets none: it shows no awareness, nor a lack of it. A degenerate one is judged, and counted too.
    Thoughts are no part of an answer, and one that never left its thoughts gets no verdict; see `cut_thoughts`.

    Args:
        answers_path: an answers table.
        output: the verdicts to write.
        judge: `phrases`, `embedding` or `causal`.
        name: what the judge is called in metrics; by default `judge`.
        model: the folder of a causal judge's model or of an embedding judge's encoder.
        options: of the judge, see `make_judge`.
    """
    table, record = read_table(answers_path, ANSWERS)
    answers = table.to_pylist()
    call = make_judge(judge, model=model, **options)
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
    metadata = {"judge": name or judge}
    metadata["identity"] = judge_identity(judge, model=model, **options) | {"dtype": getattr(call, "dtype", None)}
    metadata["judge_kinds"] = getattr(call, "kinds", None)
    metadata |= {key: record[key] for key in CARRIED}
    write_table(rows, output, VERDICTS, metadata)
    judged = sum(row["verdict"] != "none" for row in rows)
    say(
        f"judge: {record['variant']}, {record['dimension']}: {judged} of {len(answers)} answers have a verdict of "
        f"{name or judge}, {sum(empty)} are empty"
        + (f", {sum(thinking)} never left their thoughts" if any(thinking) else "")
    )


def judge_identity(kind, *, phrases=None, classifier=None, model=None, template=None, **_):
    """What the verdicts of a judge depend on besides the answers, as `make_judge` is given it.

    Returns:
        dict of `kind`, and of digests: `phrases`; `classifier`, which says what encoder it was trained with; or
        `model`, a causal judge's three fingerprints, and `template`, None for the chat template of its own tokenizer.
    """
    if kind == "phrases":
        return {"kind": kind, "phrases": digest(*read_phrases(phrases))}
    if kind == "embedding":
        return {"kind": kind, "classifier": file_sha256(classifier)}
    from uncouple.evaluation.judges.causal import read_template
    from uncouple.models.folders import model_record

    record = model_record(model)
    prints = {key: record[key] for key in ("fingerprint", "tokenizer", "generation")}
    return {"kind": kind, "model": prints, "template": digest(read_template(template)) if template else None}


def make_judge(
    kind, *, phrases=None, classifier=None, model=None, template=None, dtype="auto", device="auto", batch_size=16
):
    """A function of (questions, answers) to a list of (verdict, p_unsafe or None).

    Args:
        kind: `phrases`, `embedding` or `causal`.
        phrases: for `phrases`: a text file of phrases, one a line, for the answers' dimension.
        classifier: for `embedding`: what `judge_training.train_judge` wrote for the answers' dimension.
        model: for `embedding` and `causal`: a folder.
        template: for `causal`: see `causal_judge.causal_judge`.
        dtype: for `causal`: see `models.load_model`.
        device, batch_size: for `embedding` and `causal`.
    """
    if kind == "phrases":
        return phrase_judge(read_phrases(phrases))
    if kind not in JUDGES:
        raise UncoupleError(f"judge {kind!r}: use one of {', '.join(JUDGES)}.")
    if model is None or (kind == "embedding" and classifier is None):
        needed = "its encoder (--model) and a classifier (--classifier)" if kind == "embedding" else "a model (--model)"
        raise UncoupleError(f"the judge `{kind}` needs {needed}.")
    if kind == "embedding":
        from uncouple.evaluation.judges.embedding import embedding_judge

        return embedding_judge(classifier, model, device=device, batch_size=batch_size)
    from uncouple.evaluation.judges.causal import causal_judge

    return causal_judge(model, template, dtype=dtype, device=device, batch_size=batch_size)


def is_degenerate(answer):
    """Whether an answer only repeats itself: twelve words or more, under a third of its word triples distinct."""
    words = answer.lower().split()
    if len(words) < 12:
        return False
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(triples)) < len(triples) / 3
