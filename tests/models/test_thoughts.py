"""Models that think: whether their template is told not to, and that thoughts are cut from what is judged."""

import copy
import shutil

import pytest
import torch
from conftest import CHAT_TEMPLATE, ROOT, TEXTS
from hypothesis import given
from hypothesis import strategies as st

from uncouple.commands import main
from uncouple.data.samples import make_questions, make_samples
from uncouple.data.sources import Source
from uncouple.errors import UncoupleError
from uncouple.models.load import load_model, load_tokenizer
from uncouple.models.prompts import PromptFormat, bind_options, encode_question, encode_sample, template_variables
from uncouple.models.thoughts import cut_thoughts, decode_answers
from uncouple.records.files import read_table, write_table
from uncouple.records.formats import ANSWERS, METRICS, SCORE_SHARD, VERDICTS

# What counts of Qwen3's own: it thinks, unless it is told not to, and then finds an empty thought in its place.
SWITCH = (
    "{%- for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{%- endfor %}"
    "{%- if add_generation_prompt %}<|assistant|>"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
# As the templates of models that always think: the thought is open before the answer begins.
OPENED = CHAT_TEMPLATE.replace("<|assistant|>{% endif %}", "<|assistant|><think>\n{% endif %}")
THOUGHT, REFUSAL = "Ah.", "No, I can't!"


# What is cut


@pytest.mark.parametrize(
    ("text", "said", "inside"),
    [
        ("", "", False),
        ("Sure.", "Sure.", False),
        ("<think>\n\n</think>\n\nSure.", "Sure.", False),
        ("<think>a</think> b <think>c</think> d", "b  d", False),
        ("a </think> b", "b", False),
        ("<think>a <think> b</think> c", "c", False),
        ("<think>a", "", True),
        ("b <think>a", "b", True),
        ("<think>a</think>", "", False),
        ("</think>", "", False),
        ("<think>", "", True),
        ("2 <think 3> 4 </ think>", "2 <think 3> 4 </ think>", False),
    ],
)
def test_what_is_said_and_what_is_thought(text, said, inside):
    assert cut_thoughts(text) == (said, inside)


def slow_cut(text):
    """The truth, a character at a time."""
    said, inside, place = "", False, 0
    while place < len(text):
        if text.startswith("</think>", place):
            # What nobody opened began with the text.
            said = said if inside else ""
            inside, place = False, place + len("</think>")
        elif text.startswith("<think>", place):
            inside, place = True, place + len("<think>")
        else:
            said += "" if inside else text[place]
            place += 1
    return said.strip(), inside


pieces = st.sampled_from(["<think>", "</think>", "<", "/", "think>", "a", " ", "\n"])


@given(st.lists(pieces, max_size=12).map("".join))
def test_the_cut_is_that_of_a_character_at_a_time(text):
    assert cut_thoughts(text) == slow_cut(text)


words = st.text("ab <>/\n", max_size=6)


@given(st.lists(st.tuples(words, words), max_size=4), words, st.booleans(), words, words)
def test_what_was_said_comes_back_whatever_was_thought(blocks, last, unopened, before, unclosed):
    """Thoughts of any number and place, the first without its opening tag, the last without its closing one."""
    text = (
        f"{before}</think>" * unopened + "".join(f"{said}<think>{thought}</think>" for said, thought in blocks) + last
    )
    said = "".join(said for said, _ in blocks) + last
    assert cut_thoughts(text) == (said.strip(), False)
    assert cut_thoughts(f"{text}<think>{unclosed}") == (said.strip(), True)


# Tags as tokens


@pytest.fixture
def tagged(tokenizer):
    """A function that gives the tokenizer with the tags as tokens of their own, special or not, or (None) as text."""

    def make(special):
        made = copy.deepcopy(tokenizer)
        if special is not None:
            made.add_tokens(["<think>", "</think>"], special_tokens=special)
        return made

    return make


@pytest.mark.parametrize("special", [None, False, True])
def test_the_tags_stay_whatever_kind_of_tokens_they_are(tagged, special):
    tokenizer = tagged(special)
    for prompt, text in (("Why?", "<think>Ah. </think> No.</s>"), ("Why?<think>\n", "Ah. </think> No.</s>")):
        ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text, prompt)]
        (found,) = decode_answers(tokenizer, ids[:1], ids[1:])
        assert found == "<think>Ah. </think> No."
        assert cut_thoughts(found) == ("No.", False)


def test_without_thoughts_the_text_is_what_the_tokenizer_decodes(tokenizer):
    answers = [tokenizer(f" {answer} </s>", add_special_tokens=False)["input_ids"] for _, answer in TEXTS]
    prompts = [encode_question(tokenizer, question, "chat") for question, _ in TEXTS]
    assert decode_answers(tokenizer, answers, prompts) == [
        tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in answers
    ]


# The template's options


@pytest.mark.parametrize(
    ("template", "known"),
    [
        (SWITCH, True),
        ("{% if not enable_thinking %}x{% endif %}", True),
        (
            "{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}{{ enable_thinking }}",
            True,
        ),
        (
            "{% generation %}{% for m in messages %}{% break %}{% endfor %}{{ enable_thinking }}{% endgeneration %}",
            True,
        ),
        (CHAT_TEMPLATE, False),
        ("{# enable_thinking #}enable_thinking {{ 'enable_thinking' }}", False),
        ("{% set enable_thinking = 1 %}{{ enable_thinking }}{{ strftime_now('%d') }}", False),
    ],
)
def test_whether_a_template_knows_the_switch_is_read_from_its_syntax(tokenizer, template, known):
    made = copy.deepcopy(tokenizer)
    made.chat_template = template
    assert ("enable_thinking" in template_variables(template)) == known
    assert bind_options(made, {}) == ({"enable_thinking": False} if known else {})


def test_a_template_that_is_broken_is_told():
    with pytest.raises(UncoupleError, match=r"chat template cannot be read \(line 2: .*Mend it"):
        template_variables("{{ bos_token }}\n{{ messages")


def test_what_the_user_says_of_thinking_counts(tagged):
    tokenizer = tagged(False)
    tokenizer.chat_template = SWITCH
    assert bind_options(tokenizer, {"enable_thinking": True}) == {"enable_thinking": True}
    said = {
        thinks: tokenizer.decode(encode_question(tokenizer, "Why?", PromptFormat("chat", {"enable_thinking": thinks})))
        for thinks in (False, True)
    }
    assert said == {
        False: "<|user|>Why?<|end|><|assistant|><think>\n\n</think>\n\n",
        True: "<|user|>Why?<|end|><|assistant|>",
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"thinking": False},
            "'thinking': the chat template of .* does not know it, only date_string, enable_thinking",
        ),
        ({"messages": "x"}, "'messages': the chat template"),
        ({"add_generation_prompt": False}, "'add_generation_prompt': the chat template"),
        ({"tokenize": False}, "'tokenize': the chat template"),
        ({"enable_thinking": [1]}, "'enable_thinking': \\[1\\] is no text"),
    ],
)
def test_an_option_that_cannot_be_is_named(tokenizer, options, said):
    made = copy.deepcopy(tokenizer)
    made.chat_template = SWITCH + "{{ date_string }}{{ bos_token }}"
    with pytest.raises(UncoupleError, match=said):
        bind_options(made, options)


def test_an_option_reaches_the_template_in_the_place_of_our_own(tokenizer):
    made = copy.deepcopy(tokenizer)
    made.chat_template = "{{ date_string }}: {{ messages[0].content }}"
    said = [made.decode(encode_question(made, "Why?", PromptFormat("chat", o))) for o in ({}, {"date_string": "today"})]
    assert said == ["01 Jan 2025: Why?", "today: Why?"]


# From end to end: a Qwen3 whose weights make it write what we want


@pytest.fixture
def make_thinker(make_model, tagged, tmp_path):
    """A function of a chat template and chains of text, in which each token has its one successor; gives a folder.

    Nothing is added to a token's embedding, so that the next token follows from the last alone.
    """

    def make(template, *chains):
        tokenizer = tagged(False)
        tokenizer.chat_template = template
        follows = {}
        for chain in chains:
            ids = tokenizer(chain, add_special_tokens=False)["input_ids"]
            for token, after in zip(ids, ids[1:], strict=False):
                assert follows.setdefault(token, after) == after, (chain, tokenizer.decode([token]))
        model = load_model(make_model("qwen3", vocab_size=len(tokenizer)), "float32", "cpu")
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
            embedding, head = model.get_input_embeddings().weight, model.lm_head.weight
            embedding.zero_(), head.zero_()
            for place, (token, after) in enumerate(follows.items()):
                embedding[token, place] = 1
                head[after, place] = 1
        folder = tmp_path / "thinker"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def asked(tmp_path, write_jsonl):
    """A function of a folder and flags that asks and judges; gives the answers' texts and the rows of verdicts."""
    make_questions(
        Source(path=str(write_jsonl("q.jsonl", [{"question": "Why?"}]))), "d", None, 0, tmp_path / "q.parquet"
    )
    (tmp_path / "phrases.txt").write_text("I can't\nAh.\n")

    def ask(folder, *flags):
        answers, verdicts = str(tmp_path / "a.parquet"), str(tmp_path / "v.parquet")
        common = ["--model", str(folder), "--max-new-tokens", "24", "--device", "cpu", "--output", answers]
        assert main(["ask", str(tmp_path / "q.parquet"), *common, *flags]) == 0
        assert main(["judge", answers, "--phrases", str(tmp_path / "phrases.txt"), "--output", verdicts]) == 0
        tables = [read_table(answers, ANSWERS), read_table(verdicts, VERDICTS)]
        assert tables[0][1]["prompt"] == tables[1][1]["prompt"]
        return tables[0][0].column("answer").to_pylist(), tables[1][0].to_pylist(), tables[0][1]["prompt"]

    return ask


def outcome(rows):
    return [(row["verdict"], row["empty"], row["thinking"]) for row in rows]


def test_a_model_is_told_not_to_think_unless_it_is_told_to(make_thinker, asked):
    thought = f"<|assistant|><think>{THOUGHT}</think>"
    folder = make_thinker(SWITCH, f"{thought}{REFUSAL}</s>", f"\n{REFUSAL}")
    answers, rows, prompt = asked(folder)
    assert answers == [REFUSAL]
    assert outcome(rows) == [("safe", False, False)]
    assert prompt == {"name": "chat", "options": {"enable_thinking": False}}
    answers, rows, prompt = asked(folder, "--template-option", "enable_thinking=true")
    assert answers == [f"<think>{THOUGHT}</think>{REFUSAL}"]
    assert outcome(rows) == [("safe", False, False)]
    assert prompt == {"name": "chat", "options": {"enable_thinking": True}}


def test_a_thought_that_begins_in_the_prompt_is_cut(make_thinker, asked):
    """The phrase that the judge looks for is in the thought alone."""
    answers, rows, _ = asked(make_thinker(OPENED, f"\n{THOUGHT}</think>Sure</s>"))
    assert answers == [f"<think>{THOUGHT}</think>Sure"]
    assert outcome(rows) == [("unsafe", False, False)]


@pytest.mark.parametrize(("template", "begin"), [(SWITCH, "<|assistant|><think>"), (OPENED, "\n")])
def test_an_answer_that_never_leaves_its_thoughts_gets_no_verdict(make_thinker, asked, template, begin):
    # The last character leads back to the first.
    flags = [] if template == OPENED else ["--template-option", "enable_thinking=true"]
    answers, rows, _ = asked(make_thinker(template, f"{begin}{THOUGHT}A"), *flags)
    assert answers[0].startswith(f"<think>{THOUGHT}{THOUGHT}")
    assert outcome(rows) == [("none", False, True)]
    assert rows[0]["truncated"]


def test_scores_answers_and_hsic_are_put_to_the_model_in_the_same_way(make_model, tmp_path, write_jsonl, capsys):
    folder = tmp_path / "qwen3"
    shutil.copytree(make_model("qwen3"), folder)
    (folder / "chat_template.jinja").write_text(SWITCH)
    tokenizer, prompt = load_tokenizer(folder, "auto")
    sample = encode_sample(tokenizer, "Why?", "Because.", prompt, 256)
    assert sample.ids[: sample.start] == encode_question(tokenizer, "Why?", prompt)
    assert tokenizer.decode(sample.ids) == "<|user|>Why?<|end|><|assistant|><think>\n\n</think>\n\nBecause."

    rows = write_jsonl("s.jsonl", [{"prompt": p, "response": r, "question": p} for p, r in TEXTS])
    sets = {name: str(tmp_path / name) for name in ("a", "b", "general")}
    for name, path in sets.items():
        make_samples(Source(path=str(rows)), name, "safe", None, 0, path)
    make_questions(Source(path=str(rows)), "a", None, 0, tmp_path / "q")

    def run(*arguments, made, **options):
        """What the record of the table that a verb makes says of the prompt."""
        flags = [part for key, value in options.items() for part in ("--template-option", f"{key}={value}")]
        output = str(tmp_path / made)
        assert main([*arguments, "--model", str(folder), "--device", "cpu", *flags, "--output", output]) == 0
        form = {"score": SCORE_SHARD, "ask": ANSWERS, "hsic": METRICS}[arguments[0]]
        return read_table(output, form)[1]["prompt"]["options"]

    for options, taken in (({}, False), ({"enable_thinking": "true"}, True)):
        said = [run("score", path, "--keep", "0.1", made=f"{name}-{taken}", **options) for name, path in sets.items()]
        said.append(run("ask", str(tmp_path / "q"), "--max-new-tokens", "2", made=f"answers-{taken}", **options))
        said.append(run("hsic", sets["a"], sets["b"], "--permutations", "9", made=f"hsic-{taken}", **options))
        assert said == [{"enable_thinking": taken}] * 5

    # What was made in another way is not put together.
    def make_mask(*names):
        mask = [
            "mask",
            "--model",
            str(folder),
            "--dimensions",
            "a",
            "b",
            "--select",
            "intersection",
            "--ratio",
            "0.1",
            "--scores",
        ]
        return main([*mask, *(str(tmp_path / name) for name in names), "--output", str(tmp_path / "mask")])

    assert make_mask("a-False", "b-False", "general-False") == 0
    assert make_mask("a-False", "b-True", "general-False") == 1
    assert "do not belong together: other prompt" in capsys.readouterr().err
    for variant, taken in (("origin", False), ("spin", True)):
        table, record = read_table(tmp_path / f"answers-{taken}", ANSWERS)
        write_table(table, tmp_path / f"answers-{taken}", ANSWERS, record | {"variant": variant})
        judged = ["--phrases", str(ROOT / "resources/phrases/privacy.txt"), "--output", str(tmp_path / f"v-{taken}")]
        assert main(["judge", str(tmp_path / f"answers-{taken}"), *judged]) == 0
    verdicts = [str(tmp_path / f"v-{taken}") for taken in (False, True)]
    assert main(["measure", "awareness", *verdicts, "--output", str(tmp_path / "m")]) == 1
    assert "cannot be compared: their prompt differ" in capsys.readouterr().err
