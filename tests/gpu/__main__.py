"""Runs the parts on this machine's device: `python -m tests.gpu MINUTES [PACKAGES]`; see `scripts/gpu.py`."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

for name, value in {
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
}.items():
    os.environ.setdefault(name, value)
minutes, *packages = sys.argv[1:]
sys.path[1:1] = packages

import torch  # noqa: E402

from tests.gpu.parts import Bench, NoCardError, parts  # noqa: E402
from tests.gpu.running import run  # noqa: E402


def noise_as_single() -> None:
    """Lets torch before 2.13 draw half-precision noise as later ones do: as single precision's, rounded.

    Its own is another picture's (https://github.com/pytorch/pytorch/issues/166853).
    """
    real = torch.randn

    def randn(*size: Any, dtype: torch.dtype | None = None, **options: Any) -> torch.Tensor:
        if options.get("generator") is not None and dtype in (torch.float16, torch.bfloat16):
            return real(*size, dtype=torch.float32, **options).to(dtype)
        return real(*size, dtype=dtype, **options)

    torch.randn = randn


if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13):
    noise_as_single()
with tempfile.TemporaryDirectory() as place:
    bench = Bench(Path(place))
    card = torch.cuda.get_device_name(bench.device) if bench.has_card else "no card: on the CPU"
    sys.stdout.write(f"{card}, torch {torch.__version__}\n")
    sys.exit(run(parts(bench), seconds=float(minutes) * 60, skipped=NoCardError) > 0)
