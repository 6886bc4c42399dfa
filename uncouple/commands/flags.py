"""Flags that several verbs have and no config does: files, and which variant."""

import argparse
from typing import Any

from uncouple.reporting.parts import part_names
from uncouple.variants.kinds import ORIGIN


def layer_range(text: str) -> tuple[int, int]:
    """(first, last) of FIRST:LAST."""
    try:
        first, last = text.split(":")
        return int(first), int(last)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write FIRST:LAST, such as 0:11") from None


def named_file(text: str) -> tuple[str, str]:
    """(name, path) of NAME=FILE."""
    name, _, path = text.partition("=")
    if not (name and path):
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=FILE")
    return name, path


def add_model(sub: Any) -> None:
    sub.add_argument("--model", required=True, help="a model folder (safetensors)")


def add_variant(sub: Any) -> None:
    add_model(sub)
    sub.add_argument("--mask", help="a mask whose weights are set to zero in memory first")
    sub.add_argument("--variant", help="name for the record (default: origin, or suppressed with --mask)")


def variant_of(a: argparse.Namespace) -> dict[str, Any]:
    """What every function is told that measures a variant."""
    return {"mask": a.mask, "variant": a.variant or ("suppressed" if a.mask else ORIGIN), "device": a.device}


def add_layers(sub: Any) -> None:
    sub.add_argument(
        "--layers",
        type=layer_range,
        default=(0, None),
        metavar="FIRST:LAST",
        help="decoder layers, counted from 0, both included (default: all); the whole model is loaded all the same",
    )


def add_scores(sub: Any) -> None:
    sub.add_argument("--scores", nargs="+", required=True, help="score shards of the dimensions and of the general set")


def add_parts(sub: Any, kind: str, sources: str) -> None:
    """Which `figures` or `tables`, and the files that they are made from."""
    names = part_names(kind)
    sub.add_argument("names", nargs="+", choices=names, metavar="NAME", help=f"which: {', '.join(names)}")
    sub.add_argument("--from", dest="sources", nargs="+", required=True, metavar="FILE", help=sources)


def add_output(sub: Any, text: str) -> None:
    sub.add_argument("--output", required=True, help=text)
