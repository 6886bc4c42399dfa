"""Language: how often cautionary phrases occur in answers."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from uncouple.errors import UncoupleError
from uncouple.evaluation.collect import ASKED, check_alike, write_metrics
from uncouple.evaluation.judges.phrases import normalize, read_phrases
from uncouple.evaluation.statistics import rate
from uncouple.models.thoughts import cut_thoughts
from uncouple.progress import say
from uncouple.records.files import read_table
from uncouple.records.fingerprint import fingerprint
from uncouple.records.formats import ANSWERS


def measure_language(answer_paths: Iterable[Path], output: Path, *, phrases: dict[str, Path]) -> None:
    """Write how often cautionary phrases occur in the answers, with Wilson intervals.

    Metrics: `phrase`, answers that have the phrase `item` in them, of all answers (Qian et al. 2025, figure 7, counts
    occurrences by number of answers); `any_phrase`, answers with at least one.

    Args:
        answer_paths: answers tables.
        output: the table to write.
        phrases: dict of dimension to a text file of phrases, one a line.

    Raises:
        UncoupleError: no phrases of a dimension are given, or two variants were not asked in the same way.
    """
    rows, count = [], 0
    alike: dict[Any, Any] = {}
    lists = {dimension: read_phrases(path) for dimension, path in phrases.items()}
    for path in answer_paths:
        table, record = read_table(path, ANSWERS)
        if record["dimension"] not in lists:
            raise UncoupleError(f"{path}: no phrases of {record['dimension']} are given (--phrases).")
        check_alike(alike, path, record, ASKED, ("model", "dimension"))
        answers = [normalize(cut_thoughts(answer)[0]) for answer in table.column("answer").to_pylist()]
        has = {p: [normalize(p) in answer for answer in answers] for p in lists[record["dimension"]]}
        who = {key: record[key] for key in ("model", "variant", "dimension")}
        rows += [who | {"metric": "phrase", "item": p} | rate(sum(marks), len(answers)) for p, marks in has.items()]
        any_of_them = sum(map(any, zip(*has.values(), strict=True)))
        rows.append(who | {"metric": "any_phrase"} | rate(any_of_them, len(answers)))
        count += 1
    write_metrics(rows, output, measured="language", code=fingerprint("evaluation.language"))
    say(f"measure: phrases in {count} files of answers")
