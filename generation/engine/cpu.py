"""What the processor can do, by what it says of itself: a timing would change pixels from one start to the next."""

import functools
import os
from pathlib import Path

import torch

CPU_INFO = Path("/proc/cpuinfo")
_AMX_BF16 = "amx_bf16"


@functools.cache
def has_amx() -> bool:
    """Whether products of bfloat16 matrices run on the processor's tiles (AMX), and oneDNN may use them.

    Without tiles bfloat16 is slower than single precision, also where AVX-512 knows it (measured: 195 ms against 121 to
    154 for eight rows of the built-in model).
    """
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if allowed not in ("", "ALL", "DEFAULT") and "AMX" not in allowed:
        return False
    try:
        lines = CPU_INFO.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return _AMX_BF16 in flags.split()


def instruction_set(device: torch.device) -> str:
    """The widest instructions that the CPU's kernels use, such as `amx_bf16` or `avx512`; "" for other devices."""
    if device.type != "cpu":
        return ""
    return _AMX_BF16 if has_amx() else torch.backends.cpu.get_cpu_capability().lower()
