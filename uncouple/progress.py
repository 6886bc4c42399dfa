"""What a person sees while a long step runs: a live bar in a terminal, a line now and then in a log."""

import os
import sys
import time
from types import TracebackType

from uncouple.errors import shown


class Progress:
    """Counts units done out of a total, with their rate and the time left.

    Args:
        total: how many units there are.
        unit: what is counted, such as `tokens`.
        label: what is being done, such as `score`.
        every: seconds between two lines of a log.
    """

    def __init__(self, total: float, unit: str, label: str, every: float = 10.0) -> None:
        self.total, self.unit, self.label, self.every = total, unit, label, every
        self.done, self.start = 0.0, time.monotonic()
        self.said = self.start
        self.said_at = 0.0
        self.bar = None
        # A terminal that says it has no width, as some containers' do, would show no bar at all.
        if sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns:
            from tqdm import tqdm

            self.bar = tqdm(total=total, unit=f" {unit}", desc=label, unit_scale=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()
        elif kind is None and self.said_at != self.done:
            self._say()

    def add(self, count: float) -> None:
        """Say that `count` more units are done."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif time.monotonic() - self.said >= self.every:
            self._say()

    def _say(self) -> None:
        self.said, self.said_at = time.monotonic(), self.done
        seconds = max(self.said - self.start, 1e-9)
        rate = self.done / seconds
        left = max(0.0, self.total - self.done) / rate if rate else float("inf")
        share = 100 * self.done / self.total if self.total else 100
        say(
            f"{self.label}: {self.done:,.0f} of {self.total:,.0f} {self.unit} ({share:.0f}%), "
            f"{rate:,.3g} {self.unit}/s, {left:.0f} s left, {seconds:.0f} s so far"
        )


def say(text: str) -> None:
    """One line for the person who watches, on standard error, at once."""
    print(shown(text), file=sys.stderr, flush=True)


def tell(text: str) -> None:
    """What a person asked a verb for, on standard output."""
    print(shown(text))
