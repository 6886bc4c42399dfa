"""How tables are written: as Markdown (.md), a page for a browser (.html), LaTeX for a paper (.tex) or data (.csv)."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from uncouple.errors import UncoupleError
from uncouple.records.files import atomic_path
from uncouple.reporting.parts import find_table
from uncouple.reporting.rows import Sources

STYLE = (
    "<style>body {font: 14px sans-serif} table {border-collapse: collapse}"
    "td, th {padding: 4px 10px; text-align: right}"
    "tr {border-bottom: 1px solid #ccc} td:first-child, th:first-child {text-align: left}"
    ".texts td, .texts th {text-align: left; vertical-align: top; white-space: pre-wrap; max-width: 36em}</style>"
)


@dataclass(frozen=True)
class Section:
    """One table of a page.

    Attributes:
        lines: rows of cells, the first being the heads; none where there is nothing to show.
        title: above it.
        below: sentences below it.
        texts: whether the cells are texts, and not numbers, which are aligned on the right.
    """

    lines: Sequence[Sequence[str]]
    title: str | None = None
    below: Sequence[str] = ()
    texts: bool = False


def write_tables(names: Sequence[str], paths: Iterable[Path], outputs: Sequence[str], *, model: str | None) -> None:
    """Write some tables.

    Args:
        names: the tables.
        paths: the files that they are made of, in any order.
        outputs: files to write of each, in any of the `FORMS`, with `{table}` in their names where there are several.
        model: name of the model that they are about; None for those of all models.

    Raises:
        UncoupleError: a table that is not known, a file that is missing or has not what it is made of, or an output of
            none of the forms.
    """
    modules = {name: find_table(name) for name in names}
    if len(modules) > 1 and any("{table}" not in str(output) for output in outputs):
        raise UncoupleError("several tables cannot have one file. Write {table} in the names (--output).")
    if unknown := [output for output in outputs if Path(output).suffix[1:] not in FORMS]:
        raise UncoupleError(f"{unknown[0]}: a table is written as one of {', '.join(FORMS)}. Name it so (--output).")
    sources = Sources(paths, model)
    for name, module in modules.items():
        sections = module.fill(sources)
        for output in outputs:
            path = Path(str(output).replace("{table}", name))
            with atomic_path(path) as partial:
                partial.write_text(FORMS[path.suffix[1:]](sections), encoding="utf-8")


def _markdown(sections: Sequence[Section]) -> str:
    return "\n".join(_markdown_section(section) for section in sections)


def _markdown_section(section: Section) -> str:
    lines = []
    if section.title is not None:
        lines += [f"### {_as_markdown(section.title)}", ""]
    if section.lines:
        head, *rows = [[_as_markdown(cell) for cell in row] for row in section.lines]
        rule = ["---"] + ["---" if section.texts else "---:"] * (len(head) - 1)
        lines += [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]
    for line in section.below:
        lines += ["", _as_markdown(line)]
    return "".join(f"{line}\n" for line in lines)


# An answer may hold what ends a cell of Markdown, or be markup itself: a picture, which a viewer would fetch.
MARKDOWN = {ord(character): f"&#{ord(character)};" for character in "|[`"} | {ord("\n"): "<br>"}


def _as_markdown(text: str) -> str:
    return escape(text, quote=False).translate(MARKDOWN)


def _html(sections: Sequence[Section]) -> str:
    body = "\n".join(_html_section(section) for section in sections)
    return f"<!doctype html>\n<meta charset='utf-8'>\n{STYLE}\n{body}"


def _html_section(section: Section) -> str:
    text = "" if section.title is None else f"<h3>{escape(section.title)}</h3>\n"
    if section.lines:
        head, *rows = section.lines
        cells = [[f"<th>{escape(cell)}</th>" for cell in head]]
        cells += [[f"<td>{escape(cell)}</td>" for cell in row] for row in rows]
        body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in cells)
        text += f"<table{' class=texts' * section.texts}>\n{body}\n</table>\n"
    return text + "".join(f"<p>{escape(line)}</p>\n" for line in section.below)


# LaTeX: what a paper takes in by \input. It needs no package and no option, of any engine.

# What a reader of TeX would run, join (two dashes) or set as another character. `[` and `*` would be arguments of the
# end of a row before them, and packages for languages give `"` a meaning.
TEX = {character: f"\\{character}" for character in "%$_&#{}"}
TEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "`": r"\textasciigrave{}"}
TEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\symbol{34}"}
TEX |= {"[": "{[}", "]": "{]}", "*": "{*}", "\t": " ", "\u00a0": "~", "\n": r"\par "}
# The characters beyond ASCII that pdfTeX sets without a package; of others it shows the number, where LuaTeX and XeTeX
# set them if the font has them.
TEX_KNOWN = frozenset("¡£§©®°±·¶¿×÷–—‘’“”•…ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝßàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿŒœŠšŽžŁł")
TEX_OTHER = r"\providecommand{\othercharacter}[2]{\ifx\Umathchar\undefined U+#1\else #2\fi}"


def _latex(sections: Sequence[Section]) -> str:
    text = "\n".join(_latex_section(section) for section in sections)
    return f"{TEX_OTHER}\n{text}" if r"\othercharacter" in text else text


def _latex_section(section: Section) -> str:
    text = "" if section.title is None else f"\\par\\noindent{{\\bfseries {_tex(section.title)}}}\\par\n"
    if section.lines:
        columns = len(section.lines[0])
        widths = f"p{{{0.9 / columns:.3f}\\linewidth}}" * columns if section.texts else "l" + "r" * (columns - 1)
        head, *rows = (" & ".join(map(_tex, row)) + " \\\\\n" for row in section.lines)
        begin, end = f"\\noindent\\begin{{tabular}}{{{widths}}}\n", "\\end{tabular}\n"
        # A page can end between two tables and not within one, and texts are long: each row of them is one.
        body = f"{end}\\par\n{begin}".join([head + "\\hline\n", *rows]) if section.texts else None
        text += begin + (body or head + "\\hline\n" + "".join(rows)) + end
    return text + "".join(f"\\par\\noindent {_tex(line)}\n" for line in section.below)


def _tex(text: str) -> str:
    return re.sub("-(?=-)", "-{}", "".join(map(_tex_character, text)))


def _tex_character(character: str) -> str:
    if character in TEX or character in TEX_KNOWN or " " <= character <= "~":
        return TEX.get(character, character)
    number = f"{ord(character):04X}"
    # A reader of TeX takes no control character at all.
    return f"\\othercharacter{{{number}}}{{{character}}}" if character.isprintable() else f"U+{number}"


# Data. A spreadsheet runs what begins with one of these as a formula; an apostrophe in front makes it a text.
FORMULA = re.compile(r"[=+\-@\t\r]")
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?%?")


def _csv(sections: Sequence[Section]) -> str:
    """One table of the rows of all sections, as RFC 4180 has it: first the title, where sections have one, then a
    column of each name. The sentences below stand in the other forms alone."""
    shown = [section for section in sections if section.lines]
    titles = ["section"] if any(section.title is not None for section in shown) else []
    names = list(dict.fromkeys([*titles, *(name for section in shown for name in section.lines[0])]))
    records = [dict(zip(names, names, strict=True))] if names else []
    for section in shown:
        head, *rows = section.lines
        records += [{"section": section.title or ""} | dict(zip(head, row, strict=True)) for row in rows]
    file = io.StringIO()
    csv.writer(file).writerows([_as_text(record.get(name, "")) for name in names] for record in records)
    return file.getvalue()


def _as_text(cell: str) -> str:
    return f"'{cell}" if FORMULA.match(cell) and not NUMBER.fullmatch(cell) else cell


# By the suffix of a file, what is written of a table.
FORMS: dict[str, Callable[[Sequence[Section]], str]] = {"md": _markdown, "html": _html, "tex": _latex, "csv": _csv}
