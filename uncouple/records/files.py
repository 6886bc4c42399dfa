"""Files: whole or not there at all, each with its metadata inside, and clear errors where one is broken."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import socket
from pathlib import Path

from uncouple.errors import UncoupleError
from uncouple.records.fingerprint import module_fingerprint

# One key of a Parquet file's schema metadata holds all of ours, as one JSON object.
METADATA_KEY = b"uncouple"
# The module that makes each kind of table; the measures of a variant, which are metrics too, name their own.
MADE_BY = {"samples": "data.samples", "questions": "data.samples"}
MADE_BY |= {"score shard": "scoring.score", "mask": "selection.select"}
MADE_BY |= {"answers": "evaluation.answers", "verdicts": "evaluation.judges.judge", "metrics": "evaluation.metrics"}
# The tokens of answers, of which the store alone has a table.
MADE_BY |= {"replies": "evaluation.answers"}
MADE_BY |= {"placement": "evaluation.metrics", "coupling": "selection.select"}
# In each folder that a step makes and may make again.
FOLDER_MARKER = ".made-by-uncouple"
# What a file of ours says of itself: the SHA-256 of its bytes, these digits being zeros.
SEAL = b"uncouple-sha256:"
BLANK_SEAL = SEAL + b"0" * 64
SEAL_KEY = "seal"
REMEDY = "Delete it and run the step that makes it again."


@contextlib.contextmanager
def atomic_path(path):
    """Give a path beside `path` to write a file at; it takes the name `path` only when whole and on the disk.

    A fault inside the block removes what was written and leaves what stood at `path` as it was, so
    a killed or failed run, or a power cut, never leaves half a result behind.

    Raises:
        UncoupleError: `path` is a folder, the disk is full or the folder cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise UncoupleError(f"{path}: this is a folder, and a file is to be written. Name a file.")
    with _written_beside(path) as partial:
        yield partial
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)


@contextlib.contextmanager
def atomic_folder(path, replace=False):
    """The same for a folder: gives a new, empty one beside `path` to fill.

    Args:
        path: must not exist, or be empty.
        replace: a folder that this function filled before, with `replace`, is replaced too; it is known by a
            marker inside. No other folder ever is.

    Raises:
        UncoupleError: there is something else at `path`.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise UncoupleError(f"{path}: this is a file, and a folder is to be made. Name another.")
    filled = path.is_dir() and any(path.iterdir())
    if filled and not (replace and (path / FOLDER_MARKER).exists()):
        raise UncoupleError(f"{path}: this folder has files in it that are not to be lost. Name another, or empty it.")
    with _written_beside(path) as partial:
        partial.mkdir()
        if replace:
            (partial / FOLDER_MARKER).touch()
        yield partial
        for made in [*partial.rglob("*"), partial]:
            # What a link leads to is not ours.
            if not made.is_symlink():
                _sync(made)
        if path.exists():
            _replace_folder(partial, path)
        else:
            os.rename(partial, path)
            _sync(path.parent)


def check_apart(source, output):
    """That what is written lies neither at, nor in, nor around the folder that it is made from."""
    source, made = Path(source).resolve(), Path(output).resolve()
    if source == made or source in made.parents or made in source.parents:
        raise UncoupleError(
            f"{output}: this is, holds or lies in {source}, which it is made from. Name another folder."
        )


@contextlib.contextmanager
def _written_beside(path):
    """A path to write at, removed where the block fails; a full or forbidden disk becomes a clear error."""
    partial = _beside(path, "partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(path)
        yield partial
    except BaseException as error:
        # A disk that became read-only cannot be tidied, and must not hide the first error.
        with contextlib.suppress(OSError):
            remove(partial)
        number = error.errno if isinstance(error, OSError) else None
        # safetensors has an exception of its own, with the system's words in it.
        if number in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error):
            raise UncoupleError(
                f"{path}: the disk is full. Nothing was left half-written: free some space and run again."
            ) from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS) and _concerns(error, partial):
            raise UncoupleError(f"{path}: no permission to write here ({error}).") from error
        raise


def _concerns(error, partial):
    """Whether a permission error is about what is written, and not about what is read meanwhile."""
    return not error.filename or Path(error.filename).is_relative_to(partial.parent)


def _beside(path, kind, process=None):
    """Name of a file or folder that stands beside `path` while this process writes it."""
    return path.with_name(f".{path.name}.{kind}-{socket.gethostname()}-{process or os.getpid()}")


def _clear_leftovers(path):
    """Remove what processes of this machine left that were killed too hard to tidy up."""
    for kind in ("partial", "old"):
        for left in path.parent.glob(glob.escape(_beside(path, kind, "-").name[:-1]) + "*"):
            number = left.name.rpartition("-")[2]
            # A container's processes get the same numbers again, so our own may be on a leftover.
            if number.isdigit() and (int(number) == os.getpid() or not _is_running(int(number))):
                remove(left)


def _is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _replace_folder(partial, path):
    """A folder cannot be renamed onto a filled one, so the old one steps aside for a moment."""
    old = _beside(path, "old")
    os.rename(path, old)
    try:
        os.rename(partial, path)
    except BaseException:
        os.rename(old, path)
        raise
    _sync(path.parent)
    remove(old)


def _sync(path):
    """Have what is in a file, or the names in a folder, written to the disk before anything else happens.

    A rename may reach the disk before the content does: after a power cut the new name would stand for an empty file.
    """
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError:
        # Some file systems know no such thing for a folder.
        if not path.is_dir():
            raise
    finally:
        os.close(number)


def remove(path):
    """Remove a file or a folder with all that is in it; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_json(path, value):
    """Write `value` as indented JSON with sorted keys, atomically."""
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path, what="file"):
    """Read one JSON object.

    Raises:
        UncoupleError: missing, or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UncoupleError(f"{path}: no such {what}.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UncoupleError(f"{path}: this {what} is not valid JSON ({error}).") from None


def write_record(path, value):
    """Write a JSON object of a kind and format version, sealed, atomically; see `read_record`."""
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(value | {SEAL_KEY: BLANK_SEAL.decode()}, indent=2, sort_keys=True) + "\n")
        _seal(partial)


def read_record(path, kind, version=1):
    """Read a JSON object that `write_record` wrote.

    Args:
        path, kind, version: see `read_table`.

    Raises:
        UncoupleError: missing, changed since it was written, of another kind or of another format version.
    """
    data = _read_sealed(path, kind)
    try:
        value = json.loads(data)
    except ValueError as error:
        raise UncoupleError(f"{path}: this {kind} is not valid JSON ({error}). {REMEDY}") from None
    _check_kind(path, value, kind, version)
    del value[SEAL_KEY]
    return value


def write_table(table, path, metadata, **options):
    """Write a pyarrow table as Parquet (zstd) with `metadata` (a JSON object) inside, sealed, atomically.

    Args:
        metadata: its `kind`, one of `MADE_BY`, its `version`, and what made it. `code`, where it is left out, is the
            fingerprint of the module that makes this kind.
        options: more for pyarrow's `write_table`.
    """
    import pyarrow.parquet as pq

    metadata = {"code": module_fingerprint(MADE_BY[metadata["kind"]])} | metadata
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(metadata).encode(), SEAL_KEY: BLANK_SEAL})
    with atomic_path(path) as partial:
        # The pages' own checksums are for other readers: ours knows the whole file by its seal.
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True, **options)
        _seal(partial)


def read_table(path, kind, version=1):
    """Read a Parquet table that this package wrote.

    Args:
        path: the file.
        kind: what its metadata must say that it is (`samples`, `score shard`, `mask`, ...).
        version: the format version that this code reads.

    Returns:
        (pyarrow.Table, dict): the rows and the metadata.

    Raises:
        UncoupleError: missing, truncated, changed since it was written, of another kind or of another format version.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = _read_sealed(path, kind, ends=b"PAR1")
    table = pq.ParquetFile(pa.BufferReader(data)).read()
    metadata = json.loads(table.schema.metadata[METADATA_KEY])
    _check_kind(path, metadata, kind, version)
    return table, metadata


def _seal(path):
    """Put the seal into a file that has a blank one."""
    data = path.read_bytes()
    place = data.rfind(BLANK_SEAL)
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(_sealed(data, place))


def _sealed(data, place):
    """The seal that stands at `place`."""
    view = memoryview(data)
    sha = hashlib.sha256(view[:place])
    sha.update(BLANK_SEAL)
    sha.update(view[place + len(BLANK_SEAL) :])
    return SEAL + sha.hexdigest().encode()


def _read_sealed(path, kind, ends=b""):
    """Bytes of a file that are as they were written: nothing else is ever given to a parser, which a flipped bit can
    make give other data, allocate without end or crash.

    Args:
        kind: what the file should be, for errors.
        ends: what stands at both of its ends.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise UncoupleError(f"{path}: no such file; a file of kind `{kind}` was expected.") from None
    except OSError as error:
        raise UncoupleError(
            f"{path}: this {kind} cannot be read ({error}). Check its permissions and the disk."
        ) from None
    if not data.startswith(ends) or not data.endswith(ends):
        raise UncoupleError(f"{path}: not a readable Parquet file, perhaps truncated. {REMEDY}")
    place = data.rfind(SEAL)
    if place < 0:
        raise UncoupleError(
            f"{path}: a file of kind `{kind}` was expected, and this is none that Uncouple wrote, or one of an older "
            "version (there is no seal in it). In that case delete it and run the step that makes it again."
        )
    if data[place : place + len(BLANK_SEAL)] != _sealed(data, place):
        raise UncoupleError(
            f"{path}: its bytes are not those that were written: it was edited, or spoilt on the disk or on its way "
            f"here. {REMEDY}"
        )
    return data


def _check_kind(path, metadata, kind, version):
    if metadata.get("kind") != kind:
        raise UncoupleError(
            f"{path}: a file of kind `{kind}` was expected, and this is one of kind `{metadata.get('kind')}`."
        )
    if metadata.get("version") != version:
        raise UncoupleError(
            f"{path}: {kind} of format version {metadata.get('version')}, but this code reads version {version}. "
            + REMEDY
        )


def digest(*parts):
    """Sixteen hex digits of the SHA-256 of some texts, each kept apart from the next."""
    sha = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        sha.update(len(data).to_bytes(8, "little"))
        sha.update(data)
    return sha.hexdigest()[:16]


def file_sha256(path):
    """SHA-256 of a file's bytes, as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
