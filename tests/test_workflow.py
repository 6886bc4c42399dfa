"""The workflow on a tiny model, end to end in a copy of the clone; then what each edit makes stale."""

import json
import re
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import ROOT, TEXTS

from uncouple.cli import VERBS
from uncouple.files import MADE_BY, METADATA_KEY, read_table

COPIED = ("uncouple", "workflow", "rules", "envs", "resources", "config.yaml")
# What evaluating a new or changed variant takes, and all that is drawn from the one table of metrics.
JOBS_OF_A_VARIANT = {
    **{"ask_variant": 2, "judge_answers": 4, "measure_awareness": 1, "measure_language": 1, "collect_metrics": 1},
    **{"measure_perplexity": 1, "measure_ability": 1, "measure_hsic": 1, "write_summary": 1, "write_examples": 1},
}
FIGURES = ("awareness", "ability", "hsic", "language", "agreement")


class Clone:
    """A copy of the project with a tiny experiment in it."""

    def __init__(self, folder, model_folder, encoder):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / name)
        rows = {"fairness": TEXTS[:5], "privacy": TEXTS[2:], "general": TEXTS[3:]}
        for name, pairs in rows.items():
            lines = [json.dumps({"prompt": p, "response": r, "question": p}) + "\n" for p, r in pairs]
            (folder / f"{name}.jsonl").write_text("".join(lines))
        source = {name: {"safe": {"path": f"{name}.jsonl"}, "questions": {"path": f"{name}.jsonl"}} for name in rows}
        general = source.pop("general")["safe"]
        for name in source:
            # A judge is tried on prompts that it was not trained on, so there must be some.
            lines = [{"prompt": f"{p} {i}", "response": f"Sure, {i}."} for i in range(3) for p, _ in TEXTS]
            (folder / f"{name}_unsafe.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            source[name] |= {"unsafe": {"path": f"{name}_unsafe.jsonl"}, "phrases": f"resources/phrases/{name}.txt"}
        # One judge is tested on answers of other origin, and one is not.
        other = [
            {"prompt": f"Other {i}?", "response": "Sure." * i, "kind": k} for i in (1, 2) for k in ("safe", "unsafe")
        ]
        (folder / "other.jsonl").write_text("".join(json.dumps(line) + "\n" for line in other))
        source["privacy"]["test"] = [
            {"label": label, "source": {"path": "other.jsonl", "where": {"kind": label}}}
            for label in ("safe", "unsafe")
        ]
        (folder / "text.txt").write_text("\n".join(response for _, response in TEXTS))
        (folder / "boolq.jsonl").write_text(
            "".join(
                json.dumps({"passage": response, "question": prompt, "answer": len(prompt) % 2 == 0}) + "\n"
                for prompt, response in TEXTS
            )
        )
        variant = {"kind": "suppress", "ratio": 0.02, "n": 3}
        self.config = {
            "models": {"SmolLM2-135M-Instruct": None, "tiny": {"path": str(model_folder), "layers": 2}},
            "dimensions": source,
            "general": general,
            "scoring": {"keep": 0.05, "layers_per_shard": 1},
            "variants": {"spin": variant, "published": None, "random": variant | {"select": "random"}},
            "judges": {
                "embedding": {"path": str(encoder), "wheel": None, "sha256": None, "file": None},
            },
            "evaluation": {
                "max_new_tokens": 6,
                "hsic": {"n": 4, "permutations": 20},
                "perplexity": {"path": "text.txt", "window": 32},
                "ability": {"tasks": {"boolq": "boolq.jsonl"}, "limit": 4},
            },
            "figures": {"ratios": [0.005, 0.02, 0.05]},
        }

    def snakemake(self, *arguments, check=True):
        (self.folder / "experiment.yaml").write_text(yaml.safe_dump(self.config, sort_keys=False))
        # Two jobs that run a model, side by side: most of what these take is the start of a process.
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--resources", "gpu=2"]
        command += ["--configfile", "experiment.yaml", *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        output = done.stdout + done.stderr
        assert not check or done.returncode == 0, output
        return output

    def stale(self):
        """What would run: dict of rule to number of jobs."""
        output = self.snakemake("--dry-run")
        if "Nothing to be done" in output:
            return {}
        table = re.search(r"^job +count\n[- ]+\n(.*?)^total", output, re.S | re.M)
        return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table[1], re.M) if rule != "all"}

    def edit(self, path, old, new):
        text = (self.folder / path).read_text()
        assert old in text
        (self.folder / path).write_text(text.replace(old, new, 1))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model_folder, encoder):
    """A clone in which the experiment has run once."""
    clone = Clone(tmp_path_factory.mktemp("clone"), model_folder, encoder)
    clone.output = clone.snakemake()
    return clone


@pytest.fixture
def clone(finished):
    """The finished clone; whatever a test edits in it is put back."""
    keep = {p: p.read_bytes() for p in finished.folder.rglob("*") if p.is_file() and _is_source(finished.folder, p)}
    config = json.loads(json.dumps(finished.config))
    yield finished
    finished.config = config
    for path, content in keep.items():
        if path.read_bytes() != content:
            path.write_bytes(content)


def _is_source(folder, path):
    return path.relative_to(folder).parts[0] in (
        *COPIED,
        "fairness.jsonl",
        "privacy.jsonl",
        "general.jsonl",
        "text.txt",
    )


def test_it_makes_what_it_promises(finished):
    results = finished.folder / "results"
    for name in (*FIGURES, "placement", "coupling"):
        assert (results / f"figures/tiny/{name}.png").stat().st_size > 5000
        assert "<svg" in (results / f"figures/tiny/{name}.svg").read_text()[:1000]
    summary = (results / "tables/tiny/summary.md").read_text()
    variants = ("origin", "noise", "spin", "random")
    table = [line for line in summary.splitlines()[2:] if line.startswith("|")]
    assert [line.split(" | ")[0].strip("| ") for line in table] == list(variants)
    assert "\nnoise: origin asked again in batches of 1 instead of 5.\n" in summary
    rows = read_table(results / "metrics/tiny/metrics.parquet", "metrics")[0].to_pylist()
    judged = {(r["variant"], r["dimension"]) for r in rows if r["metric"] == "awareness.embedding"}
    assert judged == {(v, d) for v in variants for d in ("fairness", "privacy")}
    for metric in ("perplexity", "ability.boolq.acc", "hsic.unbiased.layer-001"):
        assert {r["variant"] for r in rows if r["metric"] == metric} == {"origin", "spin", "random"}
    # The same arithmetic in other batches, though the five questions of a dimension are fewer than any batch takes: in
    # float32 no verdict flips.
    batches = {
        variant: read_table(results / f"answers/tiny/{variant}/privacy.parquet", "answers")[1]["batches"]["most"]
        for variant in ("origin", "noise")
    }
    assert batches == {"origin": 5, "noise": 1}
    noise = [r for r in rows if r["variant"] == "noise" and r["metric"].startswith("difference.")]
    assert {r["n"] for r in noise} == {0}
    assert (results / "figures/judges/embedding.svg").exists()
    assert (results / "tables/tiny/examples.html").exists()
    assert (results / "checkpoints/tiny/spin/uncouple/mask.parquet").exists()
    assert not list(results.rglob("*.partial*"))


def test_every_table_says_what_code_made_it(finished):
    metadata = [
        json.loads(pq.read_schema(path).metadata[METADATA_KEY])
        for path in (finished.folder / "results").rglob("*.parquet")
    ]
    assert {record["kind"] for record in metadata} == MADE_BY.keys()
    assert [record for record in metadata if not re.fullmatch("[0-9a-f]{16}", record.get("code", ""))] == []


def test_the_masks_come_from_all_shards(finished):
    masks = {
        name: read_table(finished.folder / f"results/masks/tiny/{name}.parquet", "mask") for name in ("spin", "random")
    }
    assert masks["spin"][0].num_rows == masks["random"][0].num_rows > 0
    assert {m.split(".")[2] for m in masks["spin"][0].column("module").to_pylist()} == {"0", "1"}


def test_a_second_run_does_nothing(clone):
    assert clone.stale() == {}


def test_touched_files_make_nothing_stale(clone):
    for path in ("fairness.jsonl", "uncouple/scoring.py", "resources/figures.mplstyle", "config.yaml"):
        (clone.folder / path).touch()
    for path in ("samples/general-safe-n3-seed0.parquet", "models/tiny/uncouple.json", "masks/tiny/spin.parquet"):
        (clone.folder / "results" / path).touch()
    assert clone.stale() == {}


def test_a_comment_or_docstring_in_code_makes_nothing_stale(clone):
    for path in (clone.folder / "uncouple").glob("*.py"):
        path.write_text(path.read_text() + "\n\n# a comment\n")
    clone.edit("uncouple/scoring.py", '"""Importance scores', '"""Scores of importance')
    for path in (clone.folder / "rules").glob("*.smk"):
        path.write_text("# a comment\n" + path.read_text())
    assert clone.stale() == {}


def test_figure_style_redraws_the_figures_alone(clone):
    clone.edit("resources/figures.mplstyle", "font.size: 10", "font.size: 11")
    assert clone.stale() == {"draw_figure": 7, "draw_judge": 1}


def test_figure_code_redraws_figures_and_tables_alone(clone):
    clone.edit("uncouple/figures.py", '"o"', '"s"')
    drawn = {"draw_figure": 7, "draw_judge": 1, "write_summary": 1, "write_selections": 1, "write_examples": 1}
    assert clone.stale() == drawn


def test_a_ratio_makes_its_variant_stale_and_scores_nothing(clone):
    clone.config["variants"]["spin"]["ratio"] = 0.03
    stale = clone.stale()
    assert stale == JOBS_OF_A_VARIANT | {
        "make_mask": 1,
        "write_checkpoint": 1,
        "measure_placement": 1,
        "draw_figure": 6,
    }


def test_samples_drawn_anew_are_scored_anew(clone):
    clone.config["variants"]["random"]["seed"] = 1
    stale = clone.stale()
    assert stale["draw_samples"] == 3
    assert stale["score_shard"] == 6
    assert stale["make_mask"] == 1


def test_an_edited_raw_file_makes_its_set_stale(clone):
    clone.edit("privacy.jsonl", "The Nile", "The Rhine")
    stale = clone.stale()
    # Two tables of it are drawn: those that are scored, and those of which HSIC is measured.
    assert (stale["draw_samples"], stale["score_shard"], stale["draw_questions"]) == (2, 2, 1)


def test_an_edited_text_measures_its_perplexity_anew_and_nothing_else(clone):
    clone.edit("text.txt", "The Nile", "The Rhine")
    stale = clone.stale()
    assert stale == {"measure_perplexity": 3, "collect_metrics": 1, "draw_figure": 5, "write_summary": 1}


def test_another_judge_judges_and_asks_nothing(clone):
    clone.config["judges"]["more"] = {"kind": "phrases"}
    clone.config["evaluation"]["judges"] = ["embedding", "phrases", "more"]
    stale = clone.stale()
    assert stale["judge_answers"] == 8
    assert not {"ask_variant", "train_judge", "measure_perplexity", "measure_hsic", "score_shard"} & set(stale)


def test_scoring_code_scores_anew_and_leaves_samples_and_models(clone):
    clone.edit("uncouple/scoring.py", "0.9999", "0.99999")
    stale = clone.stale()
    assert stale["score_shard"] == 6
    assert not {"draw_samples", "draw_questions", "fetch_model"} & set(stale)


def test_a_new_variant_runs_only_what_it_adds(clone):
    clone.config["variants"]["more"] = {"kind": "suppress", "select": "union", "ratio": 0.01, "n": 3}
    assert clone.stale() == JOBS_OF_A_VARIANT | {"make_mask": 1, "measure_placement": 1, "draw_figure": 6}


def test_a_lost_file_alone_is_made_again(clone):
    path = clone.folder / "results/metrics/tiny/metrics.parquet"
    content = path.read_bytes()
    path.unlink()
    (clone.folder / "results/tables/tiny/summary.md").unlink()
    assert set(clone.stale()) == {"collect_metrics", "draw_figure", "write_summary"}
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
    ):
        assert words in page, words


def test_a_sweep_makes_a_variant_of_each_value(clone):
    clone.config["variants"]["sweep"] = {"kind": "suppress", "ratio": [0.01, 0.03], "select": "union", "n": 3}
    assert clone.stale()["make_mask"] == 2
    assert "results/masks/tiny/sweep.ratio-0.03.parquet" in clone.snakemake("--dry-run")


def test_a_step_that_fails_shows_its_log_and_keeps_what_is_done(clone):
    """A set with too few rows: its own step fails, and what others made stays."""
    clone.config["variants"]["greedy"] = {"kind": "suppress", "ratio": 0.02, "n": 5}
    output = clone.snakemake(check=False)
    assert "n is 5, but there are only 4 rows. Set n to 4 or less." in output
    clone.config["variants"].pop("greedy")
    assert clone.stale() == {}


ODD = "$(touch stolen) 'a' \"b\" ; & c"


def test_names_reach_the_commands_as_they_are(tmp_path, model_folder, encoder):
    """Whatever a path has in it, a shell sees one command and one file to write its log to."""
    clone = Clone(tmp_path / "clone", model_folder, encoder)
    odd = tmp_path / ODD
    odd.mkdir()
    named = {f"{name}{end}.jsonl" for name in ("fairness", "privacy") for end in ("", "_unsafe")}
    for name in (*named, "general.jsonl", "other.jsonl", "text.txt", "boolq.jsonl"):
        shutil.copy(clone.folder / name, odd)
    shutil.copy(clone.folder / "resources/figures.mplstyle", odd)
    text = json.dumps(clone.config)
    for path in odd.iterdir():
        old = "resources/figures.mplstyle" if path.suffix == ".mplstyle" else path.name
        text = text.replace(json.dumps(old), json.dumps(str(path)))
    clone.config = json.loads(text)
    clone.config["figures"]["style"] = str(odd / "figures.mplstyle")
    clone.config["general"]["where"] = {"prompt": ODD}
    clone.config["general"]["columns"] = {"prompt": ["prompt", ODD]}
    clone.config["models"]["tiny"]["template_options"] = {"enable_thinking": ODD}
    # Were the schema to let such a folder through, the commands would still hold.
    clone.edit("workflow/schemas/config.schema.yaml", "^[A-Za-z0-9._/][A-Za-z0-9._/+@=,-]*$", ".")
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
    assert len(given) == len(commands) > 60
    assert {words[2] for words in given} == VERBS.keys() - {"plan", "restore"}
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
    put = {"score_shard": 6, "ask_variant": 8, "measure_hsic": 3}
    run = put | {"measure_perplexity": 3, "measure_ability": 3}
    assert {rule: stale.get(rule) for rule in run} == (
        run if key == "device" else run | dict.fromkeys(run.keys() - put)
    )
    output = clone.snakemake("--dry-run", "--printshellcmds", "--resources", "gpu=2")
    assert output.count(flag) == sum((run if key == "device" else put).values())
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
