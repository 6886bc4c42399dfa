"""Accuracies and seconds of Uncouple's general ability and of the harness's own command line, on the same rows.

    python benchmarks/ability.py --model MODEL --data FOLDER --limit 100

FOLDER is the real data that the tests use. Both are given the same definitions and rows; the imports and the loading of
the model are in the seconds of both.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import report, stopwatch  # noqa: E402
from uncouple.evaluation.ability import measure_ability, write_tasks  # noqa: E402
from uncouple.records.files import read_table  # noqa: E402
from uncouple.records.formats import METRICS  # noqa: E402

FILES = {
    "hellaswag": "hellaswag_validation.jsonl",
    "boolq": "boolq_validation.jsonl",
    "openbookqa": "openbookqa_test.jsonl",
    "mmlu": "mmlu_test.jsonl",
    "race": "race_high_test.jsonl",
    "ag_news": "ag_news_test.csv",
    "imdb": "imdb_sample.csv",
}


def real_tasks(data, names=FILES):
    """dict of task to file in the folder of real data."""
    return {name: Path(data) / "capability" / FILES[name] for name in names}


def by_command_line(model, tasks, limit, batch_size, device, scratch):
    """dict of `TASK.METRIC` to accuracy, as the harness's command line writes it."""
    folder = Path(scratch) / "tasks"
    folder.mkdir()
    write_tasks(tasks, folder)
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--tasks", ",".join(tasks)]
    command += ["--model_args", f"pretrained={model},dtype=float32", "--device", device, "--limit", str(limit)]
    command += ["--batch_size", str(batch_size), "--include_path", str(folder), "--output_path", f"{scratch}/found"]
    subprocess.run(command, check=True, env=os.environ | {"HF_HOME": f"{scratch}/hf", "HF_HUB_OFFLINE": "1"})
    (path,) = (Path(scratch) / "found").rglob("results_*.json")
    results = json.loads(path.read_text())["results"]
    return {
        f"{name}.{metric}": results[name][f"{metric},none"]
        for name in tasks
        for metric in ("acc", "acc_norm")
        if f"{metric},none" in results[name]
    }


def by_uncouple(model, tasks, limit, batch_size, device, scratch):
    """The same through `measure_ability`."""
    output = Path(scratch) / "ability.parquet"
    settings = {"dtype": "float32", "device": device}
    measure_ability(model, output, tasks=tasks, limit=limit, batch_size=batch_size, **settings)
    return {f"{r['task']}.{r['metric']}": r["value"] for r in read_table(output, METRICS)[0].to_pylist()}


def compare(model, tasks, limit, batch_size, device):
    """Rows of method, seconds, ratio_to_baseline (the command line's seconds by its own) and identical."""
    with tempfile.TemporaryDirectory() as scratch:
        arguments = (model, tasks, limit, batch_size, device, scratch)
        truth, baseline = stopwatch("cpu", by_command_line, *arguments)
        found, seconds = stopwatch("cpu", by_uncouple, *arguments)
    for name in sorted(truth | found):
        print(f"{name}: command line {truth.get(name)}, Uncouple {found.get(name)}", flush=True)
    return [
        {"method": "lm_eval command line", "seconds": baseline, "ratio_to_baseline": 1.0, "identical": True},
        {
            "method": "uncouple",
            "seconds": seconds,
            "ratio_to_baseline": baseline / seconds,
            "identical": truth == found,
        },
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="the folder of real data")
    parser.add_argument("--tasks", nargs="+", choices=FILES, default=list(FILES))
    parser.add_argument("--limit", type=int, default=100, help="rows a task")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", help="file to write the rows to")
    arguments = parser.parse_args()
    tasks = real_tasks(arguments.data, arguments.tasks)
    rows = compare(arguments.model, tasks, arguments.limit, arguments.batch_size, arguments.device)
    report(rows, arguments.json)


if __name__ == "__main__":
    main()
