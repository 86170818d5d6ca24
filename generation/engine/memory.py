"""How much memory there is and how much a run took."""

import psutil
import torch


def peak_reset(device: torch.device) -> None:
    """Starts a new measurement of the peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_mb(device: torch.device) -> int:
    """The peak since `peak_reset`, in MiB: allocated memory on CUDA; on a CPU the process's resident size now."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device) >> 20)
    return int(psutil.Process().memory_info().rss >> 20)


def total_and_free_mb(device: torch.device) -> tuple[int, int]:
    """The device's memory in MiB; the machine's where the device is the CPU."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return int(total >> 20), int(free >> 20)
    memory = psutil.virtual_memory()
    return int(memory.total >> 20), int(memory.available >> 20)


def device_name(device: torch.device) -> str:
    """What the device is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
