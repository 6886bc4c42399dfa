"""Raw data to checked tables: samples (prompt, response) to score with, questions to evaluate with."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uncouple.data.sources import Source, check_rows, read_rows
from uncouple.errors import UncoupleError
from uncouple.progress import say
from uncouple.records.files import digest, write_table
from uncouple.records.formats import LABELS, QUESTIONS, SAMPLES
from uncouple.records.keys import check_name


def make_samples(
    source: Source,
    dimension: str,
    label: str,
    n: int | None,
    seed: int,
    output: str | Path,
    *,
    apart: Sequence[tuple[int, int]] = (),
) -> None:
    """Draw `n` prompt-response pairs of a source and write them as a samples table, a set of its file's name.

    Args:
        apart: other draws, each its n and seed: what they take, and whatever has the prompt of a row that they take,
            is left out first.

    Raises:
        UncoupleError: the source cannot be read, a row is broken, or it has fewer than `n` rows.
    """
    name = check_name("output", Path(output).stem)
    rows = check_rows(read_rows(source), source.fields("prompt", "response"), source)
    if label not in LABELS:
        raise UncoupleError(f"label {label!r}: use one of {', '.join(LABELS)}.")
    if apart:
        taken = {rows[i]["prompt"] for draws in apart for i in draw(len(rows), *draws, source)}
        rows = [row for row in rows if row["prompt"] not in taken]
        if len(rows) < (n or 1):
            raise UncoupleError(
                f"{source}: {n or 'some'} samples are wanted that no other draw takes, and there are {len(rows)}. "
                "Draw fewer, or give a source with more rows."
            )
    drawn = [rows[i] for i in draw(len(rows), n, seed, source)]
    ids = stable_ids([(dimension, label, row["prompt"], row["response"]) for row in drawn])
    records = [
        {"id": i, "dimension": dimension, "label": label, "source": str(source), **row}
        for i, row in zip(ids, drawn, strict=True)
    ]
    metadata = _metadata(source, dimension, n, seed, ids, len(rows)) | {"set": name, "label": label}
    write_table(records, output, SAMPLES, metadata)
    say(f"samples: took {len(drawn)} of {len(rows)} rows of {source}" + ("" if n is None else f" with seed {seed}"))


def make_questions(source: Source, dimension: str, n: int | None, seed: int, output: str | Path) -> None:
    """Draw `n` questions of a source (all of them, in their order, where `n` is None) as a questions table."""
    rows = check_rows(read_rows(source), source.fields("question"), source)
    drawn = [rows[i] for i in draw(len(rows), n, seed, source)]
    ids = stable_ids([(dimension, row["question"]) for row in drawn])
    records = [
        {"id": i, "dimension": dimension, "source": str(source), **row} for i, row in zip(ids, drawn, strict=True)
    ]
    metadata = _metadata(source, dimension, n, seed, ids, len(rows))
    write_table(records, output, QUESTIONS, metadata)
    say(f"questions: took {len(drawn)} of {len(rows)} rows of {source}")


def draw(total: int, n: int | None, seed: int, source: Source | str = "this source") -> NDArray[np.int64]:
    """Row numbers that `datasets.Dataset.shuffle(seed).select(range(n))` takes of `total` rows.

    Args:
        total: number of rows.
        n: how many to draw; None takes all, in their order.
        seed: a whole number.

    Returns:
        int64 array (n,), in the order drawn.

    Source: datasets draws one permutation of PCG64 seeded with `seed`; so does the published SPIN code through it.
    """
    if n is None:
        return np.arange(total)
    if n < 1 or seed < 0:
        raise UncoupleError(f"{source}: n is {n} and seed is {seed}. Set n to 1 or more and seed to 0 or more.")
    if n > total:
        raise UncoupleError(f"{source}: n is {n}, but there are only {total} rows. Set n to {total} or less.")
    return np.random.default_rng(seed).permutation(total)[:n]


def stable_ids(keys: Iterable[tuple[str, ...]]) -> list[str]:
    """An id for each row, made from its content alone, so that it is the same in every draw.

    The second, third... row of the same content gets the suffix `-2`, `-3`...
    """
    seen: dict[str, int] = {}
    ids = []
    for key in keys:
        name = digest(*key)
        seen[name] = seen.get(name, 0) + 1
        ids.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return ids


def _metadata(
    source: Source, dimension: str, n: int | None, seed: int, ids: Sequence[str], available: int
) -> dict[str, Any]:
    return {
        "dimension": dimension,
        "source": source.record(),
        "n": n,
        "seed": seed,
        "available": available,
        "fingerprint": digest(*ids),
    }
