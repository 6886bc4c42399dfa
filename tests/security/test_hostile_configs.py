"""A config of somebody else's is read as data: no tag runs anything, and a few lines stay a few lines."""

import pytest

from uncouple.errors import UncoupleError
from uncouple.experiment import yaml_text
from uncouple.experiment.config import load, read_experiment, spread_sweeps
from uncouple.experiment.pins import check_pins
from uncouple.experiment.yaml_text import check_size, parse_yaml

# Nine lists of nine of the one before: a billion values.
BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
REFUSED = [
    (BOMB, "more than 100,000 values"),
    ("a: &a [*a]", "nested more deeply"),
    ("a: &a {b: *a}", "nested more deeply"),
    ("a: " + "[" * 5000, "nested too deeply"),
    ("a: " + "{b: " * 200 + "1" + "}" * 200, "nested more deeply"),
    ("a: !!python/object/apply:os.system ['touch ran']", "the tag .*os.system"),
    ("a: !!python/name:os.system", "the tag .*os.system"),
    ("a: !!pairs [b: 1]", "the tag .*pairs"),
    # Merged keys are copied, and of copies again.
    (
        "\n".join(
            [f"a0: &a0 {{{', '.join(f'k{i}: 1' for i in range(9))}}}"]
            + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 12)]
        ),
        "more than 100,000 values",
    ),
    ("a: 1\nb: 2\na: 3", "the key 'a'.* is there twice"),
    ("a: {b: 1, b: 2}", "the key 'b'.* is there twice"),
    ("- {c: 1}\n- {c: 1, d: 2, c: 3}", "the key 'c'.* is there twice"),
    ("? [a, b]\n: 1", "not YAML"),
    ("a: 2026-99-99", "not YAML"),
    ("a: \x07", "not YAML"),
    ("a: " + "x" * 10**6, "characters are no experiment"),
]


@pytest.mark.parametrize(("text", "told"), REFUSED)
def test_what_is_no_honest_config_is_refused(text, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.yaml"
    path.write_text(text)
    for read in (read_experiment, check_pins, lambda it: parse_yaml(it.read_text(), it)):
        with pytest.raises(UncoupleError, match=told) as caught:
            read(path)
        assert len(str(caught.value)) < 2000
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["a: &a {b: 1}\nc: *a", "a: &a {b: 1}\nc: {<<: *a, b: 2}", "a: {b: 1}\nc: {b: 1}", ""])
def test_what_is_honest_is_taken(text):
    import yaml

    assert parse_yaml(text, "x") == yaml.safe_load(text)


def test_what_snakemake_read_is_bounded_too(tmp_path):
    """It keeps aliases, each of which is the same list once more."""
    import yaml

    with pytest.raises(UncoupleError, match="the config: more than 100,000 values"):
        load(yaml.safe_load(BOMB), tmp_path)
    check_size([0] * (yaml_text.MOST_VALUES - 1), "x")
    with pytest.raises(UncoupleError):
        check_size([0] * yaml_text.MOST_VALUES, "x")


def test_a_sweep_of_lists_has_an_end():
    lists = dict.fromkeys(("ratio", "seed", "n"), list(range(1, 500)))
    with pytest.raises(UncoupleError, match=r"variants\.s: its lists make 124,251,499 variants"):
        spread_sweeps({"s": {"kind": "suppress"} | lists})
