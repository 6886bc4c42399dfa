"""Records of model folders: which files a folder should have, and whether they still are the same. Light to import."""

import contextlib
import errno
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from uncouple.errors import SpoiltFile, UncoupleError
from uncouple.records.files import digest, file_sha256, read_record, remove, write_record
from uncouple.records.formats import HASHES, MODEL

# What belongs to a model besides its weights; no pickle, and no second copy of the weights in another format. The last
# one says how the vectors of an encoder's tokens become one.
OTHER_PATTERNS = ("*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "README.md", "1_Pooling/config.json")
# Weights of PyTorch's own, which are converted where a model says so; see `models.pickled`.
PICKLED = "pytorch_model*.bin"
WEIGHTS = ".safetensors"
# What fetch and apply leave in a model folder: where the model came from and what its files are.
RECORD_NAME = "uncouple.json"
# The size, times and inode that each file had when it was last hashed. Never a part of the model.
HASHES_NAME = ".hashed-by-uncouple"
# A file that had just changed when it was hashed may change again within the same tick of the clock that its times are
# taken from: milliseconds on a disk, two seconds on some file systems.
SETTLED_NS = 3 * 10**9

# What of a model folder says nothing about how the model behaves: papers, and which tensor is in which file.
NOT_COUNTED = ("README*", "LICENSE*", "*.safetensors.index.json")


def fingerprints(files: Mapping[str, Sequence[Any]]) -> dict[str, str]:
    """The three fingerprints of a model.

    Args:
        files: dict of name to (size, SHA-256), see `models.model_files`.

    Returns:
        dict of `fingerprint` (weights and config.json), `generation` (generation_config.json, if any) and `tokenizer`
        (all others that count: vocabulary, templates, settings).
    """
    parts: dict[str, list[str]] = {"fingerprint": [], "tokenizer": [], "generation": []}
    for name, (_, sha256) in sorted(files.items()):
        if any(Path(name).match(pattern) for pattern in NOT_COUNTED):
            continue
        weights = name == "config.json" or name.endswith(".safetensors")
        part = "fingerprint" if weights else "generation" if name == "generation_config.json" else "tokenizer"
        parts[part].append(f"{name} {sha256}")
    return {part: digest(*lines) for part, lines in parts.items()}


def read_model_record(folder: str | Path) -> dict[str, Any]:
    """The record of a model folder as it stands there; whether the files match is not looked at."""
    path = Path(folder) / RECORD_NAME
    try:
        return read_record(path, MODEL)
    except UncoupleError as error:
        raise type(error)(f"{error} Of a model that is `fetch`, of a checkpoint `apply`.") from None


def missing_files(folder: str | Path) -> list[str]:
    """Names of the files that a folder's record lists and that are not there, or have another size.

    A record that is missing or spoilt is named itself: such a folder counts as not made. What a file system only fails
    to show, which it may do for a moment, is not missing.
    """
    path = Path(folder) / RECORD_NAME
    try:
        files = read_model_record(folder)["files"]
    except SpoiltFile:
        return [RECORD_NAME]
    except UncoupleError:
        return [] if _is_there(path) else [RECORD_NAME]
    lost = []
    for name, (size, _) in files.items():
        found = _stat(Path(folder) / name)
        if (found and found[0] != size) or not (found or _is_there(Path(folder) / name)):
            lost.append(name)
    return lost


def _is_there(path: Path) -> bool:
    """Whether a file is there, or cannot be said not to be."""
    try:
        return path.is_file()
    except OSError:
        return True


def check_files(folder: str | Path, files: Mapping[str, Sequence[Any]]) -> None:
    """That the files of a folder are those of its record.

    A file is hashed, unless its size, times and inode are those that it had when it was last hashed. Its date alone
    says nothing: `mv`, `cp -p` and `rsync -a` give an older one to new content. Of a link the file that it leads to
    counts.

    Args:
        folder: model folder.
        files: dict of name to (size, SHA-256).

    Raises:
        UncoupleError: a file is missing or another; names it.
    """
    folder = Path(folder)
    known, hashed, begun = _read_hashes(folder), {}, time.time_ns()
    for name, (size, sha256) in files.items():
        path, found = folder / name, _stat(folder / name)
        is_known = found and known.get(name, {}).get("stat") == found
        if found and found[0] == size:
            hashed[name] = {"stat": found, "sha256": known[name]["sha256"] if is_known else _sha256(path, folder)}
        if hashed.get(name, {}).get("sha256") != sha256:
            raise _not_recorded(path, folder)
        if not is_known and found[2] > begun - SETTLED_NS:
            del hashed[name]
    if hashed != known:
        # A folder that cannot be written only costs hashing again.
        with contextlib.suppress(UncoupleError, OSError):
            write_record(folder / HASHES_NAME, HASHES, {"files": hashed})


@contextlib.contextmanager
def hashed_meanwhile(folder: str | Path) -> Iterator[None]:
    """Hash the weights of a folder that has a record while the block reads them, whatever their dates: a bit that flips
    on the disk changes none.

    Raises:
        UncoupleError: they are not those of the record.
    """
    folder, record = Path(folder), {}
    if (folder / RECORD_NAME).exists():
        record = {n: sha256 for n, (_, sha256) in read_model_record(folder)["files"].items() if n.endswith(WEIGHTS)}
    ended = threading.Event()
    with ThreadPoolExecutor(max_workers=1) as pool:
        hashes = {name: pool.submit(_sha256, folder / name, folder, ended) for name in record}

        def compare() -> None:
            for name, found in hashes.items():
                if found.result() != record[name]:
                    # Nobody may trust what was known of them.
                    with contextlib.suppress(OSError):
                        remove(folder / HASHES_NAME)
                    raise _not_recorded(folder / name, folder)

        try:
            yield
        except Exception:
            # Spoilt weights may be why.
            compare()
            raise
        except BaseException:
            # A step that is asked to end does so now.
            ended.set()
            raise
        compare()


def _sha256(path: Path, folder: Path, ended: threading.Event | None = None) -> str:
    """SHA-256 of a file of a model folder; see `file_sha256`."""
    try:
        return file_sha256(path, ended)
    except OSError as error:
        # A disk that cannot read a block has lost it.
        if error.errno != errno.EIO:
            raise
        raise _not_recorded(path, folder) from error


def _not_recorded(path: Path, folder: Path) -> SpoiltFile:
    return SpoiltFile(
        f"{path}: not the file that {RECORD_NAME} records; it was changed or removed since. Fetch it again, or "
        f"apply the mask again where this is a checkpoint; in the workflow delete {folder / RECORD_NAME} first."
    )


def content_fingerprint(paths: Iterable[str | Path], folder: str | Path) -> str:
    """Fingerprint of the content of some files, whatever their dates.

    Args:
        paths: the files.
        folder: a folder that links to them, where there is one: what was hashed there is not hashed again.
    """
    known = {tuple(one["stat"]): one["sha256"] for one in _read_hashes(Path(folder)).values()}
    return digest(*(f"{Path(path).name} {known.get(tuple(_stat(Path(path)))) or file_sha256(path)}" for path in paths))


def _stat(path: Path) -> list[int]:
    """[size, time of change of its content, of any kind (both in ns), inode] of a file; empty where it is none."""
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino] if path.is_file() else []


def _read_hashes(folder: Path) -> dict[str, Any]:
    try:
        return read_record(folder / HASHES_NAME, HASHES)["files"]
    except UncoupleError:
        return {}
