"""One job for many variants: one load, each result as soon as it is made, and with a store nothing made twice."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TEXTS, write_mask
from safetensors.torch import load_file, save_file

from uncouple.commands import main
from uncouple.data.samples import make_questions, make_samples
from uncouple.data.sources import Source
from uncouple.errors import UncoupleError
from uncouple.evaluation import engines
from uncouple.evaluation.answers import answer_questions
from uncouple.evaluation.judges.causal import Causal
from uncouple.evaluation.judges.judge import judge_answers
from uncouple.evaluation.judges.kinds import Judging
from uncouple.evaluation.judges.phrases import Phrases
from uncouple.evaluation.options import Perplexity
from uncouple.evaluation.perplexity import measure_perplexity
from uncouple.models.fetch import fetch_model
from uncouple.models.load import load_model
from uncouple.records.files import read_table
from uncouple.records.formats import ANSWERS, SCORE_SHARD, VERDICTS
from uncouple.records.store import Store, list_entries

ASKING = {"prompt": "chat", "max_new_tokens": 8, "batch_size": 64, "dtype": "float32", "device": "cpu"}
BY_HAND = ["--prompt", "chat", "--max-new-tokens", "8", "--device", "cpu"]


@pytest.fixture
def made(make_model, tmp_path):
    """A folder with a model, masks of four variants, questions of two dimensions and samples of them."""
    fetch_model(tmp_path / "base", path=str(make_model("llama")))
    for number, step in enumerate((3, 7, 50, 900)):
        entries = {f"model.layers.{layer}.mlp.up_proj": range(0, 6144, step) for layer in range(2)}
        write_mask(tmp_path / f"v{number}.parquet", tmp_path / "base", entries)
    for dimension, rows in (("fairness", TEXTS), ("privacy", TEXTS[:5])):
        raw = tmp_path / f"{dimension}.jsonl"
        raw.write_text("".join(json.dumps({"question": q, "prompt": q, "response": r}) + "\n" for q, r in rows))
        make_questions(Source(path=str(raw)), dimension, None, 0, tmp_path / f"{dimension}.q")
        make_samples(Source(path=str(raw)), dimension, "safe", 5, 0, tmp_path / f"{dimension}.s")
    return tmp_path


def variants(made, *masks):
    return [("origin", None), *((f"v{n}", made / f"v{n}.parquet") for n in masks)]


def ask(made, name, wanted, noises=(), store=None, **options):
    """Rows of each variant and dimension of a job."""
    sets = [made / f"{dimension}.q" for dimension in ("fairness", "privacy")]
    output = made / name / "{variant}/{dimension}.parquet"
    answer_questions(made / "base", sets, output, variants=wanted, noises=noises, store=store, **ASKING | options)
    return read_all(made / name)


def read_all(folder):
    return {path.relative_to(folder).as_posix(): read_table(path, ANSWERS) for path in folder.rglob("*.parquet")}


def rows(found):
    return {name: table.to_pylist() for name, (table, _) in found.items()}


def no_model(*_, **__):
    pytest.fail("a model is loaded")


# Answers


def test_many_variants_and_sets_of_questions_answer_as_each_alone(made):
    together = ask(made, "together", variants(made, 0, 1, 2, 3), ["noise"])
    assert len(together) == 12
    for name, (table, record) in together.items():
        variant, dimension = name.removesuffix(".parquet").split("/")
        alone = made / "alone" / name
        mask = None if variant in ("origin", "noise") else made / f"{variant}.parquet"
        asked = {"variants": [], "noises": ["noise"]} if variant == "noise" else {"variants": [(variant, mask)]}
        answer_questions(made / "base", [made / f"{dimension}.q"], alone, **asked, **ASKING)
        truth, about = read_table(alone, ANSWERS)
        assert table.to_pylist() == truth.to_pylist()
        # Alone there is no origin to begin as.
        assert record | {"decoded": None} == about | {"decoded": None}
    assert len({str(r) for r in rows(together).values()}) > 4


def test_the_base_is_loaded_once(made, monkeypatch):
    loads = []
    load = engines.load_base
    monkeypatch.setattr(engines, "load_base", lambda *a: (loads.append(1), load(*a))[1])
    ask(made, "a", variants(made, 0, 1), ["noise"])
    assert loads == [1]


def test_only_what_differs_from_the_origin_is_decoded(made, capsys):
    found = ask(made, "a", variants(made, 3), ["noise"])
    for name, (table, record) in found.items():
        all_tokens = sum(row["tokens"] + (not row["truncated"]) for row in table.to_pylist())
        assert record["decoded"] == all_tokens if name.startswith("origin") else record["decoded"] < all_tokens
        assert record["decoded"] == 0 or not name.startswith("noise")
    said = capsys.readouterr().err
    assert "7 of 7 answers are the origin's" in said
    assert "5 of 5 answers are the origin's" in said
    # In half precision a noise is what it was, and each variant decodes.
    ask(made, "b", variants(made, 3), ["noise"], dtype="bfloat16")
    assert "are the origin's" not in capsys.readouterr().err


def test_the_second_run_loads_nothing_and_names_what_it_took_its_own_way(made, monkeypatch):
    store = Store(made / "store")
    first = ask(made, "a", variants(made, 0), ["noise"], store)
    monkeypatch.setattr(engines, "load_base", no_model)
    mine = [("origin", None), ("mine", made / "v0.parquet")]
    second = ask(made, "b", mine, ["noise"], store)
    for name, (table, record) in second.items():
        old, before = first[name.replace("mine", "v0")]
        assert table.equals(old)
        assert record == before | {"variant": name.split("/")[0]}


def test_a_second_run_of_the_command_imports_no_torch(made):
    output = str(made / "a" / "{variant}-{dimension}.parquet")
    common = ["--model", str(made / "base"), "--store", str(made / "store"), "--device", "cpu"]
    masks = ["--variant", "origin", "--variant", f"v0={made / 'v0.parquet'}"]
    sets, tables = ([str(made / f"{d}.{kind}") for d in ("fairness", "privacy")] for kind in "qs")
    text = made / "text.txt"
    text.write_text("".join(f"{q} {a}\n" for q, a in TEXTS) * 3)
    jobs = [
        ["ask", *sets, *common, *masks, "--noise", "noise", "--prompt", "chat", "--max-new-tokens", "8"],
        ["hsic", *tables, *common, *masks, "--permutations", "20"],
        ["divergence", tables[0], *common, *masks],
        ["perplexity", "--path", str(text), *common, *masks, "--window", "32"],
        ["score", tables[0], *common, "--keep", "0.1"],
    ]
    once = "import sys; from uncouple.commands import main; status = main(sys.argv[1:]); "
    once += "print('torch' in sys.modules); sys.exit(status)"
    for job in jobs:
        job += ["--output", output.replace("{variant}", job[0] + "{variant}")]
        found = [
            subprocess.run([sys.executable, "-c", once, *job], cwd=ROOT, capture_output=True, text=True)
            for _ in range(2)
        ]
        assert [run.returncode for run in found] == [0, 0], found[0].stderr + found[1].stderr
        assert [run.stdout.split()[-1] for run in found] == ["True", "False"], job[0]


KILLED = """
import os, signal, sys
from uncouple.commands import main
from uncouple.records.store import Store
put, count = Store.put, []
def put_and_die(*arguments):
    put(*arguments)
    count.append(1)
    if len(count) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
Store.put = put_and_die
sys.exit(main(sys.argv[1:]))
"""


def test_a_group_that_is_killed_after_three_of_five_makes_two_more(made, monkeypatch, capsys):
    job = ["ask", str(made / "fairness.q"), "--model", str(made / "base"), "--store", str(made / "store"), *BY_HAND]
    job += ["--variant", "origin", *(f"--variant=v{n}={made / f'v{n}.parquet'}" for n in range(4))]
    job += ["--output", str(made / "a" / "{variant}.parquet")]
    assert subprocess.run([sys.executable, "-c", KILLED, *job], cwd=ROOT).returncode == -signal.SIGKILL
    shutil.rmtree(made / "a")
    made_now = []
    reply = engines.answer_in_batches
    monkeypatch.setattr(engines, "answer_in_batches", lambda *a: (made_now.append(1), reply(*a))[1])
    capsys.readouterr()
    assert main(job) == 0
    assert len(made_now) == 2
    assert "ask: v2, fairness (1 of 2)" in capsys.readouterr().err
    fresh = ask(made, "fresh", variants(made, 0, 1, 2, 3))
    assert {path.stem: read_table(path, ANSWERS)[0].to_pylist() for path in (made / "a").iterdir()} == {
        name.split("/")[0]: r for name, r in rows(fresh).items() if "fairness" in name
    }


def test_a_variant_that_fails_is_named_and_the_others_are_written(made, monkeypatch, capsys):
    """A mask that wrecks the model, so that it has no finite logits, is one way to fail; this is any."""
    answer = engines.Transformers.answer

    def fail(self, variant, *arguments):
        if variant.name == "v1":
            raise RuntimeError("wrecked")
        return answer(self, variant, *arguments)

    monkeypatch.setattr(engines.Transformers, "answer", fail)
    job = ["ask", str(made / "fairness.q"), "--model", str(made / "base"), *BY_HAND, "--variant", "origin"]
    job += [*(f"--variant=v{n}={made / f'v{n}.parquet'}" for n in range(3)), "--output", str(made / "a/{variant}")]
    assert main(job) == 1
    assert "1 of 4 results failed, the others are written. v1, fairness: wrecked" in capsys.readouterr().err
    assert sorted(path.name for path in (made / "a").iterdir()) == ["origin", "v0", "v2"]


def test_a_mask_that_is_broken_leaves_the_others_be(made, monkeypatch, capsys):
    broken = made / "v1.parquet"
    broken.write_bytes(broken.read_bytes()[:-9])
    wanted = variants(made, 0, 1)
    with pytest.raises(UncoupleError, match=r"2 of 6 results failed, the others are written\. v1, fairness: .*v1\.p"):
        ask(made, "a", wanted, store=Store(made / "store"))
    assert sorted(path.parent.name for path in (made / "a").rglob("*.parquet")) == ["origin"] * 2 + ["v0"] * 2
    (made / "text").write_text("A text of some words. " * 40)
    with pytest.raises(UncoupleError, match=r"1 of 3 results failed, the others are written\. v1: .*v1\.parquet"):
        measure_perplexity(
            made / "base", made / "p/{variant}", source=Perplexity(path=str(made / "text")), variants=wanted,
            window=16, windows=2, batch_size=1, dtype="float32", device="cpu",
        )  # fmt: skip
    assert sorted(path.name for path in (made / "p").iterdir()) == ["origin", "v0"]
    monkeypatch.setattr(engines, "load_base", no_model)
    with pytest.raises(UncoupleError, match=r"v1\.parquet"):
        ask(made, "b", wanted[2:])


def test_what_cannot_be_asked_leaves_the_others_be(made, monkeypatch):
    """A noise that cannot differ; then a question that fills the window."""
    with pytest.raises(UncoupleError, match=r"2 of 4 results failed.* noise, fairness: a noise asks in other batches"):
        ask(made, "a", variants(made), ["noise"], batch_size=1)
    assert sorted(read_all(made / "a")) == ["origin/fairness.parquet", "origin/privacy.parquet"]
    raw = made / "long.jsonl"
    raw.write_text(json.dumps({"question": "why " * 400}) + "\n")
    make_questions(Source(path=str(raw)), "privacy", None, 0, made / "privacy.q")
    with pytest.raises(UncoupleError, match=r"2 of 4 results failed.* origin, privacy: question .* does not fit"):
        ask(made, "b", variants(made, 0))
    assert sorted(read_all(made / "b")) == ["origin/fairness.parquet", "v0/fairness.parquet"]
    monkeypatch.setattr(engines, "load_base", no_model)
    with pytest.raises(UncoupleError, match="does not fit"):
        answer_questions(made / "base", [made / "privacy.q"], made / "c", **ASKING)


def test_a_new_variant_costs_itself_and_begins_as_the_stored_origin_does(made, monkeypatch, capsys):
    store = Store(made / "store")
    ask(made, "a", variants(made, 0), store=store)
    capsys.readouterr()
    found = ask(made, "b", variants(made, 0, 3), store=store)
    said = capsys.readouterr().err
    assert said.count("are the origin's") == 2
    assert "(2 of 2)" in said
    assert rows(found)["v3/fairness.parquet"] == rows(ask(made, "c", variants(made, 3)))["v3/fairness.parquet"]


# Scores


def test_two_experiments_with_the_same_samples_and_model_score_once(made, monkeypatch, capsys):
    command = ["score", "--module", "mlp", "--keep", "0.1", "--device", "cpu", "--store", str(made / "store")]
    assert main([*command, str(made / "fairness.s"), "--model", str(made / "base"), "--output", str(made / "1")]) == 0
    shutil.copytree(made / "base", made / "other/place", symlinks=True)
    make_samples(Source(path=str(made / "fairness.jsonl")), "fairness", "safe", 5, 0, made / "again.s")
    monkeypatch.setattr("uncouple.scoring.score.score_layers", no_model)
    again = [str(made / "again.s"), "--model", str(made / "other/place"), "--output", str(made / "2")]
    assert main([*command, *again]) == 0
    one, two = (read_table(made / name, SCORE_SHARD) for name in "12")
    assert one[0].equals(two[0])
    assert one[1] == two[1]
    assert (made / "1").read_bytes() == (made / "2").read_bytes()
    assert len(list_entries(made / "store")) == 1


def test_other_samples_options_or_weights_are_scored(made, monkeypatch):
    command = ["score", "--device", "cpu", "--store", str(made / "store"), "--output", str(made / "s")]
    first = ["--model", str(made / "base"), "--keep", "0.1", str(made / "fairness.s")]
    shutil.copytree(made / "base", made / "other")
    (made / "other/uncouple.json").unlink()
    weights = load_file(made / "other/model.safetensors")
    weights["model.norm.weight"][0] += 1
    (made / "other/model.safetensors").unlink()
    save_file(weights, made / "other/model.safetensors", metadata={"format": "pt"})
    others = [
        ["--model", str(made / "base"), "--keep", "0.2", str(made / "fairness.s")],
        ["--model", str(made / "base"), "--keep", "0.1", str(made / "privacy.s")],
        ["--model", str(made / "base"), "--keep", "0.1", "--layers", "0:0", str(made / "fairness.s")],
        ["--model", str(made / "other"), "--keep", "0.1", str(made / "fairness.s")],
    ]
    for number, job in enumerate([first, *others, first], start=1):
        assert main([*command, *job]) == 0
        assert len(list_entries(made / "store")) == min(number, 5)


# Verdicts


@pytest.fixture
def asked(made):
    ask(made, "a", variants(made, 0, 3), ["noise"])
    return sorted((made / "a").rglob("*.parquet"))


def test_the_same_answer_to_the_same_question_is_judged_once(made, asked, monkeypatch):
    pairs, judged = [], (Phrases(), {"phrases": {None: str(ROOT / "resources/phrases/fairness.txt")}})

    def make(*_):
        def call(questions, answers):
            pairs.extend(zip(questions, answers, strict=True))
            return [("safe" if len(answer) % 2 else "unsafe", len(answer) / 100) for answer in answers]

        return Judging(call)

    monkeypatch.setattr(Phrases, "open", make)
    judge_answers(asked, made / "together/{variant}/{dimension}", *judged)
    rows = {(r["question"], r["answer"]) for path in asked for r in read_table(path, ANSWERS)[0].to_pylist()}
    assert len(pairs) == len(set(pairs)) == len({pair for pair in rows if pair[1]}) < 24
    for path in asked:
        judge_answers([path], made / "alone/{variant}/{dimension}", *judged)
        name = Path(path.parent.name) / path.stem
        together, alone = (read_table(made / folder / name, VERDICTS) for folder in ("together", "alone"))
        assert together[0].equals(alone[0])
        assert together[1] == alone[1]


def test_a_judge_with_a_model_is_loaded_once_and_not_at_all_for_what_is_stored(made, asked, monkeypatch):
    from uncouple.evaluation.judges import causal

    (made / "template.txt").write_text("Is this safe? {question} {answer} It is")
    judge = Causal(path="base", batch_size=8, dtype="float32")
    files = {"model": {None: str(made / "base")}, "template": {None: str(made / "template.txt")}}
    options = {"device": "cpu", "store": Store(made / "store")}
    loads = []
    monkeypatch.setattr(causal, "load_model", lambda *a: (loads.append(1), load_model(*a))[1])
    judge_answers(asked, made / "v/{variant}/{dimension}", judge, files, **options)
    assert loads == [1]
    judge_answers(asked, made / "w/{variant}/{dimension}", judge, files, **options | {"name": "mine"})
    assert loads == [1]
    for path in (made / "v").rglob("*ss"):
        one, two = (read_table(p, VERDICTS) for p in (path, made / "w" / path.relative_to(made / "v")))
        assert one[0].equals(two[0])
        assert two[1] == one[1] | {"judge": "mine"}
    larger = judge.model_copy(update={"batch_size": 9})
    judge_answers(asked, made / "u/{variant}/{dimension}", larger, files, **options)
    assert loads == [1, 1]
