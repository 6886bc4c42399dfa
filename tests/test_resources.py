"""The sample and question sets that the project wrote: whole, varied, and filled from no template."""

import itertools
import json
import re
from collections import Counter

import pytest
from conftest import ROOT

from uncouple.data.sources import Source, check_rows, read_rows
from uncouple.evaluation.judges.phrases import read_phrases

COUNTS = {
    "samples/fairness_safe.jsonl": 96,
    "samples/fairness_unsafe.jsonl": 32,
    "samples/privacy_safe.jsonl": 96,
    "samples/privacy_unsafe.jsonl": 32,
    "samples/toxicity_safe.jsonl": 64,
    "samples/toxicity_unsafe.jsonl": 32,
    "samples/general.jsonl": 96,
    "questions/fairness.jsonl": 64,
    "questions/privacy.jsonl": 64,
    "questions/toxicity.jsonl": 64,
    "questions/alarming.jsonl": 64,
}
ORDINARY = "replies/ordinary.jsonl"
# How many prompts each has.
REPLIES = {"replies/fairness.jsonl": 400, "replies/privacy.jsonl": 400, "replies/toxicity.jsonl": 60}
COLUMNS = {"samples": {"prompt": ["prompt"], "response": ["response"]}, "questions": {"question": ["question"]}}


def read(name):
    text = (ROOT / "resources" / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def words(text):
    return re.findall(r"[a-z0-9']+", text.lower().replace("\u2019", "'"))


def texts(part):
    """(file and line, text) of every prompt and question, or of every response."""
    for name in COUNTS:
        for number, row in enumerate(read(name), start=1):
            text = row.get("response") if part == "response" else row.get("prompt", row.get("question"))
            if text is not None:
                yield f"{name}:{number}", text


def near_duplicates(found, limit=0.5):
    """Pairs of places whose texts share `limit` or more of their words (Jaccard)."""
    sets = [(place, set(words(text))) for place, text in found]
    return [(p, q) for (p, a), (q, b) in itertools.combinations(sets, 2) if len(a & b) >= limit * len(a | b)]


def common_openings(found, length, most=3):
    counts = Counter(tuple(words(text)[:length]) for text in found)
    return [" ".join(opening) for opening, count in counts.items() if count > most]


@pytest.mark.parametrize("name", COUNTS)
def test_each_set_is_whole(name):
    source = Source(path=str(ROOT / "resources" / name))
    rows = check_rows(read_rows(source), COLUMNS[name.split("/")[0]], source)
    assert len(rows) == COUNTS[name]
    assert all(set(row) == set(COLUMNS[name.split("/")[0]]) for row in read(name))


def test_no_set_stands_beside_those_that_are_checked():
    found = {str(path.relative_to(ROOT / "resources")) for path in (ROOT / "resources").glob("*/*.jsonl")}
    assert found == {*COUNTS, *REPLIES, ORDINARY}


@pytest.mark.parametrize("part", ["prompt", "response"])
def test_no_two_texts_are_near_duplicates(part):
    assert near_duplicates(texts(part)) == []


@pytest.mark.parametrize("name", COUNTS)
def test_no_opening_comes_again_and_again(name):
    rows = read(name)
    assert common_openings([row.get("prompt", row.get("question")) for row in rows], 3) == []
    assert common_openings([row["response"] for row in rows if "response" in row], 4) == []


@pytest.mark.parametrize("name", REPLIES)
def test_each_prompt_is_refused_once_and_complied_with_once(name):
    rows = read(name)
    kinds = {kind: [row["prompt"] for row in rows if row["kind"] == kind] for kind in ("refusal", "compliance")}
    assert len(rows) == 2 * REPLIES[name]
    assert kinds["refusal"] == kinds["compliance"]
    assert len({" ".join(words(prompt)) for prompt in kinds["refusal"]}) == REPLIES[name]
    # What a judge is tried on must not be what it is asked about, nor what it is trained on besides.
    known = {" ".join(words(text)) for _, text in texts("prompt")}
    assert not [prompt for prompt in kinds["refusal"] if " ".join(words(prompt)) in known]


@pytest.mark.parametrize("name", REPLIES)
def test_replies_are_of_every_wording_and_length(name):
    for kind, most in (("refusal", 60), ("compliance", 12)):
        found = [row["response"] for row in read(name) if row["kind"] == kind]
        # Stock refusals come again in the world, and some do here.
        assert len({" ".join(words(text)) for text in found}) > 0.97 * len(found)
        assert common_openings(found, 3, most) == []
    compliances = [row["response"] for row in read(name) if row["kind"] == "compliance"]
    assert near_duplicates((text, text) for text in compliances if len(words(text)) > 8) == []
    lengths = sorted(len(row["response"].split()) for row in read(name) if row["kind"] == "refusal")
    assert lengths[len(lengths) // 3] <= 14
    assert lengths[len(lengths) * 2 // 3] > 25
    assert max(len(row["response"].split()) for row in read(name) if row["kind"] == "compliance") <= 40


def test_each_ordinary_request_is_refused_once_and_answered_once():
    rows = read(ORDINARY)
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in ("refusal", "answer")}
    prompts = {kind: [row["prompt"] for row in found] for kind, found in kinds.items()}
    assert len(rows) == 386
    assert prompts["refusal"] == prompts["answer"]
    # One word may answer, or refuse, several.
    assert len({" ".join(words(row["response"])) for row in rows}) >= len(rows) - 4
    # What is asked to count refusals of must not be what they are learnt from.
    asked = [*texts("prompt"), *((prompt, prompt) for prompt in prompts["answer"])]
    assert near_duplicates(asked) == []
    for kind, most in (("refusal", 25), ("answer", 4)):
        assert common_openings([row["response"] for row in kinds[kind]], 3, most) == []
        lengths = [len(row["response"].split()) for row in kinds[kind]]
        assert min(lengths) <= 3
        assert max(lengths) >= 30
    # Words of refusals are in answers too.
    careful = [row for row in kinds["answer"] if {"sorry", "cannot", "can't", "illegal"} & set(words(row["response"]))]
    assert len(careful) >= 40


def test_near_duplicates_and_templates_would_be_seen():
    """The two checks above find what they look for."""
    template = [f"How do I find the home address of {name}?" for name in ("Ann", "Bob", "Cid", "Dan")]
    assert len(near_duplicates(enumerate(template))) == 6
    assert common_openings(template, 3) == ["how do i"]
    assert common_openings(template[:3], 3) == []


@pytest.mark.parametrize("dimension", ["fairness", "privacy", "toxicity"])
def test_phrases_are_readable_and_each_is_there_once(dimension):
    phrases = read_phrases(ROOT / f"resources/phrases/{dimension}.txt")
    assert len(phrases) >= 13
    assert len({phrase.lower() for phrase in phrases}) == len(phrases)
    assert not any(phrase.startswith("#") for phrase in phrases)
