"""Masks are set in memory and undone bit for bit; results of one job are made one by one."""

import pytest
import torch
from conftest import write_mask

from uncouple.errors import UncoupleError
from uncouple.models.folders import model_record
from uncouple.models.load import load_model, load_tokenizer
from uncouple.records.store import Store
from uncouple.variants.checkpoints import apply_mask
from uncouple.variants.each import Result, make_each, output_paths
from uncouple.variants.masks import read_mask
from uncouple.variants.variant import open_variants, suppressed

ENTRIES = {"model.layers.0.mlp.up_proj": [0, 7, 6143], "model.layers.1.mlp.down_proj": [5, 100, 101, 6000]}
OTHERS = {"model.layers.0.mlp.up_proj": [7, 8], "model.layers.1.self_attn.o_proj": [1]}


def bits(model):
    """Each weight as whole numbers: NaN and the two zeros are told apart."""
    kinds = {2: torch.int16, 4: torch.int32}
    return {name: weight.clone().view(kinds[weight.element_size()]) for name, weight in model.named_parameters()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_suppressed_model_gives_its_checkpoints_logits_and_is_the_base_again(make_model, tmp_path, dtype):
    folder = make_model("llama", dtype)
    mask = write_mask(tmp_path / "mask.parquet", folder, ENTRIES)
    apply_mask(folder, mask, tmp_path / "checkpoint")
    name = str(dtype).removeprefix("torch.")
    model, checkpoint = (load_model(path, name, "cpu") for path in (folder, tmp_path / "checkpoint"))
    ids = torch.tensor([load_tokenizer(folder)[0]("Where does my neighbour live?")["input_ids"]])
    before, origin = bits(model), model(ids).logits
    with suppressed(model, read_mask(mask, model_record(folder))[0]) as inside:
        assert inside is model
        assert same(bits(model), bits(checkpoint))
        assert torch.equal(model(ids).logits, checkpoint(ids).logits)
        assert not torch.equal(model(ids).logits, origin)
    assert same(bits(model), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_are_put_back_however_the_block_ends(make_model, tmp_path, dtype):
    """The loaded dtype may be another than the file's; and weights may be NaN or a negative zero."""
    folder = make_model("llama", torch.bfloat16)
    entries = [read_mask(write_mask(tmp_path / str(i), folder, e))[0] for i, e in enumerate((ENTRIES, OTHERS))]
    model = load_model(folder, str(dtype).removeprefix("torch."), "cpu")
    with torch.no_grad():
        flat = model.get_submodule("model.layers.1.mlp.down_proj").weight.view(-1)
        flat[5], flat[100] = float("nan"), -0.0
    before = bits(model)
    with pytest.raises(RuntimeError, match="inside"), suppressed(model, entries[0]), suppressed(model, entries[1]):
        raise RuntimeError("inside")
    assert same(bits(model), before)
    with pytest.raises(UncoupleError), suppressed(model, entries[0] | {"model.layers.9.mlp": entries[0].popitem()[1]}):
        pass
    assert same(bits(model), before)


def test_variants_are_checked_before_anything_is_loaded(make_model, tmp_path):
    folder, other = make_model("llama"), make_model("llama", seed=1)
    mask = write_mask(tmp_path / "mask.parquet", folder, ENTRIES)
    found = open_variants(folder, [("origin", None), ("spin", mask)])
    assert [(v.name, sum(len(i) for i, _ in v.entries.values())) for v in found] == [("origin", 0), ("spin", 7)]
    assert "shapes" not in found[1].mask
    assert [variant.fault for variant in found] == [None, None]
    # One that cannot be used leaves the others be.
    origin, spin = open_variants(other, [("origin", None), ("spin", mask)])
    assert origin.fault is None
    assert "made from another model" in str(spin.fault)
    with pytest.raises(UncoupleError, match="made from another model"):
        open_variants(other, [("spin", mask)])
    with pytest.raises(UncoupleError, match="'a' is named twice"):
        open_variants(folder, [("a", None), ("a", mask)])


def test_a_key_hangs_on_the_masks_weights_and_not_on_names(make_model, tmp_path):
    folder = make_model("llama")
    masks = [write_mask(tmp_path / str(i), folder, e) for i, e in enumerate((ENTRIES, ENTRIES, OTHERS))]
    a, b, c, d = open_variants(folder, [*zip("abc", masks, strict=True), ("d", None)])
    keys = [variant.key("auto", "cpu") for variant in (a, b, c, d)]
    assert keys[0] == keys[1]
    assert len({str(key["mask"]) for key in keys}) == 3
    assert (keys[0]["dtype"], keys[0]["device"]) == ("float32", "cpu")
    assert a.key("float16", "cpu")["dtype"] == "float16"


def test_paths_of_several_results():
    wanted = [{"variant": v, "dimension": d} for v in ("a", "b") for d in ("x", "y")]
    found = output_paths("r/{variant}/{dimension}.parquet", wanted)
    assert list(map(str, found)) == ["r/a/x.parquet", "r/a/y.parquet", "r/b/x.parquet", "r/b/y.parquet"]
    assert list(map(str, output_paths("one.parquet", wanted[:1]))) == ["one.parquet"]
    with pytest.raises(UncoupleError, match=r"2 results would be written to this file. Put {variant} and {dimension}"):
        output_paths("r/{variant}.parquet", wanted)


def results(tmp_path, names):
    return [Result(name, "metrics", None, {}, tmp_path / name, name) for name in names]


def test_one_that_fails_is_named_and_the_others_are_made(tmp_path, capsys):
    made = []

    def make(result):
        if result.work in ("b", "d"):
            raise (UncoupleError if result.work == "b" else ValueError)(f"no {result.work}")
        made.append(result.work)

    with pytest.raises(UncoupleError, match="2 of 4 results failed, the others are written. b: no b; d: no d"):
        make_each(results(tmp_path, "abdc"), Store(), "ask", lambda waiting: make)
    assert made == ["a", "c"]
    said = capsys.readouterr().err
    assert "ask: c (4 of 4)" in said
    # A fault of the code is shown where it is.
    assert "Traceback" in said
    assert "ValueError: no d" in said


def test_one_alone_fails_with_its_own_error_and_memory_that_ran_out_ends_all(tmp_path):
    def make(result):
        raise MemoryError if result.work == "b" else ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        make_each(results(tmp_path, "a"), Store(), "ask", lambda waiting: make)
    with pytest.raises(MemoryError):
        make_each(results(tmp_path, "bc"), Store(), "ask", lambda waiting: make)
