"""How much memory there is, how much a run took, and whether a swap left something behind."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from generation.engine.planner import Memory

MIB = 1024 * 1024
_NO_MEMORY = re.compile(r"CU[A-Z]+_STATUS_ALLOC_FAILED|out of memory")
# A container's limit, as the kernel's control groups tell it (version 2, version 1).
CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@contextmanager
def allocations_told() -> Iterator[None]:
    """Raises OutOfMemoryError where a library of the device could not allocate, which torch calls by another name."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or not _NO_MEMORY.search(str(error)):
            raise
        raise torch.OutOfMemoryError(str(error)) from error


def peak_reset(device: torch.device) -> None:
    """Starts a new measurement of the peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_mb(device: torch.device) -> int:
    """The peak since `peak_reset`, in MiB: allocated memory on CUDA; on a CPU the process's resident size now."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device) // MIB)
    return process_bytes() // MIB


def process_bytes() -> int:
    """The process's resident size."""
    return int(psutil.Process().memory_info().rss)


def host_bytes() -> int:
    """Host memory that there is for this process: the machine's, or its container's where that is less."""
    total = int(psutil.virtual_memory().total)
    for path in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # no such version, or "max"
            total = min(total, int(path.read_text()))
    return total


def allocated_bytes(device: torch.device) -> int:
    """What is allocated on the device; on a CPU the process's resident size."""
    return int(torch.cuda.memory_allocated(device)) if device.type == "cuda" else process_bytes()


def total_and_free_mb(device: torch.device) -> tuple[int, int]:
    """The device's memory in MiB; the host's where the device is the CPU."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return int(total // MIB), int(free // MIB)
    total = host_bytes()
    return total // MIB, min(total, int(psutil.virtual_memory().available)) // MIB


def memory_look(device: torch.device, *, workers: int = 1) -> Memory:
    """What this process may have for models: its part of the host's memory, and what others leave it of a GPU."""
    host = host_bytes()
    if device.type != "cuda":
        return Memory(host, host, shared=True)
    free, total = torch.cuda.mem_get_info(device)
    return Memory(min(int(total), int(free) + torch.cuda.memory_reserved(device)), host // workers)


def budgets_bytes(
    device: torch.device, *, resident_mb: int, warm_mb: int, workers: int = 1
) -> tuple[int, int]:
    """The cache's budgets; 0 asks for the automatic ones.

    Those leave a GPU a quarter for activations, and host memory three quarters for everything else, of which so many
    workers have an equal part; where the device is the CPU, resident models may take half of the host's memory.
    """
    total, _ = total_and_free_mb(device)
    host = host_bytes() // MIB
    automatic = int(total * (0.75 if device.type == "cuda" else 0.5))
    return (resident_mb or automatic) * MIB, (warm_mb or host // 4 // workers) * MIB


def device_name(device: torch.device) -> str:
    """What the device is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@dataclass(frozen=True)
class CanaryReport:
    """What is allocated beyond what the cache knows of, compared with the first time it was looked at, in MiB."""

    allocated_mb: int
    cached_mb: int
    leaked_mb: int
    alarming: bool


class LeakCanary:
    """Looks, after each swap and unload, for memory that nobody accounts for."""

    # A CPU's resident size breathes by this much (allocator, lazily imported code) without anything being lost.
    SLACK_MB = {"cuda": 64, "cpu": 512}

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.baseline: int | None = None

    def look(self, cached_bytes: int) -> CanaryReport:
        """Compares; the first look, with a model loaded, sets the baseline."""
        allocated = allocated_bytes(self.device)
        unaccounted = allocated - cached_bytes
        if self.baseline is None and cached_bytes:
            self.baseline = unaccounted
        leaked = max(0, unaccounted - (unaccounted if self.baseline is None else self.baseline)) // MIB
        return CanaryReport(
            allocated // MIB, cached_bytes // MIB, leaked, leaked > self.SLACK_MB[self.device.type]
        )
