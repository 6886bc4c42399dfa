import signal
import sys

from uncouple.commands import main


def run() -> None:
    """The command, as `python -m uncouple` and, after `pip install`, as `uncouple`."""
    # Ended by Snakemake, SLURM or a person, a step still clears away what it had half written.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())


if __name__ == "__main__":
    run()
