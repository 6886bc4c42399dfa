"""Samples that no other draw takes: a price is measured on what no variant was made with."""

import pytest
from data.raw import numbered

from uncouple.commands import main
from uncouple.data.samples import make_samples
from uncouple.data.sources import Source
from uncouple.errors import UncoupleError
from uncouple.records.files import read_table
from uncouple.records.formats import SAMPLES


def prompts(path):
    return [row["prompt"] for row in read_table(path, SAMPLES)[0].to_pylist()]


def drawn(source, tmp_path, n, seed, **options):
    make_samples(source, "general", "safe", n, seed, tmp_path / "drawn.parquet", **options)
    return prompts(tmp_path / "drawn.parquet")


def test_nothing_that_another_draw_takes_is_taken(write_jsonl, tmp_path):
    source = Source(path=str(write_jsonl("raw.jsonl", numbered(50))))
    others = [(20, 0), (10, 7)]
    taken = {prompt for n, seed in others for prompt in drawn(source, tmp_path, n, seed)}
    apart = drawn(source, tmp_path, 50 - len(taken), 3, apart=others)
    assert len(apart) == len(set(apart)) == 50 - len(taken)
    assert not taken & set(apart)


def test_nor_what_repeats_its_prompt(write_jsonl, tmp_path):
    rows = [{"prompt": f"prompt {i % 25}", "response": f"response {i}"} for i in range(50)]
    source = Source(path=str(write_jsonl("raw.jsonl", rows)))
    taken = set(drawn(source, tmp_path, 10, 0))
    assert not taken & set(drawn(source, tmp_path, None, 0, apart=[(10, 0)]))


def test_too_few_are_left(write_jsonl, tmp_path):
    source = Source(path=str(write_jsonl("raw.jsonl", numbered(50))))
    with pytest.raises(UncoupleError, match="31 samples are wanted that no other draw takes, and there are 30"):
        drawn(source, tmp_path, 31, 0, apart=[(20, 0)])
    with pytest.raises(UncoupleError, match="there are 0"):
        drawn(source, tmp_path, None, 0, apart=[(50, 0)])


def test_the_verb_takes_draws_as_n_and_seed(write_jsonl, tmp_path, capsys):
    path = str(write_jsonl("raw.jsonl", numbered(50)))
    flags = ["samples", "--path", path, "--dimension", "general", "--n", "10", "--output", str(tmp_path / "a.parquet")]
    assert main([*flags, "--apart", "20:0", "10:7"]) == 0
    source = Source(path=path)
    assert prompts(tmp_path / "a.parquet") == drawn(source, tmp_path, 10, 0, apart=[(20, 0), (10, 7)])
    with pytest.raises(SystemExit):
        main([*flags, "--apart", "20"])
    assert "write N:SEED, such as 64:0" in capsys.readouterr().err
