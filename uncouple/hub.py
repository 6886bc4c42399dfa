"""The Hugging Face Hub: its commits; and what cannot be had from it, told in one line with what to do instead."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from uncouple.errors import UncoupleError


@dataclass(frozen=True)
class Pin:
    """Marks a commit of what is on the Hub, which `uncouple pin` finds out."""


Commit = Annotated[str, Field(pattern="^[0-9a-f]{40}$"), Pin()]
# Stands for a commit that is not known yet where there must be one: an experiment can be planned with it and not run.
NO_COMMIT = "0" * 40

# What the Hub's libraries raise, known by name: httpx, requests and datasets have no class in common, and a machine may
# lack each of them.
FAULTS = {"OSError", "ValueError", "HTTPError", "DatasetsError"}
UNREACHED = {"ConnectionError", "TransportError", "TimeoutError", "LocalEntryNotFoundError"}


@contextlib.contextmanager
def from_hub(what: str, instead: str) -> Iterator[None]:
    """A fault of what is fetched inside the block becomes an error in one line.

    Args:
        what: the model or the data set, with what it is.
        instead: how to do without the Hub, a sentence without its capital.

    Raises:
        UncoupleError: the Hub cannot be reached, or has no such thing.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UncoupleError) or not FAULTS & _names(error):
            raise
        if unreached := [cause for cause in _chain(error) if UNREACHED & _names(cause)]:
            # The innermost cause says what failed; those around it advise on the libraries' own settings.
            raise UncoupleError(
                f"{what}: it is not here, and the Hub cannot be reached: there is no network, or HF_HUB_OFFLINE is set "
                f"({_first_line(unreached[-1])}). Fetch it where there is a network, or {instead}."
            ) from error
        raise UncoupleError(f"{what}: cannot be had from the Hub: {_first_line(error)}. Or {instead}.") from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
