"""The loss head: logits of some tokens at a time, as the model itself makes them."""

import math

import torch

from uncouple.errors import UncoupleError

# The head's output for one token is as wide as the vocabulary, so it is made for this many bytes of tokens at a time.
HEAD_BYTES = {"cpu": 16 * 10**6, "cuda": 256 * 10**6}


def logits_in_parts(model, hidden, positions, *others):
    """Logits for as many tokens at a time as `HEAD_BYTES` takes.

    Args:
        model: a causal language model.
        hidden: its last hidden states, (tokens, hidden).
        positions: int64 (n,), the tokens whose logits are wanted.
        others: tensors (n, ...) that go with the positions.

    Yields:
        (logits float32 (part, vocabulary), positions (part,), and each of the others (part, ...), on the logits'
        device). The logits may be written over.
    """
    head, softcap = model.get_output_embeddings(), _softcap(model)
    count = math.ceil(4 * head.weight.shape[0] * len(positions) / HEAD_BYTES[head.weight.device.type])
    for part, *along in zip(*(values.tensor_split(count) for values in (positions, *others)), strict=True):
        logits = head(hidden[part]).float()
        if softcap:
            logits = logits.div_(softcap).tanh_().mul_(softcap)
        yield logits, part, *(values.to(logits.device) for values in along)


def check_head(model):
    """That `logits_in_parts` gives the model's own logits, tried on a few tokens.

    Raises:
        UncoupleError: it does not: the model's head does more than multiply and cap.
    """
    embeddings = model.get_input_embeddings().weight
    ids = torch.linspace(0, len(embeddings) - 1, 8, device=embeddings.device).long()
    with torch.no_grad():
        truth = model(input_ids=ids[None], use_cache=False).logits[0].float()
        hidden = model.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0]
        # A model that is spread over several GPUs gives these on another one than it takes the tokens on.
        positions = torch.arange(len(ids), device=hidden.device)
        found = torch.cat([logits for logits, _ in logits_in_parts(model, hidden, positions)])
    error = float(torch.linalg.norm(found.to(truth.device) - truth) / torch.linalg.norm(truth))
    # Logits that are not finite are another fault, which is told with its sample or window.
    if error > 4 * torch.finfo(model.dtype).eps + 1e-5:
        raise UncoupleError(
            f"architecture {model.config.model_type!r}: its loss head does more than its weights say, such as to scale "
            f"or to cap the logits: those made here are off by {error:.1%}, and so would be scores and perplexity. "
            "Declare what it does in uncouple/scoring/packing.py, or take another model."
        )


def _softcap(model):
    return getattr(model.config, "final_logit_softcapping", None)
