"""torch's libraries, imported without what they load at once and nothing here uses; the package's first import.

As they come, half of what a worker imports is a compiler, a computer algebra, statistics, training on many machines
and AWS' client. Some of it looks as if it were not installed while it is asked for; the rest is loaded as soon as
something of it is used. `docs/decisions.md` says what that saves.
"""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import torch

_LOADING: Final = threading.RLock()


class _Deferred(ModuleType):
    """A package that is loaded in its place as soon as something is used that nothing stands in for."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            with _LOADING:
                _load(self)
        return ModuleType.__getattribute__(self, name)


# Of each package that is not loaded yet: what loads it, and the names that something stands in for.
_WAITING: Final[dict[str, tuple[Loader, Sequence[str]]]] = {}


def _defer(name: str, *submodules: str, **stand_ins: Any) -> None:
    """Lets a package be imported without being loaded, and those of its submodules that need nothing else of it."""
    spec = find_spec(name)
    if name in sys.modules or spec is None or spec.loader is None:
        return
    package = sys.modules[name] = module_from_spec(spec)
    package.__dict__.update(stand_ins)
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, package)
    for submodule in submodules:
        import_module(f"{name}.{submodule}")
    _WAITING[name] = spec.loader, list(stand_ins)
    package.__class__ = _Deferred


def _load(package: ModuleType) -> None:
    """Loads a deferred package, unless that has begun."""
    if package.__name__ in _WAITING:
        loader, stand_ins = _WAITING.pop(package.__name__)
        for stand_in in stand_ins:
            del package.__dict__[stand_in]
        loader.exec_module(package)
        package.__class__ = ModuleType


class _PackagesFirst(MetaPathFinder):
    """Loads a deferred package before a submodule of it, as Python loads any other."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        parent = name.rpartition(".")[0]
        if parent not in _WAITING:
            return None
        _load(sys.modules[parent])
        # It may have imported that submodule, which Python would now load a second time.
        module = sys.modules.pop(name, None)
        return None if module is None else ModuleSpec(name, _Loaded(module))


class _Loaded(Loader):
    """Finds a module as it is."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


@contextmanager
def _absent(name: str) -> Iterator[None]:
    """Lets an optional package look as if it were not installed, where nothing has imported it."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # Python's own sign for it
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def _one_process() -> Iterator[None]:
    """Lets torch look as if it were built without what joins processes."""
    is_available = torch.distributed.is_available
    torch.distributed.is_available = lambda: False
    try:
        yield
    finally:
        torch.distributed.is_available = is_available


def _unchanged(function: Any) -> Any:
    return function


def _not_compiled(function: Any = None, *arguments: Any, **options: Any) -> Any:
    """`torch._dynamo.disable`, which is a decorator or makes one."""
    return _unchanged if function is None else function


sys.meta_path.insert(0, _PackagesFirst())
# A compiler that is not loaded has compiled no module, and the marks that functions get are for it alone.
_defer(
    "torch._dynamo",
    "_trace_wrapped_higher_order_op",
    allow_in_graph=_unchanged,
    assume_constant_result=_unchanged,
    disable=_not_compiled,
    eval_frame=SimpleNamespace(OptimizedModule=type("OptimizedModule", (), {})),
)
with _absent("boto3"):  # a dialogue about SageMaker
    import_module("accelerate")
with _absent("scipy"), _one_process():  # losses of models that find objects; models spread over processes
    import_module("transformers.modeling_utils")
    import_module("peft")  # whose adapters would ask whether a weight is spread
_defer("scipy.stats")  # one way to space a scheduler's steps
_defer("scipy.integrate")  # one scheduler
