"""A denoiser's steps as CUDA graphs: thousands of small operators that a card is given at once.

On a fast card the host needs longer to launch them one by one than the card needs to run them. So the second call of a
shape is recorded, and from then on the recording is played: the same operators in the same order, bit for bit.

After "Accelerating PyTorch with CUDA Graphs" (https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs).
"""

import gc
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch

from generation.engine.compiling import Graphs
from generation.engine.joining import Call, call_plainly

# Of one model, the latest: rows that join and leave make as many shapes.
MOST: Final = 16
# Of a card's memory, what has to be free before another is made: what is left for activations.
FREE_PART: Final = 1 / 4


class CudaGraph:
    """One recorded call: tensors that it reads, and those that it writes."""

    def __init__(self, module: Any, call: Call, *, stream: Any, pool: Any) -> None:
        self.call = call.changed(torch.clone)
        runs = Graphs.runs
        self._graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream()
        stream.wait_stream(current)
        # Other threads may go on allocating meanwhile, which does not concern this one.
        with torch.cuda.stream(stream), _nothing_collected():
            self._graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                self.output = call_plainly(module, self.call)
            finally:
                self._graph.capture_end()
        current.wait_stream(stream)
        self._runs = Graphs.runs - runs
        # It would stay allocated beside the pool that it is part of.
        torch._C._cuda_clearCublasWorkspaces()  # noqa: SLF001 - torch has no public name for it

    def play(self) -> None:
        """Runs what was recorded, on what `call` holds now."""
        self._graph.replay()
        Graphs.runs += self._runs


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Keeps Python from finding garbage in the block: what has been on the card must not go while one is recorded."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class CudaGraphs:
    """All that are recorded on one card; the memory that they work in is the same for all. For the pipeline thread."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # Called once, with the reason, where a denoiser cannot be recorded.
        self.on_refused: Callable[[str], None] = lambda reason: None
        # Without a value: a shape that was seen once.
        self._made: WeakKeyDictionary[Any, OrderedDict[Hashable, CudaGraph | None]] = WeakKeyDictionary()
        # A recording that fails leaves torch's allocators in doubt about others: none is begun after it.
        self._refused = False
        self._stream: Any = None
        self._pool: Any = None

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(graph is not None for made in self._made.values() for graph in made.values())

    @property
    def bytes(self) -> int:
        """Bytes of the tensors that they read and write, beside what they work in."""
        return sum(
            tensor.nbytes
            for made in self._made.values()
            for graph in made.values()
            if graph is not None
            for tensor in (*graph.call.tensors, *graph.output)
        )

    def run(self, module: Any, call: Call, *, beside: Hashable = None) -> Any:
        """What a denoiser answers, as tensors that are the caller's.

        `beside` is what else the answer depends on, such as adapters. Raises whatever the denoiser does.
        """
        shape = call.shape
        if shape is None or self._refused or call.keywords.get("return_dict") is not False:
            return self._plainly(module, call)
        made = self._made.setdefault(module, OrderedDict())
        key = (shape, beside)
        known, graph = key in made, made.pop(key, None)
        if graph is None and known and self._has_room():
            graph = self._record(module, call)
        made[key] = graph
        while len(made) > MOST:
            made.popitem(last=False)
        if graph is None:
            return self._plainly(module, call)
        for target, given in zip(graph.call.tensors, call.tensors, strict=True):
            target.copy_(given)
        graph.play()
        # The next that is played writes over them.
        return tuple(tensor.clone() for tensor in graph.output)

    def drop(self) -> bool:
        """Lets all of them go, with the memory that they work in; False when there was none."""
        had = self.count > 0
        if had and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # one may be playing
        self._made.clear()
        return had

    def _plainly(self, module: Any, call: Call) -> Any:
        try:
            return call_plainly(module, call)
        except torch.OutOfMemoryError:
            if not self.drop():
                raise
        torch.cuda.empty_cache()
        return call_plainly(module, call)

    def _record(self, module: Any, call: Call) -> CudaGraph | None:
        if self._stream is None:
            self._stream, self._pool = torch.cuda.Stream(self.device), torch.cuda.graph_pool_handle()
        try:
            return CudaGraph(module, call, stream=self._stream, pool=self._pool)
        except torch.OutOfMemoryError:
            self.drop()
        except Exception as error:  # noqa: BLE001 - whatever it is, it runs without
            self._refused = True
            self.drop()
            self.on_refused(f"{type(module).__name__}: {error}")
        return None

    def _has_room(self) -> bool:
        free, total = torch.cuda.mem_get_info(self.device)
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return bool(free + unused >= total * FREE_PART)
