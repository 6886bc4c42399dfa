"""Representations: how much two dimensions' hidden states depend on each other, layer by layer (HSIC)."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from uncouple.errors import UncoupleError
from uncouple.evaluation.collect import MODEL, write_metrics
from uncouple.evaluation.statistics import CONFIDENCE
from uncouple.models.batching import BATCH_TOKENS, make_batches
from uncouple.models.families import find_family
from uncouple.models.load import load_tokenizer
from uncouple.models.prompts import Encoded, PromptFormat, encode_samples
from uncouple.progress import Progress, say
from uncouple.records.files import read_table
from uncouple.records.fingerprint import fingerprint
from uncouple.records.formats import SAMPLES, Record
from uncouple.records.store import Store, code_of
from uncouple.variants.each import Result, make_each, variant_results
from uncouple.variants.kinds import ORIGIN
from uncouple.variants.variant import Variant, edited, load_base, open_variants

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Floats = NDArray[np.floating[Any]]

# What must be equal in the records of two variants for them to be compared.
ALIKE = (*MODEL, "samples", "prompt", "permutations", "seed")


def measure_hsic(
    model_folder: str | Path,
    samples_a: str | Path,
    samples_b: str | Path,
    output: str | Path,
    *,
    variants: Iterable[tuple[str, str | Path | None]] = ((ORIGIN, None),),
    prompt: str,
    permutations: int = 1000,
    seed: int = 0,
    dtype: str,
    device: str,
    template_options: dict[str, Any] | None = None,
    store: Store | None = None,
) -> None:
    """Write the HSIC of two dimensions' representations after each decoder layer of variants of a model.

    A sample's representation is the hidden state of its last token (prompt and response, encoded as for scoring) as
    a decoder layer gives it, so that of the last layer is before the final norm. Sample i of one table is paired with
    sample i of the other, up to the end of the shorter one. Nothing but their order makes them a pair, so the true
    dependence is that of the two tables' orders, and a value alone says little: compare it between variants on the
    same samples, and with what the same samples give when they are paired at random.

    Each kernel is Gaussian, its width the median distance of that dimension's representations at that layer. Metrics
    are those of `hsic_rows`, of dimension `A-B` (the two dimensions' names).

    Args:
        model_folder: the base model.
        samples_a, samples_b: samples tables of two dimensions.
        output: the metrics table to write, with {variant} in it where there are several.
        variants: see `answers.answer_questions`.
        prompt, template_options: see `load.load_tokenizer`.
        permutations, seed: random pairings, and their seed.
        dtype, device: see `models.load_model`.
        store: none by default.

    Raises:
        UncoupleError: both tables are of one dimension, there are fewer than 4 pairs, a sample does not fit, or the
            representations of a layer are not finite or mostly equal.
    """
    opened = open_variants(model_folder, variants)
    find_family(opened[0].config)
    samples, records = _read_pairs(samples_a, samples_b)
    drawn = {"permutations": permutations, "seed": seed}
    made_of = {"prompt": prompt, "template_options": template_options or {}} | drawn
    made_of |= {"samples": [r["fingerprint"] for r in records], "code": code_of("evaluation.hsic:measure_hsic")}
    results = variant_results(opened, output, "hsic", made_of, dtype, device)
    results = [replace(result, names=result.names | {"samples": records}) for result in results]

    def prepare(_: list[Result]) -> Callable[[Result], None]:
        encoded, form = _encode(opened[0], samples, prompt, template_options)
        say(f"hsic: {len(encoded[0])} pairs of {' and '.join(r['dimension'] for r in records)}")
        about = {"samples": records, "prompt": vars(form)} | drawn | {"code": fingerprint("evaluation.hsic")}
        return functools.partial(_write_hsic, load_base(opened[0], dtype, device), encoded, about)

    make_each(results, store or Store(), "hsic", prepare)


def _read_pairs(samples_a: str | Path, samples_b: str | Path) -> tuple[list[list[Record]], list[Record]]:
    """(as many samples of each table as make pairs, what is recorded of each table)."""
    tables = [read_table(path, SAMPLES) for path in (samples_a, samples_b)]
    records = [{key: r.get(key) for key in ("dimension", "label", "n", "seed", "fingerprint")} for _, r in tables]
    if records[0]["dimension"] == records[1]["dimension"]:
        raise UncoupleError(
            f"{samples_a} and {samples_b} are both of {records[0]['dimension']}. Give samples of two dimensions."
        )
    pairs = min(len(table) for table, _ in tables)
    if pairs < 4:
        raise UncoupleError(f"{samples_a} and {samples_b} make {pairs} pairs, and HSIC needs 4. Draw more samples.")
    return [table.slice(0, pairs).to_pylist() for table, _ in tables], records


def _encode(
    base: Variant, samples: list[list[Record]], prompt: str, given: dict[str, Any] | None
) -> tuple[list[list[Encoded]], PromptFormat]:
    """(each table's samples, their prompt format)."""
    tokenizer, form = load_tokenizer(base.folder, prompt, given)
    found = []
    for table in samples:
        encoded = encode_samples(tokenizer, table, form, base.config["max_position_embeddings"])
        if cut := sum(sample.cut > 0 for sample in encoded):
            say(f"hsic: {cut} responses were longer than the model's window and were cut")
        found.append(encoded)
    return found, form


def _write_hsic(model: "PreTrainedModel", encoded: list[list[Encoded]], about: Record, result: Result) -> None:
    """Measure one variant.

    Args:
        model: the base.
        encoded: each dimension's samples.
        about: what the record says besides.
        result: the metrics that are wanted.
    """
    pairs, names = len(encoded[0]), [record["dimension"] for record in about["samples"]]
    both = [*encoded[0], *encoded[1]]
    ids, prompts = [sample.ids for sample in both], [sample.start for sample in both]
    with edited(model, result.work):
        states = last_states(model, find_family(result.work.config).layers, ids, prompts=prompts)
    parts = states[:, :pairs], states[:, pairs:]
    a, b = (_kernels(part, name) for part, name in zip(parts, names, strict=True))
    who = result.work.who() | {"dimension": "-".join(names)}
    rows = [who | row for row in hsic_rows(a, b, about["permutations"], about["seed"])]
    ran = result.work.about(model.dtype, model.device)
    write_metrics(rows, result.output, measured="hsic", alike=ALIKE, **ran, **about)
    low = sum(row["value"] < 0.05 for row in rows if row["metric"] == "hsic_p")
    say(f"hsic: {result.name}: of {len(a)} layers, {low} have p below 0.05")


def hsic_rows(a: Floats, b: Floats, permutations: int, seed: int) -> list[Record]:
    """Rows of a metrics table, without model, variant and dimension.

    Metrics of each `layer`, counted from 0:
    - `hsic_biased`: see `hsic_biased`; n pairs, of as many.
    - `hsic_unbiased`: see `hsic_unbiased`; n pairs, of as many.
    - `hsic_null`: the mean and the central 95% (low, high) of the biased estimator over random pairings; n pairings, of
      as many.
    - `hsic_p`: see `permutation_p`; n pairings at least as extreme, of all.
    The first two have no interval: the null's range is what they are to be read against.

    Args:
        a, b: float64 (layers, n, n), kernels of the same n pairs.
        permutations, seed: see `permuted_hsic`.
    """
    biased, unbiased, null = hsic_biased(a, b), hsic_unbiased(a, b), permuted_hsic(a, b, permutations, seed)
    extreme, p = permutation_p(biased, null)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(null, [tail, 100 - tail], axis=0)
    pairs, drawn = ({"n": count, "of": count} for count in (a.shape[-1], permutations))
    rows: list[Record] = []
    for i in range(len(a)):
        for metric, values in (
            ("biased", {"value": biased[i]} | pairs),
            ("unbiased", {"value": unbiased[i]} | pairs),
            ("null", {"value": null[:, i].mean(), "low": low[i], "high": high[i]} | drawn),
            ("p", {"value": p[i], "n": int(extreme[i]), "of": permutations}),
        ):
            rows.append({"metric": f"hsic_{metric}", "layer": i} | values)
    return rows


def last_states(
    model: "PreTrainedModel",
    layers: str,
    encoded: Sequence[list[int]],
    batch_tokens: int | None = None,
    prompts: Sequence[int] = (),
) -> NDArray[np.float32]:
    """Hidden states of each sample's last token, as each decoder layer gives them.

    Samples are packed without padding, behind what all of them begin with; in float32 a state does not depend on what
    else is in the batch.

    Args:
        model: a causal language model.
        layers: path of its list of decoder layers, as in `families.Family`.
        encoded: lists of token ids.
        batch_tokens: the most tokens of a batch of several samples; by default what suits the device.
        prompts: how many of each sample's first tokens are its prompt's, for what acts on prompts.

    Returns:
        float32 array (layers, samples, hidden).
    """
    import torch

    from uncouple.models.attention import pack_attention, run_packed
    from uncouple.models.decoding import compute_prefix, shared_length
    from uncouple.models.prompt_places import acts_on_prompts
    from uncouple.models.rope import longest_together

    together, most = longest_together(model.config), batch_tokens or BATCH_TOKENS[model.device.type]
    # Where positions stretch with the text, those of its beginning do as well.
    shared = 0 if together or acts_on_prompts(model) else shared_length(encoded)
    texts = [ids[shared:] for ids in encoded]
    lengths = [len(text) for text in texts]
    batches = make_batches(lengths, most, together)
    blocks = model.get_submodule(layers)
    states = np.empty((len(blocks), len(encoded), model.config.hidden_size), np.float32)

    def keep(layer: int) -> Callable[[Any, Any, Any], None]:
        def hook(_: Any, inputs: Any, output: Any) -> None:
            states[layer, batch] = output[0, last.to(output.device)].float().cpu().numpy()

        return hook

    with torch.inference_mode(), Progress(sum(lengths), "tokens", "hsic") as progress, contextlib.ExitStack() as stack:
        prefix = compute_prefix(model, encoded[0][:shared])
        stack.enter_context(pack_attention(model))
        for layer, block in enumerate(blocks):
            stack.callback(block.register_forward_hook(keep(layer)).remove)
        for places in batches:
            if together:
                # With `dynamic` positions a model keeps those of its longest text until it sees a short one.
                batch, last = [], torch.empty(0, dtype=torch.long)
                run_packed(model, [texts[0][:1]])
            batch, last = places, torch.tensor([lengths[i] for i in places]).cumsum(0) - 1
            run_packed(model, [texts[i] for i in batch], prefix, shared, [prompts[i] for i in batch] if prompts else ())
            progress.add(sum(lengths[i] for i in batch))
    return states


def _kernels(states: Floats, dimension: str) -> Floats:
    """Gaussian kernels of all layers, (layers, samples, samples); an error names layer and dimension."""
    kernels = []
    for layer, x in enumerate(states):
        try:
            kernels.append(gaussian_kernel(x))
        except UncoupleError as error:
            raise UncoupleError(f"layer {layer}, {dimension}: {error}") from None
    return np.stack(kernels)


def gaussian_kernel(x: Floats) -> Floats:
    """exp(-d^2 / (2 s^2)) of the distance d of each two points, s being the median distance of two different points.

    Args:
        x: (n, d) float, n of 2 or more.

    Returns:
        float64 (n, n), symmetric, 1 on its diagonal.

    Raises:
        UncoupleError: a value is not finite, or the median distance is 0.

    Source: Gretton et al. 2005, "Measuring statistical dependence with Hilbert-Schmidt norms"; the median as the width
    is the usual choice, as in Gretton et al. 2008, "A kernel statistical test of independence".
    """
    x = np.asarray(x, np.float64)
    if not np.isfinite(x).all():
        raise UncoupleError("a hidden state is not finite. Measure in float32 (--dtype float32).")
    x = x - x.mean(0)
    norms = (x * x).sum(1)
    sums = norms[:, None] + norms
    squares = sums - 2 * (x @ x.T)
    # What rounding leaves of the distance of equal points is none.
    squares[squares < 1e-14 * sums] = 0
    squares = (squares + squares.T) / 2
    np.fill_diagonal(squares, 0)
    width = np.median(np.sqrt(squares[np.triu_indices(len(x), 1)]))
    if not width:
        raise UncoupleError(
            "half of all pairs of hidden states or more are equal, so the kernel has no width. Give other samples, "
            "or a mask that leaves more of the model."
        )
    return np.exp(-squares / (2 * width**2))


def hsic_biased(a: Floats, b: Floats) -> Floats:
    """The biased estimator of HSIC: trace(A H B H) / (n - 1)^2, with H = I - 1/n. It is 0 or more.

    Args:
        a, b: float64 (..., n, n), kernels of the same n pairs.

    Returns:
        float64 (...).

    Source: Gretton et al. 2005, definition 2. (Gretton et al. 2008 divide by n^2 instead.)
    """
    return (_centre(a) * b).sum((-2, -1)) / (a.shape[-1] - 1) ** 2


def hsic_unbiased(a: Floats, b: Floats) -> Floats:
    """The unbiased estimator of HSIC; of independent pairs it is 0 on average, so it can be negative.

    Args:
        a, b: float64 (..., n, n), kernels of the same n pairs; n of 4 or more.

    Returns:
        float64 (...).

    Source: Song et al. 2012, "Feature selection via dependence maximization", the estimator HSIC_1.
    """
    n = a.shape[-1]
    off = 1 - np.eye(n)
    a, b = a * off, b * off
    trace = (a * b).sum((-2, -1))
    product = a.sum((-2, -1)) * b.sum((-2, -1)) / ((n - 1) * (n - 2))
    cross = 2 / (n - 2) * (a.sum(-1) * b.sum(-1)).sum(-1)
    return (trace + product - cross) / (n * (n - 3))


def permuted_hsic(a: Floats, b: Floats, permutations: int, seed: int) -> Floats:
    """The biased estimator when pairs are made at random: what independence would look like.

    Args:
        a, b: float64 (layers, n, n). Each random pairing serves all layers.
        permutations: random pairings.
        seed: a whole number.

    Returns:
        float64 (permutations, layers).
    """
    n, draw = a.shape[-1], np.random.default_rng(seed)
    orders = [draw.permutation(n) for _ in range(permutations)]
    # A layer at a time stays in the processor's cache; rows, then columns, are taken faster than single entries.
    null = [[np.vdot(x, y.take(o, 0).take(o, 1)) for o in orders] for x, y in zip(_centre(a), b, strict=True)]
    return np.array(null).T / (n - 1) ** 2


def permutation_p(observed: Floats, null: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Share of random pairings whose HSIC is at least the observed one, the observed pairing counted in.

    Args:
        observed: float64 (layers,).
        null: float64 (permutations, layers), as `permuted_hsic` gives it.

    Returns:
        (int64 (layers,), float64 (layers,)): how many are at least as extreme, and p = (1 + that) / (1 + permutations).

    Source: Phipson and Smyth 2010, "Permutation p-values should never be zero".
    """
    # A pairing that gives the same, summed in another order, is as extreme, and must not fall short by a rounding.
    extreme = (null >= observed - 1e-12 * np.abs(null).max(0)).sum(0)
    return extreme, (1 + extreme) / (1 + len(null))


def _centre(k: Floats) -> Floats:
    """H K H: each row and each column of it sums to 0."""
    return k - k.mean(-1, keepdims=True) - k.mean(-2, keepdims=True) + k.mean((-2, -1), keepdims=True)
