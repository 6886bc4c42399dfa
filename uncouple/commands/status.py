"""Say how far an experiment is, by model and stage: how many jobs are done, stale and why, missing, running or failed,
with the log of each that failed and what is the last in it. Snakemake plans the experiment for that, in the working
directory, and says what is stale; nothing is run.

An input that is made again makes what hangs on it stale as long as its new content is not known. What is lost and that
nothing unfinished needs is not made again, and counts as done.

examples:
  python -m uncouple status --experiment experiments/paper.yaml
  python -m uncouple status -- --software-deployment-method conda
"""

from argparse import ArgumentParser, Namespace

from uncouple.progress import tell

SUMMARY = "say how far an experiment is, and what failed"


def add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("--experiment", metavar="FILE", help="laid over config.yaml (default: that alone)")
    parser.add_argument(
        "flags",
        nargs="*",
        metavar="FLAG",
        help="behind --, what of Snakemake's flags decides what is stale and it is run with: how software is deployed",
    )
    parser.add_argument("--json", action="store_true", help="print every job, as JSON")


def run(a: Namespace) -> None:
    import json
    from dataclasses import asdict

    from uncouple.experiment.config import read_experiment
    from uncouple.experiment.status import find_status, status_table

    experiment = read_experiment(a.experiment)
    jobs, is_running = find_status(experiment, a.experiment, a.flags)
    if a.json:
        told = [asdict(job) | {"stage": job.stage, "model": job.model} for job in jobs]
        tell(json.dumps({"running": is_running, "jobs": told}, indent=1))
        return
    tell("\n".join(status_table(jobs, experiment.models)))
    if is_running:
        tell("\nA run holds the lock. If none goes on, one was killed: free it with `snakemake --unlock`.")
