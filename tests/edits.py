"""Edits of a clone, each a function of it."""

import json
import os

import numpy as np

from uncouple.models.weights import read_header


def set_value(path, value):
    """An edit of the config: a key to a value."""
    *parents, last = path.split("/")

    def edit(clone):
        section = clone.config
        for key in parents:
            section = section.setdefault(key, {})
        section[last] = value

    return edit


def swap(one, other):
    """An edit of the config: two keys change places."""

    def edit(clone):
        values = []
        for path in (one, other):
            section = clone.config
            for key in path.split("/"):
                section = section[key]
            values.append(section)
        set_value(one, values[1])(clone)
        set_value(other, values[0])(clone)

    return edit


def reorder(path, order):
    """An edit of the config: the keys of a section in another order."""

    def edit(clone):
        *parents, last = path.split("/")
        section = clone.config
        for key in parents:
            section = section[key]
        section[last] = {key: section[last][key] for key in order}

    return edit


def change(path, old, new):
    """An edit of a file of the clone."""
    return lambda clone: clone.edit(path, old, new)


def with_an_old_date(path, edit):
    """An edit of a file that is older than what was made of it."""

    def edited(clone):
        edit(clone)
        os.utime(clone.folder / path, (10**9,) * 2)

    return edited


def append(path, text):
    def edit(clone):
        with open(clone.folder / path, "a") as file:
            file.write(text)

    return edit


def remove(*paths):
    def edit(clone):
        for path in paths:
            (clone.folder / path).unlink()

    return edit


def another_judge(clone):
    set_value("judges/more", {"kind": "phrases"})(clone)
    set_value("evaluation/judges", ["embedding", "phrases", "more"])(clone)


def touch(clone):
    raw = ("raw/fairness.jsonl", "base/model.safetensors", "base/chat_template.jinja", "raw/text.txt")
    made = ("samples/general-safe-n3-seed0.parquet", "models/tiny/uncouple.json", "masks/tiny/spin.parquet")
    own = ("uncouple/scoring/score.py", "resources/figures.mplstyle", "resources/phrases/privacy.txt", "config.yaml")
    for path in (*raw, *own):
        (clone.folder / path).touch()
    for path in made:
        (clone.folder / "results" / path).touch()


def comment(clone):
    for path in (clone.folder / "uncouple").rglob("*.py"):
        path.write_text(path.read_text() + "\n\n# a comment\n")
    clone.edit("uncouple/scoring/score.py", '"""Importance scores', '"""Scores of importance')
    for path in (clone.folder / "rules").glob("*.smk"):
        path.write_text("# a comment\n" + path.read_text())


def other_weights_with_an_old_date(clone):
    """As `mv`, `cp -p` and `rsync -a` put them there: of the same size, and older than what they replace."""
    path = clone.folder / "base/model.safetensors"
    before = path.stat()
    _, shape, start = read_header(path)["model.layers.0.mlp.up_proj.weight"]
    data = bytearray(path.read_bytes())
    count = int(np.prod(shape))
    values = np.frombuffer(data, np.float32, count, start)
    data[start : start + 4 * count] = (1.5 * values).tobytes()
    beside = path.with_name("other")
    beside.write_bytes(data)
    os.utime(beside, ns=(before.st_mtime_ns - 10**12,) * 2)
    beside.replace(path)


def edit_and_stop_after_fetch(path, old, new):
    def edit(clone):
        clone.edit(path, old, new)
        clone.snakemake("--", "results/models/tiny/uncouple.json")

    return edit


def edit_json(path, **values):
    def edit(clone):
        file = clone.folder / path
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return edit


def new_rule(clone):
    path = clone.folder / "uncouple/selection/rules.py"
    rule = """
class Twice(Union):
    name = "twice"
    description = "of any, once more"


"""
    text = (
        path.read_text()
        .replace("\nCOUPLED = ", f"\n{rule}COUPLED = ")
        .replace("        Union(),", "        Union(),\n        Twice(),")
    )
    assert rule in text
    assert "Twice()," in text
    path.write_text(text)


def new_figure(clone):
    figures = clone.folder / "uncouple/reporting/figures"
    (figures / "again.py").write_text((figures / "coupling.py").read_text())
