"""Commits are written into an experiment's file as the Hub tells them, and nothing else in it changes."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml
from conftest import ROOT

COMMITS = {
    "models/Qwen/Qwen2-7B-Instruct": {None: "a" * 40},
    "models/some/judge": {None: "b" * 40, "v1.0": "c" * 40},
    "datasets/some/data": {None: "d" * 40, "main": "e" * 40, "refs%2Fconvert%2Fparquet": "f" * 40},
}
FILE = """\
# An experiment; every comment stays.
results: results/x   # its own
models:
  first:
    hub: Qwen/Qwen2-7B-Instruct   # by hand
    layers: 28
  held: {hub: some/judge, revision: HELD, layers: 2}
  local: {path: models/x, layers: 2}
judges:
  flow: {kind: causal, hub: "some/judge", template: card}
  tagged:
    revision: v1.0  # a tag
    hub: some/judge
    kind: causal
  no-kind: {hub: some/judge, revision: ...}
  zeros: {hub: some/judge, revision: "ZEROS"}
dimensions:
  fairness:
    safe: &safe
      hub: some/data
      revision: main

      split: train
    unsafe: *safe
    questions: {hub: some/data, revision: , split: train}
    test:
    - label: safe
      source:
        hub: some/data
        revision: refs/convert/parquet
        split: test
    - {label: safe, source: {path: a.csv, where: {hub: no/id}}}
general: {path: b.csv}
evaluation:
  perplexity:
    split: "#"
    hub: 'some/data'""".replace("HELD", "1" * 40).replace("ZEROS", "0" * 40)
PINNED = (
    FILE.replace("# by hand\n", f"# by hand\n    revision: {'a' * 40}\n")
    .replace('hub: "some/judge", template', f'hub: "some/judge", revision: {"b" * 40}, template')
    .replace("revision: v1.0 ", f"revision: {'c' * 40} ")
    .replace("revision: ...", f"revision: {'b' * 40}")
    .replace(f'"{"0" * 40}"', "b" * 40)
    .replace("revision: main", f"revision: {'e' * 40}")
    .replace("revision: ,", f"revision: {'d' * 40} ,")
    .replace("revision: refs/convert/parquet", f"revision: {'f' * 40}")
    .replace("hub: 'some/data'", f"hub: 'some/data'\n    revision: {'d' * 40}")
)


class Hub(BaseHTTPRequestHandler):
    """What the Hub's API answers of a model's or data set's commit."""

    def do_GET(self):
        self.server.asked.append(self.path)
        what, _, revision = self.path.removeprefix("/api/").partition("/revision/")
        sha = COMMITS.get(what, {}).get(revision or None)
        body = json.dumps({"id": what.partition("/")[2], "sha": sha} if sha else {"error": "not found"}).encode()
        self.send_response(200 if sha else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Error-Code", "" if sha else "RepoNotFound")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = HTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run(hub, *arguments):
    """Exit status and what is said."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    endpoint = f"http://127.0.0.1:{hub.server_port if hub else 9}"
    done = subprocess.run(
        [sys.executable, "-m", "uncouple", "pin", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=clean | {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1"},
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_what_is_missing_is_written_in_and_all_else_stays(hub, tmp_path, newline):
    path = tmp_path / "x.yaml"
    path.write_text(FILE, newline=newline)
    status, said = run(hub, path)
    assert status == 0, said
    assert path.read_bytes().decode() == PINNED.replace("\n", newline)
    assert f"judges.tagged: some/judge at v1.0 is {'c' * 40}" in said
    assert "9 of 10 commits were missing" in said
    # Each thing is asked for once, and a commit that is there never.
    asked = [path for path in hub.asked if path.startswith("/api/")]
    assert len(asked) == len(set(asked)) == 6
    assert yaml.safe_load(path.read_text())["dimensions"]["fairness"]["unsafe"]["revision"] == "e" * 40
    hub.asked.clear()
    before = path.stat()
    assert run(hub, path)[0] == 0
    assert path.stat() == before
    assert hub.asked == []


def test_check_names_what_is_missing_and_writes_nothing(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(FILE)
    status, said = run(None, path, "--check")
    assert status == 1
    assert "models.first: Qwen/Qwen2-7B-Instruct; judges.flow: some/judge; judges.tagged: some/judge at v1.0;" in said
    assert "dimensions.fairness.test.0.source: some/data at refs/convert/parquet; evaluation.perplexity" in said
    assert f"`python -m uncouple pin {path}` writes them in" in said
    assert path.read_text() == FILE
    path.write_text(PINNED)
    assert run(None, path, "--check") == (0, f"pin: {path}: no commit of 10 is missing\n")


def test_one_that_the_hub_has_not_is_named_and_nothing_is_written(hub, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(text := FILE.replace("hub: 'some/data'", "hub: 'no/data'"))
    status, said = run(hub, path)
    assert status == 1
    assert "the commit of the dataset no/data: cannot be had from the Hub" in said
    assert path.read_text() == text


def test_without_a_network_it_says_so(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("general: {hub: some/data, split: train}\n")
    status, said = run(None, path)
    assert status == 1
    assert "the commit of the dataset some/data: it is not here, and the Hub cannot be reached" in said


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "not YAML"),
        ("general:\n  ? hub\n  : some/data\n", f"Write in by hand: general {'d' * 40}"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_edited_is_left_and_told(hub, tmp_path, text, told):
    path = tmp_path / "x.yaml"
    if text:
        path.write_text(text)
    status, said = run(hub, path)
    assert status == 1
    assert told in said
    assert text is None or path.read_text() == text


def test_an_experiment_that_takes_nothing_from_the_hub_is_pinned(tmp_path):
    assert run(None, ROOT / "config.yaml", "--check")[0] == 0
    (tmp_path / "empty.yaml").write_text("")
    assert run(None, tmp_path / "empty.yaml") == (0, f"pin: {tmp_path / 'empty.yaml'}: 0 of 0 commits were missing\n")
