"""What the processor can do, by what it says of itself: a timing would change pixels from one start to the next."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import torch

CPU_INFO = Path("/proc/cpuinfo")
_AMX_BF16, _AVX512_BF16 = "amx_bf16", "avx512_bf16"
# What AMD calls itself.
_AMD = "AuthenticAMD"
# Values of oneDNN's limit that mean none.
_ANY = ("", "ALL", "DEFAULT")


@functools.cache
def quick_bfloat16() -> str:
    """The instructions that multiply bfloat16 faster than single precision, where oneDNN may use them; else "".

    Those are tiles (AMX), and AVX-512's own on AMD's processors: eight pictures of the built-in model took 3.2 instead
    of 5.1 s on an EPYC of the fourth generation. On Intel's, AVX-512 alone is slower at it than at single precision
    (195 ms a step against 121 to 154).
    """
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    try:
        lines = CPU_INFO.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return ""
    flags = _said(lines, "flags").split()
    if _AMX_BF16 in flags and (allowed in _ANY or "AMX" in allowed):
        return _AMX_BF16
    if _AVX512_BF16 in flags and _said(lines, "vendor_id") == _AMD and (allowed in _ANY or "BF16" in allowed):
        return _AVX512_BF16
    return ""


def _said(lines: Sequence[str], name: str) -> str:
    """What the first processor says under a name."""
    line = next((line for line in lines if line.partition(":")[0].strip() == name), "")
    return line.partition(":")[2].strip()


def instruction_set(device: torch.device) -> str:
    """The widest instructions that the CPU's kernels use, such as `amx_bf16` or `avx512`; "" for other devices."""
    if device.type != "cpu":
        return ""
    return quick_bfloat16() or torch.backends.cpu.get_cpu_capability().lower()
