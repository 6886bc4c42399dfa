"""The workflow on a tiny model, end to end in a copy of the clone. What each edit makes stale: test_staleness.py."""

import json
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from test_staleness import COLLECTED

from uncouple.commands import VERBS
from uncouple.models.folders import model_record
from uncouple.records.files import METADATA_KEY, read_any, read_table
from uncouple.records.formats import ANSWERS, FORMATS, MASK, METRICS
from uncouple.records.verify import verify_paths

FIGURES = ("awareness", "ability", "hsic", "language", "agreement", "refusal", "price")


def test_it_makes_what_it_promises(finished):
    results = finished.folder / "results"
    for name in (*FIGURES, "placement", "coupling"):
        assert (results / f"figures/tiny/{name}.png").stat().st_size > 5000
        assert "<svg" in (results / f"figures/tiny/{name}.svg").read_text()[:1000]
        assert (results / f"figures/tiny/{name}.pdf").read_bytes().startswith(b"%PDF")
    summary = (results / "tables/tiny/summary.md").read_text()
    variants = ("origin", "noise", "spin", "random")
    table = [line for line in summary.splitlines()[2:] if line.startswith("|")]
    assert [line.split(" | ")[0].strip("| ") for line in table] == list(variants)
    assert "\nnoise: origin asked again in batches of 1 instead of 4.\n" in summary
    rows = read_table(results / "metrics/tiny/metrics.parquet", METRICS)[0].to_pylist()
    judged = {(r["variant"], r["dimension"]) for r in rows if (r["metric"], r["judge"]) == ("awareness", "embedding")}
    assert judged == {(v, d) for v in variants for d in ("fairness", "privacy")}
    # Refusals are counted in the answers to all questions, those to ordinary ones among them.
    told = {(r["variant"], r["dimension"], r["of"]) for r in rows if r["metric"] == "refusal"}
    sets = {"fairness": 4, "privacy": 4, "general": 2, "alarming": 3, "ordinary": 5}
    assert {(v, d) for v, d, _ in told} == {(v, d) for v in variants for d in sets}
    assert all(of <= sets[d] for _, d, of in told)
    assert {r["judge"] for r in rows if r["metric"] == "awareness"} == {"embedding", "phrases"}
    for what in (
        ("perplexity", None, None),
        ("divergence", None, None),
        ("acc", "boolq", None),
        ("hsic_unbiased", None, 1),
    ):
        found = {r["variant"] for r in rows if (r["metric"], r["task"], r["layer"]) == what}
        assert found == {"origin", "spin", "random"}
    # The same arithmetic in other batches, though the four questions of a dimension are fewer than any batch takes: in
    # float32 no verdict flips.
    batches = {
        variant: read_table(results / f"answers/tiny/{variant}/privacy.parquet", ANSWERS)[1]["batches"]["most"]
        for variant in ("origin", "noise")
    }
    assert batches == {"origin": 4, "noise": 1}
    noise = [r for r in rows if r["variant"] == "noise" and r["metric"] == "difference"]
    assert {r["n"] for r in noise} == {0}
    assert {path.suffix for path in (results / "figures/judges").iterdir()} == {".png", ".svg", ".pdf"}
    for name in ("answer", "examples", "selections", "summary"):
        forms = (results / "tables/tiny").glob(f"{name}.*")
        assert {path.suffix for path in forms} == {".md", ".html", ".tex", ".csv"}
    assert (results / "checkpoints/tiny/spin/uncouple/mask.parquet").exists()
    assert not list(results.rglob("*.partial*"))


def test_what_it_makes_is_verified(finished):
    checked, faults = verify_paths([finished.folder / "results"], model_record)
    assert faults == []
    # What is tuned, and a sweep, are in test_made_from_others.py.
    assert {read_any(path)[1]["kind"] for path in checked} == FORMATS.keys() - {"tuning", "adapter", "sweeps"}


def test_every_table_says_what_code_made_it(finished):
    metadata = [
        json.loads(pq.read_schema(path).metadata[METADATA_KEY])
        for path in (finished.folder / "results").rglob("*.parquet")
    ]
    assert {record["kind"] for record in metadata} == {form.kind for form in FORMATS.values() if form.columns} - {
        "sweeps"
    }
    assert [record for record in metadata if not re.fullmatch("[0-9a-f]{16}", record.get("code", ""))] == []


def test_the_masks_come_from_all_shards(finished):
    masks = {
        name: read_table(finished.folder / f"results/masks/tiny/{name}.parquet", MASK) for name in ("spin", "random")
    }
    assert masks["spin"][0].num_rows == masks["random"][0].num_rows > 0
    assert {m.split(".")[2] for m in masks["spin"][0].column("module").to_pylist()} == {"0", "1"}


def test_a_lost_file_alone_is_made_again(clone):
    path = clone.folder / "results/metrics/tiny/metrics.parquet"
    content = path.read_bytes()
    path.unlink()
    (clone.folder / "results/tables/tiny/summary.md").unlink()
    assert clone.stale() == COLLECTED
    clone.snakemake()
    assert path.read_bytes() == content


def test_a_faulty_config_stops_before_any_job_and_names_the_key(clone):
    clone.config["variants"]["spin"]["ratio"] = 2.0
    clone.config["scoring"]["promt"] = "chat"
    output = clone.snakemake("--dry-run", check=False)
    assert "variants.spin.ratio: 2.0 is out of range (allowed: above 0 and at most 0.1)" in output
    assert "scoring: unknown key 'promt'; did you mean 'prompt'?" in output
    assert "Job stats" not in output


def test_the_report_shows_every_figure_with_caption_and_category(clone):
    clone.snakemake("--report", "report.html")
    page = (clone.folder / "report.html").read_text()
    for words in (
        "95% Wilson intervals",
        "by layer and module",
        "general top",
        "tiny",
        "Gaussian kernels of median width",
        "held out",
        "side by side",
        # What a judge's kind says of itself.
        "a polite answer that does harm passes",
    ):
        assert words in page, words


def test_a_sweep_makes_a_variant_of_each_value(clone):
    clone.config["variants"]["sweep"] = {"kind": "suppress", "ratio": [0.01, 0.03], "select": "union", "n": 3}
    assert clone.stale()["make_mask"] == 2
    assert "results/masks/tiny/sweep.ratio-0.03.parquet" in clone.snakemake("--dry-run")


PARTS = {
    "scores": {"score_shard"},
    "masks": {"score_shard", "make_mask"},
    "checkpoints": {"score_shard", "make_mask", "write_checkpoint"},
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_a_run_takes_no_more_than_it_needs(clone, part):
    clone.config["results"] = "results/anew"
    plan = set(re.findall(r"(?m)^(?:local)?rule (\w+):$", clone.snakemake("--dry-run", part)))
    assert plan == {"fetch_model", "draw_samples", part, *PARTS[part]}


def test_metrics_are_a_part_without_figures_and_figures_one_without_tables(clone):
    clone.config["results"] = "results/anew"
    metrics, figures = (clone.snakemake("--dry-run", part) for part in ("metrics", "figures"))
    assert "rule collect_metrics:" in metrics
    assert "draw_figure" not in metrics
    assert "rule draw_figure_awareness:" in figures
    assert "rule draw_judge:" in figures
    assert "write_tables" not in figures


def test_a_step_that_fails_shows_its_log_and_keeps_what_is_done(clone):
    """A set with too few rows: its own step fails, and what others made stays."""
    clone.config["evaluation"]["hsic"]["n"] = 6
    output = clone.snakemake(check=False)
    told = "n is 6, but there are only 5 rows. Set n to 5 or less."
    # Where it happened, and once more at the end.
    first, _, last = output.partition("Steps that failed: 2.")
    assert told in first
    log = "results/logs/samples/fairness-safe-n6-seed0.log"
    assert f"- draw_samples\n  {log} ends:\n    uncouple samples: error: raw/fairness.jsonl: {told}\n" in last
    clone.config["evaluation"]["hsic"]["n"] = 4
    assert clone.stale() == {}


def test_a_step_whose_code_is_edited_while_the_run_goes_on_is_not_run(clone):
    """Taken for one of the old code, its file would be wrong when the edit is taken back."""
    orders = clone.folder / "orders"
    orders.mkdir()
    (orders / "wait").write_text("measure language")
    path = clone.folder / "uncouple/evaluation/collect.py"
    text, table = path.read_text(), clone.folder / "results/metrics/tiny/metrics.parquet"
    before = table.read_bytes()
    arguments = ("--forcerun", "measure_language", "--", "results/metrics/tiny/metrics.parquet")
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(clone.snakemake, *arguments, check=False, orders=orders)
        while not (orders / ".wait").exists() and not run.done():
            time.sleep(0.1)
        path.write_text(text.replace("rows += found", "rows += list(found)"))
        (orders / ".wait").unlink()
        output = run.result()
    assert "uncouple measure: error: " in output
    assert "is not that which the run was planned with" in output
    # Where it lies there still, it is the old one.
    assert not table.exists() or table.read_bytes() == before


def test_the_snakefile_wants_the_snakemake_that_is_pinned():
    (wanted,) = re.findall(r'min_version\("(.*)"\)', (ROOT / "workflow/Snakefile").read_text())
    assert f"snakemake=={wanted}\n" in (ROOT / "envs/requirements.txt").read_text()


ODD = "$(touch stolen) 'a' \"b\" ; & c"


def test_names_reach_the_commands_as_they_are(clone, tmp_path):
    """Whatever a path has in it, a shell sees one command and one file to write its log to."""
    odd = tmp_path / ODD
    shutil.copytree(clone.folder / "raw", odd)
    shutil.copy(clone.folder / "resources/figures.mplstyle", odd)
    text = json.dumps(clone.config)
    for path in odd.iterdir():
        old = "resources/figures.mplstyle" if path.suffix == ".mplstyle" else f"raw/{path.name}"
        text = text.replace(json.dumps(old), json.dumps(str(path)))
    clone.config = json.loads(text)
    clone.config["figures"]["style"] = str(odd / "figures.mplstyle")
    clone.config["general"]["where"] = {"prompt": ODD}
    clone.config["general"]["columns"] = {"prompt": ["prompt", ODD]}
    clone.config["models"]["tiny"]["template_options"] = {"enable_thinking": ODD}
    clone.config["variants"]["tuned"] = {"kind": "tune", "method": "fft", "learn_from": ["privacy"], "n": 3}
    # Were such a folder let through, the commands would still hold.
    clone.edit("uncouple/experiment/options.py", "^[A-Za-z0-9._/][A-Za-z0-9._/+@=,-]*$", ".")
    clone.config["results"] = ODD
    output = clone.snakemake("--dry-run", "--printshellcmds", "--forceall")
    commands = re.findall(r"(?m)^Shell command: (python .*)$", output)
    logs = [tmp_path / "shell" / log for log in re.findall(r"(?m)^ +log: (.*)$", output)]
    for log in logs:
        log.parent.mkdir(parents=True, exist_ok=True)
    # The shell reads them, and in the place of each job tells what it was given.
    script = "\n".join(['python() { printf "%s\\0" "$@"; }', *commands])
    subprocess.run(["bash", "-c", script], cwd=tmp_path / "shell", check=True)
    given = [log.read_text().split("\0")[:-1] for log in logs]
    assert len(given) == len(commands) > 30
    by_hand = {"pin", "cost", "status", "memory", "restore", "verify", "store"}
    assert {words[2] for words in given} == set(VERBS) - by_hand
    assert not list(tmp_path.rglob("stolen"))
    for words in given:
        assert words[:2] == ["-m", "uncouple"]
        assert words.count("-m") == 1
        # A path, or a value as YAML has it.
        assert all(ODD in word or json.dumps(ODD) in word for word in words if "stolen" in word), words


@pytest.mark.parametrize("key", ["template_options", "device"])
def test_how_a_model_is_run_reaches_every_step_that_runs_it(clone, key):
    clone.config["models"]["tiny"][key] = {"device": "all", "template_options": {"enable_thinking": True}}[key]
    flag = {"device": "--device all", "template_options": "--template-option enable_thinking=true"}[key]
    stale = clone.stale()
    # What else is measured uses no template, and follows the masks of the new scores alone.
    templated = {"score_shard": 6, "ask_variants": 1, "measure_divergence": 1, "measure_hsic": 1}
    run = templated | dict.fromkeys(("measure_perplexity", "measure_ability"), 1)
    assert {rule: stale.get(rule) for rule in run} == run
    output = clone.snakemake("--dry-run", "--printshellcmds", "--resources", "gpu=2")
    commands = [line for line in output.splitlines() if line.startswith("Shell command:")]
    flagged = [line for line in commands if flag in line]
    assert len(flagged) == sum((run if key == "device" else templated).values())
    # A model that is spread over all GPUs runs alone.
    assert bool(re.search(r"(?m)^ +resources: .*gpu=2", output)) == (key == "device")


def test_the_clusters_profile_is_planned_without_a_cluster(clone):
    plan = clone.snakemake("--dry-run", "--workflow-profile", "workflow/profiles/slurm", "--forceall")
    assert "gpu=1" in plan


def test_jobs_that_have_a_gpu_each_share_the_cores(clone):
    """Two cores for two GPUs: two jobs at a time, of one thread each."""
    alone, beside = (clone.snakemake("--dry-run", "--forceall", *extra) for extra in (("--resources", "gpu=1"), ()))
    threads = [re.search(r"rule score_shard:.*?\n\n", plan, re.S)[0] for plan in (alone, beside)]
    assert "threads: 2" in threads[0]
    assert "threads: 2" not in threads[1]
