"""Which device a job gets, that no two jobs get the same GPU, and how much memory there is."""

import os
import signal
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import psutil
import pytest
import torch
from accelerate import dispatch_model
from conftest import ROOT, TEXTS, answer_pairs, batch_samples, encode_all, score_with
from hypothesis import HealthCheck, given, settings

from uncouple.errors import UncoupleError
from uncouple.evaluation.ability import wrap_model
from uncouple.evaluation.hsic import last_states
from uncouple.evaluation.perplexity import window_losses
from uncouple.models import devices
from uncouple.models.devices import fixed_order, free_memory, is_out_of_memory, lease, pick_device, release_memory
from uncouple.models.folders import read_config
from uncouple.models.load import load_model, load_tokenizer
from uncouple.models.prompts import encode_question

JOB = """
import sys, time
from uncouple.models.devices import lease

folder, seconds = sys.argv[1], float(sys.argv[2])
number = lease(["gpu-a", "gpu-b"], folder, poll=0.01)
print(number, time.monotonic(), flush=True)
time.sleep(seconds)
print(time.monotonic(), flush=True)
"""


def start(folder, seconds):
    command = [sys.executable, "-c", JOB, str(folder), str(seconds)]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=-1, stderr=-1, text=True)


@pytest.fixture
def no_leases(monkeypatch):
    """This process has leased nothing, and gives back at the end what it leases."""
    leases = {}
    monkeypatch.setattr(devices, "_LEASES", leases)
    yield
    for lock in leases.values():
        lock.release()


@pytest.fixture
def two_gpus(monkeypatch, tmp_path, no_leases):
    """A machine that seems to have two GPUs."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid=f"GPU-{i}"))
    return tmp_path


def test_jobs_share_the_gpus_and_no_two_have_the_same_at_once(tmp_path):
    jobs = [start(tmp_path, 0.4) for _ in range(4)]
    held, waited = {0: [], 1: []}, 0
    for job in jobs:
        out, err = job.communicate(timeout=60)
        number, begin, end = out.split()
        held[int(number)].append((float(begin), float(end)))
        waited += "all 2 GPUs are leased by other jobs" in err
    for times in held.values():
        times.sort()
        assert times
        assert all(end <= begin for (_, end), (begin, _) in zip(times, times[1:], strict=False))
    assert 1 <= waited <= 2


def test_a_job_that_is_killed_gives_its_gpu_back(tmp_path):
    jobs = [start(tmp_path, 600), start(tmp_path, 600)]
    taken = {job: int(job.stdout.readline().split()[0]) for job in jobs}
    assert sorted(taken.values()) == [0, 1]
    waiting = start(tmp_path, 0)
    assert "all 2 GPUs" in waiting.stderr.readline()
    jobs[1].send_signal(signal.SIGKILL)
    out, _ = waiting.communicate(timeout=60)
    assert int(out.split()[0]) == taken[jobs[1]]
    for job in jobs:
        job.kill()
        job.communicate()


def test_a_process_gets_the_gpu_that_it_has_even_where_others_are_free(tmp_path, no_leases):
    assert lease(["a", "b"], tmp_path) == 0
    assert lease(["a", "b"], tmp_path) == 0
    assert lease(["b", "a"], tmp_path) == 1


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_a_device_that_is_named_is_taken(device):
    assert pick_device(device) == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_choice_is_the_cpu():
    assert pick_device("auto") == torch.device("cpu")


def test_of_two_gpus_the_first_free_one_is_leased_and_kept(two_gpus):
    assert pick_device("auto") == torch.device("cuda", 0)
    assert pick_device("auto") == torch.device("cuda", 0)
    assert [path.name.rpartition("-GPU-")[2] for path in two_gpus.glob("uncouple-*")] == ["0.lock"]


def test_a_gpu_that_is_named_is_not_leased(two_gpus):
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    assert pick_device("cuda") == torch.device("cuda", 0)
    assert not list(two_gpus.iterdir())


@pytest.mark.parametrize("device", ["gpu", "", "cuda:x", "auto:1"])
def test_a_device_that_is_not_known_is_told(device):
    with pytest.raises(UncoupleError, match=f"device '{device}' is not known. Use auto, cpu"):
        pick_device(device)


@pytest.mark.parametrize("device", ["cuda:2", "cuda:7"])
def test_a_gpu_beyond_those_of_the_machine_is_told(two_gpus, device):
    with pytest.raises(UncoupleError, match=f"device '{device}': this machine has 2 GPUs"):
        pick_device(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "all"])
def test_scoring_on_gpus_without_a_gpu_is_told(model_folder, tmp_path, write_jsonl, device):
    from uncouple.data.samples import make_samples
    from uncouple.data.sources import Source

    raw = write_jsonl("raw.jsonl", [{"prompt": "Sum 2 and 3.", "response": "5"}])
    make_samples(Source(path=str(raw)), "general", "safe", 1, 0, tmp_path / "samples.parquet")
    common = {"first": 0, "last": None, "module": "mlp", "prompt": "chat", "keep": 0.1, "batch_tokens": "auto"}
    with pytest.raises(UncoupleError, match="this machine has 0 GPUs"):
        score_with(
            model_folder, tmp_path / "samples.parquet", tmp_path / "shard", **common, dtype="auto", device=device
        )


def test_free_memory_of_the_cpu_is_within_the_machines():
    assert 0 < free_memory(torch.device("cpu")) <= psutil.virtual_memory().total


MACHINE = 10**10
amounts = st.integers(0, 2 * MACHINE)


@given(st.lists(st.tuples(amounts | st.just("max"), amounts), max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_free_memory_is_the_least_of_the_machine_and_of_each_control_group(tmp_path_factory, limits):
    groups = [tmp_path_factory.mktemp("group") for _ in limits]
    for group, (limit, used) in zip(groups, limits, strict=True):
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"anon {used}\ninactive_file 0\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "_control_groups", lambda: [*groups, tmp_path_factory.getbasetemp() / "none"])
        patch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=MACHINE))
        found = free_memory(torch.device("cpu"))
    assert found == min([MACHINE, *(limit - used for limit, used in limits if limit != "max")])


def test_files_that_the_system_may_drop_count_as_free(tmp_path, monkeypatch):
    """Of 8 GB, 7 are used, and 5 of these are the pages of a model's file that was read."""
    (tmp_path / "memory.max").write_text(f"{8 * 10**9}\n")
    (tmp_path / "memory.current").write_text(f"{7 * 10**9}\n")
    (tmp_path / "memory.stat").write_text(f"anon {2 * 10**9}\nfile {5 * 10**9}\ninactive_file {5 * 10**9}\n")
    monkeypatch.setattr(devices, "_control_groups", lambda: [tmp_path])
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=MACHINE))
    assert free_memory(torch.device("cpu")) == 6 * 10**9


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_control_groups_are_folders_from_the_inner_to_the_root():
    groups = devices._control_groups()
    assert all(inner.parent == outer for inner, outer in zip(groups, groups[1:], strict=False))
    assert not groups or str(groups[-1]) == "/sys/fs/cgroup"


@pytest.mark.parametrize(
    ("error", "truth"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("expected scalar type Float but found Half"), False),
        (ValueError("DefaultCPUAllocator"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_what_counts_as_out_of_memory(error, truth):
    assert is_out_of_memory(error) == truth


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_released_memory_is_the_systems_again():
    release_memory()
    process = psutil.Process()
    before = process.memory_info().rss
    # Small blocks, which the C library keeps when they are freed.
    blocks = [torch.ones(10_000) for _ in range(2000)]
    grown = process.memory_info().rss - before
    blocks.append(blocks)
    del blocks
    release_memory()
    assert grown > 7 * 10**7
    assert process.memory_info().rss - before < grown / 4


def spread(model):
    """A model as `--device all` gives it: each of its parts moves what it is given to where that part is."""
    parts = [name for name, module in model.named_modules() if name and not list(module.children())]
    return dispatch_model(model, dict.fromkeys(parts, "cpu"), main_device="cpu", force_hooks=True)


def test_a_spread_model_is_asked_and_measured_like_another(model_folder):
    plain, hooked = load_model(model_folder, "float32", "cpu"), spread(load_model(model_folder, "float32", "cpu"))
    assert sum(hasattr(module, "_hf_hook") for module in hooked.modules()) > 20
    tokenizer = load_tokenizer(model_folder)[0]
    prompts = [encode_question(tokenizer, question, "chat") for question, _ in TEXTS]
    windows = np.array([ids[:6] for ids in prompts])
    requests = [SimpleNamespace(args=(question, f" {answer}")) for question, answer in TEXTS]
    found = [
        (
            answer_pairs(model, tokenizer, prompts, 12, 3),
            window_losses(model, windows, 2).tolist(),
            last_states(model, "model.layers", prompts, 100).tolist(),
            wrap_model(model, tokenizer, 2).loglikelihood(requests),
        )
        for model in (plain, hooked)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_sums_have_one_order_on_a_gpu_and_the_setting_is_given_back(monkeypatch, before, device):
    def setting():
        return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()

    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.use_deterministic_algorithms(before, warn_only=before)
    try:
        with fixed_order(torch.device(device)):
            within = setting()
        assert within == ((before, before) if device == "cpu" else (True, False))
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == (device != "cpu")
        assert setting() == (before, before)
        assert torch.utils.deterministic.fill_uninitialized_memory
    finally:
        torch.use_deterministic_algorithms(False)


def test_scoring_takes_the_setting_and_no_score_changes_by_it(model_folder, monkeypatch):
    from uncouple.models.families import target_names
    from uncouple.scoring import gradients
    from uncouple.scoring.gradients import accumulate_gradients

    model, tokenizer = load_model(model_folder, "float32", "cpu"), load_tokenizer(model_folder)[0]
    names = target_names(read_config(model_folder), "all")
    batches = batch_samples(encode_all(tokenizer), 100)
    truth = accumulate_gradients(model, names, batches)
    seen = []
    # As on a GPU, where torch would refuse an operation that has no fixed order.
    monkeypatch.setattr(gradients, "fixed_order", lambda d: seen.append(d) or fixed_order(torch.device("cuda")))
    found = accumulate_gradients(model, names, batches)
    assert seen == [torch.device("cpu")]
    assert not torch.are_deterministic_algorithms_enabled()
    assert all(torch.equal(found[name], truth[name]) for name in names)
