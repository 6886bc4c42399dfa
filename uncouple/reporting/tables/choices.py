"""Which value of each sweep one half of the questions picks, by awareness of all dimensions, and what it does: on the
half that picked it, where the best of many is so by luck as well, and on the other half, with Tango's 95% score
interval and the exact p-value of McNemar's test, which is adjusted for nothing. A value worth having is picked by both
halves and holds on both.
"""

from uncouple.reporting.pages import Section
from uncouple.reporting.rows import Row, Sources, ordered

TABLES = ("metrics",)
NEEDS = ("sweeps",)


def fill(sources: Sources) -> list[Section]:
    """A section a judge, a row for each half of each sweep and each dimension."""
    rows = sources.rows("metrics")
    found = {
        (r["judge"], r["item"], r["variant"], r["dimension"], r["metric"]): r
        for r in rows.of("picked", "chosen", "chosen_p")
    }
    sections = []
    for judge in ordered(key[0] for key in found):
        lines = [["sweep", "picked", "dimension", "where it is picked", "on the other half"]]
        for key in ordered(key[:4] for key in found if key[0] == judge):
            picked, chosen, p = (found[(*key, metric)] for metric in ("picked", "chosen", "chosen_p"))
            lines.append([*key[1:], f"{picked['value']:+.1%}", _tell(chosen, p)])
        sections.append(Section(lines, title=f"judge {judge}"))
    return sections or [Section([], below=["No sweep has verdicts of all its variants on all dimensions."])]


def _tell(chosen: Row, p: Row) -> str:
    if chosen["value"] is None:
        return "none judged"
    return "{value:+.1%} ({low:+.1%} to {high:+.1%})".format(**chosen) + f", p {p['value']:.2g}"
