"""The store: expensive results, each under the name of all that it is made of, so that nothing is made twice."""

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uncouple.errors import SpoiltFile, UncoupleError
from uncouple.progress import say
from uncouple.records.files import read_any, read_table, write_table
from uncouple.records.fingerprint import fingerprint
from uncouple.records.formats import FORMATS, Format, Record

if TYPE_CHECKING:
    import pyarrow as pa

# All that a table is made of, as JSON; None where not all of it is known.
Key = dict[str, Any] | None

# What a number may differ by, where all else that goes into it is the same.
LIBRARIES = ("torch", "transformers", "tokenizers")
# What an entry's record says besides: the name that it was put under.
ENTRY = "entry"
DAY = 24 * 60 * 60


class Store:
    """A folder of tables that may be shared by experiments and users, and of which any file may be lost at any time.

    Args:
        folder: where it lies; None is a store that keeps nothing.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder else None
        self.is_told = False

    def get(self, form: Format, key: Key) -> "tuple[pa.Table, Record] | None":
        """What was kept under a key.

        Args:
            form: one of `formats`.
            key: see `Key`.

        Returns:
            (pyarrow.Table, metadata), or None. A file that is not as it was written is removed; one that cannot be read
            is left.
        """
        path = self._place(form, key)
        # A file that only others may read is theirs to mend.
        if not path or not os.access(path, os.R_OK):
            return None
        try:
            table, record = read_table(path, form)
            _check_entry(path, record)
        except SpoiltFile:
            say(f"store: {path} is broken; it is removed and made again")
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        except UncoupleError as error:
            say(f"store: {error} It is made again.")
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return table, {name: value for name, value in record.items() if name != ENTRY}

    def take(self, form: Format, key: Key, output: str | Path, names: Record, **options: Any) -> bool:
        """Write what was kept under this experiment's own names.

        Args:
            form, key: see `get`.
            output: the file to write.
            names: dict of what its metadata, and its columns of the same name, are to say instead.
            options: see `files.write_table`.

        Returns:
            whether there was such a table.
        """
        if not (found := self.get(form, key)):
            return False
        table, metadata = found
        for name in names.keys() & set(table.column_names):
            place, field = table.column_names.index(name), table.schema.field(name)
            table = table.set_column(place, field, [[names[name]] * len(table)])
        write_table(table, output, form, metadata | names, **options)
        say(f"store: {output} is there already, as {_file_name(form, key)}")
        return True

    def put(self, form: Format, key: Key, path: str | Path, **options: Any) -> None:
        """Keep a table that is in a file; where that cannot be, it is said once, and nothing else is lost.

        Args:
            form, key: see `get`.
            path: of the file.
            options: see `files.write_table`.
        """
        if self._place(form, key):
            self.put_table(form, key, *read_table(path, form), **options)

    def put_table(self, form: Format, key: Key, table: "pa.Table", metadata: Record, **options: Any) -> None:
        """The same for a table that is in no file."""
        if place := self._place(form, key):
            with self._telling():
                write_table(table, place, form, metadata | {ENTRY: place.stem}, **options)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (UncoupleError, OSError) as error:
            if not self.is_told:
                say(f"store: {self.folder} is not written to: {error}")
            self.is_told = True

    def _place(self, form: Format, key: Key) -> Path | None:
        """Where a table is kept; None where there is no store, or not all is known that the table is made of."""
        if not self.folder or key is None:
            return None
        return self.folder / form.kind.replace(" ", "-") / _file_name(form, key)


def _file_name(form: Format, key: Key) -> str:
    return hashlib.sha256(json.dumps([form.kind, key], sort_keys=True).encode()).hexdigest()[:32] + ".parquet"


def _check_entry(path: Path, record: Record) -> None:
    """That an entry is under the name that it was put under."""
    if ENTRY not in record:
        raise UncoupleError(f"{path}: it does not say which entry it is, as none of earlier versions does.")
    if record.get(ENTRY) != path.stem:
        raise SpoiltFile(f"{path}: by its record this is the entry {record.get(ENTRY)}: it was put in another's place.")


def is_entry(path: Path) -> bool:
    """Whether a file is one of a store, by its name and where it lies."""
    folders = {form.kind.replace(" ", "-") for form in FORMATS.values()}
    return path.parent.name in folders and re.fullmatch(r"[0-9a-f]{32}\.parquet", path.name) is not None


def code_of(place: str, *kinds: type) -> str:
    """Fingerprint of the code that makes a result.

    Args:
        place: `MODULE:FUNCTION` in the package, such as `evaluation.answers:answer_questions`.
        kinds: classes of what the function is given and does not name.
    """
    return fingerprint(place, *(f"{kind.__module__.partition('.')[2]}:{kind.__qualname__}" for kind in kinds))


def versions(*more: str) -> dict[str, str | None]:
    """dict of each library that numbers come from to its version, None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in (*LIBRARIES, *more):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


@dataclass(frozen=True)
class Entry:
    """A file of a store: where it lies, of what kind it is, its bytes, and when it was last used (seconds)."""

    path: Path
    kind: str
    size: int
    used: float


def list_entries(folder: str | Path) -> list[Entry]:
    """Entries of a store, those first that were not used for longest.

    Raises:
        UncoupleError: no such folder.
    """
    folder = Path(folder)
    found: list[Entry] = []
    if not folder.is_dir():
        raise UncoupleError(f"{folder}: no such folder. Name the folder of a store (--store).")
    for path in folder.glob("*/*.parquet"):
        # Another process may remove it meanwhile.
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            found.append(Entry(path, path.parent.name.replace("-", " "), stat.st_size, stat.st_mtime))
    return sorted(found, key=lambda entry: (entry.used, entry.path))


def describe_store(folder: str | Path) -> list[str]:
    """Lines that say what a store holds: of each entry its kind, model, variant and dimension, and then the sum."""
    entries, lines = list_entries(folder), []
    for entry in entries:
        try:
            _, record = read_any(entry.path)
            _check_entry(entry.path, record)
            samples = record.get("samples")
            dimension = record.get("dimension") or (samples.get("dimension") if isinstance(samples, dict) else None)
            model = record.get("model")
            parts = (model.get("name") if isinstance(model, dict) else model, record.get("variant"), dimension)
            what = ", ".join(str(part) for part in (*parts, record.get("judge"), record.get("measured")) if part)
        except UncoupleError:
            what = "broken"
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        lines.append(f"{used}  {entry.size / 1e6:8.2f} MB  {entry.kind:<14}  {entry.path.stem}  {what}")
    return [*lines, f"{len(entries)} entries, {sum(entry.size for entry in entries) / 1e6:,.1f} MB"]


def verify_store(folder: str | Path) -> int:
    """Read every entry whole.

    Returns:
        how many there are.

    Raises:
        UncoupleError: some are broken; names them.
    """
    entries, broken = list_entries(folder), []
    for entry in entries:
        try:
            _check_entry(entry.path, read_any(entry.path)[1])
        except UncoupleError:
            if entry.path.exists():
                broken.append(str(entry.path))
    if broken:
        raise UncoupleError(
            f"{folder}: {len(broken)} of {len(entries)} entries are broken: {', '.join(broken)}. They would be made "
            "again where they are wanted; delete them to have the room."
        )
    return len(entries)


def prune_store(folder: str | Path, days: float | None = None, size: float | None = None) -> tuple[int, int]:
    """Remove entries, those first that were not used for longest.

    Args:
        folder: of the store.
        days: those that were not used for so many days; None removes none for its age.
        size: as many as leave no more than so many bytes; None removes none for the room.

    Returns:
        (entries removed, their bytes).
    """
    entries = list_entries(folder)
    left, removed, freed = sum(entry.size for entry in entries), 0, 0
    for entry in entries:
        is_old = days is not None and entry.used < time.time() - days * DAY
        if is_old or (size is not None and left > size):
            entry.path.unlink(missing_ok=True)
            left, removed, freed = left - entry.size, removed + 1, freed + entry.size
    for partial in Path(folder).glob("*/.*.partial-*"):
        # What a process that was killed left; one that still writes is done within a day.
        with contextlib.suppress(FileNotFoundError):
            if partial.stat().st_mtime < time.time() - DAY:
                partial.unlink()
    return removed, freed
