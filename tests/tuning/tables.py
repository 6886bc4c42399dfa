"""Samples to tune tiny models on, and what tunes them."""

import itertools

import pytest
from conftest import TEXTS

from uncouple.data.samples import make_samples
from uncouple.data.sources import Source
from uncouple.tuning.options import Tuning
from uncouple.tuning.tune import tune_model


@pytest.fixture
def samples_of(write_jsonl, tmp_path):
    """A function of a dimension and pairs of prompt and response to a samples table."""

    def make(dimension, pairs):
        source = write_jsonl(f"{dimension}.jsonl", [{"prompt": p, "response": r} for p, r in pairs])
        make_samples(Source(path=str(source)), dimension, "safe", None, 0, tmp_path / f"{dimension}.parquet")
        return tmp_path / f"{dimension}.parquet"

    return make


@pytest.fixture
def tables(samples_of):
    """Two samples tables, of privacy and of general."""
    return [samples_of("privacy", TEXTS[:3]), samples_of("general", TEXTS[3:])]


@pytest.fixture
def tune(tables, tmp_path):
    """A function of a base (and options) to the folder that tuning it on both tables makes."""
    number = itertools.count()

    def run(base, **options):
        output = tmp_path / f"tuned-{next(number)}"
        tune_model(base, tables, output, Tuning(**options), variant="v", device="cpu")
        return output

    return run
