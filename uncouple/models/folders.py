"""Model folders: what is in them, and which model they are."""

from pathlib import Path

from uncouple.errors import UncoupleError
from uncouple.models.fingerprints import (
    OTHER_PATTERNS,
    RECORD_NAME,
    check_files,
    fingerprints,
    read_model_record,
)
from uncouple.models.weights import WeightFiles
from uncouple.records.files import file_sha256, read_json
from uncouple.records.formats import MODEL

TOKENIZER_NAMES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")


def model_files(folder):
    """Files of a folder that belong to the model: the weights that count, config, tokenizer and papers."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UncoupleError(f"{folder}: no such model folder. Check the path.")
    others = {path for pattern in OTHER_PATTERNS for path in folder.glob(pattern) if path.is_file()}
    return sorted({*WeightFiles(folder).paths, *others})


def check_folder(folder):
    """config.json of a whole model folder, as a dict.

    Raises:
        UncoupleError: config, weights or tokenizer are missing or broken.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UncoupleError(f"{folder}: no such model folder.")
    config = read_json(folder / "config.json", "model config")
    for key in ("num_hidden_layers", "max_position_embeddings"):
        if not isinstance(config, dict) or key not in config:
            raise UncoupleError(f"{folder}/config.json: no `{key}` in it. Give a decoder-only text model.")
    WeightFiles(folder)
    if not any((folder / name).exists() for name in TOKENIZER_NAMES):
        raise UncoupleError(
            f"{folder}: there is no tokenizer in this folder (looked for {', '.join(TOKENIZER_NAMES)})."
        )
    return config


def model_record(folder):
    """Who a model folder is, and that its files are those that its record lists.

    A folder that `fetch` or `apply` made has a record, see `records.check_files`; any other is hashed each time.

    Returns:
        dict of `kind`, `version`, `name`, `source`, `layers`, `files` (dict of each file that `model_files` takes to
        (size, SHA-256)), and the fingerprints `fingerprint`, `tokenizer` and `generation`, see `records.fingerprints`.

    Raises:
        UncoupleError: not a whole model, or a file was changed, removed or added since the record was made.
    """
    folder = Path(folder)
    if not (folder / RECORD_NAME).exists():
        return describe_model(folder, folder.resolve().name, {"path": str(folder)})
    record = read_model_record(folder)
    check_files(folder, record["files"])
    check_folder(folder)
    if added := [name for name in _recorded_files(folder) if name not in record["files"]]:
        raise UncoupleError(
            f"{folder / added[0]}: {RECORD_NAME} does not list this file; it was added since. Remove it, or fetch "
            "the folder again."
        )
    return record


def describe_model(folder, name, source):
    """The record of a model folder, its files hashed afresh; see `model_record`."""
    config = check_folder(folder)
    files = {name: [path.stat().st_size, file_sha256(path)] for name, path in _recorded_files(folder).items()}
    record = {"kind": MODEL.kind, "version": MODEL.version, "name": name, "source": source}
    return record | {"layers": config["num_hidden_layers"], "files": files} | fingerprints(files)


def _recorded_files(folder):
    """dict of name in the folder to path: what stands in a record, which is all of the model but the record itself."""
    return {p.relative_to(folder).as_posix(): p for p in model_files(folder) if p.name != RECORD_NAME}
