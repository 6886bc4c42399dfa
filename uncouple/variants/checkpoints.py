"""Suppressed checkpoints: the base's files with some entries set to zero, never passing through a loaded model."""

import contextlib
import math
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from uncouple.errors import UncoupleError
from uncouple.models.fingerprints import RECORD_NAME, hashed_meanwhile, read_model_record
from uncouple.models.folders import describe_model, model_files, model_record
from uncouple.models.weights import WeightFiles, decode, encode, entry_format
from uncouple.progress import Progress, say
from uncouple.records.files import FOLDER_MARKER, atomic_folder, check_apart, read_record, write_record
from uncouple.records.formats import CHECKPOINT, MODEL, Record
from uncouple.variants.masks import Entries, check_places, read_mask

# What Uncouple adds to a checkpoint lies in one folder of it, the base's files that it stands in for included,
# so that `restore` needs nothing but the checkpoint.
OWN_FOLDER = "uncouple"
CARD_NAME = "README.md"
# Files that a checkpoint has of its own, where the base may have others of the same name.
STANDING_ASIDE = (CARD_NAME, RECORD_NAME, FOLDER_MARKER)
FICLONE = 0x40049409  # Linux: share a file's blocks until one side changes (btrfs, xfs)


def apply_mask(model_folder: str | Path, mask_path: str | Path, output: str | Path) -> None:
    """Write the base model with the mask's weights set to zero.

    A copy of the base's files and a few bytes changed in place: memory does not grow with the model.

    Raises:
        UncoupleError: the mask is of another model, or the files hold other values than the mask says.
    """
    model_folder, output = Path(model_folder), Path(output)
    base = model_record(model_folder)
    entries, metadata = read_mask(mask_path, base)
    check_apart(model_folder, output)
    files = model_files(model_folder) + [p for p in [model_folder / FOLDER_MARKER] if p.exists()]
    with atomic_folder(output, replace=True) as folder:
        own = folder / OWN_FOLDER
        (own / "base").mkdir(parents=True)
        with hashed_meanwhile(model_folder):
            count = write_suppressed(model_folder, files, entries, folder, own / "base")
        write_record(own / "base.json", MODEL, base)
        copy_file(mask_path, own / "mask.parquet")
        about = {k: v for k, v in metadata.items() if k not in ("kind", "version", "shapes")}
        write_record(own / "config.json", CHECKPOINT, about)
        (folder / CARD_NAME).write_text(_model_card(metadata, count), encoding="utf-8")
        # Made last, and what a workflow takes for the checkpoint: the model that this folder now is.
        write_record(
            folder / RECORD_NAME, MODEL, describe_model(folder, base["name"], {"variant": metadata["variant"]})
        )
    say(f"apply: {output}: {count:,} weights of {len(entries)} matrices set to zero")


def write_suppressed(model_folder: Path, files: Iterable[Path], entries: Entries, folder: Path, aside: Path) -> int:
    """Copy a model with some of its weights set to zero.

    Args:
        model_folder, files: the base, and those of its files that are copied.
        entries: see `masks.read_mask`.
        folder: an empty folder to fill.
        aside: a folder for the base's files that a checkpoint has of its own.

    Returns:
        how many weights were set to zero.
    """
    files = list(files)
    with Progress(sum(path.stat().st_size for path in files) / 1e6, "MB", "apply") as progress:
        for path in files:
            copy_file(path, (aside if path.name in STANDING_ASIDE else folder) / path.relative_to(model_folder))
            progress.add(path.stat().st_size / 1e6)
    return _write_entries(folder, entries, suppress=True)


def restore_base(checkpoint: str | Path, output: str | Path) -> None:
    """Write the base model that a suppressed checkpoint was made from, bit for bit.

    Raises:
        UncoupleError: not a checkpoint of Uncouple, or the result is not the base that it names.
    """
    checkpoint, output = Path(checkpoint), Path(output)
    own = checkpoint / OWN_FOLDER
    if not (own / "mask.parquet").exists():
        raise UncoupleError(f"{checkpoint}: not a suppressed checkpoint (there is no {OWN_FOLDER}/mask.parquet in it).")
    base = read_record(own / "base.json", MODEL)
    entries, metadata = read_mask(own / "mask.parquet")
    check_apart(checkpoint, output)
    with atomic_folder(output) as folder:
        for path in model_files(checkpoint):
            if path.name not in STANDING_ASIDE:
                copy_file(path, folder / path.relative_to(checkpoint))
        for path in filter(Path.is_file, (own / "base").iterdir()):
            copy_file(path, folder / path.name)
        _write_entries(folder, entries, suppress=False)
        found = describe_model(folder, base["name"], base["source"])["files"]
        differing = [name for name in base["files"] | found if found.get(name) != base["files"].get(name)]
        if (folder / RECORD_NAME).exists() and read_model_record(folder) != base:
            differing.append(RECORD_NAME)
        if differing:
            raise UncoupleError(
                f"{checkpoint}: with the mask undone this is not {base['name']} (its {', '.join(differing)} would be "
                "another): the checkpoint was changed since it was made. Apply the mask again."
            )
    say(f"restore: {output} is {metadata['model']['name']} again")


def copy_file(source: str | Path, target: Path) -> None:
    """Copy a file, sharing its blocks where the file system can; links are followed."""
    target.parent.mkdir(exist_ok=True)
    with open(source, "rb") as old, open(target, "wb") as new, contextlib.suppress(OSError, ImportError):
        import fcntl

        fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
        return
    shutil.copyfile(source, target)


def _write_entries(folder: Path, entries: Entries, suppress: bool) -> int:
    """Set entries to zero, or back to their values, in the files of `folder`; how many."""
    files = WeightFiles(folder)
    count = 0
    for module, (index, values) in entries.items():
        name = f"{module}.weight"
        path, dtype, shape, start = files.find(name)
        # Beyond its end lies another tensor.
        check_places(path, name, index, math.prod(shape))
        size, _ = entry_format(path, name, dtype)
        raw = encode(values, dtype)
        if (decode(raw, dtype) != values).any():
            raise UncoupleError(f"{path}: the mask's values of {name} do not fit in its {dtype}. Make the mask again.")
        expected, new = (raw.tobytes(), bytes(raw.nbytes)) if suppress else (bytes(raw.nbytes), raw.tobytes())
        with open(path, "r+b") as file:
            for i, place in enumerate(start + size * index):
                if os.pread(file.fileno(), size, int(place)) != expected[i * size : (i + 1) * size]:
                    raise UncoupleError(
                        f"{path}: {name}[{int(index[i])}] is not what the mask says. The files were changed since."
                    )
                os.pwrite(file.fileno(), new[i * size : (i + 1) * size], int(place))
        count += len(index)
    return count


def _model_card(metadata: Record, count: int) -> str:
    total = sum(rows * columns for rows, columns in metadata["shapes"].values())
    sets = "\n".join(
        f"| {name} | {' | '.join(str(record['samples'].get(key)) for key in ('n', 'label', 'seed'))} |"
        for name, record in metadata["scores"].items()
    )
    return f"""---
tags: [uncouple]
base_model: {metadata["model"]["name"]}
---
# {metadata["model"]["name"]}, {metadata["variant"]}

{metadata["model"]["name"]} with {count:,} of the {total:,} weights of its `{metadata["module"]}` matrices set to zero
by [SPIN](https://arxiv.org/abs/2410.16672) as Uncouple does it. Nothing was trained.

- selection: `{metadata["select"]}` of {", ".join(metadata["dimensions"])}, ratio {metadata["ratio"]:g} of each matrix,
  general ratio {metadata["general_ratio"]:g}
- base: fingerprint `{metadata["model"]["fingerprint"]}`

| sample set | samples | label | seed |
| --- | --- | --- | --- |
{sets}

Everything that made it is in `{OWN_FOLDER}/config.json`, each weight with its original value in
`{OWN_FOLDER}/mask.parquet`; `python -m uncouple restore` gives the base back bit for bit. The base's licence and
limits hold.
"""
