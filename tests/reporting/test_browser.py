"""The report in a real browser: it shows all that it promises, and runs nothing that a model or a file says."""

import csv
import shutil

import pytest
from clone import Clone

from uncouple.reporting.pages import FORMS, Section
from uncouple.reporting.parts import caption, find_figure, find_table

pytestmark = pytest.mark.slow
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Each way by which a text could be run: by the page, by what renders captions, and by the template before that.
HOSTILE = (
    '<script>window.ran = parent.ran = 1</script><img src=x onerror="window.ran = 1"> '
    "</td></table></script><script>window.ran = 1</script> {{ 7 * 7 }} {% raise %} `a`_ **b** |c| \\d\n"
    ".. raw:: html\n\n   <script>window.ran = 1</script>"
)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.fail("no browser: install Debian's package chromium (docs/development.md)", pytrace=False)
    with sync_playwright() as playwright:
        # A container's root has no sandbox.
        yield playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def clone(finished, tmp_path_factory):
    """The finished clone with a report, and a hostile text in two of its tables."""
    made = Clone(shutil.copytree(finished.folder, tmp_path_factory.mktemp("report") / "clone", symlinks=True))
    tables = made.folder / "results/tables/tiny"
    lines = [["question", "origin", "spin"], [HOSTILE, HOSTILE, "well"]]
    (tables / "examples.html").write_text(FORMS["html"]([Section(lines, title=HOSTILE, below=[HOSTILE], texts=True)]))
    with open(tables / "answer.csv", newline="", encoding="utf-8") as file:
        rows = [*csv.reader(file), [HOSTILE, HOSTILE]]
    with open(tables / "answer.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    made.snakemake("--report", "report.html")
    return made


@pytest.fixture(scope="module")
def opened(browser, clone):
    """(page of the report, all that went wrong in it)."""
    page, faults = browser.new_page(viewport={"width": 1400, "height": 900}), []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda r: faults.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
    page.goto((clone.folder / "report.html").as_uri())
    return page, faults


def go(page, entry):
    """Open an entry of the first menu."""
    page.locator("nav ol a").first.click()
    page.locator("nav ul").get_by_text(entry, exact=True).click()


def show(page, category):
    """Open a category; gives its rows by label."""
    go(page, category)
    return {row.locator("td").first.inner_text(): row for row in page.locator("tbody tr").all()}


def test_it_opens_with_the_answer_and_lists_the_categories(opened):
    page, faults = opened
    first = page.locator(".prose strong").first
    assert first.inner_text() == "tiny"
    # What is taller than the window must not begin above it.
    assert first.bounding_box()["y"] > 0
    assert page.locator(".prose").bounding_box()["height"] > 900
    told = page.locator(".prose").inner_text()
    for words in ("what was done", " of 36,864 weights to zero: coupled", "what to do next", "How to read it"):
        assert words in told
    assert set(page.locator("ul li span").all_inner_texts()) >= {"judges", "tiny"}
    assert faults == []


def test_each_picture_and_table_is_shown_with_its_caption(opened, clone):
    page, faults = opened
    results = clone.folder / "results"
    wanted = {"judges": {"figure: embedding"}}
    wanted["tiny"] = {f"figure: {path.stem}" for path in (results / "figures/tiny").glob("*.png")}
    wanted["tiny"] |= {f"table: {path.stem}" for path in (results / "tables/tiny").glob("*.html")}
    assert len(wanted["tiny"]) > 10
    for category, labels in wanted.items():
        assert show(page, category).keys() == labels
        for label in labels:
            view, info = show(page, category)[label].locator("a").all()
            view.click()
            if label.startswith("figure"):
                image = page.locator("img[src^='data:image/png']")
                image.wait_for()
                assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 300, label
            else:
                assert page.frame_locator("iframe").locator("td, p").first.inner_text(), label
            info.click()
            kind, name = label.split(": ")
            part = find_figure("judge" if category == "judges" else name) if kind == "figure" else find_table(name)
            assert " ".join(caption(part).split()[:4]) in " ".join(page.locator("nav ul").first.inner_text().split())
    assert faults == []


def test_a_hostile_text_is_shown_and_not_run(opened):
    page, faults = opened
    show(page, "tiny")["table: examples"].locator("a").first.click()
    frame = page.frame_locator("iframe")
    assert frame.locator("td").all_inner_texts() == [HOSTILE, HOSTILE, "well"]
    assert frame.locator("h3").inner_text().split() == frame.locator("p").inner_text().split() == HOSTILE.split()
    go(page, "Workflow")
    told = " ".join(page.locator(".prose").inner_text().split())
    # As a question and as its answer.
    assert told.count(" ".join(HOSTILE.split())) == 2
    assert [f.evaluate("window.ran") for f in page.frames] == [None] * len(page.frames)
    assert faults == []
