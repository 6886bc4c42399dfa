"""The commits of what an experiment takes from the Hugging Face Hub, written into its file, which stays as it was
otherwise: its comments, its order and its layout."""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml

from uncouple.errors import UncoupleError
from uncouple.experiment.options import Experiment
from uncouple.experiment.yaml_text import parse_yaml
from uncouple.hub import NO_COMMIT, from_hub
from uncouple.options import Section, alternatives, whole
from uncouple.progress import say
from uncouple.records.files import atomic_path

COMMIT = re.compile("[0-9a-f]{40}")
# What stands for a commit that is not known yet. Any other word is a branch or a tag.
UNKNOWN = ("", "~", "null", "...", NO_COMMIT)


@dataclass(frozen=True)
class Entry:
    """Something of the Hub in a file.

    Attributes:
        where: its dotted key.
        repository: `model` or `dataset`.
        hub: the node of its id.
        column: of the keys beside that, where each stands in its own line; else None.
        revision: the node of its commit, None where there is none.
    """

    where: str
    repository: str
    hub: yaml.Node
    column: int | None
    revision: yaml.Node | None

    @property
    def is_pinned(self) -> bool:
        return self.wanted is not None and bool(COMMIT.fullmatch(self.wanted))

    @property
    def wanted(self) -> str | None:
        """The commit, or the branch or tag whose commit is wanted; None for that of the main one."""
        return None if self.revision is None or self.revision.value in UNKNOWN else self.revision.value

    def __str__(self) -> str:
        return f"{self.where}: {self.hub.value}" + (f" at {self.wanted}" if self.wanted else "")


def pin(path: str | Path) -> None:
    """Write the commits that are missing into an experiment's file: all of them, or none where one cannot be had.

    A branch or a tag becomes the commit that it is at.

    Raises:
        UncoupleError: the file cannot be read, or a commit cannot be had.
    """
    text, entries = _read(path)
    missing = [entry for entry in entries if not entry.is_pinned]
    commits = {entry.where: find_commit(entry.repository, entry.hub.value, entry.wanted) for entry in missing}
    # From the end on, so that what is still to be edited stays where it is.
    edited = text
    for entry in sorted(missing, key=lambda entry: entry.hub.start_mark.index, reverse=True):
        edited = _edit(edited, entry, commits[entry.where])
    if not _is_pinned(edited, text):
        told = ", ".join(f"{where} {commit}" for where, commit in commits.items())
        raise UncoupleError(f"{path}: it is written in a way that cannot be edited here. Write in by hand: {told}.")
    if missing:
        with atomic_path(path) as partial:
            partial.write_text(edited, encoding="utf-8")
    for entry in missing:
        say(f"pin: {entry} is {commits[entry.where]}")
    say(f"pin: {path}: {len(missing)} of {len(entries)} commits were missing")


def check_pins(path: str | Path) -> None:
    """That no commit is missing in an experiment's file.

    Raises:
        UncoupleError: names those that are.
    """
    _, entries = _read(path)
    if missing := [str(entry) for entry in entries if not entry.is_pinned]:
        raise UncoupleError(
            f"{path}: without a commit: {'; '.join(missing)}. `python -m uncouple pin {path}` writes them in where "
            "there is a network."
        )
    say(f"pin: {path}: no commit of {len(entries)} is missing")


@functools.cache
def find_commit(repository: str, hub: str, revision: str | None) -> str:
    """The commit that something on the Hub is at now.

    Args:
        repository: `model` or `dataset`.
        hub: its id.
        revision: a branch or a tag; None for the main one.

    Raises:
        UncoupleError: the Hub cannot be reached, or has no such thing.
    """
    from huggingface_hub import HfApi

    what = f"the commit of the {repository} {hub}" + (f" at {revision}" if revision else "")
    with from_hub(what, "write in the commit that its page shows (`revision`)"):
        sha = HfApi().repo_info(hub, repo_type=repository, revision=revision).sha
    if not COMMIT.fullmatch(sha or ""):
        raise UncoupleError(f"{what}: the Hub answers {sha!r}, which is no commit. Try again later.")
    return str(sha)


def _read(path: str | Path) -> tuple[str, list[Entry]]:
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UncoupleError(f"{path}: cannot be read ({error}). Name an experiment's file.") from None
    parse_yaml(text, path)
    return text, _entries_of(text, path)


def _entries_of(text: str, path: str | Path) -> list[Entry]:
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UncoupleError(f"{path}: not YAML: {error}") from None
    # An alias is where its anchor is.
    return list({entry.hub.start_mark.index: entry for entry in _entries(node, Experiment, "")}.values())


def _entries(node: Any, annotation: Any, where: str) -> Iterator[Entry]:
    """All that is on the Hub, in a node whose value is of a type."""
    kinds = [base for base, _ in alternatives(annotation)]
    if isinstance(node, yaml.SequenceNode):
        for item in {get_args(kind)[-1] for kind in kinds if get_origin(kind) is list}:
            for number, inner in enumerate(node.value):
                yield from _entries(inner, item, f"{where}.{number}")
    if not isinstance(node, yaml.MappingNode):
        return
    sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)]
    if repository := next((s.repository for s in sections if hasattr(s, "repository")), None):
        keys = {key.value: (key, value) for key, value in node.value}
        if "hub" in keys and keys["hub"][1].value not in UNKNOWN:
            key, hub = keys["hub"]
            column = None if node.flow_style else key.start_mark.column
            yield Entry(where, repository, hub, column, keys.get("revision", (None, None))[1])
    for key, value in node.value:
        inner = [whole(section.model_fields[key.value]) for section in sections if key.value in section.model_fields]
        inner += [get_args(kind)[-1] for kind in kinds if get_origin(kind) is dict]
        if inner:
            yield from _entries(value, inner[0], f"{where}.{key.value}" if where else key.value)


def _edit(text: str, entry: Entry, commit: str) -> str:
    """The text with the commit of one entry."""
    if entry.revision is not None:
        start, end = entry.revision.start_mark.index, entry.revision.end_mark.index
        return f"{text[:start]}{'' if text[start - 1].isspace() else ' '}{commit}{text[end:]}"
    end = entry.hub.end_mark.index
    if entry.column is None:
        return f"{text[:end]}, revision: {commit}{text[end:]}"
    # After the line of the id, a comment in it included.
    line = re.compile(r"[^\r\n]*").match(text, end)
    end = line.end() if line else end
    newline = "\r\n" if "\r\n" in text else "\n"
    return f"{text[:end]}{newline}{' ' * entry.column}revision: {commit}{text[end:]}"


def _is_pinned(edited: str, text: str) -> bool:
    """Whether a text has all commits, and says what another says otherwise."""
    try:
        entries, said = _entries_of(edited, ""), _without_revisions(edited)
    except (UncoupleError, yaml.YAMLError):
        return False
    return all(entry.is_pinned for entry in entries) and said == _without_revisions(text)


def _without_revisions(text: str) -> Any:
    """What a file says, but for commits."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(inner) for key, inner in value.items() if key != "revision"}
        return [strip(inner) for inner in value] if isinstance(value, list) else value

    return strip(yaml.safe_load(text))
