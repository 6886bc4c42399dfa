"""What others' data may take of memory and time: what wants more ends in an error."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from uncouple.errors import UncoupleError


@contextlib.contextmanager
def bounded(what: str, memory: int, seconds: int | None = None) -> Iterator[None]:
    """Run a block that reads what a stranger made.

    The bounds are those of the whole process, so nothing else should run meanwhile. Where the system has no such
    bounds, as outside of Linux, or of time outside of the main thread, there are none.

    Args:
        what: what is read, for the error.
        memory: bytes of address space that the block may take more than there are.
        seconds: how long it may take.

    Raises:
        UncoupleError: it takes more.
    """
    try:
        with _memory(memory), _time(seconds):
            yield
    except (MemoryError, _TooLong) as error:
        most = f"{seconds} s" if isinstance(error, _TooLong) else f"{memory / 1e6:,.0f} MB of memory"
        raise UncoupleError(
            f"{what}: it takes more than {most} to read, which no honest one does. Do not use it."
        ) from None


class _TooLong(BaseException):
    """Not an Exception: what runs in the block must not catch it."""


@contextlib.contextmanager
def _memory(most: int) -> Iterator[None]:
    try:
        import resource

        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = taken + most
    resource.setrlimit(resource.RLIMIT_AS, (wanted if soft == resource.RLIM_INFINITY else min(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def _time(seconds: int | None) -> Iterator[None]:
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, end)
    # Once more each second: raised where Python lets nothing be raised, it would be lost.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
