"""Flags that several verbs have and no config does: files, and which variant."""

import argparse
from typing import Any

from uncouple.errors import UncoupleError
from uncouple.records.keys import check_name
from uncouple.reporting.parts import part_names
from uncouple.variants.kinds import ORIGIN

# After what is written, where there can be several.
SEVERAL = "; with {} in its name where there are several"


def layer_range(text: str) -> tuple[int, int]:
    """(first, last) of FIRST:LAST."""
    try:
        first, last = text.split(":")
        return int(first), int(last)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write FIRST:LAST, such as 0:11") from None


def name(text: str) -> str:
    """A name that a record and a path can have in them."""
    try:
        return check_name("name", text)
    except UncoupleError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def named_file(text: str) -> tuple[str, str]:
    """(name, path) of NAME=FILE."""
    given, _, path = text.partition("=")
    if not (given and path):
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=FILE")
    return name(given), path


def add_model(sub: Any) -> None:
    sub.add_argument("--model", required=True, help="a model folder (safetensors)")


def name_and_mask(text: str) -> tuple[str, str | None]:
    """(name, path of a mask or None) of NAME[=MASK]."""
    return named_file(text) if "=" in text else (name(text), None)


def add_variants(sub: Any) -> None:
    """The variants of one base that a verb measures."""
    add_model(sub)
    sub.add_argument(
        "--variant",
        action="append",
        default=[],
        type=name_and_mask,
        metavar="NAME[=MASK]",
        help="a variant: its name for the record, and the mask whose weights are set to zero in memory; give one for "
        f"each (default: {ORIGIN}, the model as it is)",
    )
    sub.add_argument("--mask", help="the mask of the one variant (its default name: suppressed)")
    add_store(sub)


def add_store(sub: Any) -> None:
    sub.add_argument("--store", help="a folder of results that are not made again; made where it is not there")


def store_of(a: argparse.Namespace) -> Any:
    from uncouple.records.store import Store

    return Store(a.store)


def variants_of(a: argparse.Namespace) -> dict[str, Any]:
    """What every function is told that measures variants.

    Raises:
        UncoupleError: --mask, which is of one variant, and several variants.
    """
    variants = a.variant
    if a.mask:
        if len(variants) > 1 or any(mask for _, mask in variants):
            raise UncoupleError("--mask is of one variant. Of several, give each its own (--variant NAME=MASK).")
        variants = [(variants[0][0] if variants else "suppressed", a.mask)]
    elif not variants and not getattr(a, "noise", None):
        variants = [(ORIGIN, None)]
    return {"variants": variants, "store": store_of(a)}


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
    sub.add_argument("names", nargs="+", metavar="NAME", help=f"which: {', '.join(names)}")
    sub.add_argument("--from", dest="sources", nargs="+", required=True, metavar="FILE", help=sources)


def add_output(sub: Any, text: str, *several: str) -> None:
    """What is written, with names in its path by which several are told apart."""
    told = SEVERAL.format(" and ".join(f"{{{name}}}" for name in several)) if several else ""
    sub.add_argument("--output", required=True, help=text + told)
