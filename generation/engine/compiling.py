"""A denoiser's repeated blocks, compiled: where the host asks for it, before requests come, and never in their way.

While a model warms up, graphs are made of its blocks for any size: for one picture and for several, with guidance and
without. At other times none is made. What no graph fits, such as blocks with an adapter, runs as without a compiler.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

import torch

from generation.engine.planner import DENOISERS

# torch's own, by its name there.
BACKEND = "inductor"
# torch counts them by function, and that by which modules are called is one for all blocks of all models.
_MOST_GRAPHS: Final = 256


class Graphs:
    """How many this process has made, or taken from those that are kept on disk, and how often it has run them.

    `problem` is why the last one that could not be made was not.
    """

    made = 0
    runs = 0
    problem = ""


def compiler_hold() -> None:
    """From now on graphs are run, and made in `compiling` alone.

    The compiler has to be imported before the engine, which leaves it out otherwise. What it cannot compile runs
    without it.
    """
    config = torch._dynamo.config  # noqa: SLF001 - torch.compiler has no names for these
    config.recompile_limit, config.suppress_errors = _MOST_GRAPHS, True
    # Sizes that happen to be equal while a model warms up need not be so later.
    torch.fx.experimental._config.use_duck_shape = False  # noqa: SLF001 - nor for this
    torch.compiler.set_stance("eager_on_recompile")


def compiling() -> AbstractContextManager[None]:
    """Makes graphs of what is run in the block."""
    stance: AbstractContextManager[None] = torch.compiler.set_stance("default")
    return stance


def eager() -> AbstractContextManager[None]:
    """Runs no graph in the block."""
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


def blocks_mark(pipeline: Any) -> bool:
    """Has a denoiser's blocks look for their graphs; False where its class does not say which blocks it repeats."""
    for name in DENOISERS:
        denoiser: Any = getattr(pipeline, name, None)
        if getattr(denoiser, "_repeated_blocks", None):
            denoiser.compile_repeated_blocks(backend=_graph_make, dynamic=True)
            return True
    return False


def _graph_make(graph: Any, inputs: list[Any]) -> Callable[..., Any]:
    """What the backend makes of a graph, counted. Raises whatever the backend does, which torch keeps to itself."""
    try:
        compiled = torch._dynamo.lookup_backend(BACKEND)(graph, inputs)  # noqa: SLF001 - nor for this
    except Exception as error:
        Graphs.problem = str(error).strip().partition("\n")[0] or type(error).__name__
        raise
    Graphs.made += 1

    def run(*arguments: Any) -> Any:
        Graphs.runs += 1
        return compiled(*arguments)

    return run
