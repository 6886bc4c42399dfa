"""What is written after a flag, as a value: one function a kind, each with an error that says what to write."""

import argparse
import re


def key_value(text):
    import yaml

    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: write KEY=VALUE")
    try:
        # Numbers as programs write them, which YAML 1.1 takes for text: 1e-05.
        return key, float(value) if re.fullmatch(r"-?\d+(\.\d+)?e[-+]?\d+", value) else yaml.safe_load(value)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"{text!r}: the value is not YAML; quote it") from None


def named_file(text):
    name, _, path = text.partition("=")
    if not (name and path):
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=FILE")
    return name, path


def task_and_file(text):
    return named_file(text) if "=" in text else (text, None)


def layer_range(text):
    try:
        first, last = text.split(":")
        return int(first), int(last)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write FIRST:LAST, such as 0:11") from None


def share(text):
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: give a share above 0 and at most 1")
    return value


def count(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number of 1 or more")
    return value


def size_in_bytes(text):
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)(i?)B?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r}: write a size such as 80GB or 79GiB")
    number, unit, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(unit or " "))
