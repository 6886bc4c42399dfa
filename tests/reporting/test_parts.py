"""A figure or table is one file: what is new is found by its name, drawn by the command and asked for by the rules."""

import re
import shutil
import subprocess
import sys
from html import unescape

import pytest
from clone import Clone
from conftest import ROOT
from test_figures import STYLE, metrics_rows, write_metrics

from uncouple.errors import UncoupleError
from uncouple.reporting.drawing import draw_figures
from uncouple.reporting.pages import write_tables
from uncouple.reporting.parts import as_rst, caption, find_figure, find_table, is_wanted, part_names

FIGURE = '''"""How many rows there are: a *new* figure."""

TABLE = "metrics"
NEEDS = ("awareness",)


def draw(rows):
    from uncouple.reporting.drawing import panels

    figure, (ax,) = panels()
    ax.set_title(f"{len(rows.of('awareness'))} rows of awareness")
    return figure
'''
TABLE = '''"""How many rows there are."""

from uncouple.reporting.pages import Section

TABLES = ("metrics",)
NEEDS = ("awareness",)


def fill(sources):
    return [Section([["rows"], [str(len(sources.rows("metrics").of("awareness")))]])]
'''


def test_the_parts_that_there_are():
    assert part_names("figures") == [
        *("ability", "agreement", "awareness", "coupling", "hsic", "judge", "language", "models"),
        *("placement", "price", "refusal", "sweep", "tradeoff"),
    ]
    assert part_names("tables") == [
        "answer",
        "choices",
        "examples",
        "models",
        "published",
        "selections",
        "summary",
        "times",
    ]


PARTS = [find_figure(name) for name in part_names("figures")] + [find_table(name) for name in part_names("tables")]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_each_says_what_it_shows_and_needs(part):
    assert caption(part)[0].isupper()
    # Snakemake fills in what stands in braces.
    assert "{" not in caption(part)
    assert is_wanted(part, part.NEEDS[-1:])
    assert not is_wanted(part, ["something else"])


@pytest.mark.parametrize(
    "text",
    [
        "`a`_ **b** |c| :math:`x` <https://example.org> \\ ``d`` a_ [1]_ *",
        "{{ 7 * 7 }} {% if %} {# a #} }} '{'",
        ".. raw:: html\n\n   <script>1</script>",
        "- a\n- b\n\n====\n====\x85\u2028.. include:: /etc/passwd",
    ],
)
def test_a_text_of_anybodys_is_no_markup_of_the_report(text):
    """What Snakemake does with a caption: a template of Jinja's, then docutils."""
    from docutils.core import publish_parts
    from jinja2 import Environment

    rendered = publish_parts(Environment().from_string(f"- {as_rst(text)}").render(), writer="html")["body"]
    shown = re.fullmatch(r"<ul[^>]*>\n<li><p>([^<]*)</p></li>\n</ul>\n|<ul[^>]*>\n<li>([^<]*)</li>\n</ul>\n", rendered)
    assert shown, rendered
    assert unescape(shown[1] or shown[2]).split() == text.split()


def test_the_rules_ask_without_anything_heavy():
    script = (
        "import sys\nfrom uncouple.reporting.parts import find_figure, find_table, part_names\n"
        "[find_figure(name) for name in part_names('figures')] + [find_table(name) for name in part_names('tables')]\n"
        "print([m for m in ('matplotlib', 'numpy', 'pyarrow', 'scipy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_part_that_is_not_there_is_told():
    with pytest.raises(UncoupleError, match="'nothing' is none of the figures. Use one of ability, "):
        draw_figures(["nothing"], [], ["a.png"], style=STYLE)
    with pytest.raises(UncoupleError, match="'nothing' is none of the tables. Use one of answer, "):
        write_tables(["nothing"], [], ["a.md"], model="m")


def test_several_at_once_have_a_file_each(tmp_path):
    table = write_metrics(tmp_path / "metrics", metrics_rows())
    more = {("origin", "general", "perplexity"): {"value": 3.0}}
    both = write_metrics(tmp_path / "both", metrics_rows() | more)
    with pytest.raises(UncoupleError, match=r"several figures cannot have one file. Write \{figure\} in the names"):
        draw_figures(["awareness", "ability"], [both], [tmp_path / "a.svg"], style=STYLE, model="m")
    draw_figures(["awareness", "ability"], [both], [tmp_path / "{figure}.svg"], style=STYLE, model="m")
    assert "perplexity per token" in (tmp_path / "ability.svg").read_text()
    # What is drawn beside it changes nothing.
    draw_figures(["awareness"], [table], [tmp_path / "alone.svg"], style=STYLE, model="m")
    assert (tmp_path / "alone.svg").read_bytes() == (tmp_path / "awareness.svg").read_bytes()
    with pytest.raises(UncoupleError, match=r"several tables cannot have one file. Write \{table\} in the names"):
        write_tables(["summary", "selections"], [both], [tmp_path / "a.md"], model="m")


@pytest.mark.parametrize(
    ("count", "told"), [(0, "0 files of the kind `metrics` are given"), (2, "2 files of the kind")]
)
def test_the_one_table_that_is_needed(tmp_path, count, told):
    tables = [write_metrics(tmp_path / str(number), metrics_rows()) for number in range(count)]
    with pytest.raises(UncoupleError, match=rf"{told}.* one is needed \(--from\)"):
        draw_figures(["awareness"], tables, [tmp_path / "a.svg"], style=STYLE, model="m")


def test_a_new_figure_and_a_new_table_are_one_file_each(tmp_path, model_folder, encoder):
    clone = Clone.make(tmp_path / "clone", model_folder, encoder)
    package = clone.folder / "uncouple"
    before = {path: path.read_bytes() for path in clone.folder.rglob("*") if path.is_file()}
    (package / "reporting/figures/extra.py").write_text(FIGURE)
    (package / "reporting/tables/extra.py").write_text(TABLE)
    table = write_metrics(tmp_path / "metrics", metrics_rows())
    for verb, name, more in (("figures", "extra.svg", ["--style", STYLE]), ("tables", "extra.md", [])):
        command = [sys.executable, "-m", "uncouple", verb, "extra", "--from", table, "--model", "m", *more]
        subprocess.run([*command, "--output", tmp_path / name], cwd=clone.folder, check=True)
    assert "6 rows of awareness" in (tmp_path / "extra.svg").read_text()
    assert "| 6 |" in (tmp_path / "extra.md").read_text()
    plan = clone.snakemake("--dry-run", "--printshellcmds")
    assert re.search(r"output: .*results/figures/tiny/extra\.png", plan)
    assert re.search(r"uncouple tables answer examples extra selections summary times --from ", plan)
    new = {p for p in package.rglob("*.py") if p not in before or p.read_bytes() != before[p]}
    assert sorted(f"{path.parent.name}/{path.name}" for path in new) == ["figures/extra.py", "tables/extra.py"]
    shutil.rmtree(clone.folder)
