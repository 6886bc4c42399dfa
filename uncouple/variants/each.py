"""Many results of one job: what the store has is taken from it, and the others are made one after another."""

import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uncouple.errors import UncoupleError
from uncouple.models.devices import failed_device, is_out_of_memory
from uncouple.progress import say
from uncouple.records.formats import METRICS, Format, Record
from uncouple.records.keys import check_name
from uncouple.records.store import Key, Store
from uncouple.variants.variant import Variant


@dataclass(frozen=True)
class Result:
    """A table that is wanted.

    Attributes:
        name: what a person calls it.
        form, key: what it is, one of `formats`, and in the store; no key where all that it is made of cannot be known.
        names: what its record says that is this experiment's alone; see `Store.take`.
        output: the file to write.
        work: what it is made of, for the function that makes it.
        fault: why it cannot be made, where that is known.
    """

    name: str
    form: Format
    key: Key
    names: Record
    output: Path
    work: Any = None
    fault: UncoupleError | None = None


def output_paths(output: str | Path, wanted: Sequence[Mapping[str, str]]) -> list[Path]:
    """A path for each of several results.

    Args:
        output: a path, in which names in braces stand for what tells results apart, such as {variant}.
        wanted: dicts of such a name to its value.

    Raises:
        UncoupleError: two results would be written to one file, or a name would lead to another folder.
    """
    paths = []
    for values in wanted:
        filled = str(output)
        for name, value in values.items():
            filled = filled.replace(f"{{{name}}}", check_name(name, value))
        paths.append(Path(filled))
    path, count = Counter(paths).most_common(1)[0]
    if count > 1:
        differing = [f"{{{name}}}" for name in wanted[0] if len({values[name] for values in wanted}) > 1]
        raise UncoupleError(
            f"{path}: {count} results would be written to this file. Put {' and '.join(differing) or 'each once'} "
            "into --output."
        )
    return paths


def variant_results(
    variants: Sequence[Variant], output: str | Path, measured: str, made_of: Key, dtype: str, device: str
) -> list[Result]:
    """A `Result` of the kind metrics for each of some variants, whose `work` is the variant.

    Args:
        variants: of one base.
        output: see `output_paths`.
        measured: what is measured.
        made_of: what it hangs on besides, see `Result.key`; None where that cannot be known.
        dtype, device: see `Variant.key`.
    """
    paths = output_paths(output, [{"variant": variant.name} for variant in variants])
    results = []
    for variant, path in zip(variants, paths, strict=True):
        key = made_of and variant.key(dtype, device) | {"measured": measured} | made_of
        results.append(Result(variant.name, METRICS, key, variant.names(), path, variant, variant.fault))
    return results


def make_each(
    results: Sequence[Result],
    store: Store,
    verb: str,
    prepare: Callable[[list[Result]], Callable[[Result], None]],
) -> None:
    """Have each result written: from the store, or made and then kept there as soon as it is written.

    One that cannot be made is told, and the others are made all the same.

    Args:
        results: in the order in which they are to be made.
        store: see `store.Store`.
        verb: for what is said.
        prepare: function of the results that must be made, called once and only if there are any. It loads what they
            have in common, and gives a function of one of them that writes its output.

    Raises:
        UncoupleError: some could not be made; names them. One alone fails with its own error.
    """
    failed: dict[str, Exception] = {r.name: r.fault for r in results if r.fault}
    for name, fault in failed.items():
        say(f"{verb}: {name} failed: {fault}")
    waiting = [r for r in results if not r.fault and not store.take(r.form, r.key, r.output, r.names)]
    if waiting:
        make = prepare(waiting)
    for number, result in enumerate(waiting, start=1):
        if len(results) > 1:
            say(f"{verb}: {result.name} ({number} of {len(waiting)})")
        try:
            make(result)
        except Exception as error:
            # Where memory has run out for one, or the GPU failed, it has for all.
            if len(results) == 1 or is_out_of_memory(error) or failed_device(error):
                raise
            failed[result.name] = error
            say(f"{verb}: {result.name} failed: {error}")
            if not isinstance(error, UncoupleError):
                say(traceback.format_exc())
        else:
            store.put(result.form, result.key, result.output)
    if failed:
        told = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise UncoupleError(f"{len(failed)} of {len(results)} results failed, the others are written. {told}")
