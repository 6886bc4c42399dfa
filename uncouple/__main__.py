import signal
import sys
import traceback
from types import TracebackType

from uncouple.commands import main
from uncouple.progress import say


def run() -> None:
    """The command, as `python -m uncouple` and, after `pip install`, as `uncouple`."""
    # Ended by Snakemake, SLURM or a person, a step still clears away what it had half written.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.excepthook = _say_fault
    sys.exit(main())


def _say_fault(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A fault of the program's own, with where it is. What it says may have a stranger's text in it."""
    say("".join(traceback.format_exception(kind, error, trace)).rstrip())


if __name__ == "__main__":
    run()
