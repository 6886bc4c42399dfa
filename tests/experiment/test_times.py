"""What steps took: read from what Snakemake writes, and for all steps of which it writes anything."""

import pytest

from uncouple.commands import main
from uncouple.experiment.config import ROOT, read_experiment
from uncouple.experiment.paths import Paths
from uncouple.records.files import read_table
from uncouple.records.formats import TIMES

HEADS = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def write(path, seconds, rss, cpu):
    path.write_text(f"{HEADS}{seconds}\t0:00:02\t{rss}\t0\t0\t0\t0\t0\t50\t{cpu}\n")
    return str(path)


def test_each_step_has_a_row_of_what_was_measured(tmp_path):
    first, short = write(tmp_path / "a.tsv", 2.5, 100, 5.0), write(tmp_path / "b.tsv", 0.1, "NA", "NA")
    given = [f"score={first}", f"ask={short}", f"ask={tmp_path}/none=.tsv"]
    assert main(["measure", "times", *given, "--model", "m", "--output", str(tmp_path / "o.parquet")]) == 0
    rows = [tuple(row.values()) for row in read_table(tmp_path / "o.parquet", TIMES)[0].to_pylist()]
    assert rows == [
        ("m", "score", first, 2.5, 5.0, 100 * 2**20),
        ("m", "ask", short, 0.1, None, None),
        ("m", "ask", f"{tmp_path}/none=.tsv", None, None, None),
    ]


@pytest.mark.parametrize("text", ["", HEADS, HEADS + "1\n", HEADS + "x\t" * 9 + "x\n", "s\n1\n"])
def test_a_file_that_is_not_snakemakes_is_told(text, tmp_path, capsys):
    (tmp_path / "a.tsv").write_text(text)
    assert main(["measure", "times", f"score={tmp_path}/a.tsv", "--model", "m", "--output", str(tmp_path / "o")]) == 1
    assert "a.tsv: not what Snakemake writes of one job" in capsys.readouterr().err


def test_every_step_that_is_measured_is_told(finished):
    """Without a step too few and without one too many; it is read when all is made."""
    told = {
        row["file"] for row in read_table(finished.folder / "results/metrics/tiny/times.parquet", TIMES)[0].to_pylist()
    }
    written = (finished.folder / "results/benchmarks").rglob("*.tsv")
    assert told == {str(path.relative_to(finished.folder)) for path in written}
    page = (finished.folder / "results/tables/tiny/times.md").read_text()
    assert "| score | 6 |" in page
    assert "measured of" not in page


def test_the_steps_of_every_kind_of_variant_and_group():
    """Each once; those of judges are the same for all models."""
    paths = Paths(read_experiment(ROOT / "experiments/quick.yaml"))
    steps = [step.split("=", 1) for step in paths.steps("SmolLM2-135M-Instruct")]
    assert len({file for _, file in steps}) == len(steps)
    verbs = ["fetch", "score", "apply", "tune", "train-judge", "ask", "judge", "perplexity", "divergence", "hsic"]
    assert list(dict.fromkeys(verb for verb, _ in steps)) == verbs
