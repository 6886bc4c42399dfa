"""How tables are written: as Markdown (.md), or as a page for a browser (.html)."""

from collections.abc import Iterable, Sequence
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


def write_tables(names: Sequence[str], paths: Iterable[Path], outputs: Sequence[str], *, model: str) -> None:
    """Write some tables.

    Args:
        names: the tables.
        paths: the files that they are made of, in any order.
        outputs: files to write of each (.md, .html), with `{table}` in their names where there are several.
        model: name of the model that they are about.

    Raises:
        UncoupleError: a table that is not known, or a file that is missing or has not what it is made of.
    """
    modules = {name: find_table(name) for name in names}
    if len(modules) > 1 and any("{table}" not in str(output) for output in outputs):
        raise UncoupleError("several tables cannot have one file. Write {table} in the names (--output).")
    sources = Sources(paths, model)
    for name, module in modules.items():
        sections = module.fill(sources)
        for output in outputs:
            path = Path(str(output).replace("{table}", name))
            is_html = path.suffix == ".html"
            text = "\n".join(_section(section, is_html) for section in sections)
            with atomic_path(path) as partial:
                partial.write_text(_page(text) if is_html else text, encoding="utf-8")


def _section(section: Section, html: bool) -> str:
    text = _table(section.lines, html, section.texts) if section.lines else ""
    text += "".join(f"<p>{escape(line)}</p>\n" if html else f"\n{line}\n" for line in section.below)
    if section.title is None:
        return text
    return (f"<h3>{escape(section.title)}</h3>" if html else f"### {section.title}\n") + f"\n{text}"


def _page(body: str) -> str:
    return f"<!doctype html>\n<meta charset='utf-8'>\n{STYLE}\n{body}"


def _table(lines: Sequence[Sequence[str]], html: bool, texts: bool) -> str:
    head, *rows = lines
    if html:
        cells = [[f"<th>{escape(cell)}</th>" for cell in head]]
        cells += [[f"<td>{escape(cell)}</td>" for cell in row] for row in rows]
        body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in cells)
        return f"<table{' class=texts' * texts}>\n{body}\n</table>\n"
    # An answer may hold what ends a cell of Markdown, or be markup itself.
    rows = [[escape(cell, quote=False).replace("|", "&#124;").replace("\n", "<br>") for cell in row] for row in rows]
    rule = ["---"] + ["---" if texts else "---:"] * (len(head) - 1)
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows))
