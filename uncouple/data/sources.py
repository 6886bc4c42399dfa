"""Raw rows: where they come from, how they are read, and what is wrong with them."""

import csv
import functools
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from uncouple.errors import UncoupleError
from uncouple.hub import Commit, from_hub
from uncouple.options import File, Flag, Scalar, Section
from uncouple.progress import say
from uncouple.records.parsing import parse_json, parse_parquet

# Whether a response is as it should be.
Label = Literal["safe", "unsafe"]
Names = Annotated[list[str], Field(min_length=1)]
RawFile = Annotated[File, Field(pattern="\\.(csv|jsonl|parquet)$")]


class Rows(Section):
    """Where rows come from: a file, or a data set on the Hub."""

    places: ClassVar = {"path": (), "hub": ("revision", "split")}
    # What it is on the Hub.
    repository: ClassVar[str] = "dataset"

    path: File | None = Field(None, description="A file.")
    hub: str | None = Field(None, description="A data set id on the Hugging Face Hub.")
    revision: Commit | None = Field(
        None,
        description="The commit of the Hub model or data set, 40 hex digits, so that a run can be repeated.",
        examples=["0" * 40],
    )
    name: str | None = Field(
        None, description="Configuration of the Hub data set, where it has several.", examples=["default"]
    )
    split: str | None = Field(None, description="Split of the Hub data set.", examples=["330k_train"])

    def __str__(self) -> str:
        return f"{self.hub}@{self.revision}:{self.split}" if self.hub else str(self.path)


class Columns(Section):
    """Which columns are read as what; several for one are joined by a line break, empty ones left out."""

    prompt: Annotated[Names | None, Flag("prompt_column")] = Field(
        None, description="Column of the prompt; several are joined by a line break."
    )
    response: Annotated[Names | None, Flag("response_column")] = Field(
        None, description="Column of the response; several are joined by a line break."
    )
    question: Annotated[Names | None, Flag("question_column")] = Field(
        None, description="Column of the question; several are joined by a line break."
    )


class Source(Rows):
    """Where raw rows come from, and how they are read."""

    path: RawFile | None = Field(None, description="A .csv, .jsonl or .parquet file.", examples=["raw.csv"])
    hub: str | None = Field(
        None,
        description="A data set id on the Hugging Face Hub, in place of a path.",
        examples=["PKU-Alignment/BeaverTails"],
    )
    where: dict[str, Scalar] = Field(
        {},
        description="Keep the rows whose columns have these values; a dot reaches into a nested column.",
        examples=[{"category.privacy_violation": True, "is_safe": True}],
    )
    columns: Columns = Field(
        Columns(),
        description="Which column is read as prompt, response or question. Several are joined by a line break.",
        examples=[{"prompt": ["instruction", "input"], "response": ["output"]}],
    )
    duplicates: Literal["error", "drop", "keep"] = Field(
        "error",
        description="What to do when two rows are the same. error stops, drop takes each once, keep draws among all.",
    )

    def record(self) -> dict[str, Any]:
        """What a record says of the source."""
        return {key: value for key, value in self.model_dump(exclude_none=True).items() if value}

    def fields(self, *names: str) -> dict[str, list[str]]:
        """The columns that each field is joined from: the one of its name, where nothing else is said."""
        return {name: getattr(self.columns, name) or [name] for name in names}


def read_rows(source: Source) -> dict[int, dict[str, Any]]:
    """Raw rows of a source that pass its filter, as dicts of column to value, by row number in the source (from 1)."""
    rows = _read_hub(source) if source.hub else _read_file(Path(source.path or ""))
    if not rows:
        raise UncoupleError(f"{source}: there are no rows in it. Add some, or name another.")
    if source.where:
        for key in source.where:
            if not any(_reach(row, key)[0] for row in rows):
                raise UncoupleError(
                    f"{source}: `where` asks for the column {key!r}, but there are only {', '.join(rows[0])}."
                )
    kept = {
        number: row
        for number, row in enumerate(rows, start=1)
        if all(_same(_reach(row, k)[1], v) for k, v in source.where.items())
    }
    for number, row in kept.items():
        for column, value in row.items():
            if any("\0" in text for text in _texts_in(value)):
                raise UncoupleError(
                    f"{source}, row {number}, column {column!r}: a NUL byte in its text. Remove it, or the row."
                )
    if not kept:
        raise UncoupleError(f"{source}: no row of {len(rows)} passes the filter {source.where}. Set another `where`.")
    return kept


def check_rows(
    rows: Mapping[int, Mapping[str, Any]], columns: Mapping[str, Sequence[str]], source: Source
) -> list[dict[str, str]]:
    """Rows with the wanted fields as non-empty text, or an error that names the row.

    Args:
        rows: dict of row number to dict of column to value.
        columns: dict of field to the list of columns that it is joined from.
        source: named in errors; its `duplicates` says what to do about equal rows.
    """
    for name in [name for names in columns.values() for name in names]:
        if not any(name in row for row in rows.values()):
            raise UncoupleError(
                f"{source}: there is no column {name!r}, only {', '.join(map(str, next(iter(rows.values()))))}. "
                f"Say in `columns` which ones to read."
            )
    checked, repeated = [], []
    first_seen: dict[tuple[str, ...], int] = {}
    for number, row in rows.items():
        fields = {}
        for field_name, names in columns.items():
            values = [row.get(name) for name in names]
            if not all(value is None or isinstance(value, str) for value in values):
                raise UncoupleError(f"{source}, row {number}: {' + '.join(names)} is not text. Write it as text.")
            fields[field_name] = "\n".join(value for value in values if value and value.strip())
            if re.search("[\ud800-\udfff]", fields[field_name]):
                raise UncoupleError(
                    f"{source}, row {number}: the {field_name} has half a character in it. Mend its escapes."
                )
            if not fields[field_name]:
                raise UncoupleError(f"{source}, row {number}: the {field_name} is empty. Fill it or remove the row.")
        key = tuple(fields.values())
        if key in first_seen:
            repeated.append((first_seen[key], number))
            if source.duplicates == "drop":
                continue
        first_seen.setdefault(key, number)
        checked.append(fields)
    if repeated and source.duplicates == "error":
        first, again = repeated[0]
        raise UncoupleError(
            f"{source}: rows {first} and {again} are the same ({len(repeated)} such repeats in all). Remove them, "
            f"or set `duplicates: drop` (take each once) or `duplicates: keep` (draw among all, as was published)."
        )
    if repeated:
        say(f"{source}: {len(repeated)} repeated rows, {'dropped' if source.duplicates == 'drop' else 'kept'}")
    return checked


def _texts_in(value: Any) -> Iterator[str]:
    """Every text of a possibly nested value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(inner)


def _reach(row: Mapping[str, Any], key: str) -> tuple[bool, Any]:
    """(found, value) of a possibly nested column."""
    value: Any = row
    for part in [key] if key in row else key.split("."):
        if not isinstance(value, dict) or part not in value:
            return False, None
        value = value[part]
    return True, value


def _same(value: Any, wanted: Any) -> bool:
    # CSV holds text alone, so `true` and 3 must match "True" and "3" there.
    return bool(value == wanted) or (isinstance(value, str) and value.lower() == str(wanted).lower())


def _read_file(path: Path) -> list[dict[str, Any]]:
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise UncoupleError(f"{path}: raw data must be one of {', '.join(readers)}.")
    if not path.is_file():
        raise UncoupleError(f"{path}: no such file. Check the path.")
    if path.stat().st_size == 0:
        raise UncoupleError(f"{path}: the file is empty. Put rows in it, or name another.")
    return readers[path.suffix](path)


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UncoupleError(f"{path}, line {line}: not UTF-8 ({error.reason}). Convert the file to UTF-8.") from None


def _read_csv(path: Path) -> list[dict[str, Any]]:
    # The default limit of 128 KiB a field is below what real responses reach.
    csv.field_size_limit(2**30)
    reader = csv.DictReader(io.StringIO(_read_text(path), newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise UncoupleError(
            f"{path}, line {reader.reader.line_num}: not valid CSV ({error}). Close and double its quotes."
        ) from None
    _check_columns(path, reader.fieldnames or ())
    for number, row in enumerate(rows, start=1):
        if None in row:
            raise UncoupleError(f"{path}, row {number}: more fields than the header has columns. Quote the commas.")
    return rows


def _check_columns(where: str | Path, names: Sequence[str]) -> None:
    """That no column is named twice: its first value would be lost. A CSV may have columns without a name."""
    if twice := sorted({name for name in names if name and list(names).count(name) > 1}):
        raise UncoupleError(f"{where}: the column {twice[0]!r} is named twice. Give each a name of its own.")


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line, object_pairs_hook=functools.partial(_object, path, number))
        except ValueError as error:
            raise UncoupleError(
                f"{path}, line {number}: not valid JSON ({error}). Write one JSON object a line."
            ) from None
        if not isinstance(row, dict):
            raise UncoupleError(
                f'{path}, line {number}: this JSON is no object. Write one a line, such as {{"prompt": ...}}.'
            )
        rows.append(row)
    return rows


def _object(path: Path, number: int, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    _check_columns(f"{path}, line {number}", [name for name, _ in pairs])
    return dict(pairs)


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    table = parse_parquet(path, path, path.stat().st_size)
    _check_columns(path, table.column_names)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _read_hub(source: Source) -> list[dict[str, Any]]:
    if not source.revision:
        raise UncoupleError(f"{source}: say which commit of the Hub data set to read (revision).")
    try:
        import datasets
    except ImportError:
        raise UncoupleError(
            f"{source}: reading from the Hub needs the package `datasets` (pip install datasets)."
        ) from None
    with from_hub(
        f"the data set {source}", "give a file of its rows (--path, or `path` in place of `hub` in a config)"
    ):
        rows = datasets.load_dataset(source.hub, source.name, split=source.split, revision=source.revision)
    if isinstance(rows, dict):
        raise UncoupleError(f"{source}: say which split of the Hub data set to read: {', '.join(rows)}.")
    return rows.to_list()
