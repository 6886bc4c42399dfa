"""Seals: a file of ours carries the SHA-256 of its own bytes, so that one that was changed is never read."""

import errno
import hashlib
import os
from pathlib import Path

from uncouple.errors import SpoiltFile, UncoupleError

# What a file of ours says of itself: the SHA-256 of its bytes, these digits being zeros.
SEAL = b"uncouple-sha256:"
BLANK_SEAL = SEAL + b"0" * 64
SEAL_KEY = "seal"
# What stands at both ends of a table.
PARQUET_ENDS = b"PAR1"
REMEDY = "Delete it and run the step that makes it again."


def seal(path: Path) -> None:
    """Put the seal into a file that has a blank one."""
    data = path.read_bytes()
    place = data.rfind(BLANK_SEAL)
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(_sealed(data, place))


def _sealed(data: bytes, place: int) -> bytes:
    """The seal that stands at `place`."""
    view = memoryview(data)
    sha = hashlib.sha256(view[:place])
    sha.update(BLANK_SEAL)
    sha.update(view[place + len(BLANK_SEAL) :])
    return SEAL + sha.hexdigest().encode()


def read_sealed(path: str | os.PathLike[str], kind: str | None = None, ends: bytes = b"") -> bytes:
    """Bytes of a file that are as they were written: nothing else is ever given to a parser, which a flipped bit can
    make give other data, allocate without end or crash.

    Args:
        kind: what the file should be, for errors; None for any kind.
        ends: what stands at both of its ends.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        told = f"; a file of kind `{kind}` was expected" if kind else ""
        raise UncoupleError(f"{path}: no such file{told}.") from None
    except OSError as error:
        # A disk that cannot read a block has lost it.
        raise (SpoiltFile if error.errno == errno.EIO else UncoupleError)(
            f"{path}: this {kind or 'file'} cannot be read ({error}). Check its permissions and the disk."
        ) from None
    is_part = data.startswith(PARQUET_ENDS) != data.endswith(PARQUET_ENDS)
    if is_part or not data.startswith(ends) or not data.endswith(ends):
        raise SpoiltFile(f"{path}: not a readable Parquet file, perhaps truncated. {REMEDY}")
    place = data.rfind(SEAL)
    if place < 0:
        told = f"a file of kind `{kind}` was expected, and this is none" if kind else "this is no file"
        raise SpoiltFile(
            f"{path}: {told} that Uncouple wrote, or one of an older version, or a part of one (there is no seal in "
            "it). In that case delete it and run the step that makes it again."
        )
    if data[place : place + len(BLANK_SEAL)] != _sealed(data, place):
        raise SpoiltFile(
            f"{path}: its bytes are not those that were written: it was edited, or spoilt on the disk or on its way "
            f"here. {REMEDY}"
        )
    return data
