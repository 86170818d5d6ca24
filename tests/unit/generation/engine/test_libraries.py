"""What a worker does not import, in a process of its own, as the worker is one."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
from pathlib import Path
from generation.engine import AdapterUse, Engine, ModelRef
from models_registry import builtin
from tests.support.batches import quick

UNUSED = {
    "torch._dynamo.convert_frame", "torch.distributed.tensor", "boto3", "scipy.optimize", "scipy.stats.distributions",
    "scipy.integrate._ode",
}
engine = Engine(threads=1)
model = ModelRef("builtin", "builtin", "", Path(builtin.WEIGHTS))
pastel = Path(builtin.ADAPTERS) / "pastel.safetensors"
engine.run(quick(model, adapters=(AdapterUse("pastel", "0" * 64, pastel, 1.0),)))
assert not UNUSED & set(sys.modules), UNUSED & set(sys.modules)

# One that spaces its steps by a distribution of scipy's, and one that integrates.
engine.run(quick(model, scheduler="euler_beta"))
engine.run(quick(model, scheduler="lms"))

# A submodule brings its package, and neither is loaded twice.
import torch
import torch._dynamo.backends.registry as registry
assert registry is sys.modules["torch._dynamo"].backends.registry
assert registry.__spec__.loader.get_filename() == registry.__file__
compiled = torch.compile(lambda x: x + 1, backend="eager")
assert compiled(torch.ones(1)).item() == 2
assert type(torch._dynamo.eval_frame.OptimizedModule) is type and torch._dynamo.disable.__module__.startswith("torch.")
"""


@pytest.mark.slow
def test_a_picture_needs_neither_compiler_nor_statistics_and_both_can_be_used() -> None:
    """They are loaded in their places once something asks for them."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
