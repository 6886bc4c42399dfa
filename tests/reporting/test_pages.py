"""The forms of a table: whatever a text has in it, no reader of the file runs it or loses a cell by it."""

import csv
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uncouple.errors import UncoupleError
from uncouple.reporting.drawing import draw_figures
from uncouple.reporting.pages import FORMS, TEX_KNOWN, Section, write_tables
from uncouple.reporting.parts import FIGURE_FORMS

HOSTILE = [
    r"\input{/etc/passwd} \write18{touch owned} \end{tabular}\end{document}",
    "50% & # $x_1^2$ {open }} ~ ^^5cinput",
    "--- ``so'' \"so\" <<a>> |b| ?` !`",
    "[1ex] *",
    "\x00\x07\x1b[31m\x7f\x85\r\u2028\u200b\u202e",
    "中文 🙂 \u0301 ẞ «»",
    "\n\na\n\nb\n",
    "\\",
    "",
    "=cmd|' /C calc'!A0",
    'a "quote", a comma\r\nand a line',
]
# Each command that may stand in a text, by the character that it sets; whoever reads TeX knows these.
COMMANDS = {r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^"}
COMMANDS |= {r"\textasciigrave{}": "`", r"\textless{}": "<", r"\textgreater{}": ">", r"\textbar{}": "|"}
COMMANDS |= {r"\symbol{34}": '"', "{[}": "[", "{]}": "]", "{*}": "*", "-{}": "-", r"\par ": "\n"}
COMMANDS |= {f"\\{character}": character for character in "%$_&#{}"} | {"~": "\u00a0"}
TOKEN = re.compile("|".join(map(re.escape, COMMANDS)) + r"|\\othercharacter\{([0-9A-F]{4,6})\}\{(.)\}|(?s:.)")


def tex_cell(text):
    """A text as a cell of a table in LaTeX."""
    (line,) = re.findall(
        r"(?s)first & (.*) \\\\\n\\end\{tabular\}\n\Z", FORMS["tex"]([Section([["a", "b"], ["first", text]])])
    )
    return line


def set_by_tex(cell):
    """What TeX sets of a cell of which it may run no other command, with no character left that it takes otherwise."""
    told = ""
    for token in TOKEN.finditer(cell):
        if token[1]:
            assert int(token[1], 16) == ord(token[2])
            told += token[2]
        elif token[0] in COMMANDS:
            told += COMMANDS[token[0]]
        else:
            assert token[0] not in '\\%$_&#{}~^`"<>|[]*\n', cell
            assert token[0] in TEX_KNOWN or " " <= token[0] <= "~", cell
            told += token[0]
    return told


def seen(text):
    """A text as a page can show it: a control character by its number, a tab as a space."""
    shown = (" " if c == "\t" else c if c in "\n\u00a0" or c.isprintable() else f"U+{ord(c):04X}" for c in text)
    return "".join(shown)


@pytest.mark.parametrize("text", HOSTILE)
def test_latex_sets_every_text_and_runs_none(text):
    assert set_by_tex(tex_cell(text)) == seen(text)
    assert "--" not in tex_cell(text)


@given(st.text())
def test_latex_sets_any_text(text):
    assert set_by_tex(tex_cell(text)) == seen(text)


def test_a_character_that_pdftex_does_not_know_is_shown_by_its_number():
    assert tex_cell("é 中") == r"é \othercharacter{4E2D}{中}"
    page = FORMS["tex"]([Section([["a", "中"]])])
    assert page.count(r"\providecommand{\othercharacter}[2]{\ifx\Umathchar\undefined U+#1\else #2\fi}") == 1
    assert "providecommand" not in FORMS["tex"]([Section([["a", "é"]])])


def test_latex_aligns_numbers_and_lets_a_page_end_between_texts():
    lines = [["question", "origin"], ["q1", "no_1"], ["q2", "no_2"]]
    text = FORMS["tex"]([Section(lines, title="a_b", below=["50%"])])
    assert text == (
        "\\par\\noindent{\\bfseries a\\_b}\\par\n\\noindent\\begin{tabular}{lr}\nquestion & origin \\\\\n\\hline\n"
        "q1 & no\\_1 \\\\\nq2 & no\\_2 \\\\\n\\end{tabular}\n\\par\\noindent 50\\%\n"
    )
    texts = FORMS["tex"]([Section(lines, texts=True)])
    assert texts.count(r"\begin{tabular}{p{0.450\linewidth}p{0.450\linewidth}}") == texts.count(r"\end{tabular}") == 3


SECTIONS = [
    Section([["question", "origin", "spin"], *([text, f"1 {text}", f"2 {text}"] for text in HOSTILE)], title="one"),
    Section([["question", "origin", "random"], ["q", "-0.5", "@me"]], title="=two"),
    Section([], title="three", below=["nothing"]),
]


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file, strict=True))


def test_csv_is_one_table_of_all_sections(tmp_path):
    (tmp_path / "t.csv").write_text(FORMS["csv"](SECTIONS), encoding="utf-8", newline="")
    head, *rows = read_csv(tmp_path / "t.csv")
    assert head == ["section", "question", "origin", "spin", "random"]
    assert [row[:4] for row in rows[:-1]] == [
        ["one", f"'{text}" if text[:1] in ("=", "-") else text, f"1 {text}", f"2 {text}"] for text in HOSTILE
    ]
    assert rows[-1] == ["'=two", "q", "-0.5", "", "'@me"]
    # Every line ends as RFC 4180 has it, and no cell's own line end was made another.
    assert FORMS["csv"]([Section([["a"], ["b\nc"]])]) == 'a\r\n"b\nc"\r\n'
    assert FORMS["csv"]([Section([["a", "b"]])]) == "a,b\r\n"
    assert FORMS["csv"]([]) == ""


@pytest.mark.parametrize("text", ["=1+1", "+26.6% (+16.6% to +36.6%)", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "-", "--1"])
def test_no_cell_of_csv_is_a_formula(text):
    assert FORMS["csv"]([Section([["a"], [text]])]).partition("\r\n")[2].lstrip('"').startswith("'")


@pytest.mark.parametrize("text", ["-0.5", "+1", "+26.6%", "-1.5e-05", "1,000", "'", "a=b"])
def test_numbers_stay_numbers_in_csv(text):
    assert text in FORMS["csv"]([Section([["a"], [text]])])
    assert f"'{text}" not in FORMS["csv"]([Section([["a"], [text]])])


def test_a_form_that_is_not_known_is_told():
    told = "t.txt: a table is written as one of md, html, tex, csv"
    with pytest.raises(UncoupleError, match=told):
        write_tables(["summary"], [], ["t.md", "t.txt"], model="m")
    assert FIGURE_FORMS == ("png", "svg", "pdf")
    with pytest.raises(UncoupleError, match="t.eps: a figure is drawn as one of png, svg, pdf"):
        draw_figures(["awareness"], [], ["t.eps"], style="s")
