"""Files: whole or not there at all, each with its metadata inside, and clear errors where one is broken."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uncouple.errors import SpoiltFile, UncoupleError
from uncouple.records.fingerprint import fingerprint
from uncouple.records.formats import FORMATS, Format, Record
from uncouple.records.layout import misplaced, parts_in_workflow
from uncouple.records.parsing import METADATA_KEY, Pathlike, parse_header, parse_json, parse_record, parse_table
from uncouple.records.sealed import BLANK_SEAL, PARQUET_ENDS, REMEDY, SEAL_KEY, read_sealed, seal

if TYPE_CHECKING:
    from threading import Event

    import pyarrow as pa
    from torch import Tensor

# In each folder that a step makes and may make again.
FOLDER_MARKER = ".made-by-uncouple"
OUR_FAULT = "Nothing was written: this is a fault of Uncouple, please report it."


@contextlib.contextmanager
def atomic_path(path: Pathlike) -> Iterator[Path]:
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
def atomic_folder(path: Pathlike, replace: bool = False) -> Iterator[Path]:
    """The same for a folder: gives a new, empty one beside `path` to fill.

    Args:
        path: must not exist, or have no file in it; empty folders in it, such as a workflow makes, are no loss.
        replace: a folder that this function filled before, with `replace`, is replaced too; it is known by a
            marker inside. No other folder ever is.

    Raises:
        UncoupleError: there is something else at `path`.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise UncoupleError(f"{path}: this is a file, and a folder is to be made. Name another.")
    filled = path.is_dir() and any(one.is_symlink() or not one.is_dir() for one in path.rglob("*"))
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


def check_apart(source: Pathlike, output: Pathlike) -> None:
    """That what is written lies neither at, nor in, nor around the folder that it is made from."""
    origin, made = Path(source).resolve(), Path(output).resolve()
    if origin == made or origin in made.parents or made in origin.parents:
        raise UncoupleError(
            f"{output}: this is, holds or lies in {source}, which it is made from. Name another folder."
        )


@contextlib.contextmanager
def _written_beside(path: Path) -> Iterator[Path]:
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


def _concerns(error: BaseException, partial: Path) -> bool:
    """Whether a permission error is about what is written, and not about what is read meanwhile."""
    name = getattr(error, "filename", None)
    return not name or Path(name).is_relative_to(partial.parent)


def _beside(path: Path, kind: str, process: int | str | None = None) -> Path:
    """Name of a file or folder that stands beside `path` while this process writes it."""
    return path.with_name(f".{path.name}.{kind}-{socket.gethostname()}-{process or os.getpid()}")


def _clear_leftovers(path: Path) -> None:
    """Remove what processes of this machine left that were killed too hard to tidy up."""
    for kind in ("partial", "old"):
        for left in path.parent.glob(glob.escape(_beside(path, kind, "-").name[:-1]) + "*"):
            number = left.name.rpartition("-")[2]
            # A container's processes get the same numbers again, so our own may be on a leftover.
            if number.isdigit() and (int(number) == os.getpid() or not _is_running(int(number))):
                remove(left)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _replace_folder(partial: Path, path: Path) -> None:
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


def _sync(path: Path) -> None:
    """Have what is in a file, or the names in a folder, written to the disk before anything else happens.

    A rename may reach the disk before the content does: after a power cut the new name would stand for an empty file.
    """
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError:
        if not path.is_dir():  # Some file systems know no such thing for a folder.
            raise
    finally:
        os.close(number)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Pathlike, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically."""
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: Pathlike, what: str = "file") -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        UncoupleError: missing, or none.
    """
    try:
        value = parse_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UncoupleError(f"{path}: no such {what}.") from None
    except ValueError as error:
        raise UncoupleError(f"{path}: this {what} is not valid JSON ({error}).") from None
    if not isinstance(value, dict):
        raise UncoupleError(f"{path}: this {what} is no JSON object.")
    return value


def write_record(path: Pathlike, form: Format, value: Record) -> None:
    """Write a JSON object, sealed, atomically; see `read_record`.

    Args:
        form: one of `formats`, which gives its `kind` and `version`.
        value: what else its format needs.

    Raises:
        UncoupleError: it is not what its format declares.
    """
    value = {"kind": form.kind, "version": form.version} | value
    _refuse(path, form, form.record_faults(value), OUR_FAULT)
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(value | {SEAL_KEY: BLANK_SEAL.decode()}, indent=2, sort_keys=True) + "\n")
        seal(partial)


def read_record(path: Pathlike, form: Format) -> Record:
    """Read a JSON object that `write_record` wrote.

    Args:
        path, form: see `read_table`.

    Raises:
        UncoupleError: missing, changed since it was written, of another kind or format version, or not complete.
    """
    value = parse_record(path, form.kind, read_sealed(path, form.kind))
    _check_record(path, value, form)
    return value


def write_table(table: "pa.Table | list[Record]", path: Pathlike, form: Format, record: Record, **options: Any) -> None:
    """Write a table as Parquet (zstd) with its record (a JSON object) inside, sealed, atomically.

    Args:
        table: a pyarrow table as its format declares it, or its rows as dicts; what is missing in them is null.
        form: one of `formats`, which gives its `kind` and `version`.
        record: what made it. `code`, where it is left out, is the fingerprint of the module that makes this kind.
        options: more for pyarrow's `write_table`.

    Raises:
        UncoupleError: it is not what its format declares.
    """
    import pyarrow as pa

    made = {} if "code" in record or not form.made_by else {"code": fingerprint(form.made_by)}
    record = {"kind": form.kind, "version": form.version} | made | record
    _refuse(path, form, form.record_faults(record), OUR_FAULT)
    if isinstance(table, list):
        table = pa.Table.from_pylist(table, schema=form.schema(record))
    _refuse(path, form, form.shape_faults(table, record), OUR_FAULT)
    _refuse(path, form, form.row_faults(table, record), OUR_FAULT)
    _write_sealed_table(table, path, record, **options)


def _write_sealed_table(table: "pa.Table", path: Pathlike, record: Record, **options: Any) -> None:
    import pyarrow.parquet as pq

    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(record).encode(), SEAL_KEY: BLANK_SEAL})
    with atomic_path(path) as partial:
        # The pages' own checksums are for other readers: ours knows the whole file by its seal.
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True, **options)
        seal(partial)


def read_table(path: Pathlike, form: Format) -> "tuple[pa.Table, Record]":
    """Read a Parquet table that this package wrote.

    Its rows are not looked at again: they were when it was written, and the seal says that they are the same.

    Args:
        path: the file.
        form: one of `formats`: what kind of file it must be.

    Returns:
        (pyarrow.Table, dict): the rows and the record.

    Raises:
        UncoupleError: missing, truncated, changed since it was written, of another kind or format version, in the
            place of another (`layout`), or not as its format declares it.
    """
    table, record = parse_table(path, read_sealed(path, form.kind, ends=PARQUET_ENDS))
    _check_record(path, record, form, table)
    _refuse(path, form, form.shape_faults(table, record), REMEDY)
    return table, record


def write_tensors(tensors: "dict[str, Tensor]", path: Pathlike, form: Format, record: Record) -> None:
    """Write tensors (by name, on the CPU) as safetensors with their record inside, as `write_record` does."""
    from safetensors.torch import save_file

    record = {"kind": form.kind, "version": form.version} | record
    _refuse(path, form, form.record_faults(record), OUR_FAULT)
    metadata = {METADATA_KEY.decode(): json.dumps(record, sort_keys=True), SEAL_KEY: BLANK_SEAL.decode()}
    with atomic_path(path) as partial:
        save_file(tensors, partial, metadata)
        seal(partial)


def read_tensors(path: Pathlike, form: Format) -> "tuple[dict[str, Tensor], Record]":
    """Read what `write_tensors` wrote, (tensors by name, record); errors are those of `read_record`."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = read_sealed(path, form.kind)
    record = parse_header(path, form.kind, data)
    _check_record(path, record, form)
    try:
        return load(data), record
    except (SafetensorError, ValueError, KeyError) as error:
        raise UncoupleError(f"{path}: its tensors cannot be read ({error}). {REMEDY}") from None


def read_any(path: Pathlike) -> "tuple[pa.Table | None, Record]":
    """Read a table or a record of whatever kind.

    Returns:
        (pyarrow.Table or None, dict): see `read_table` and `read_record`.

    Raises:
        UncoupleError: as `read_table` does, or of a kind that is not known.
    """
    data = read_sealed(path)
    if data.startswith(PARQUET_ENDS):
        table, record = parse_table(path, data)
    elif Path(path).suffix == ".safetensors":
        table, record = None, parse_header(path, "file", data)
    else:
        table, record = None, parse_record(path, "file", data)
    form = FORMATS.get(str(record.get("kind")))
    if form is None or (form.columns is None) != (table is None):
        raise SpoiltFile(f"{path}: of the kind `{record.get('kind')}`, which this code does not know. {REMEDY}")
    _check_record(path, record, form, table)
    if table is not None:
        _refuse(path, form, form.shape_faults(table, record), REMEDY)
    return table, record


def _check_record(path: Pathlike, record: Record, form: Format, table: "pa.Table | None" = None) -> None:
    """That a file is of a kind, in the version that this code reads, says what that needs, and is in its own place."""
    if (kind := record.get("kind")) != form.kind:
        raise SpoiltFile(f"{path}: a file of kind `{form.kind}` was expected, and this is one of kind `{kind}`.")
    if (version := record.get("version")) != form.version:
        raise SpoiltFile(
            f"{path}: {kind} of format version {version}, but this code reads version {form.version}. {REMEDY}"
        )
    _refuse(path, form, form.record_faults(record), REMEDY)
    for fault in misplaced(path, parts_in_workflow(path), form, record, table):
        raise SpoiltFile(fault)


def _refuse(path: Pathlike, form: Format, faults: Iterable[str], remedy: str) -> None:
    """An error that tells all of some faults, if there are any."""
    if told := "; ".join(faults):
        kind = UncoupleError if remedy == OUR_FAULT else SpoiltFile
        raise kind(f"{path}: this {form.kind} is not as it should be: {told}. {remedy}")


def digest(*parts: Any) -> str:
    """Sixteen hex digits of the SHA-256 of some texts, each kept apart from the next."""
    sha = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        sha.update(len(data).to_bytes(8, "little"))
        sha.update(data)
    return sha.hexdigest()[:16]


def file_sha256(path: Pathlike, ended: "Event | None" = None) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits.

    Args:
        ended: once it is set, that of the bytes so far is given.
    """
    sha, room = hashlib.sha256(), memoryview(bytearray(2**18))
    with open(path, "rb", buffering=0) as file:
        while not (ended and ended.is_set()) and (length := file.readinto(room)):
            sha.update(room[:length])
    return sha.hexdigest()
