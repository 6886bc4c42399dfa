"""Where a model runs: which device, whether it is free, and how much memory there is."""

from __future__ import annotations

import ctypes
import gc
import getpass
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uncouple.errors import UncoupleError
from uncouple.progress import say

if TYPE_CHECKING:
    import torch

# What a driver of NVIDIA, of AMD, or of the subsystem for Linux makes.
GPU_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
# What torch says where one fails in the middle of a run, is lost or is taken away.
GPU_FAILED = ("CUDA error: ", "HIP error: ", "NCCL error", "STATUS_EXECUTION_FAILED")
# Faults of code among them, whose place a traceback shows, and of what the machine has.
NO_FAILURE = (
    *("device-side assert", "illegal memory access", "misaligned address", "out of memory"),
    *("invalid argument", "invalid configuration argument", "no kernel image"),
)
# Leases of this process, by GPU: they end with it, however it ends.
_LEASES: dict[str, Any] = {}


def pick_device(device: str | torch.device) -> torch.device:
    """A torch.device, a GPU's with its number, leased where the choice is left to us.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, a torch.device; or `auto`: a GPU that no other job of this user has
            leased, waited for if need be, and the CPU where there is no GPU.

    Raises:
        UncoupleError: no such device.
    """
    import torch

    if device == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        gpus = [str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]
        return torch.device("cuda", lease(gpus))
    try:
        picked = torch.device(device)
    except RuntimeError:
        raise UncoupleError(f"device {device!r} is not known. Use auto, cpu, cuda, cuda:1 ...") from None
    if picked.type != "cuda":
        return picked
    # Some of torch's functions refuse a GPU without its number.
    index = picked.index or 0
    if index >= torch.cuda.device_count():
        raise UncoupleError(f"device {device!r}: this machine has {torch.cuda.device_count()} GPUs. Use auto or cpu.")
    return torch.device("cuda", index)


def device_kind(device: str | torch.device) -> str:
    """What a model will run on, as one text: `cpu`, or `cuda` and the GPU's name, for a card rounds as none other does.

    Where the system has no driver of a GPU, torch is not asked: it takes seconds to import.

    Args:
        device: see `pick_device` and `pick_devices`.
    """
    has_none = sys.platform == "linux" and not any(map(os.path.exists, GPU_DRIVERS))
    if str(device).startswith("cpu") or (device == "auto" and has_none):
        return "cpu"
    import torch

    if device == "auto" and not torch.cuda.is_available():
        return "cpu"
    index = pick_device("cuda" if device in ("auto", "all") else device).index
    return f"cuda {torch.cuda.get_device_name(index)}"


def pick_devices(device: str | torch.device) -> list[torch.device]:
    """The devices that a model's layers go to: one, see `pick_device`; or with `all` every GPU."""
    import torch

    if device != "all":
        return [pick_device(device)]
    pick_device("cuda")
    return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]


def lease(gpus: Sequence[str], folder: str | Path | None = None, poll: float = 1.0) -> int:
    """The number of a GPU that this process, and no other, has leased until it ends.

    The lease is a lock on a file, which the system lets go of when the process dies. A GPU that was leased before
    is given again.

    Args:
        gpus: names of the GPUs that differ on the whole machine, such as UUIDs.
        folder: of the lock files; the system's temporary folder by default.
        poll: seconds between two tries when all are taken.
    """
    from filelock import FileLock, Timeout

    for number, gpu in enumerate(gpus):
        if gpu in _LEASES:
            return number
    folder, waits = Path(folder or tempfile.gettempdir()), False
    while True:
        for number, gpu in enumerate(gpus):
            lock = FileLock(folder / f"uncouple-{getpass.getuser()}-{gpu}.lock", is_singleton=False)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            _LEASES[gpu] = lock
            return number
        if not waits:
            say(f"all {len(gpus)} GPUs are leased by other jobs; waiting for one (--device cuda:0 does not wait)")
            waits = True
        time.sleep(poll)


def free_memory(device: torch.device) -> int:
    """Bytes that can be had on a torch.device now; on a CPU within the limit of a container or a batch job."""
    import psutil
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    for group in _control_groups():
        try:
            limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
            # Files that were read are counted as used, and are dropped when the memory is wanted.
            used -= int(dict(map(str.split, (group / "memory.stat").read_text().splitlines()))["inactive_file"])
        except (OSError, ValueError, KeyError):
            # No limit is written as the word `max`.
            continue
        free = min(free, limit - used)
    return free


def _control_groups() -> list[Path]:
    """Folders of this process's Linux control group (version 2) and of those around it."""
    try:
        path = Path("/proc/self/cgroup").read_text().partition("0::/")[2].strip()
    except OSError:
        return []
    inner = Path("/sys/fs/cgroup") / path
    return [inner, *inner.parents][: len(Path(path).parts) + 1]


@contextmanager
def fixed_order(device: torch.device) -> Iterator[None]:
    """Sums in one order on a GPU, so that two runs give the same: fused attention's way back adds in any order else.

    Source: torch's `attention_backward.cu`, where the flash and the memory-efficient kernel ask for this setting.
    """
    import torch

    if device.type != "cuda":
        yield
        return
    # Without it cuBLAS may choose another order, and torch refuses to multiply.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    options = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled, options.fill_uninitialized_memory = options.fill_uninitialized_memory, False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        options.fill_uninitialized_memory = filled


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or a CPU."""
    import torch

    # What else the CPU, the driver, its libraries and Triton say; none has a class of its own.
    said = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
    told = isinstance(error, RuntimeError) and any(words in str(error) for words in said)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or told


def failed_device(error: BaseException) -> str | None:
    """What to tell of an exception that says that a GPU failed, or is there no more; None of any other.

    By its words, so that torch need not be imported.
    """
    said = str(error).partition("\n")[0]
    is_told = type(error).__name__ == "AcceleratorError" or isinstance(error, RuntimeError)
    if not is_told or any(w in said for w in NO_FAILURE) or not any(w in said for w in GPU_FAILED):
        return None
    which = f"the GPU {', '.join(_LEASES)}" if _LEASES else "a GPU"
    return (
        f"{which} of {socket.gethostname()} failed ({said}). What was finished is kept. See what `nvidia-smi` says "
        "of it and run again, on another GPU if it stays so (CUDA_VISIBLE_DEVICES, or --device)."
    )


def release_memory() -> None:
    """Give memory that is no longer used back to the system, on the CPU and the GPUs."""
    import torch

    gc.collect()
    # glibc keeps what was freed; other C libraries have no such call.
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
