"""Model folders: what is in them, and which model they are."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from uncouple.errors import UncoupleError
from uncouple.hub import from_hub
from uncouple.models.fingerprints import (
    OTHER_PATTERNS,
    RECORD_NAME,
    check_files,
    fingerprints,
    read_model_record,
)
from uncouple.progress import Progress
from uncouple.records.files import file_sha256, read_json
from uncouple.records.formats import MODEL
from uncouple.records.keys import check_name

if TYPE_CHECKING:
    from uncouple.models.weights import WeightFiles

# What config.json must say, and the most that it may: names of layers are made of it before weights are looked at.
SIZES = {"num_hidden_layers": 10_000, "max_position_embeddings": 2**31}
TOKENIZER_NAMES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")


def model_files(folder: str | Path) -> list[Path]:
    """Files of a folder that belong to the model: the weights that count, config, tokenizer and papers."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UncoupleError(f"{folder}: no such model folder. Check the path.")
    return sorted({*weight_files(folder).paths, *other_files(folder)})


def other_files(folder: str | Path) -> set[Path]:
    """Those of them that are no weights."""
    return {path for pattern in OTHER_PATTERNS for path in Path(folder).glob(pattern) if path.is_file()}


def read_config(model: str | Path) -> dict[str, Any]:
    """config.json of a model folder, or of a model id on the Hub, of which nothing else is fetched.

    It is what the file says, without the defaults that an architecture adds; transformers' own config, which has them,
    is a loaded model's or a skeleton's.

    Raises:
        UncoupleError: not to be had, or not that of a decoder-only model.
    """
    path = Path(model) / "config.json"
    if not Path(model).is_dir():
        from huggingface_hub import hf_hub_download

        with from_hub(f"the model {model}", "give its folder (--model)"):
            path = Path(hf_hub_download(str(model), "config.json"))
    config = read_json(path, "model config")
    for key, most in SIZES.items():
        if key not in config:
            raise UncoupleError(f"{path}: no `{key}` in it. Give a decoder-only text model.")
        if type(config[key]) is not int or not 0 < config[key] <= most:
            raise UncoupleError(f"{path}: `{key}` is {config[key]!r}, and no whole number from 1 to {most:,}. Mend it.")
    if not isinstance(config.get("model_type", ""), str):
        raise UncoupleError(f"{path}: `model_type` is no text. Mend it.")
    for key, value in config.items():
        if key.endswith("_implementation") and "/" in str(value):
            raise UncoupleError(
                f"{path}: `{key}` names code on the Hub, and no model's own code is run. Remove the key."
            )
    return config


def check_folder(folder: str | Path) -> dict[str, Any]:
    """The config of a whole model folder, see `read_config`.

    Raises:
        UncoupleError: config, weights or tokenizer are missing or broken, or it leads to another model.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UncoupleError(f"{folder}: no such model folder.")
    config = read_config(folder)
    weight_files(folder)
    if (adapter := folder / "adapter_config.json").exists():
        raise UncoupleError(
            f"{adapter}: an adapter of peft, with which another model would be loaded than the one in this folder. "
            "Merge the adapter into its base, or remove it."
        )
    if not any((folder / name).exists() for name in TOKENIZER_NAMES):
        raise UncoupleError(
            f"{folder}: there is no tokenizer in this folder (looked for {', '.join(TOKENIZER_NAMES)})."
        )
    return config


def model_record(folder: str | Path) -> dict[str, Any]:
    """Who a model folder is, and that its files are those that its record lists.

    A folder that `fetch` or `apply` made has a record, see `fingerprints.check_files`; any other is hashed each time.

    Returns:
        dict of `kind`, `version`, `name`, `source`, `layers`, `files` (dict of each file that `model_files` takes to
        (size, SHA-256)), and the fingerprints `fingerprint`, `tokenizer` and `generation`, see
        `fingerprints.fingerprints`.

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


def describe_model(folder: str | Path, name: str, source: dict[str, Any]) -> dict[str, Any]:
    """The record of a model folder, its files hashed afresh; see `model_record`."""
    check_name("model folder", name)
    config = check_folder(folder)
    paths = {name: (path, path.stat().st_size) for name, path in _recorded_files(folder).items()}
    files = {}
    with Progress(sum(size for _, size in paths.values()) / 1e6, "MB", "hash") as progress:
        for file, (path, size) in paths.items():
            files[file] = [size, file_sha256(path)]
            progress.add(size / 1e6)
    record = {"kind": MODEL.kind, "version": MODEL.version, "name": name, "source": source}
    return record | {"layers": config["num_hidden_layers"], "files": files} | fingerprints(files)


def _recorded_files(folder: str | Path) -> dict[str, Path]:
    """dict of name in the folder to path: what stands in a record, which is all of the model but the record itself."""
    return {p.relative_to(folder).as_posix(): p for p in model_files(folder) if p.name != RECORD_NAME}


def weight_files(folder: Path) -> "WeightFiles":
    """See `weights.WeightFiles`. numpy comes with it, which a verb's help has no need of."""
    from uncouple.models.weights import WeightFiles

    return WeightFiles(folder)
