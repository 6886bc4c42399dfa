"""A file of the results that is spoilt, or in the place of another,
is found by what reads it, and in a workflow put aside."""

import errno
import shutil
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from records.whole import PHRASES

from uncouple.commands import main
from uncouple.evaluation.language import measure_language
from uncouple.models import fingerprints
from uncouple.models.fingerprints import HASHES_NAME, check_files, hashed_meanwhile, read_model_record
from uncouple.records import files
from uncouple.records.files import read_any
from uncouple.records.layout import WORKFLOW_RESULTS

FAIR, PRIVATE, GENERAL = (
    f"R/samples/{n}-seed0.parquet" for n in ("fairness-safe-n3", "privacy-safe-n4", "general-safe-n5")
)
SHARDS = [
    f"R/scores/m/origin/{name}-seed0/layers-00{layer}-00{layer}.parquet"
    for name in ("fairness-safe-n3", "privacy-safe-n4", "general-safe-n5")
    for layer in (0, 1)
]
SPIN, UNION = "R/masks/m/spin.parquet", "R/masks/m/union.parquet"
ANSWERS = ["R/answers/m/origin/privacy.parquet", "R/answers/m/spin/privacy.parquet"]
VERDICTS = ["R/verdicts/m/origin/privacy.phrases.parquet", "R/verdicts/m/spin/privacy.phrases.parquet"]
PART, OTHER = "R/metrics/m/awareness.parquet", "R/metrics/m/language.parquet"
PLACEMENT, COUPLING = "R/metrics/m/placement.parquet", "R/metrics/m/coupling.parquet"
QUESTIONS, SWEEPS = "R/samples/questions/privacy.parquet", "R/metrics/sweeps.parquet"
TRAINED_ON, TESTED_ON, ORDINARY = (
    f"R/samples/{n}.parquet" for n in ("fairness-safe-all", "fairness-test0", "general-ordinary")
)
MODEL, MASKED = "--model R/models/m", f"--model R/models/m --variant spin={SPIN}"
SELECTED = f"{MODEL} --scores {' '.join(SHARDS)} --dimensions fairness privacy"
STYLE = ROOT / "resources/figures.mplstyle"
# By what reads it: a file, another whose place it may have been given, and the command.
READ = {
    "score": (PRIVATE, FAIR, f"score {PRIVATE} {MODEL} --layers 0:0 --output OUT"),
    "tune": (GENERAL, FAIR, f"tune {PRIVATE} {GENERAL} {MODEL} --method lora --output OUT"),
    "train-judge": (PRIVATE, FAIR, f"train-judge {PRIVATE} --encoder R/models/m --output OUT"),
    "train-judge, its tests": (
        TESTED_ON,
        TRAINED_ON,
        f"train-judge {TRAINED_ON} --test {TESTED_ON} --encoder R/models/m --output OUT",
    ),
    "mask": (SHARDS[2], SHARDS[4], f"mask {SELECTED} --ratio 0.01 --output OUT"),
    "mask, of two layers": (SHARDS[0], SHARDS[1], f"mask {SELECTED} --ratio 0.01 --output OUT"),
    "coupling": (SHARDS[3], SHARDS[5], f"measure coupling {SELECTED} --ratios 0.01 --output OUT"),
    "apply": (SPIN, UNION, f"apply {MODEL} --mask {SPIN} --output OUT"),
    "placement": (SPIN, UNION, f"measure placement {SPIN} {UNION} --output OUT"),
    "stability": (UNION, SPIN, f"measure stability {SPIN} {UNION} --sweeps {SWEEPS} --output OUT"),
    "ask": (SPIN, UNION, f"ask {QUESTIONS} {MASKED} --output OUT"),
    "perplexity": (SPIN, UNION, f"perplexity --path {PHRASES} {MASKED} --output OUT"),
    "divergence": (SPIN, UNION, f"divergence {GENERAL} {MASKED} --output OUT"),
    "divergence, its samples": (GENERAL, FAIR, f"divergence {GENERAL} {MASKED} --output OUT"),
    "divergence, samples that variants are made with": (
        ORDINARY,
        GENERAL,
        f"divergence {ORDINARY} {MASKED} --output OUT",
    ),
    "ability": (SPIN, UNION, f"ability boolq={PHRASES} {MASKED} --output OUT"),
    "hsic": (SPIN, UNION, f"hsic {FAIR} {PRIVATE} {MASKED} --output OUT"),
    "judge": (ANSWERS[0], ANSWERS[1], f"judge {' '.join(ANSWERS)} --phrases {PHRASES} --output OUT-{{variant}}"),
    "awareness": (VERDICTS[1], VERDICTS[0], f"measure awareness {' '.join(VERDICTS)} --output OUT"),
    "choice": (VERDICTS[0], VERDICTS[1], f"measure choice {' '.join(VERDICTS)} --sweeps {SWEEPS} --output OUT"),
    "language": (
        ANSWERS[1],
        ANSWERS[0],
        f"measure language {' '.join(ANSWERS)} --phrases privacy={PHRASES} --output OUT",
    ),
    "collect": (PART, OTHER, f"measure collect {PART} {OTHER} --output OUT"),
    "figures": (
        PLACEMENT,
        COUPLING,
        f"figures placement --from {PLACEMENT} --model m --style {STYLE} --output OUT.png",
    ),
    "tables": (
        ANSWERS[0],
        ANSWERS[1],
        f"tables examples --from {' '.join(ANSWERS + VERDICTS)} --model m --output OUT.md",
    ),
    "a model's record": ("R/models/m/uncouple.json", None, f"apply {MODEL} --mask {SPIN} --output OUT"),
}
TOLD = {
    "cut": "delete it and run the step that makes it again",
    "flipped": "its bytes are not those that were written",
    "of another version": "but this code reads version",
    "in the place of another": "and what lies here is|by its record it belongs at",
}


@pytest.fixture
def results(whole, tmp_path):
    """A copy that a test may damage, with two parts of the metrics."""
    copy = shutil.copytree(whole, tmp_path / "results", symlinks=True)
    measure_language([copy / path[2:] for path in ANSWERS], copy / OTHER[2:], phrases={"privacy": PHRASES})
    return copy


def damage(path, other, how, monkeypatch):
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        place = len(content) // 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :])
    elif how == "in the place of another":
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
    else:
        table, record = read_any(path)
        if table is None:
            text = content.decode().replace(f'"version": {record["version"]}', '"version": 0')
            path.write_text(text.replace(text.partition("uncouple-sha256:")[2][:64], "0" * 64))
            files.seal(path)
        else:
            files._write_sealed_table(table, path, record | {"version": 0})


def run(command, results):
    return main(command.replace("R/", f"{results}/").replace("OUT", str(results.parent / "out")).split())


CASES = [
    (name, how) for name, (_, other, _) in READ.items() for how in TOLD if other or how != "in the place of another"
]


@pytest.mark.parametrize(("name", "how"), CASES, ids=str)
def test_it_is_found_named_and_put_aside(results, monkeypatch, capfd, name, how):
    monkeypatch.setenv(WORKFLOW_RESULTS, str(results))
    path, other = (results / each[2:] if each else None for each in READ[name][:2])
    damage(path, other, how, monkeypatch)
    spoilt = path.read_bytes()
    assert run(READ[name][2], results) == 1
    told = capfd.readouterr().err
    assert any(words in told for words in TOLD[how].split("|")) or TOLD[how].capitalize() in told
    assert f"{path} is .{path.name}.spoilt now, and the next run makes it again." in told
    assert not path.exists()
    assert path.with_name(f".{path.name}.spoilt").read_bytes() == spoilt
    # Only what was given is looked at, and only what is spoilt is moved; and nothing is made of it.
    aside = {each.name for each in results.rglob("*.spoilt")}
    given = READ[name][2].replace("R/", f"{results}/")
    wrong = {path, other} if how == "in the place of another" and str(other) in given else {path}
    assert aside == {f".{each.name}.spoilt" for each in wrong}
    assert not (results.parent / "out").exists()


@pytest.mark.parametrize("name", READ)
def test_what_is_whole_is_read(results, monkeypatch, name):
    """No file that lies where it belongs is taken for another's."""
    monkeypatch.setenv(WORKFLOW_RESULTS, str(results))
    *_, command = READ[name]
    for path in [
        word for word in command.replace("R/", f"{results}/").replace("spin=", "").split() if "/results/" in word
    ]:
        if path.endswith(".parquet"):
            read_any(path)
    assert read_model_record(results / "models/m")["name"] == "m"


@pytest.mark.parametrize("where", [None, "another"])
def test_by_hand_nothing_is_moved(results, tmp_path, monkeypatch, capsys, where):
    if where:
        monkeypatch.setenv(WORKFLOW_RESULTS, str(tmp_path / where))
    mask = results / SPIN[2:]
    damage(mask, None, "cut", monkeypatch)
    assert run(READ["apply"][2], results) == 1
    assert "Delete it and run the step that makes it again." in capsys.readouterr().err
    assert mask.exists()
    assert not list(results.rglob("*.spoilt"))
    # A mask under any name is as good as it was.
    shutil.copy(results / UNION[2:], mask)
    assert run(READ["apply"][2], results) == 0


def test_what_is_missing_or_may_not_be_moved_is_told_alone(results, monkeypatch, capsys):
    monkeypatch.setenv(WORKFLOW_RESULTS, str(results))
    (results / SPIN[2:]).unlink()
    assert run(READ["apply"][2], results) == 1
    assert "no such file" in capsys.readouterr().err
    shutil.copy(results / UNION[2:], results / SPIN[2:])
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "denied")))
    assert run(READ["apply"][2], results) == 1
    assert "spoilt" not in capsys.readouterr().err
    assert (results / SPIN[2:]).exists()


def test_raw_data_of_a_person_s_own_in_the_results_folder_is_not_moved(results, monkeypatch, capsys):
    monkeypatch.setenv(WORKFLOW_RESULTS, str(results))
    raw = results / "raw/alpaca.parquet"
    raw.parent.mkdir()
    pq.write_table(pa.table({"prompt": ["p"], "response": ["r"]}), raw)
    flags = ["--dimension", "general", "--label", "safe", "--n", "2", "--output", str(results / "made.parquet")]
    assert main(["samples", "--path", str(raw), *flags]) == 1
    assert "there are only 1 rows" in capsys.readouterr().err
    assert raw.exists()


# Weights


def test_a_step_that_is_asked_to_end_does_not_hash_on(checkpoint, monkeypatch):
    def hash_file(path, ended):
        assert ended.wait(60)
        return ""

    monkeypatch.setattr(fingerprints, "file_sha256", hash_file)
    begun = time.monotonic()
    with pytest.raises(SystemExit), hashed_meanwhile(checkpoint):
        sys.exit(143)
    assert time.monotonic() - begun < 30


def test_weights_that_the_disk_cannot_read_are_spoilt(checkpoint, monkeypatch):
    def fail(path, *ended):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(fingerprints, "file_sha256", fail)
    with pytest.raises(files.SpoiltFile, match="not the file"), hashed_meanwhile(checkpoint):
        pass
    (checkpoint / HASHES_NAME).unlink(missing_ok=True)
    with pytest.raises(files.SpoiltFile, match="not the file"):
        check_files(checkpoint, read_model_record(checkpoint)["files"])


def flip(path, keep_known=True):
    """A bit that flips on the disk: no date changes, and what was known of the file still says that it is the same."""
    folder = path.parent
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    known = read_any(folder / HASHES_NAME)[1] if keep_known else None
    if known:
        stat = path.stat()
        known["files"][path.name]["stat"] = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        files.write_record(folder / HASHES_NAME, files.FORMATS["hashes"], {"files": known["files"]})


@pytest.fixture
def checkpoint(results, monkeypatch):
    """A checkpoint whose hashes are known."""
    folder = results / "checkpoints/m/union"
    monkeypatch.setattr("uncouple.models.fingerprints.SETTLED_NS", 0)
    check_files(folder, read_model_record(folder)["files"])
    assert (folder / HASHES_NAME).exists()
    return folder


ASKED = f"ask {QUESTIONS} --model R/checkpoints/m/union --max-new-tokens 2 --output OUT"
SCORED = f"score {PRIVATE} --model R/checkpoints/m/union --layers 0:0 --output OUT"
APPLIED = f"apply --model R/checkpoints/m/union --mask {SPIN} --output OUT"


@pytest.mark.parametrize("command", [ASKED, SCORED])
@pytest.mark.parametrize("how", ["a bit that flips", "another's weights"])
def test_weights_that_are_not_the_records_are_noticed_when_they_are_loaded(
    results, checkpoint, monkeypatch, capsys, command, how
):
    monkeypatch.setenv(WORKFLOW_RESULTS, str(results))
    weights = checkpoint / "model.safetensors"
    if how == "a bit that flips":
        flip(weights)
    else:
        weights.write_bytes((results / "models/m/model.safetensors").read_bytes())
    assert run(command, results) == 1
    told = capsys.readouterr().err
    assert f"{weights}: not the file that uncouple.json records" in told
    assert f"{checkpoint / 'uncouple.json'} is .uncouple.json.spoilt now" in told
    assert not (results.parent / "out").exists()


def test_no_checkpoint_is_made_of_weights_that_are_not_the_records(results, checkpoint, monkeypatch, capsys):
    """They are copied, and never loaded."""
    base = results / "models/m"
    target = (base / "model.safetensors").resolve()
    (base / "model.safetensors").unlink()
    shutil.copy(target, base / "model.safetensors")
    check_files(base, read_model_record(base)["files"])
    flip(base / "model.safetensors")
    check_files(base, read_model_record(base)["files"])
    monkeypatch.setenv(WORKFLOW_RESULTS, str(results))
    assert run(READ["apply"][2], results) == 1
    assert "not the file that uncouple.json records" in capsys.readouterr().err
    assert not (results.parent / "out").exists()
    assert not (base / "uncouple.json").exists()


def test_a_fault_of_the_loading_itself_hides_no_spoilt_weights(checkpoint):
    flip(checkpoint / "model.safetensors")
    with pytest.raises(files.SpoiltFile, match="not the file"), hashed_meanwhile(checkpoint):
        raise ValueError("a header that says nonsense")
    with hashed_meanwhile(checkpoint / "uncouple"):
        # A folder without a record has nothing to be held to.
        pass
