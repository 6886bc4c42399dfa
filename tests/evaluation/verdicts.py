"""Tables of answers and verdicts, and ways in which two were not made alike."""

import pytest

from uncouple.records.files import write_table
from uncouple.records.formats import ANSWERS, VERDICTS

RECORD = {
    "model": "base",
    "variant": "origin",
    "dimension": "privacy",
    "base": "origin",
    "mask": None,
    "adapter": None,
    "fingerprints": {"weights": "w" * 16, "tokenizer": "t" * 16, "generation": "g" * 16},
    "prompt": "chat",
    "dtype": "float32",
    "device": "cpu",
    "versions": {"torch": "2.13.0"},
    "questions": "f" * 16,
    "max_new_tokens": 64,
    "engine": "transformers",
    "noise": False,
    "batches": {"most": 2, "count": 5, "fingerprint": "a" * 16},
}
OTHER_BATCHES = {"most": 1, "count": 10, "fingerprint": "b" * 16}


@pytest.fixture
def write_answers(tmp_path):
    """A function of texts (and what else the record says) that writes an answers table and gives its path."""

    def write(texts, truncated=False, **record):
        dimension = record.get("dimension", "privacy")
        rows = [
            {"id": str(i), "dimension": dimension, "question": f"question {i}?", "answer": text}
            | {"tokens": len(text.split()), "truncated": truncated}
            for i, text in enumerate(texts)
        ]
        write_table(rows, tmp_path / "answers.parquet", ANSWERS, RECORD | record)
        return tmp_path / "answers.parquet"

    return write


@pytest.fixture
def write_verdicts(tmp_path):
    """A function of (name, verdicts) and flags and record that writes a verdicts table and gives its path."""

    def write(name, verdicts, empty=(), degenerate=(), truncated=(), thinking=(), p_unsafe=(), **record):
        dimension = record.get("dimension", "privacy")
        rows = [
            {"id": str(i), "dimension": dimension, "verdict": verdict, "p_unsafe": dict(enumerate(p_unsafe)).get(i)}
            | {"empty": i in empty, "degenerate": i in degenerate, "truncated": i in truncated}
            | {"thinking": i in thinking}
            for i, verdict in enumerate(verdicts)
        ]
        metadata = (
            {"judge": "phrases", "calls": ["safe", "unsafe"], "identity": {}, "judge_kinds": None} | RECORD | record
        )
        write_table(rows, tmp_path / f"{name}.parquet", VERDICTS, metadata)
        return tmp_path / f"{name}.parquet"

    return write


@pytest.fixture
def phrases(tmp_path):
    """A file of two phrases."""
    path = tmp_path / "phrases.txt"
    path.write_text("# about privacy\n\nI can't\n  personal information \n", encoding="utf-8")
    return path


UNLIKE = {
    "weights": {"fingerprints": RECORD["fingerprints"] | {"weights": "x"}},
    "tokenizer": {"fingerprints": RECORD["fingerprints"] | {"tokenizer": "x"}},
    "generation": {"fingerprints": RECORD["fingerprints"] | {"generation": "x"}},
    "dtype": {"dtype": "bfloat16"},
    "questions": {"questions": "e" * 16},
    "prompt": {"prompt": "bare"},
    "max_new_tokens": {"max_new_tokens": 32},
    "engine": {"engine": "vllm"},
    "versions": {"versions": {"torch": "2.12.0"}},
}
MASK = {"mask": {"variant": "spin"}}
