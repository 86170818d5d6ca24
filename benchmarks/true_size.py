"""What the engine does with a model of true size beside plain diffusers: the same version, format and weights."""

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from benchmarks.architectures import (
    ARCHITECTURES,
    Architecture,
    pipeline_make,
    weights_fill,
    weights_given,
    weights_make,
)
from benchmarks.load import spread
from generation.engine import Batch, Engine, Listeners, ModelRef
from generation.engine.cache import memory_release
from generation.engine.drawing import Drawing
from generation.engine.loader import device_of_choice, dtype_for
from generation.engine.memory import MIB, allocated_bytes, device_name, peak_reset, total_and_free_mb
from tests.support.batches import drawn, quick

ROWS: Final = 16
ROW_SIDE: Final = 512
# The tiny form: what a CPU does in passing.
TINY_SIDE: Final = 64
TINY_STEPS: Final = 3
TINY_ROWS: Final = 3
# Beside the weights, for activations and what a driver takes.
_WORKING_MB: Final = 8192
_COPIED_BYTES: Final = 1 << 30
_WINDOW: Final = 7


class NoRoomError(Exception):
    """The device's memory does not suffice for a model in true size."""


@dataclasses.dataclass
class Measured:
    """What was seen of one model.

    Seconds are those of a picture, of the engine and of diffusers, in rounds. `beyond_mb` is the peak of memory beside
    the weights, of each. `errors` are those of the latents after each step, relative to diffusers'. `rates` are
    pictures per second, of one at a time and of many, and `at_once` how many of these the engine drew together.
    `compiled` says whether the engine ran graphs, and `compiling_s` how long it made them.
    """

    title: str
    device: str
    dtype: str
    side: int
    steps: int
    engine_s: list[float] = dataclasses.field(default_factory=list)
    diffusers_s: list[float] = dataclasses.field(default_factory=list)
    beyond_mb: dict[str, int] = dataclasses.field(default_factory=dict)
    compiled: bool = False
    compiling_s: float = 0.0
    errors: list[float] = dataclasses.field(default_factory=list)
    ssim: float = math.nan
    rates: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    at_once: int = 0
    swap_s: list[float] = dataclasses.field(default_factory=list)
    swap_bytes: int = 0
    copied_per_s: float = math.nan

    @property
    def ratios(self) -> list[float]:
        """How many times as fast as diffusers the engine was, round by round."""
        return [other / own for own, other in zip(self.engine_s, self.diffusers_s, strict=True)]

    def lines(self) -> Iterator[tuple[str, str]]:
        """What is said of it, as rows of a table."""
        yield "device, format", f"{self.device}, {self.dtype}"
        if self.compiling_s:
            done = "its blocks" if self.compiled else "nothing (see the log)"
            yield "compiled", f"{done}, in {self.compiling_s:.0f} s"
        yield "seconds per picture, engine", spread(self.engine_s)
        yield "seconds per picture, diffusers", spread(self.diffusers_s)
        yield "times as fast as diffusers", spread(self.ratios)
        if self.beyond_mb:
            yield "memory beside weights, MiB", ", ".join(f"{who} {mb}" for who, mb in self.beyond_mb.items())
        middle = self.errors[len(self.errors) // 2]
        told = f"{self.errors[0]:.1e}, {middle:.1e}, {self.errors[-1]:.1e}"
        yield "latents' relative error after the first, a middle and the last step", told
        yield "SSIM of the pictures", f"{self.ssim:.4f}"
        for count, rates in self.rates.items():
            yield f"pictures per second, {count}", spread(rates)
        if self.rates:
            yield "drawn together of these at the most", str(self.at_once)
        if self.swap_s:
            copying = self.swap_bytes / self.copied_per_s
            share = f"{min(self.swap_s) / copying:.1f} times as long as copying its bytes"
            yield "seconds to be back from host memory", f"{spread(self.swap_s)}, {share} ({copying:.3f})"


class _OutOfTimeError(Exception):
    """The seconds that were given are over; what is measured by then counts."""


@dataclasses.dataclass
class _Bench:
    """One model, both ways of drawing with it, and what was measured so far."""

    found: Measured
    engine: Engine
    batch: Batch
    stock: Any
    rounds: int
    until: float
    rows: int
    row_batch: Batch

    def in_time(self) -> None:
        """Raises where the time is over."""
        if time.monotonic() > self.until:
            raise _OutOfTimeError

    def by_engine(self) -> Image.Image:
        """One picture, drawn by the engine."""
        result = drawn(self.engine, self.batch)
        self.found.compiled, image = result.environment["compiled"], result.images[0]
        assert image is not None  # noqa: S101 - nothing filters it
        return image

    def by_diffusers(self, **told: Any) -> Image.Image:
        """The same, drawn by hand."""
        image: Image.Image = self.stock(
            prompt=self.batch.prompt,
            width=self.batch.width,
            height=self.batch.height,
            num_inference_steps=self.batch.num_inference_steps,
            guidance_scale=self.batch.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(self.batch.seed),
            **told,
        ).images[0]
        return image

    def compare(self) -> None:
        """The latents after each step, and the pictures; the first draws of both, which warm them up."""
        seen: list[torch.Tensor] = []
        inner = Drawing._after_step  # noqa: SLF001 - where latents pass

        def after(drawing: Any, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> Any:
            seen.append(tensors["latents"].float().cpu())
            return inner(drawing, pipeline, step, timestep, tensors)

        with patch.object(Drawing, "_after_step", after):
            own = self.by_engine()
        expected: list[torch.Tensor] = []

        def after_stock(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            expected.append(tensors["latents"].float().cpu())
            return tensors

        other = self.by_diffusers(callback_on_step_end=after_stock)
        self.found.errors = [
            float((one - two).norm() / two.norm()) for one, two in zip(seen, expected, strict=True)
        ]
        self.found.ssim = similarity(own, other)

    def race(self) -> None:
        """Both draw in turns."""
        ways: tuple[tuple[str, Callable[[], Image.Image], list[float]], ...] = (
            ("engine", self.by_engine, self.found.engine_s),
            ("diffusers", self.by_diffusers, self.found.diffusers_s),
        )
        for _ in range(self.rounds):
            for who, draw, seconds in ways:
                device = self.engine.device
                peak_reset(device)
                held, began = allocated_bytes(device), time.perf_counter()
                draw()
                seconds.append(time.perf_counter() - began)
                if device.type == "cuda":
                    peak = int(torch.cuda.max_memory_allocated(device))
                    self.found.beyond_mb[who] = (peak - held) // MIB
            self.in_time()

    def together(self) -> None:
        """One row, and many, which the engine draws as many at a time as it finds worth it."""
        self._many(3 * self.rows)  # it learns that
        for _ in range(self.rounds):
            for count in (1, self.rows):
                self.in_time()
                began = time.perf_counter()
                self.found.at_once = self._many(count)
                rate = count / (time.perf_counter() - began)
                said = f"{count} at {self.row_batch.width}x{self.row_batch.height}"
                self.found.rates.setdefault(said, []).append(rate)

    def _many(self, count: int) -> int:
        """Draws so many rows, as a worker does whose queue holds them; how many of them at a time at the most."""
        waiting = [dataclasses.replace(self.row_batch, seed=seed) for seed in range(count)]
        most = 0
        with self.engine.drawing(waiting[0]) as sheet:
            while waiting or sheet.pictures:
                while waiting and (sheet.room or not sheet.pictures):
                    sheet.add(waiting.pop(), Listeners())
                most = max(most, sheet.pictures)
                for row in sheet.step():
                    row.drawn()
                self.in_time()
        return most

    def swap(self) -> None:
        """From host memory to the device, beside what copying as many bytes takes."""
        cache, device = self.engine.cache, self.engine.device
        self.found.copied_per_s = copied_per_s(device, size=_COPIED_BYTES if self.rows == ROWS else MIB)
        for _ in range(self.rounds):
            self.in_time()
            cache.drop_idle()
            began = time.perf_counter()
            self.engine.load(self.batch.model)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            self.found.swap_s.append(time.perf_counter() - began)
            self.found.swap_bytes = cache.held_bytes()


def measure(
    name: str,
    *,
    tiny: bool,
    rounds: int,
    seconds: float = math.inf,
    steps: int | None = None,
    compiles: bool = False,
) -> Measured:
    """Draws with one of `ARCHITECTURES`, at least once each way, and begins no other round after so many seconds.

    With `compiles` the engine compiles it first; the compiler has to be imported before the engine. Raises NoRoomError.
    """
    until = time.monotonic() + seconds
    architecture = ARCHITECTURES[name]
    device = device_of_choice()
    memory_release(device)  # of the model before
    with tempfile.TemporaryDirectory() as place, torch.random.fork_rng(devices=[]):
        folder = Path(place) / name
        stock: Any = pipeline_make(architecture, folder, tiny=tiny)
        # In single precision both draw the same on a CPU, bit for bit.
        asked = "auto" if device.type == "cuda" else "float32"
        dtype = dtype_for(asked, device, components=stock.components.keys())
        parts = (architecture.denoiser[0], "vae")
        _fits(stock, parts, dtype, device, copies=1 if architecture.stays else 2)
        weights = {part: weights_make(getattr(stock, part), dtype=dtype, device=device) for part in parts}
        weights_fill(stock, weights, dtype=dtype)
        model = ModelRef(name, f"benchmark/{name}", "", folder, dtype=asked)
        with _engine(compiles=compiles) as engine, weights_given(weights, stays=architecture.stays):
            engine.load(model)
            bench = _bench(architecture, engine, model, stock, tiny=tiny, steps=steps)
            bench.rounds, bench.until = rounds, until
            bench.found.dtype = str(dtype).removeprefix("torch.")
            if compiles:
                began = time.perf_counter()
                engine.compile(bench.batch)
                bench.found.compiling_s = time.perf_counter() - began
            _all_of(bench, stays=architecture.stays)
        return bench.found


def _bench(
    architecture: Architecture,
    engine: Engine,
    model: ModelRef,
    stock: Any,
    *,
    tiny: bool,
    steps: int | None,
) -> _Bench:
    side = TINY_SIDE if tiny else architecture.side
    batch = quick(
        model,
        width=side,
        height=side,
        num_inference_steps=TINY_STEPS if tiny else steps or architecture.steps,
        guidance_scale=architecture.guidance,
    )
    row_side = TINY_SIDE if tiny else ROW_SIDE
    row_batch = dataclasses.replace(
        batch,
        width=row_side,
        height=row_side,
        num_inference_steps=TINY_STEPS if tiny else architecture.row_steps,
    )
    said = f"{architecture.title}, tiny" if tiny else architecture.title
    found = Measured(said, device_name(engine.device), "", side, batch.num_inference_steps)
    return _Bench(found, engine, batch, stock, 1, math.inf, TINY_ROWS if tiny else ROWS, row_batch)


def _all_of(bench: _Bench, *, stays: bool) -> None:
    bench.compare()
    try:
        bench.race()
        bench.together()
        if not stays:
            bench.swap()
    except _OutOfTimeError:
        pass


@contextmanager
def _engine(*, compiles: bool) -> Iterator[Engine]:
    engine = Engine(compiles=compiles)
    try:
        yield engine
    finally:
        engine.unload_idle()
        engine.close()


def _fits(stock: Any, parts: Sequence[str], dtype: torch.dtype, device: torch.device, *, copies: int) -> None:
    """Raises NoRoomError where it does not."""
    numbers = sum(tensor.numel() for part in parts for tensor in getattr(stock, part).parameters())
    needed = copies * numbers * dtype.itemsize // MIB + _WORKING_MB
    _, free = total_and_free_mb(device)
    if device.type == "cuda" and needed > free:
        raise NoRoomError(f"it needs {needed} MiB, and {free} are free")


def copied_per_s(device: torch.device, *, size: int) -> float:
    """How many bytes per second this machine copies from host memory, pinned beside a card, to the device."""
    on_card = device.type == "cuda"
    source = torch.empty(size, dtype=torch.uint8, pin_memory=on_card).zero_()
    target = torch.empty(size, dtype=torch.uint8, device=device)
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        target.copy_(source, non_blocking=True)
        if on_card:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return size / min(seconds)


def similarity(one: Image.Image, other: Image.Image) -> float:
    """The mean structural similarity (SSIM) of two pictures' brightness, in windows of 7x7 pixels; 1 where equal.

    After Wang, Bovik, Sheikh and Simoncelli, 2004, with a flat window.
    """
    first, second = (
        torch.from_numpy(np.array(picture.convert("L"), np.float64))[None, None] for picture in (one, other)
    )

    def mean(values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(values, _WINDOW, stride=1)

    small, large = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    means = mean(first), mean(second)
    product = means[0] * means[1]
    squares = means[0] ** 2 + means[1] ** 2
    spreads = mean(first**2) + mean(second**2) - squares
    shared = mean(first * second) - product
    alike = (2 * product + small) * (2 * shared + large) / ((squares + small) * (spreads + large))
    return float(alike.mean())
