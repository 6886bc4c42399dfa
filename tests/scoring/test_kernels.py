"""Both forms of the inner loop are held to the obvious loop in float64; without a GPU Triton's is interpreted."""

import hypothesis.strategies as st
import pytest
import torch
from conftest import DEVICE, relative_error
from hypothesis import given, settings

from uncouple.scoring.kernels import Ragged, add_abs_products, new_sums

# Triton's interpreter multiplies bfloat16 as the integers that NumPy, which has no bfloat16, keeps it in.
TRITON_DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * (DEVICE == "cuda")
sizes = st.integers(1, 70)
ragged_lengths = st.lists(st.sampled_from([1, 2, 15, 16, 17, 32, 40]), min_size=1, max_size=5).map(tuple)
seeds = st.integers(0, 10**6)


def draw(rows, columns, lengths, dtype, seed, device="cpu"):
    """A gradient and an input of a packed batch, in which no column or sample is like another."""
    generator = torch.Generator().manual_seed(seed)
    g, x = (torch.randn(sum(lengths), width, generator=generator) for width in (rows, columns))
    scale = torch.repeat_interleave(torch.arange(1, len(lengths) + 1), torch.tensor(lengths))[:, None]
    return (g * scale).to(device, dtype), x.to(device, dtype)


def obvious(total, g, x, lengths, factors=None):
    truth = total.double()
    factors = [1] * len(lengths) if factors is None else factors.tolist()
    for left, right, factor in zip(g.double().split(lengths), x.double().split(lengths), factors, strict=True):
        truth = truth + factor * (left.T @ right).abs()
    return truth


def draw_factors(lengths, seed):
    """A power of two a sample."""
    exponents = torch.randint(-9, 9, (len(lengths),), generator=torch.Generator().manual_seed(seed))
    return (2.0**exponents).to(DEVICE)


@pytest.fixture(scope="module")
def kernels():
    """uncouple.scoring.triton_kernels, interpreted where there is no GPU."""
    pytest.importorskip("triton", reason="Triton is made for Linux alone")
    from triton.runtime import interpreter

    from uncouple.scoring import triton_kernels

    patch_tensor = interpreter._patch_lang_tensor

    def patch_for_numpy_2_4(tensor, scope):
        # Triton 3.6 takes int() of arrays of one number, which NumPy 2.4 refuses (triton-lang/triton#9171).
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_for_numpy_2_4
    yield triton_kernels
    interpreter._patch_lang_tensor = patch_tensor


@given(sizes, sizes, ragged_lengths, st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), seeds)
@settings(deadline=None)
def test_pytorch_form_equals_the_obvious_loop(rows, columns, lengths, dtype, seed):
    total = new_sums(torch.empty(rows, columns))
    truth, scratch = obvious(total, *draw(rows, columns, lengths, dtype, 0), lengths), {}
    add_abs_products(total, *draw(rows, columns, lengths, dtype, 0), Ragged(lengths), scratch)
    # The second batch finds a total that is not zero and buffers that were used.
    g, x = draw(rows, columns, lengths[::-1], dtype, seed)
    factors = draw_factors(lengths, seed).cpu()
    truth = obvious(truth, g, x, lengths[::-1], factors)
    add_abs_products(total, g, x, Ragged(lengths[::-1]), scratch, factors)
    assert total.shape == (rows, columns)
    assert relative_error(total.double(), truth) < 1e-6


@given(sizes, sizes, ragged_lengths, st.sampled_from(TRITON_DTYPES), seeds)
@settings(deadline=None, max_examples=40)
def test_triton_form_equals_the_obvious_loop(kernels, rows, columns, lengths, dtype, seed):
    g, x = draw(rows, columns, lengths, dtype, seed, DEVICE)
    total = torch.rand(rows, columns, device=DEVICE) * 10
    factors = draw_factors(lengths, seed)
    truth = obvious(total, g, x, lengths, factors)
    kernels.launch(total, g, x, Ragged(lengths), factors, kernels.Tile(16, 16, 16, 4, 1))
    assert relative_error(total.double(), truth) < 1e-5


@pytest.mark.parametrize("dtype", TRITON_DTYPES)
def test_triton_form_with_its_own_tiles_equals_the_obvious_loop(kernels, dtype):
    lengths = (1, 63, 64, 65, 200)
    g, x = draw(150, 140, lengths, dtype, 0, DEVICE)
    total = torch.ones(150, 140, device=DEVICE)
    truth = obvious(total, g, x, lengths)
    kernels.launch(total, g, x, Ragged(lengths))
    assert relative_error(total.double(), truth) < 1e-5


def test_triton_form_takes_inputs_that_are_not_contiguous(kernels):
    g, x = draw(20, 12, (5, 11), torch.float32, 0, DEVICE)
    total = torch.zeros(20, 12, device=DEVICE)
    kernels.launch(total, g.T.contiguous().T, x.T.contiguous().T, Ragged((5, 11)), tile=kernels.Tile(16, 16, 16, 4, 1))
    assert relative_error(total.double(), obvious(torch.zeros_like(total), g, x, (5, 11))) < 1e-5


def test_triton_form_reaches_the_rows_that_are_left_over_of_a_group(kernels):
    """Programs go through groups of 8 tiles of rows; 11 make a whole group and a part of one."""
    g, x = draw(16 * 10 + 3, 35, (3, 17), torch.float32, 0, DEVICE)
    total = torch.zeros(163, 35, device=DEVICE)
    kernels.launch(total, g, x, Ragged((3, 17)), tile=kernels.Tile(16, 16, 16, 4, 1))
    assert relative_error(total.double(), obvious(torch.zeros_like(total), g, x, (3, 17))) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_small_addend_of_half_precision_is_not_lost_in_a_large_sum(dtype):
    total = torch.full((1, 1), 1024.0)
    add_abs_products(total, torch.ones(300, 1, dtype=dtype), torch.ones(300, 1, dtype=dtype), Ragged((1,) * 300), {})
    assert total.item() == 1324


@given(sizes, sizes)
def test_new_sums_are_float32_zeros_of_the_weights_shape(rows, columns):
    sums = new_sums(torch.empty(rows, columns, dtype=torch.bfloat16))
    assert (sums.shape, sums.dtype, int(sums.count_nonzero())) == ((rows, columns), torch.float32, 0)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8).map(tuple), st.integers(1, 20))
def test_blocks_hold_every_token_once_and_never_two_samples(lengths, size):
    ragged = Ragged(lengths)
    owner = [sample for sample, length in enumerate(lengths) for _ in range(length)]
    blocks = ragged.blocks(size, "cpu").tolist()
    tokens = [list(range(first, min(first + size, end))) for first, end, _, _ in blocks]
    assert [token for block in tokens for token in block] == list(range(ragged.tokens))
    for block, (_, _, is_last, sample) in zip(tokens, blocks, strict=True):
        assert {owner[token] for token in block} == {sample}
        # The last block of a sample is the one that holds its last token.
        assert is_last == (block[-1] == ragged.tokens - 1 or owner[block[-1] + 1] != owner[block[-1]])
