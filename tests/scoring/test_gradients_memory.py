"""What scoring does where memory runs out all the same."""

import gc
import os
import re
import subprocess
import sys
import weakref
from contextlib import contextmanager

import hypothesis.strategies as st
import pytest
import torch
from conftest import ROOT, batch_samples, encode_all, relative_error
from hypothesis import given, settings

from uncouple.errors import UncoupleError
from uncouple.models.families import target_names
from uncouple.models.folders import read_config
from uncouple.models.load import load_model, load_tokenizer
from uncouple.scoring.gradients import _Hooks, accumulate_gradients

CPU_FULL = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"


@pytest.fixture(scope="module")
def tiny(model_folder):
    """Model, names of its linear layers, encoded samples, and their gradients where memory suffices."""
    model, tokenizer = load_model(model_folder, "float32", "cpu"), load_tokenizer(model_folder)[0]
    names, encoded = target_names(read_config(model_folder), "all"), encode_all(tokenizer)
    return model, names, encoded, accumulate_gradients(model, names, batch_samples(encoded, 10_000))


@contextmanager
def little_memory(model, name, most, error, when):
    """A layer that runs out of memory, on its way there or back, when a batch has more than `most` tokens."""

    def fail(*_):
        # A new one each time: it holds the frames that it goes through, and the graph holds this function.
        raise type(error)(*error.args)

    def watch(_, inputs, output):
        if inputs[0].shape[1] > most:
            output.register_hook(fail) if when == "backward" else fail()

    handle = model.get_submodule(name).register_forward_hook(watch)
    try:
        yield
    finally:
        handle.remove()


@given(st.data())
@settings(deadline=None, max_examples=25)
def test_where_memory_runs_out_the_sums_are_those_of_enough_memory(tiny, data):
    model, names, encoded, truth = tiny
    longest = max(len(e.ids) for e in encoded)
    # Below the first layers that are scored there is no way back, so there they cannot fail before they are scored.
    name = data.draw(st.sampled_from(names[3:]))
    most, tokens = data.draw(st.integers(longest, 300)), data.draw(st.integers(1, 400))
    error = data.draw(st.sampled_from([torch.OutOfMemoryError("full"), RuntimeError(CPU_FULL), MemoryError()]))
    with little_memory(model, name, most, error, data.draw(st.sampled_from(["forward", "backward"]))):
        found = accumulate_gradients(model, names, batch_samples(encoded, tokens))
    assert max(relative_error(found[name], truth[name]) for name in names) < 1e-6


@pytest.mark.parametrize("when", ["forward", "backward"])
def test_where_memory_runs_out_half_a_batch_is_tried_and_told(tiny, capsys, when):
    model, names, encoded, truth = tiny
    (whole,) = batch_samples(encoded, 10_000)
    tokens = whole.ragged.tokens
    with little_memory(model, names[3], tokens - 1, torch.OutOfMemoryError("full"), when):
        found = accumulate_gradients(model, names, [whole])
    assert max(relative_error(found[name], truth[name]) for name in names) < 1e-6
    told = re.findall("out of memory at .*", capsys.readouterr().err)
    assert told == [f"out of memory at {tokens} tokens; goes on with {tokens // 2} and less"]


def test_after_memory_ran_out_later_batches_are_no_larger(tiny):
    model, names, encoded, _ = tiny
    (whole,), seen = batch_samples(encoded, 10_000), []
    handle = model.base_model.register_forward_pre_hook(lambda *_: seen.append(1))
    with little_memory(model, names[3], whole.ragged.tokens - 1, torch.OutOfMemoryError("full"), "backward"):
        accumulate_gradients(model, names, [whole] * 3)
    handle.remove()
    parts = []

    def cut(batch):
        small = batch.ragged.tokens <= whole.ragged.tokens // 2 or len(batch.rows) == 1
        parts.append(batch) if small else [cut(half) for half in batch.halves()]

    cut(whole)
    assert len(seen) == 1 + 3 * len(parts)


@pytest.mark.parametrize("when", ["forward", "backward"])
def test_a_sample_that_alone_does_not_fit_is_named(tiny, when):
    model, names, encoded, _ = tiny
    longest = max(range(len(encoded)), key=lambda i: len(encoded[i].ids))
    tokens = len(encoded[longest].ids)
    with (
        little_memory(model, names[3], tokens - 1, torch.OutOfMemoryError("full"), when),
        pytest.raises(UncoupleError, match=rf"sample s{longest} alone \({tokens} tokens\) does not fit .*--dtype"),
    ):
        accumulate_gradients(model, names, batch_samples(encoded, 10_000))


@pytest.mark.parametrize("when", ["forward", "backward"])
def test_a_pass_that_failed_leaves_nothing_in_memory(tiny, when):
    """Each step of the graph is given something to hold, which must be gone when the graph is."""
    model, names, encoded, _ = tiny
    (whole,), held = batch_samples(encoded, 10_000), []

    def hold(_, inputs, output):
        if output.requires_grad:
            thing = lambda gradient: None  # noqa: E731
            held.append(weakref.ref(thing))
            output.register_hook(thing)

    handles = [layer.register_forward_hook(hold) for layer in model.base_model.layers]
    with little_memory(model, names[-1], whole.ragged.tokens - 1, torch.OutOfMemoryError("full"), when):
        accumulate_gradients(model, names, [whole])
    for handle in handles:
        handle.remove()
    gc.collect()
    assert len(held) > 2
    assert not any(thing() for thing in held)


def test_what_was_summed_leaves_nothing_in_memory(tiny):
    """Each pass over a part of the layers would keep its sums and the last batch's tensors besides."""
    model, names, encoded, _ = tiny
    sums = accumulate_gradients(model, names, batch_samples(encoded, 300))
    held = [weakref.ref(tensor) for tensor in sums.values()]
    del sums
    gc.collect()
    assert not any(tensor() is not None for tensor in held)
    assert not [thing for thing in gc.get_objects() if type(thing) is _Hooks]


REAL = """
import json, resource, sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from uncouple.models.prompts import Encoded
from uncouple.scoring.gradients import accumulate_gradients
from uncouple.scoring.packing import pack_samples

torch.set_num_threads(1)
torch.manual_seed(0)
sizes = dict(hidden_size=64, intermediate_size=2048, num_hidden_layers=2, num_attention_heads=4, vocab_size=100)
model = LlamaForCausalLM(LlamaConfig(**sizes)).eval().requires_grad_(False)
names = [f"model.layers.{layer}.mlp.{name}_proj" for layer in (0, 1) for name in ("gate", "up", "down")]
encoded, ids = [Encoded(torch.randint(100, (100,)).tolist(), 50) for _ in range(40)], [f"s{i}" for i in range(40)]
truth = accumulate_gradients(model, names, pack_samples(encoded, ids, 100))
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[1]), resource.RLIM_INFINITY))
found = accumulate_gradients(model, names, pack_samples(encoded, ids, 4000))
print(max(float((found[name] - truth[name]).norm() / truth[name].norm()) for name in names))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts and limits memory as Linux does")
def test_a_process_that_may_take_no_more_memory_scores_in_smaller_batches():
    """A batch of 4000 tokens takes 500 MB, 1000 tokens take 120 MB, and 200 MB can be had."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", REAL, str(200 * 10**6)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 1e-6
    tokens = [int(number) for number in re.findall(r"out of memory at (\d+) tokens", run.stderr)]
    assert tokens in ([4000], [4000, 2000])


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("other")])
def test_other_errors_are_not_taken_for_memory(tiny, error):
    model, names, encoded, _ = tiny
    with little_memory(model, names[3], 100, error, "backward"), pytest.raises(type(error), match=str(error)):
        accumulate_gradients(model, names, batch_samples(encoded, 10_000))
