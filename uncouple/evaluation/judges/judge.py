"""Judges: whether an answer is safe, unsafe, or gets no verdict."""

import json

import pyarrow as pa

from uncouple.errors import UncoupleError
from uncouple.evaluation.judges.phrases import phrase_judge, read_phrases
from uncouple.models.devices import device_kind
from uncouple.models.thoughts import cut_thoughts
from uncouple.progress import say
from uncouple.records.files import digest, file_sha256, read_table, write_table
from uncouple.records.store import Store, code_of, versions
from uncouple.terms import JUDGES
from uncouple.variants.each import Result, make_each, output_paths

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "dimension", "verdict")]
    + [("p_unsafe", pa.float32())]
    + [(name, pa.bool_()) for name in ("empty", "degenerate", "truncated", "thinking")]
)
# What verdicts say of the answers that they are on, by which `measure` knows what can be compared.
CARRIED = ("model", "variant", "mask", "fingerprints", "dimension", "questions")
CARRIED += ("prompt", "dtype", "max_new_tokens", "engine", "batches", "noise")


def judge_answers(answers_paths, output, *, judge, name=None, model=None, store=None, **options):
    """Give every answer of some tables a verdict and write the verdicts on each.

    An empty answer gets none: it shows no awareness, nor a lack of it. A degenerate one is judged, and counted too.
    Thoughts are no part of an answer, and one that never left its thoughts gets no verdict; see `cut_thoughts`.
    The same answer to the same question is judged once, in whichever tables it is.

    Args:
        answers_paths: answers tables.
        output: the verdicts to write, with {variant} and {dimension} in it where there are several tables.
        judge: `phrases`, `embedding` or `causal`.
        name: what the judge is called in metrics; by default `judge`.
        model: the folder of a causal judge's model or of an embedding judge's encoder.
        store: `store.Store`; none by default.
        options: of the judge, see `make_judge`.
    """
    tables = [read_table(path, "answers") for path in answers_paths]
    identity = judge_identity(judge, model=model, **options)
    call = make_judge(judge, model=model, **options)
    # What the record says of a judge besides; see `make_judge`.
    about = {"kind": "verdicts", "version": 1, "judge": name or judge}
    about["identity"] = identity | {"dtype": getattr(call, "dtype", None)}
    about["judge_kinds"] = getattr(call, "kinds", None)
    pairs = [{key: record[key] for key in ("variant", "dimension")} for _, record in tables]
    results = []
    for (table, record), pair, path in zip(tables, pairs, output_paths(output, pairs), strict=True):
        carried = {key: record[key] for key in CARRIED if key in record}
        # A judge without a model is as quick as the store.
        key = verdicts_key(table, about["identity"], options) if model else None
        names = carried | {"judge": about["judge"]}
        results.append(Result(", ".join(pair.values()), "verdicts", key, names, path, (table.to_pylist(), carried)))
    known = {}

    def make(result):
        answers, carried = result.work
        rows = _judge_rows(answers, call, known)
        write_table(pa.Table.from_pylist(rows, schema=SCHEMA), result.output, about | carried)
        judged, empty, thinking = (
            sum(row["verdict"] != "none" for row in rows),
            *(sum(row[key] for row in rows) for key in ("empty", "thinking")),
        )
        say(
            f"judge: {result.name}: {judged} of {len(rows)} answers have a verdict of {about['judge']}, {empty} are "
            "empty" + (f", {thinking} never left their thoughts" if thinking else "")
        )

    make_each(results, store or Store(), "judge", lambda _: make)


def verdicts_key(table, identity, options):
    """What verdicts hang on, for the store: the answers as they stand, and the judge."""
    said = [json.dumps(row) for row in table.select(["id", "dimension", "question", "answer", "truncated"]).to_pylist()]
    key = {"answers": digest(*said), "judge": identity, "versions": versions("scikit-learn", "scipy")}
    return key | {
        "device": device_kind(options.get("device", "auto")),
        "batch_size": options.get("batch_size"),
        "code": code_of("evaluation.judges.judge:judge_answers"),
    }


def _judge_rows(answers, call, known):
    """Rows of a table of verdicts.

    Args:
        answers: rows of an answers table.
        call: see `make_judge`.
        known: dict of (question, answer without thoughts) to a call, to which new ones are added.
    """
    cut = [cut_thoughts(row["answer"]) for row in answers]
    asked = [(row["question"], said) for row, (said, inside) in zip(answers, cut, strict=True) if said and not inside]
    if new := [pair for pair in dict.fromkeys(asked) if pair not in known]:
        known |= dict(zip(new, call(*map(list, zip(*new, strict=True))), strict=True))
    rows = []
    for row, (said, inside) in zip(answers, cut, strict=True):
        verdict, p_unsafe = known[row["question"], said] if said and not inside else ("none", None)
        rows.append(
            {"id": row["id"], "dimension": row["dimension"], "verdict": verdict, "p_unsafe": p_unsafe}
            | {"empty": not (said or inside), "degenerate": is_degenerate(said)}
            | {"truncated": row["truncated"], "thinking": inside}
        )
    return rows


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
