"""Where files lie in a results folder, by what they say of themselves."""

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from uncouple.records.formats import FORMATS, Format, Record
from uncouple.records.sealed import REMEDY

if TYPE_CHECKING:
    import pyarrow as pa

# Names the results folder of the workflow that a command is run by. What is read in it must lie where it belongs, and
# what is spoilt there is put aside, so that the next run makes it again.
WORKFLOW_RESULTS = "UNCOUPLE_RESULTS"
# Folders of a results folder, with what lies in them.
TOPS: dict[str, list[Format]] = {}
for _format in FORMATS.values():
    for _place in _format.places:
        TOPS.setdefault(_place.partition("/")[0], []).append(_format)


def parts_in_workflow(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The parts of a path from the workflow's results folder on; none outside of it, and without a workflow."""
    results, path = os.environ.get(WORKFLOW_RESULTS), Path(path).absolute()
    if not results or not path.is_relative_to(Path(results).absolute()):
        return ()
    return path.relative_to(Path(results).absolute()).parts


def is_place(parts: Sequence[str]) -> bool:
    """Whether a file of ours may lie at a path, by its parts from the results folder on; what else lies there may be a
    person's own."""
    forms = TOPS.get(parts[0], []) if parts else []
    return any(place.count("/") + 1 == len(parts) for form in forms for place in form.places)


def put_aside(path: Path) -> Path:
    """Give a spoilt file a hidden name, bytes and all, so that the next run makes it again; the new path."""
    return path.replace(path.with_name(f".{path.name}.spoilt"))


def misplaced(
    path: str | os.PathLike[str], parts: Sequence[str], form: Format, record: Record, table: "pa.Table | None" = None
) -> Iterator[str]:
    """One sentence if a file lies in the place of another.

    Args:
        path: the file.
        parts: those of its path from the results folder on.
        form, record, table: what it is.
    """
    if not form.places or not parts or parts[0] not in TOPS:
        return
    if form not in TOPS[parts[0]]:
        kinds = " or ".join(dict.fromkeys(known.kind for known in TOPS[parts[0]]))
        yield f"{path}: a file of kind `{form.kind}`, and what lies here is of kind {kinds}. {REMEDY}"
        return
    places = [place for known in form.places if (place := _filled(known, record, table))]
    if not any(_matches(parts, place.split("/")) for place in places):
        told = " or ".join(places)
        yield f"{path}: by its record it belongs at {told}: it was put in the place of another. {REMEDY}"


def _filled(place: str, record: Record, table: "pa.Table | None") -> str | None:
    """A place with what the record says in it, and the rows, where all say the same; None where neither says it."""
    texts = {key: escape(value) if isinstance(value, str) else value for key, value in record.items()}
    try:
        return place.format(**(_shared(table, place) | texts))
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _shared(table: "pa.Table | None", place: str) -> Record:
    """By column that a place names, the one value of all rows; any, where there are no rows."""
    found: dict[str, str] = {}
    if table is None:
        return found
    for name in table.column_names:
        if f"{{{name}}}" in place:
            values = table[name].unique().to_pylist()
            found |= {name: escape(str(values[0]))} if len(values) == 1 else {} if values else {name: "*"}
    return found


def _matches(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))
