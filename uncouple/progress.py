"""What a person sees while a long step runs: a live bar in a terminal, a line now and then in a log. And what a program
sees, where it asks for it: the same as lines of JSON in a file.
"""

import contextlib
import datetime
import json
import os
import sys
import time
from types import TracebackType
from typing import Any

from uncouple.errors import UncoupleError, shown

# Names the file of JSON where no flag does: the environment reaches every job of a run, and makes no step stale.
JSON_LOG = "UNCOUPLE_JSON_LOG"
# That file, and what each line in it says of the command.
_json_log: tuple[str, dict[str, Any]] | None = None


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
        if kind is None and self.said_at != self.done:
            self._tell()

    def add(self, count: float) -> None:
        """Say that `count` more units are done."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        if time.monotonic() - self.said >= self.every:
            self._tell()

    def _tell(self) -> None:
        self.said, self.said_at = time.monotonic(), self.done
        seconds = max(self.said - self.start, 1e-9)
        rate = self.done / seconds
        left = max(0.0, self.total - self.done) / rate if rate else float("inf")
        share = 100 * self.done / self.total if self.total else 100
        if self.bar is None:
            say(
                f"{self.label}: {self.done:,.0f} of {self.total:,.0f} {self.unit} ({share:.0f}%), "
                f"{rate:,.3g} {self.unit}/s, {left:.0f} s left, {seconds:.0f} s so far"
            )
        counted = {"label": self.label, "done": self.done, "total": self.total, "unit": self.unit}
        _log(**counted, rate=rate, left=left if rate else None)


def log_to(path: str | None, **about: Any) -> None:
    """Write each line of progress to a file too, as JSON; commands that run side by side may share it.

    Args:
        path: None for no file.
        about: what each line says of the command.

    Raises:
        UncoupleError: the file cannot be written.
    """
    global _json_log
    _json_log = None
    if path:
        try:
            _append(path, b"")
        except OSError as error:
            raise UncoupleError(
                f"{path}: this JSON log (--json-log, {JSON_LOG}) cannot be written ({error.strerror}). Name a file "
                "in a folder that is there."
            ) from None
        _json_log = path, {**about, "pid": os.getpid()}


def _log(**counted: Any) -> None:
    if _json_log:
        path, about = _json_log
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        # Hours of work are not lost for a disk that is full.
        with contextlib.suppress(OSError):
            _append(path, json.dumps({"time": now, **about, **counted}).encode() + b"\n")


def _append(path: str, line: bytes) -> None:
    """In one write, so that lines of several processes stay whole."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, line)
    finally:
        os.close(file)


def say(text: str) -> None:
    """One line for the person who watches, on standard error, at once."""
    print(shown(text), file=sys.stderr, flush=True)


def tell(text: str) -> None:
    """What a person asked a verb for, on standard output."""
    print(shown(text))
