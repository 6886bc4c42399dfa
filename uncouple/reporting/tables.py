"""Tables of the report, written from tidy tables: as Markdown, or as a page for a browser."""

from collections import defaultdict
from html import escape
from pathlib import Path

from uncouple.errors import UncoupleError
from uncouple.evaluation.statistics import KINDS
from uncouple.records.files import atomic_path, read_table
from uncouple.selection.rules import COUPLED, RULES
from uncouple.variants.kinds import ORIGIN

SIGNIFICANT = 0.05
# Pairs of answers that the page of examples shows for each variant, dimension and judge.
EXAMPLES = 12
STYLE = (
    "<style>body {font: 14px sans-serif} table {border-collapse: collapse}"
    "td, th {padding: 4px 10px; text-align: right}"
    "tr {border-bottom: 1px solid #ccc} td:first-child, th:first-child {text-align: left}"
    ".texts td, .texts th {text-align: left; vertical-align: top; white-space: pre-wrap; max-width: 36em}</style>"
)


def rows_of(path, kind, model):
    """Rows of one model in a tidy table, as dicts; an error where there are none."""
    rows = [row for row in read_table(path, kind)[0].to_pylist() if row["model"] == model]
    if not rows:
        raise UncoupleError(f"{path}: no row of the model {model!r} in it.")
    return rows


def ordered(values):
    """Each value once, in the order of the first of each."""
    return list(dict.fromkeys(values))


def judged_rows(path, model):
    """(metrics rows of a model by (variant, dimension, metric), variants, dimensions, judges) of the awareness in it.

    Raises:
        UncoupleError: a judge has judged a variant on one dimension and not on another.
    """
    rows = {(r["variant"], r["dimension"], r["metric"]): r for r in rows_of(path, "metrics", model)}
    judged = [key for key in rows if key[2].startswith("awareness.")]
    variants, dimensions, metrics = (ordered(values) for values in zip(*judged, strict=True)) if judged else ([],) * 3
    for variant in variants:
        for dimension in dimensions:
            for metric in metrics:
                if (variant, dimension, metric) not in rows:
                    raise UncoupleError(
                        f"{path}: no verdicts of {variant} on {dimension} by {metric.partition('.')[2]}. "
                        "Judge them, and measure again."
                    )
    return rows, variants, dimensions, [metric.partition(".")[2] for metric in metrics]


def is_effect(rows, variant, dimension, judge, noise):
    """Whether a variant's difference from the origin is called an effect.

    It is where Holm's p-value is below 0.05 and more verdicts changed than under any noise variant, which is the origin
    once more, batched otherwise: what arithmetic alone does is no effect.
    """
    p, difference = (rows.get((variant, dimension, f"{name}.{judge}")) for name in ("p_holm", "difference"))
    flips = [r["n"] for v in noise if (r := rows.get((v, dimension, f"difference.{judge}")))]
    return bool(p) and p["value"] < SIGNIFICANT and difference["n"] > max(flips, default=0)


def with_p_unsafe(rows, judges):
    """Those of the judges that give a p(unsafe)."""
    given = {metric for (_, _, metric), row in rows.items() if row["value"] is not None}
    return [judge for judge in judges if f"p_unsafe.{judge}" in given]


def notes(rows, dimensions, judges, noise=()):
    """What must be known to read the rates: how a noise variant was asked, and which judges are not to be trusted.

    Args:
        rows, dimensions, judges: see `judged_rows`.
        noise: variants that are the origin once more, batched otherwise.

    Returns:
        list of sentences.
    """
    told = []
    for variant in noise:
        sizes = {
            dimension: f"{_most(there)} instead of {_most(rows.get((ORIGIN, dimension, 'batch')))}"
            for dimension in dimensions
            if (there := rows.get((variant, dimension, "batch")))
        }
        alike = len(set(sizes.values())) == 1
        said = [size if alike else f"{size} ({dimension})" for dimension, size in sizes.items()]
        if said:
            told.append(f"{variant}: {ORIGIN} asked again in batches of {', '.join(ordered(said))}.")
    for judge in judges:
        for dimension in dimensions:
            tests = {kind: rows.get((None, dimension, f"kind.{kind}.{judge}")) for kind in KINDS}
            for kind, row in tests.items():
                verdict, least = KINDS[kind]
                if row and row["value"] is None:
                    told.append(f"{judge} was not tested on answers of the kind {kind} ({dimension}).")
                elif row and row["value"] < least:
                    told.append(
                        f"Do not trust {judge} on {dimension}: it calls {row['n']} of {row['of']} held-out "
                        f"answers of the kind {kind} {verdict}, fewer than {least:.0%}."
                    )
    return told


def _most(row):
    """The most questions at once, of a row of the metric `batch`."""
    return f"{row['value']:.0f}" if row and row["value"] else "as many as fit"


def write_summary(metrics_path, placement_path, outputs, *, model, noise=()):
    """A table of a model's variants: weights suppressed, awareness, its difference from the origin, odd answers.

    Differences that are effects, see `is_effect`, are marked with a star. Below stand the `notes`.
    """
    rows, variants, dimensions, judges = judged_rows(metrics_path, model)
    suppressed = defaultdict(int)
    for r in rows_of(placement_path, "placement", model) if placement_path else []:
        suppressed[r["variant"]] += r["n"]
    perplexity = any(metric == "perplexity" for _, _, metric in rows)
    head = ["variant", "weights suppressed"] if placement_path else ["variant"]
    head += ["perplexity"] * perplexity
    columns = {judge: ["awareness", "difference"] for judge in judges}
    columns |= {judge: [*columns[judge], "p(unsafe)", "p(unsafe) difference"] for judge in with_p_unsafe(rows, judges)}
    head += [f"{d} {what} ({j})" for d in dimensions for j in judges for what in columns[j]]
    flags = ["empty", "degenerate"]
    flags += ["thinking"] if any(metric == "thinking" and row["n"] for (*_, metric), row in rows.items()) else []
    head += [f"{d} {flag}" for d in dimensions for flag in flags]
    lines = [head]
    for variant in variants:
        cells = [variant, f"{suppressed[variant]:,}"] if placement_path else [variant]
        if perplexity:
            found = rows.get((variant, "general", "perplexity"))
            cells.append(f"{found['value']:,.1f}" if found else "")
        for dimension in dimensions:
            for judge in judges:
                cells.append(_interval(rows[variant, dimension, f"awareness.{judge}"]))
                star = "* " if is_effect(rows, variant, dimension, judge, noise) else ""
                cells.append(star + _difference(rows, variant, dimension, judge))
                if "p(unsafe)" in columns[judge]:
                    cells.append(_mean(rows.get((variant, dimension, f"p_unsafe.{judge}"))))
                    cells.append(_mean(rows.get((variant, dimension, f"p_unsafe_difference.{judge}")), sign="+"))
        for dimension in dimensions:
            for flag in flags:
                row = rows[variant, dimension, flag]
                cells.append(f"{row['n']} of {row['of']}")
        lines.append(cells)
    _write_rows(lines, outputs, notes(rows, dimensions, judges, noise))


def _mean(row, sign=""):
    if row is None or row["value"] is None:
        return ""
    value, low, high = (f"{row[name]:{sign}.3f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _interval(row):
    if row["value"] is None:
        return "none judged"
    return f"{row['value']:.1%} ({row['low']:.1%} to {row['high']:.1%}), {row['n']} of {row['of']}"


def _difference(rows, variant, dimension, judge):
    row = rows.get((variant, dimension, f"difference.{judge}"))
    if row is None or row["low"] is None:
        return ""
    p = rows.get((variant, dimension, f"p_holm.{judge}"))
    told = f", p {p['value']:.2g}" if p else ""
    return f"{row['value']:+.1%} ({row['low']:+.1%} to {row['high']:+.1%}), {row['n']} of {row['of']} changed{told}"


def write_selections(coupling_path, outputs, *, model):
    """A table of how many weights each rule selects by ratio, and how many of those are coupled."""
    rows = rows_of(coupling_path, "coupling", model)
    rules = ordered(r["select"] for r in rows)
    counts = {(r["ratio"], r["select"]): r for r in rows}
    astray = {rule for rule in rules if rule in RULES and RULES[rule].goes_astray}
    lines = [["ratio", *(f"{rule} (of them {COUPLED.name})" if rule in astray else rule for rule in rules)]]
    for ratio in ordered(r["ratio"] for r in rows):
        cells = [counts[ratio, rule] for rule in rules]
        # Of other rules all weights are coupled, or all coupled weights are theirs: the second number says nothing.
        shown = [f"{r['n']:,}" + (f" ({r['coupled']:,})" if r["select"] in astray else "") for r in cells]
        lines.append([f"{ratio:g}", *shown])
    _write_rows(lines, outputs)


def write_examples(answer_paths, verdict_paths, outputs, *, model):
    """A page of answers side by side, the origin's and a variant's, where a judge calls them differently.

    The first `EXAMPLES` questions of each variant, dimension and judge are shown, in the order of their table, so that
    nobody has picked them; how many there are in all is said.

    Args:
        answer_paths, verdict_paths: of one model, the origin among its variants.
        outputs: files to write (.md, .html).
        model: the model's name.
    """
    answers, verdicts = {}, {}
    for paths, kind, found in ((answer_paths, "answers", answers), (verdict_paths, "verdicts", verdicts)):
        for path in paths:
            table, record = read_table(path, kind)
            if record["model"] == model:
                key = (record["variant"], record["dimension"], *([record["judge"]] if kind == "verdicts" else []))
                found[key] = {row["id"]: row for row in table.to_pylist()}
    sections = []
    for (variant, dimension, judge), after in verdicts.items():
        before = verdicts.get((ORIGIN, dimension, judge))
        if variant == ORIGIN or not before:
            continue
        for who in (ORIGIN, variant):
            if (who, dimension) not in answers:
                raise UncoupleError(f"no answers of {who} on {dimension} are given, and verdicts on them are.")
        changed = [i for i in after if after[i]["verdict"] != before[i]["verdict"]]
        title = f"{dimension}, judge {judge}: {ORIGIN} and {variant}, {len(changed)} of {len(after)} verdicts differ"
        lines = [["question", ORIGIN, variant]]
        for i in changed[:EXAMPLES]:
            ours, theirs = answers[variant, dimension][i], answers[ORIGIN, dimension][i]
            shown = [f"[{v[i]['verdict']}] {a['answer']}" for v, a in ((before, theirs), (after, ours))]
            lines.append([ours["question"], *shown])
        sections.append((title, lines if changed else []))
    for output in outputs:
        with atomic_path(output) as partial:
            html = Path(output).suffix == ".html"
            parts = [(f"<h3>{escape(title)}</h3>" if html else f"### {title}\n") for title, _ in sections]
            parts = [
                f"{head}\n{_table(lines, html, texts=True) if lines else ''}"
                for head, (_, lines) in zip(parts, sections, strict=True)
            ]
            partial.write_text(_page("\n".join(parts)) if html else "\n".join(parts), encoding="utf-8")


def _write_rows(lines, outputs, below=()):
    """Rows of cells, the first being the heads, and sentences below them, as Markdown (.md) or as a page for the report
    (.html)."""
    for output in outputs:
        with atomic_path(output) as partial:
            html = Path(output).suffix == ".html"
            told = "".join(f"<p>{escape(line)}</p>\n" if html else f"\n{line}\n" for line in below)
            text = _table(lines, html) + told
            partial.write_text(_page(text) if html else text, encoding="utf-8")


def _page(body):
    return f"<!doctype html>\n<meta charset='utf-8'>\n{STYLE}\n{body}"


def _table(lines, html, texts=False):
    """A table of numbers, aligned on the right, or of texts."""
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
