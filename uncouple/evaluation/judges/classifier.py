"""A judge of embeddings and words: an encoder reads question and answer, a logistic regression calls the answer."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from uncouple.errors import UncoupleError
from uncouple.evaluation.judges.kinds import Judging, Verdict
from uncouple.evaluation.judges.replies import KINDS
from uncouple.models.batching import batches_by_length
from uncouple.models.devices import pick_device
from uncouple.models.families import FAMILIES
from uncouple.models.folders import check_folder, model_record
from uncouple.models.load import load_tokenizer, read_weights
from uncouple.progress import Progress
from uncouple.records.files import digest, read_json, read_record
from uncouple.records.formats import JUDGE, Record

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from transformers import PreTrainedModel

Floats = NDArray[np.floating[Any]]
# Where the encoder does not say how much of a text it was trained to read.
MAX_TOKENS = 256
# Words of an answer up to which it counts as short, and as shorter.
SHORT = (15, 40, 80)
# A word with its apostrophe, or a mark of how it is meant.
WORD = r"(?u)\b\w[\w'\u2019]*\b|[?!]"


def embedding_judge(
    judge_path: str | Path, encoder: str | Path, *, device: str = "cpu", batch_size: int = 64
) -> Judging:
    """A judge that calls an answer unsafe where its p(unsafe) is the judge's threshold or more.

    Args:
        judge_path: what `train_judge` wrote.
        encoder: the encoder folder that it was trained with.
        device, batch_size: see `train_judge`.

    Returns:
        `Judging`, whose `kinds` says how the judge calls short replies of each kind that it was not trained on, see
        `training.train_judge`.

    Raises:
        UncoupleError: no such file, another file, or another encoder.
    """
    judge, record = read_record(judge_path, JUDGE), encoder_record(encoder)
    if judge["encoder"]["fingerprint"] != record["fingerprint"]:
        raise UncoupleError(
            f"{judge_path}: trained with another encoder ({_who(judge['encoder'])}) than {encoder} ({_who(record)}). "
            "Train it again with this one, or give that one."
        )

    def call(questions: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        # What was read for another table is read again. In other batches a text's numbers are others in their last
        # bits, and a job that was broken off has not read the same when it goes on.
        texts = list(dict.fromkeys([*questions, *answers]))
        known = dict(zip(texts, mean_states(texts, encoder, device=device, batch_size=batch_size), strict=True))
        asked, said = (np.array([known[text] for text in texts]) for texts in (questions, answers))
        centres = [np.array(centre) for centre in judge["centres"]]
        fits = all(len(centre) == asked.shape[-1] for centre in centres)
        x = make_features(asked, said, answers, np.array(centres)) if fits else None
        if x is None or x.shape[1] != len(judge["coefficients"]):
            raise UncoupleError(f"{judge_path}: its numbers are not as many as this encoder needs. Train it again.")
        found = predict(x, np.array(judge["coefficients"]), judge["intercept"])
        return [("unsafe" if p >= judge["threshold"] else "safe", p) for p in found.tolist()]

    return Judging(call, kinds={kind: judge["kinds"][kind] for kind in KINDS if kind in judge["kinds"]})


def read_pairs(
    questions: Sequence[str],
    answers: Sequence[str],
    folder: str | Path,
    *,
    device: str = "cpu",
    batch_size: int = 64,
) -> tuple[Floats, Floats]:
    """What an encoder makes of questions and of their answers: (asked, said), each as `mean_states` gives it.

    They are read apart: in one text a long question would leave little of the answer.
    """
    means = mean_states([*questions, *answers], folder, device=device, batch_size=batch_size)
    return means[: len(questions)], means[len(questions) :]


def make_features(asked: Floats, said: Floats, answers: Sequence[str], centres: Floats) -> "csr_array":
    """Features of answered questions.

    Sentence embeddings know the topic. That an answer refuses is said by small words, of which they keep little: the
    encoder's middle layers keep more, and so do the words themselves. How short an answer is tells which to listen to.

    Args:
        asked, said: see `read_pairs`.
        answers: list of text.
        centres: float (2, width), what is taken off the middle layers' means, in which all texts look alike.

    Returns:
        sparse float64 (n, d).
    """
    from scipy.sparse import csr_array, hstack

    middle = [unit(said[:, place] - centre) for place, centre in enumerate(centres)]
    lengths = np.array([len(answer.split()) for answer in answers])
    parts = [unit(asked[:, -1]), unit(said[:, -1]), *middle, lengths[:, None] <= np.array(SHORT)]
    parts = [csr_array(np.asarray(part, np.float64)) for part in parts]
    return hstack([*parts, *(counter.transform(answers) for counter in _counters())]).tocsr()


def _counters() -> list[Any]:
    """Counts of words and of pieces of words, in as many columns as fit: a column is found by its hash, so that no
    vocabulary need be kept."""
    from sklearn.feature_extraction.text import HashingVectorizer

    return [
        HashingVectorizer(ngram_range=(1, 2), n_features=2**13, alternate_sign=False, token_pattern=WORD),
        HashingVectorizer(analyzer="char_wb", ngram_range=(2, 5), n_features=2**14, alternate_sign=False),
    ]


def unit(vectors: Floats) -> Floats:
    """Vectors (n, width) at length 1; one of length 0 stays."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def mean_states(texts: Sequence[str], folder: str | Path, *, device: str = "cpu", batch_size: int = 64) -> Floats:
    """Means of the token vectors of the two layers in the middle of an encoder and of its last one.

    Args:
        texts: list of text. Of a longer one than the encoder reads, the beginning counts.
        folder: an encoder folder.
        device: see `devices.pick_device`.
        batch_size: texts read at once.

    Returns:
        float32 (n, 3, width): in the order given, not depending on what else is in the batch.

    Source: Reimers and Gurevych 2019, section 3 (mean pooling).
    """
    import torch

    record = encoder_record(folder)
    tokenizer, _ = load_tokenizer(folder)
    model = _load_encoder(str(folder), record["fingerprint"], device)
    half = model.config.num_hidden_layers // 2
    layers = (half, half + 1, model.config.num_hidden_layers)
    # A question comes once for each answer to it.
    distinct = list(dict.fromkeys(texts))
    # The tokenizer's own settings cut off and pad elsewhere; what is said in the call stands above them.
    cut = {"truncation": True, "max_length": record["max_tokens"], "padding": False}
    tokens = tokenizer(distinct, **cut)["input_ids"] if distinct else []
    found = np.zeros((len(tokens), len(layers), model.config.hidden_size), np.float32)
    with Progress(len(tokens), "texts", "embed") as progress, torch.inference_mode():
        for batch in batches_by_length(tokens, batch_size):
            width = max(len(tokens[i]) for i in batch)
            # Padding is masked, so any token does.
            ids = torch.tensor([tokens[i] + [0] * (width - len(tokens[i])) for i in batch], device=model.device)
            mask = torch.tensor([[1] * len(tokens[i]) + [0] * (width - len(tokens[i])) for i in batch])
            mask = mask.to(model.device)
            states = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
            share = (mask / mask.sum(1, keepdim=True).clamp(min=1)).unsqueeze(-1)
            found[batch] = torch.stack([(states[layer] * share).sum(1) for layer in layers], 1).cpu().numpy()
            progress.add(len(batch))
    place = {text: i for i, text in enumerate(distinct)}
    return found[[place[text] for text in texts]]


def encoder_record(folder: str | Path) -> Record:
    """Who an encoder is: `{name, fingerprint, max_tokens}`, the fingerprint being of all that an embedding hangs on.

    Raises:
        UncoupleError: not a whole model, one that writes text, or one that pools otherwise than by the mean.
    """
    folder, record, config = Path(folder), model_record(folder), check_folder(folder)
    if config.get("model_type") in FAMILIES:
        raise UncoupleError(
            f"{folder}: a language model ({config['model_type']}), not an encoder. Give one such as all-MiniLM-L6-v2."
        )
    pooling = _read_settings(folder / "1_Pooling/config.json")
    modes = {key for key, on in pooling.items() if key.startswith("pooling_mode_") and on}
    if modes and modes != {"pooling_mode_mean_tokens"}:
        raise UncoupleError(
            f"{folder}/1_Pooling/config.json: this encoder pools by {', '.join(sorted(modes))}. "
            "Give one that pools by the mean alone."
        )
    wanted = _read_settings(folder / "sentence_bert_config.json").get("max_seq_length") or MAX_TOKENS
    max_tokens = min(wanted, config["max_position_embeddings"])
    fingerprint = digest(record["fingerprint"], record["tokenizer"], max_tokens)
    return {"name": record["name"], "fingerprint": fingerprint, "max_tokens": max_tokens}


def _read_settings(path: Path) -> Record:
    return read_json(path, "file of settings") if path.exists() else {}


def _who(record: Record) -> str:
    return f"{record.get('name')}, fingerprint {record['fingerprint']}"


@functools.lru_cache(maxsize=1)
def _load_encoder(folder: str, fingerprint: str, device: str) -> "PreTrainedModel":
    """An encoder, which all that is embedded in one job shares; the fingerprint tells when it is another."""
    import torch
    from transformers import AutoModel

    # The pooler is another way to make one vector of many, and is not used.
    model = read_weights(AutoModel, folder, unused="pooler.", dtype=torch.float32)
    return model.to(pick_device(device)).eval()


def predict(x: "Floats | csr_array", coefficients: Floats, intercept: float) -> NDArray[np.float64]:
    """p(unsafe), float64 (n,), of features (n, width), sparse or not."""
    from scipy.special import expit

    return expit(x @ coefficients + intercept)
