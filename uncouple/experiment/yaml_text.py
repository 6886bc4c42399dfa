"""YAML that somebody else may have written: what it says, or an error, and neither code nor memory without end."""

import math
from typing import TYPE_CHECKING, Any

from uncouple.errors import UncoupleError

if TYPE_CHECKING:
    from yaml import Node

# With this key a config is a program to Snakemake, which runs the Python in it before it reads any of our code.
PROGRAM = "__use_yte__"
# Far more than any experiment has: of a text, and of what its aliases make of it.
MOST_TEXT, MOST_VALUES, DEEPEST = 10**6, 100_000, 50
# Tags of what a config is made of.
TAG = "tag:yaml.org,2002:"
TAGS = ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge")


def parse_yaml(text: str, where: object) -> Any:
    """What a YAML text says.

    Args:
        where: its file, for errors.

    Raises:
        UncoupleError: not YAML, a key twice, a tag or an expression of Python, or more than `check_size` allows.
    """
    import yaml

    if len(text) > MOST_TEXT:
        raise UncoupleError(f"{where}: {len(text):,} characters are no experiment. Name another file.")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node:
            _check_nodes(node, where)
        value = loader.construct_document(node) if node else None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise UncoupleError(f"{where}: not YAML: {error}. Name an experiment's file.") from None
    except RecursionError:
        raise UncoupleError(f"{where}: nested too deeply. Name an experiment's file.") from None
    check_size(value, where)
    if isinstance(value, dict) and PROGRAM in value:
        raise UncoupleError(f"{where}: by the key {PROGRAM} Snakemake would run what is in this file. Do not use it.")
    return value


def _check_nodes(top: "Node", where: object) -> None:
    """What must be known before values are made of nodes.

    Raises:
        UncoupleError: a key twice in a mapping, whose second value would be taken without a word; a tag other than of
            JSON's values and dates; or more values than `check_size` allows, merged keys (<<) and aliases included.
    """
    import yaml

    sizes: dict[int, float] = {}

    def size(node: "Node") -> float:
        """Values that a node becomes, of one that is in itself without end."""
        if id(node) in sizes:
            return sizes[id(node)]
        sizes[id(node)] = math.inf
        if node.tag.removeprefix(TAG) not in TAGS:
            raise UncoupleError(f"{where}: the tag {node.tag} (line {node.start_mark.line + 1}). Write it without.")
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else []
        keys = [key.value for key in parts[::2] if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            twice = next(key for place, key in enumerate(keys) if key in keys[:place])
            told = f"{twice!r} (line {node.start_mark.line + 1} and after)"
            raise UncoupleError(f"{where}: the key {told} is there twice in one place. Keep one of them.")
        sizes[id(node)] = 1 + sum(map(size, node.value if isinstance(node, yaml.SequenceNode) else parts))
        return sizes[id(node)]

    if size(top) > 2 * MOST_VALUES:
        raise _too_many(where)


def _too_many(where: object) -> UncoupleError:
    return UncoupleError(
        f"{where}: more than {MOST_VALUES:,} values, or nested more deeply than {DEEPEST}, as aliases can make of a "
        "few lines. Name an experiment's file."
    )


def check_size(value: Any, where: object) -> None:
    """That a config is no more than one can be: a few aliases of aliases would be billions of values.

    Raises:
        UncoupleError: it has more values, or is nested more deeply.
    """
    waiting, count = [(value, 0)], 1
    while waiting:
        one, depth = waiting.pop()
        inner = list(one.values()) if isinstance(one, dict) else one if isinstance(one, list) else []
        count += len(inner)
        if count > MOST_VALUES or depth > DEEPEST:
            raise _too_many(where)
        waiting += [(part, depth + 1) for part in inner]
