import pytest
from conftest import CHAT_TEMPLATE
from transformers import PreTrainedTokenizerFast

from uncouple.errors import UncoupleError
from uncouple.models.prompts import encode_question, encode_sample, leading_special_tokens


@pytest.fixture
def plain_tokenizer(tokenizer):
    """The same tokenizer, but it adds no special token of its own, as SmolLM2's does not."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=CHAT_TEMPLATE)


def text_of(tokenizer, ids):
    return tokenizer.decode(ids)


def test_chat_is_the_models_own_template(tokenizer):
    sample = encode_sample(tokenizer, "Why?", "Because it is.", "chat", 256)
    assert text_of(tokenizer, sample.ids[: sample.start]) == "<|user|>Why?<|end|><|assistant|>"
    assert text_of(tokenizer, sample.ids[sample.start :]) == "Because it is."


def test_bare_has_the_special_tokens_once_and_none_between(tokenizer):
    sample = encode_sample(tokenizer, "Why?", "Because.", "bare", 256)
    assert text_of(tokenizer, sample.ids) == "<s>Why?Because."
    assert sample.ids.count(0) == 1
    assert text_of(tokenizer, sample.ids[sample.start :]) == "Because."


def test_published_drops_the_special_token_that_a_tokenizer_adds(tokenizer):
    assert encode_sample(tokenizer, "Why?", "Because.", "published", 256) == encode_sample(
        tokenizer, "Why?", "Because.", "bare", 256
    )


def test_published_drops_a_real_token_where_the_tokenizer_adds_none(plain_tokenizer):
    bare = encode_sample(plain_tokenizer, "Why?", "Because.", "bare", 256)
    published = encode_sample(plain_tokenizer, "Why?", "Because.", "published", 256)
    assert published.ids == bare.ids[: bare.start] + bare.ids[bare.start + 1 :]
    assert published.start == bare.start


def test_a_special_token_at_the_end_does_not_come_between(tokenizer):
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    both = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert leading_special_tokens(both) == [0]
    assert text_of(both, encode_sample(both, "Why?", "Because.", "bare", 256).ids) == "<s>Why?Because."


def test_a_long_response_is_cut_at_the_window(tokenizer):
    whole = encode_sample(tokenizer, "Why?", "one two three four " * 20, "bare", 256)
    cut = encode_sample(tokenizer, "Why?", "one two three four " * 20, "bare", whole.start + 5)
    assert cut.ids == whole.ids[: whole.start + 5]
    assert cut.cut == len(whole.ids) - len(cut.ids)
    assert whole.cut == 0


def test_a_prompt_that_fills_the_window_is_refused(tokenizer):
    with pytest.raises(UncoupleError, match="window is 4"):
        encode_sample(tokenizer, "Why is the sky blue?", "Because.", "bare", 4)


def test_a_response_with_no_token_left_is_refused(plain_tokenizer):
    with pytest.raises(UncoupleError, match="no response token is left"):
        encode_sample(plain_tokenizer, "Why?", "a", "published", 256)


def test_an_unknown_format_names_those_there_are(tokenizer):
    with pytest.raises(UncoupleError, match="chat, bare, published"):
        encode_question(tokenizer, "Why?", "plain")
