"""Perplexity: how well a variant predicts each token of a text, over windows of a fixed length."""

import functools
import hashlib
import math
from collections.abc import Callable, Iterable
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from uncouple.data.sources import Rows, Source, read_rows
from uncouple.errors import UncoupleError
from uncouple.evaluation.collect import MODEL, write_metrics
from uncouple.evaluation.statistics import t_quantile
from uncouple.models.families import find_family
from uncouple.models.load import load_tokenizer
from uncouple.models.prompts import leading_special_tokens
from uncouple.progress import Progress, say
from uncouple.records.fingerprint import fingerprint
from uncouple.records.formats import Record
from uncouple.records.store import Store, code_of
from uncouple.variants.each import Result, make_each, variant_results
from uncouple.variants.kinds import ORIGIN
from uncouple.variants.variant import edited, load_base, open_variants

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

# What must be equal in the records of two variants for them to be compared.
ALIKE = (*MODEL, "text", "window", "windows")


def measure_perplexity(
    model_folder: str | Path,
    output: str | Path,
    *,
    source: Rows,
    variants: Iterable[tuple[str, str | Path | None]] = ((ORIGIN, None),),
    window: int | str | None,
    windows: int,
    batch_size: int,
    dtype: str,
    device: str,
    store: Store | None = None,
) -> None:
    """Write the perplexity per token of variants of a model.

    The text is tokenised as a whole, after the special tokens that the tokenizer puts in front, and cut into windows
    that do not overlap; the tail that fills none is dropped. In each window every token but the first is predicted
    from those before it. Perplexity is exp of the mean negative log-likelihood of all predicted tokens. Metrics are
    those of `perplexity_rows`.

    Args:
        model_folder: the base model.
        output: the metrics table to write, with {variant} in it where there are several.
        source: of the text; see `read_text`.
        variants: see `answers.answer_questions`.
        window: tokens of a window; None or `max` is the model's maximum, as published.
        windows: how many windows at most, from the text's beginning; 0 is all.
        batch_size: windows at once. In float32 the result does not depend on it.
        dtype, device: see `models.load_model`.
        store: none by default.

    Raises:
        UncoupleError: the text cannot be read or fills no window, the window is longer than the model's, the model's
            architecture or loss head is not known, or a loss is not finite.
    """
    opened = open_variants(model_folder, variants)
    # How logits come of the hidden states is known for these families alone; `check_head` finds it out for each.
    find_family(opened[0].config)
    tokens = _window_tokens(window, opened[0].config["max_position_embeddings"])
    text = read_text(source)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    made_of = {"window": tokens, "windows": windows, "text": sha256, "batch_size": batch_size}
    made_of |= {"code": code_of("evaluation.perplexity:measure_perplexity")}
    results = variant_results(opened, output, "perplexity", made_of, dtype, device)

    def prepare(_: list[Result]) -> Callable[[Result], None]:
        from uncouple.models.head import check_head

        cut = _encode(model_folder, text, tokens, windows, source)
        model = load_base(opened[0], dtype, device)
        check_head(model)
        about = {"window": tokens, "text": {"source": str(source), "sha256": sha256}, "windows": len(cut)}
        about |= {"code": fingerprint("evaluation.perplexity")}
        return functools.partial(_write_perplexity, model, cut, batch_size, about)

    make_each(results, store or Store(), "perplexity", prepare)


def _window_tokens(window: int | str | None, longest: int) -> int:
    """Tokens of a window, of at most `longest`."""
    tokens = longest if window in (None, "max") else int(window)
    if not 2 <= tokens <= longest:
        raise UncoupleError(f"the window is {tokens} tokens; this model takes 2 to {longest}. Set another (--window).")
    return tokens


def _encode(model_folder: str | Path, text: str, window: int, windows: int, source: Rows) -> NDArray[np.int64]:
    """The windows of a text; see `cut_windows`."""
    tokenizer, _ = load_tokenizer(model_folder)
    ids = leading_special_tokens(tokenizer) + tokenizer(text, add_special_tokens=False)["input_ids"]
    cut = cut_windows(ids, window, windows, source)
    say(
        f"perplexity: {source} has {len(ids):,} tokens; takes {len(cut)} of {len(ids) // window} windows of {window} "
        f"and drops the last {len(ids) % window:,} tokens, which fill none"
    )
    return cut


def _write_perplexity(
    model: "PreTrainedModel", cut: NDArray[np.int64], batch_size: int, about: Record, result: Result
) -> None:
    """Measure one variant.

    Args:
        model: the base.
        cut, batch_size: see `window_losses`.
        about: what the record says besides.
        result: the metrics that are wanted.
    """
    with edited(model, result.work):
        rows = [result.work.who() | row for row in perplexity_rows(model, cut, batch_size)]
    ran = result.work.about(model.dtype, model.device)
    write_metrics(rows, result.output, measured="perplexity", alike=ALIKE, **ran, **about)
    say(f"perplexity: {result.name}: {rows[0]['value']:.3f} over {len(cut)} windows")


def perplexity_rows(model: "PreTrainedModel", cut: NDArray[np.int64], batch_size: int) -> list[Record]:
    """Rows of a metrics table, without model and variant.

    Metrics, of dimension `general`:
    - `perplexity`: value; low and high are exp of the 95% t interval of the mean over windows, which are the
      independent units (None for one window); n windows of `of` predicted tokens.
    - `nll`, of each window `item`, 0000 ...: its mean negative log-likelihood, in nats a token, by which variants can
      be paired; n is 1, of its predicted tokens.

    Args:
        model, cut, batch_size: see `window_losses`.
    """
    losses = window_losses(model, cut, batch_size)
    general = {"dimension": "general"}
    rows = [general | {"metric": "perplexity"} | exponentiated_mean(losses) | {"n": len(losses), "of": cut[:, 1:].size}]
    return rows + [
        general | {"metric": "nll", "item": f"{number:04d}", "value": loss, "n": 1, "of": cut.shape[1] - 1}
        for number, loss in enumerate(losses.tolist())
    ]


def read_text(source: Rows) -> str:
    """The text that is predicted, as it is published for WikiText-2: the data set's rows joined by a blank line.

    Args:
        source: a Hub data set with a column `text`, or a text file, each line of which is a row with
            its line break; a line of white space alone is the empty row.

    Raises:
        UncoupleError: missing, not UTF-8, empty, or a row that is not text.
    """
    if not source.hub:
        return "\n\n".join(line if line.strip() else "" for line in StringIO(_read_file(str(source.path))))
    rows = read_rows(Source(**source.model_dump(include=set(Rows.model_fields))))
    for number, row in rows.items():
        if not isinstance(row.get("text"), str):
            raise UncoupleError(f"{source}, row {number}: no text in a column `text`. Name a data set that has one.")
    return "\n\n".join(row["text"] for row in rows.values())


def cut_windows(ids: list[int], window: int, windows: int, source: Rows | str = "this text") -> NDArray[np.int64]:
    """The first windows of a text, (windows, window) int64: at most `windows` of them, or with 0 all that it fills."""
    whole = len(ids) // window
    if not whole:
        raise UncoupleError(
            f"{source}: {len(ids)} tokens, fewer than the {window} of one window. Lower the window to {len(ids)} or "
            "less (--window), or give a longer text."
        )
    count = min(whole, windows or whole)
    return np.array(ids[: count * window], np.int64).reshape(count, window)


def window_losses(model: "PreTrainedModel", cut: NDArray[np.int64], batch_size: int) -> NDArray[np.float64]:
    """Mean negative log-likelihood of the tokens 2 ... n of each window, given those before them in it.

    Args:
        model: a causal language model of a known family.
        cut: int64 (windows, window), token ids.
        batch_size: windows at once.

    Returns:
        float64 (windows,), nats a token.

    Raises:
        UncoupleError: a loss is not finite; names the window.
    """
    import torch

    losses = np.empty(len(cut))
    device = model.get_input_embeddings().weight.device
    with torch.inference_mode(), Progress(cut.size, "tokens", "perplexity") as progress:
        for start in range(0, len(cut), batch_size):
            ids = torch.from_numpy(cut[start : start + batch_size]).to(device)
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            # Position t predicts token t + 1.
            nll = _token_losses(model, hidden[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
            losses[start : start + len(ids)] = nll.double().view(len(ids), -1).mean(1).cpu().numpy()
            progress.add(ids.numel())
    if not np.isfinite(losses).all():
        number = int(np.flatnonzero(~np.isfinite(losses))[0])
        raise UncoupleError(f"window {number}: its loss is not finite. Measure in float32 (--dtype float32).")
    return losses


def _token_losses(model: "PreTrainedModel", hidden: "Tensor", targets: "Tensor") -> "Tensor":
    """Cross-entropy of each target, float32 (tokens,)."""
    import torch

    from uncouple.models.head import logits_in_parts

    positions = torch.arange(len(targets), device=hidden.device)
    return torch.cat(
        [
            torch.nn.functional.cross_entropy(logits, tokens, reduction="none")
            for logits, _, tokens in logits_in_parts(model, hidden, positions, targets)
        ]
    )


def exponentiated_mean(values: NDArray[np.float64]) -> dict[str, float | None]:
    """exp of the mean of independent values and of its 95% t interval: dict of value, low and high.

    Args:
        values: float64 (n,); with n of 1 there is no interval, and low and high are None.
    """
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return {"value": _exp(mean), "low": None, "high": None}
    half = t_quantile(count - 1) * float(values.std(ddof=1)) / math.sqrt(count)
    return {"value": _exp(mean), "low": _exp(mean - half), "high": _exp(mean + half)}


def _exp(value: float) -> float:
    # A wrecked model's interval may end beyond the largest float.
    return math.exp(value) if value < 709 else math.inf


def _read_file(path: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UncoupleError(f"{path}: no such text file. Check the path.") from None
    except IsADirectoryError:
        raise UncoupleError(f"{path}: this is a folder. Name a text file.") from None
    except UnicodeDecodeError as error:
        raise UncoupleError(f"{path}: not UTF-8 ({error.reason}). Convert the file to UTF-8.") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UncoupleError(f"{path}, line {line}: a NUL byte in its text. Remove it.")
    if not text.strip():
        raise UncoupleError(f"{path}: the file is empty. Put a text in it, or name another.")
    return text
