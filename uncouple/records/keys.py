"""What the keys of records hold, each declared once: a stranger's record may say anything of itself.

Light to import, as `formats` is.
"""

import math
from collections.abc import Callable
from typing import Any

from uncouple.errors import UncoupleError

# How a value is known to be one of a kind.
Test = Callable[[Any], bool]
# A file system takes 255 bytes, and what is written beside a file has more in its name.
LONGEST_NAME = 200


def is_name(value: Any) -> bool:
    """Whether a value is a name: of a model, variant, dimension... It becomes a part of a path, and is shown."""
    return (
        isinstance(value, str)
        and 0 < len(value.encode("utf-8", "replace")) <= LONGEST_NAME
        # No control character, none that is not seen or turns the text around it, and no half of one.
        and value.isprintable()
        and not set(value) & set("/\\")
        and value not in (".", "..")
        and value[0] != "-"
    )


def check_name(what: str, value: str) -> str:
    """A name as it is.

    Args:
        what: what it names, for the error.

    Raises:
        UncoupleError: it would lead out of the folder that it names a file in, or hides what it is.
    """
    if not is_name(value):
        raise UncoupleError(
            f"{what} {value!r}: a name has no slash and no character that is not seen, does not begin with a dash, and "
            f"is at most {LONGEST_NAME} bytes long. Give another."
        )
    return value


def is_inside(value: Any) -> bool:
    """Whether a value is the path of a file in a folder, written from there on."""
    return isinstance(value, str) and all(map(is_name, value.split("/")))


def _of(*kinds: type) -> Test:
    """A value of a type; true and false are no numbers."""
    return lambda value: isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def _list(test: Test, length: int | None = None) -> Test:
    return lambda value: isinstance(value, list | tuple) and length in (None, len(value)) and all(map(test, value))


def _dict(test: Test, key: Test) -> Test:
    return lambda value: isinstance(value, dict) and all(map(key, value)) and all(map(test, value.values()))


def _or_none(test: Test) -> Test:
    return lambda value: value is None or test(value)


def _count(value: Any) -> bool:
    return _of(int)(value) and 0 <= value < 2**63


def _number(value: Any) -> bool:
    return (isinstance(value, float) and math.isfinite(value)) or (_of(int)(value) and abs(value) < 2**63)


def _share(value: Any) -> bool:
    return _number(value) and 0 <= value <= 1


_text, _object, _shape = _of(str), _of(dict), _list(_count, 2)
_sizes = _dict(
    lambda value: isinstance(value, list) and len(value) == 2 and _count(value[0]) and _text(value[1]), is_inside
)
_hashed = _dict(lambda value: _object(value) and _list(_count)(value.get("stat")) and _text(value.get("sha256")), _text)
_drawn: Test = lambda value: (  # noqa: E731
    _object(value)
    and _object(about := value.get("samples"))
    and _or_none(is_name)(about.get("label"))
    and all(_or_none(_count)(about.get(key)) for key in ("n", "seed"))
)
_RATE = {"value", "low", "high", "n", "of"}
_rate = _dict(_or_none(_number), lambda key: key in _RATE)
_rates = _dict(_or_none(_rate), _text)
_matrix: Test = lambda value: _object(value) and _shape(value.get("shape"))  # noqa: E731

# Of a key what it holds, in words, and how that is known. One that is different things in different kinds of files
# stands after the kind.
KEYS: dict[str, tuple[str, Test]] = {
    **dict.fromkeys(
        ("model", "variant", "base", "set", "dimension", "judge", "name", "select", "module"), ("a name", is_name)
    ),
    **dict.fromkeys(("model.name", "model.base", "samples.dimension"), ("a name", is_name)),
    "dimensions": ("names", _list(is_name)),
    **dict.fromkeys(("fingerprint", "tokenizer", "generation", "questions", "code"), ("a text", _text)),
    **dict.fromkeys(("model.fingerprint", "model.tokenizer", "encoder.fingerprint"), ("a text", _text)),
    "samples.fingerprint": ("a text", _text),
    **dict.fromkeys(("fingerprints.weights", "fingerprints.tokenizer", "fingerprints.generation"), ("a text", _text)),
    **dict.fromkeys(("source", "identity"), ("an object", _object)),
    "kinds": ("a rate for each kind of answer", _rates),
    "judge_kinds": ("a rate for each kind of answer, or null", _or_none(_rates)),
    **dict.fromkeys(("training", "held_out"), ("an object", _object)),
    **dict.fromkeys(("mask", "adapter"), ("an object or null", _or_none(_object))),
    **dict.fromkeys(("seed", "available", "max_new_tokens", "positions"), ("a whole number", _count)),
    "n": ("a whole number or null", _or_none(_count)),
    **dict.fromkeys(("ratio", "general_ratio", "keep"), ("a share", _share)),
    **dict.fromkeys(("threshold", "intercept"), ("a number", _number)),
    "coefficients": ("numbers", _list(_number)),
    "centres": ("two lists of numbers", _list(_list(_number), 2)),
    "calls": ("two texts", _list(_text, 2)),
    "scores": ("which samples they are of, for each set", lambda value: _dict(_drawn, is_name)(value) and value != {}),
    "shapes": ("two whole numbers for each matrix", _dict(_shape, _text)),
    "matrices": ("an object with a shape for each matrix", _dict(_matrix, _text)),
    # A folder's, which by hand may be any.
    "judge: judge": ("a text", _text),
    "model: layers": ("a whole number", _count),
    "score shard: layers": ("two whole numbers", _shape),
    **dict.fromkeys(("mask: layers", "checkpoint: layers"), ("two whole numbers or null", _or_none(_shape))),
    "model: files": ("a size and a SHA-256 of each file in the folder", _sizes),
    "hashes: files": ("when each file was hashed", _hashed),
}


def key_fault(kind: str, key: str, value: Any) -> str | None:
    """What is wrong with a value of a record, in words; None where nothing is.

    Args:
        kind: of the file.
        key: as its format has it, dots reaching into objects.
    """
    told, test = KEYS.get(f"{kind}: {key}") or KEYS.get(key) or ("", lambda _: True)
    return None if test(value) else f"{key} in its record is not {told}"
