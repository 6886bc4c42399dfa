"""A text that somebody else wrote gives no orders: to a terminal, to a reader of Markdown, in a chat template."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from records.test_verify import rewrite

from uncouple import progress
from uncouple.commands import main
from uncouple.errors import UncoupleError, shown
from uncouple.models import prompts
from uncouple.models.load import load_tokenizer
from uncouple.models.prompts import encode_question
from uncouple.reporting.pages import FORMS, Section

# Colours and the cursor; the clipboard (OSC 52); the title; a link; a bell; over the line; C1; bidi; no width; half.
ORDERS = ["\x1b[2J\x1b[1;1H", "\x1b]52;c;cm0gLXJm\x07", "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\a\x1b]8;;\x1b\\"]
ORDERS += [
    "\a",
    "safe\rerror",
    "a\bb",
    "\x7f",
    "\x9b31m",
    "\x90q",
    "a\u202eb\u202c",
    "\u2066a",
    "\u200b",
    "\ud800",
    "\u2028",
]
HARMLESS = ["a\nb\tc", "naïve", "日本語", "🙂", "a\\b", "<script>", "$(rm)"]


def is_harmless(text):
    return all(c in "\n\t" or c.isprintable() for c in text)


@pytest.mark.parametrize("text", ORDERS)
def test_an_order_to_a_terminal_is_shown_and_not_given(text, capsys):
    for told in (shown(text), str(UncoupleError(f"x: {text}")), shown(shown(text))):
        assert is_harmless(told)
        assert "\\" in told
    progress.say(text)
    progress.tell(text)
    captured = capsys.readouterr()
    assert captured.out == captured.err == shown(text) + "\n"


@pytest.mark.parametrize("text", HARMLESS)
def test_other_texts_stay_as_they_are(text):
    assert shown(text) == str(UncoupleError(text)) == text


def test_nothing_is_printed_but_by_these():
    """So that there is one place where a text is made harmless."""
    for path in ROOT.glob("uncouple/**/*.py"):
        text = path.read_text()
        if path.name not in ("progress.py", "document.py"):
            assert not re.search(r"\bprint\(|print_exc|sys\.std(out|err)\.write", text), path
    # What Snakemake's own process prints of files that others may have made.
    assert "raise WorkflowError(str(error))" in (ROOT / "rules/common.smk").read_text()


@pytest.mark.parametrize("text", [order for order in ORDERS if order != "\ud800"])
def test_what_a_file_says_gives_no_orders_in_an_error(text, write_answers, write_jsonl, tmp_path, capsys):
    rows = write_jsonl("raw.jsonl", [{"prompt": "a", "response": "b", text: 1}, {"prompt": "a", "response": "b"}])
    assert main(["samples", "--path", str(rows), "--prompt-column", "gone", "--dimension", "d", "--output", "o"]) == 1
    answers = write_answers(["a"])
    rewrite(answers, kind=text)
    assert main(["verify", str(answers)]) == 1
    assert main(["measure", "language", str(answers), "--phrases", "privacy=p", "--output", "o"]) == 1
    hostile = tmp_path / f"{text.replace('/', '')}.parquet"
    hostile.write_bytes(b"PAR1")
    assert main(["verify", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert is_harmless(captured.err)
    assert is_harmless(captured.out)
    assert captured.err.count("error: ") >= 3


def test_a_fault_of_our_own_gives_none_either(tmp_path):
    """A traceback has in it what the libraries say, and these repeat what is in a file."""
    code = "import uncouple.__main__ as m; m.main = lambda: int(chr(27))"
    done = subprocess.run([sys.executable, "-c", f"{code}; m.run()"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "ValueError: invalid literal" in done.stderr
    assert "Traceback" in done.stderr
    assert "\x1b" not in done.stderr


MARKUP = ["<img src=x onerror=alert(1)>", "![a](http://x/y.png)", "[a](javascript:alert(1))", "`<b>`", "a | b", "a\nb"]


@pytest.mark.parametrize("text", MARKUP)
def test_no_text_is_markup_in_markdown(text):
    """In no place of a table: a viewer would fetch a picture, or show another table."""
    page = FORMS["md"]([Section([["question", text], ["q", text]], title=text, below=[text], texts=True)])
    assert not re.search(r"<(?!br>)|\[|`", page)
    head, rule, row = [line for line in page.splitlines() if line.startswith("|")]
    assert head.count("|") == rule.count("|") == row.count("|") == 3


ENDLESS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% set k = j %}{% endfor %}{% endfor %}",
    "{{ 'a' * 10000000000 }}",
    "{% for i in range(1000000000) %}a{% endfor %}",
    "{{ 9**9**9 }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
]
# What leads to Python, to files, or to what the template is not told.
LEADING_OUT = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch ran') }}",
    "{{ lipsum.__globals__['os'].system('touch ran') }}",
    "{{ messages.append(1) }}{{ 1 / 0 }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{{ raise_exception('no') }}",
]


@pytest.fixture
def with_template(model_folder, tmp_path):
    """A function of a chat template to a model folder that has it."""

    def make(template):
        folder = shutil.copytree(model_folder, tmp_path / "m")
        (folder / "chat_template.jinja").write_text(template)
        return folder

    return make


def ask_with(folder):
    """The tokens of a question, as the model of a folder is asked it."""
    tokenizer, form = load_tokenizer(folder, "chat")
    return encode_question(tokenizer, "a question", form)


@pytest.mark.parametrize("template", ENDLESS)
def test_a_template_without_end_is_ended(template, with_template, monkeypatch):
    monkeypatch.setattr(prompts, "TEMPLATE_SECONDS", 2)
    with pytest.raises(UncoupleError, match="chat template"):
        ask_with(with_template(template))


def test_a_template_that_makes_very_much_of_a_text_is_refused(with_template):
    """Its tokens would take more memory than the bound has, and the library that makes them ends the process then."""
    with pytest.raises(UncoupleError, match="its chat template makes 30,000,000 characters"):
        ask_with(with_template("{{ messages[0]['content'][:1] * 30000000 }}"))


@pytest.mark.parametrize("template", LEADING_OUT)
def test_a_template_leads_nowhere(template, with_template, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = with_template(template)
    with pytest.raises(UncoupleError, match=r"its chat template does not take these texts|the chat template"):
        ask_with(folder)
    assert not (tmp_path / "ran").exists()


def test_an_error_of_a_template_gives_no_orders(with_template):
    with pytest.raises(UncoupleError) as caught:
        ask_with(with_template("{{ raise_exception('\\x1b[2J') }}"))
    assert is_harmless(str(caught.value))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"model": 1}', b"[" * 100_000, b'{"added_tokens": 3}']
)
def test_a_tokenizer_that_is_none_is_told(content, model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "m")
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(UncoupleError, match="the tokenizer cannot be read"):
        load_tokenizer(folder)


def test_settings_that_are_none_are_told(model_folder, tmp_path):
    from uncouple.models.folders import check_folder

    folder = shutil.copytree(model_folder, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    wrong = [{"num_hidden_layers": n} for n in (-1, 0, 10**9, 1e9, "2", None, True, [2])]
    wrong += [{"model_type": n} for n in (3, [], None)] + [{"max_position_embeddings": n} for n in (0, "a", 2**70)]
    for change in wrong:
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(UncoupleError, match=next(iter(change))):
            check_folder(folder)
