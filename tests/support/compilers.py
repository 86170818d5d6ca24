"""torch's compiler in a process of the tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch

from generation.engine import compiling


@contextmanager
def without_kernels() -> Iterator[None]:
    """Has graphs run as they are; kernels take a C++ compiler minutes. Leaves the process as it was."""
    config, shapes = torch._dynamo.config, torch.fx.experimental._config
    before = config.recompile_limit, config.suppress_errors, shapes.use_duck_shape
    with patch.object(compiling, "BACKEND", "eager"):
        yield
    torch.compiler.set_stance("default")
    torch.compiler.reset()
    config.recompile_limit, config.suppress_errors, shapes.use_duck_shape = before
