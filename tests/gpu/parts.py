"""The parts of `make gpu`: each looks at one thing, returns what it measured as a line, and raises AssertionError.

A part that a CPU cannot show raises NoCardError there.
"""

import dataclasses
import functools
import io
import itertools
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from benchmarks.architectures import ARCHITECTURES
from benchmarks.true_size import NoRoomError, measure
from generation.engine import AdapterUse, Batch, Drawn, Engine, EngineStopped, Listeners, ModelRef
from generation.engine.loader import device_of_choice
from generation.engine.memory import MIB
from generation.engine.planner import IN_BLOCKS, IN_FLOAT8, WITH_OFFLOAD, Memory
from generation.engine.schedulers import SAMPLERS
from models_registry import builtin
from tests.support.batches import SIDE, drawn, memory_least, memory_tight, quick
from tests.support.quantized import LIBRARY_OF, quantized_make
from tests.support.tiny_checkpoints import TINY_FAMILIES, make_tiny_checkpoint
from tests.support.tiny_transformers import BUILDERS
from tests.support.two_parts import checkpoint_make

FAMILIES = (*TINY_FAMILIES, *BUILDERS)
# Editing models bring every picture to a million pixels, which a CPU does not do in passing.
DRAWING = tuple(name for name in FAMILIES if "edit" not in name and "kontext" not in name)
# Mean difference to single precision on the CPU, of 255: random weights round to other pictures, and not to noise.
TOLERANCE = 24.0
# Whose steps differ in what they ask the host for.
WAITING = ("euler", "euler_a", "ddim", "dpmpp_2m", "unipc", "lcm")
# Whose steps are played from recordings.
RECORDED = ("builtin", "sd1", "sdxl", "sd3", "flux")
# Where timesteps lie may change the last bit of a number.
SAMPLERS_OFF = 0.5
# Of latents after one step, relative to plain diffusers' in the same format.
LATENTS_OFF = 0.02
# Of true size, with their blocks compiled.
COMPILED = ("sdxl", "flux")
# After which a model of true size begins no other round.
TRUE_SIZE_S = 60.0
# So many for a part that has a process of its own: all of them are to end within eight minutes.
PROCESS_S = 180.0


class NoCardError(Exception):
    """It can only be seen on a card."""


class Bench:
    """A folder of checkpoints that are made once, and the device that is looked at."""

    def __init__(self, folder: Path, *, families: tuple[str, ...] = DRAWING, part_mb: int = 400) -> None:
        self.folder = folder
        self.families = families
        self.part_mb = part_mb
        self.device = device_of_choice()

    @property
    def has_card(self) -> bool:
        """Whether there is a card."""
        return self.device.type == "cuda"

    def model(self, name: str, *, dtype: str) -> ModelRef:
        """A tiny checkpoint, or the built-in one."""
        folder = builtin.WEIGHTS if name == "builtin" else self.folder / name
        if not folder.exists():
            make_tiny_checkpoint(name, folder)
        return ModelRef(f"{name}-{dtype}", f"tiny/{name}", "", folder, dtype=dtype)

    @contextmanager
    def engine(self, *, on_cpu: bool = False, records: bool = True) -> Iterator[Engine]:
        """An engine on the device, or beside it on the CPU."""
        device = torch.device("cpu") if on_cpu else self.device
        with patch("generation.engine.engine.device_of_choice", return_value=device):
            made = Engine(records=records)
        try:
            yield made
        finally:
            made.unload_idle()
            made.close()


def _numbers(result: Drawn) -> Any:
    image = result.images[0]
    assert isinstance(image, Image.Image)
    return np.asarray(image.convert("RGB"), np.float32)


def family(bench: Bench, name: str) -> str:
    """It draws in the number format that it is made for, and nearly what single precision on the CPU draws."""
    half = "float16" if bench.has_card and name in ("sd1", "sd2", "sdxl") else "bfloat16"
    with bench.engine(on_cpu=True) as engine:
        expected = _numbers(drawn(engine, quick(bench.model(name, dtype="float32"))))
    with bench.engine() as engine:
        seen = _numbers(drawn(engine, quick(bench.model(name, dtype=half))))
    difference = float(np.abs(seen - expected).mean())
    assert difference < TOLERANCE, f"{half} is {difference:.1f} of 255 off"
    return f"{half}, {difference:.2f} of 255 off"


def in_turns(bench: Bench) -> str:
    """Under a cap that has no room for all parts at once, it draws the same as without."""
    return _tight(bench, memory_tight, WITH_OFFLOAD)


def in_blocks(bench: Bench) -> str:
    """The same under one that has no room for any part."""
    return _tight(bench, memory_least, IN_BLOCKS)


def _tight(bench: Bench, memory: Callable[[ModelRef, torch.device], Memory], verdict: str) -> str:
    folder = bench.folder / "two-parts"
    if not folder.exists():
        checkpoint_make(folder, part_mb=bench.part_mb)
    model = ModelRef("two", "two/parts", "", folder, dtype="float32")
    with bench.engine() as engine:
        whole = drawn(engine, quick(model, guidance_scale=1.0))
    with bench.engine() as engine, _capped(bench, 0) as cap:
        tight = memory(model, engine.device)
        engine.cache.memory = lambda: tight
        cap(tight.device)
        plan = engine.plan(model)
        assert plan is not None
        assert plan.verdict == verdict, plan.reason
        turns = drawn(engine, quick(model, guidance_scale=1.0))
    assert np.array_equal(_numbers(turns), _numbers(whole))
    return f"peak {turns.memory_peak_mb} MiB so, {whole.memory_peak_mb} MiB whole; the same pixels"


@contextmanager
def _capped(bench: Bench, size: int) -> Iterator[Callable[[int], None]]:
    """Lets the process have so many bytes of the card, 0 for all of it; yields what sets another number."""

    def cap(limit: int) -> None:
        if bench.has_card:
            total = torch.cuda.get_device_properties(bench.device).total_memory
            torch.cuda.set_per_process_memory_fraction(
                min(1.0, limit / total) if limit else 1.0, bench.device
            )

    cap(size)
    try:
        yield cap
    finally:
        cap(0)


def float8(bench: Bench) -> str:
    """A transformer's weights in eight bits draw a picture, in half the memory."""
    with bench.engine() as engine:
        model = bench.model("flux", dtype="float8")
        plan = engine.plan(model)
        assert plan is not None
        assert plan.verdict == IN_FLOAT8, plan.reason
        drawn(engine, quick(model))
        (entry,) = engine.cache._entries.values()
        stored = {parameter.dtype for parameter in entry.pipeline.transformer.parameters()}
    assert torch.float8_e4m3fn in stored
    return "layers are stored as float8_e4m3fn"


def quantized(bench: Bench) -> str:
    """What libraries have quantized draws the same whole, in turns and block by block."""
    here = [how for how, library in LIBRARY_OF.items() if find_spec(library)]
    if not bench.has_card:  # bitsandbytes has kernels of its own there, for wider layers
        here = [how for how in here if LIBRARY_OF[how] != "bitsandbytes"]
    for how in here:
        folder = bench.folder / how
        if not folder.exists():
            quantized_make(bench.model("flux", dtype="bfloat16").folder, folder, how)
        model = ModelRef(how, f"tiny/{how}", "", folder, dtype="bfloat16")
        with bench.engine() as engine:
            whole = _numbers(drawn(engine, quick(model)))
        for memory_of, verdict in ((memory_tight, WITH_OFFLOAD), (memory_least, IN_BLOCKS)):
            with bench.engine() as engine:
                memory = memory_of(model, engine.device)
                engine.cache.memory = lambda memory=memory: memory  # type: ignore[misc]
                plan = engine.plan(model)
                assert plan is not None
                assert plan.verdict == verdict, plan.reason
                assert np.array_equal(_numbers(drawn(engine, quick(model))), whole), f"{how}, {verdict}"
    return f"{', '.join(here)}: the same pixels" if here else "no library for it is installed"


def second_chance(bench: Bench) -> str:
    """Where memory ends while decoding, only that is done again, in tiles."""
    steps: list[int] = []
    listeners = Listeners(on_step=lambda step, of: steps.append(step))
    with bench.engine() as engine:
        model = bench.model("builtin", dtype="float32")
        large = quick(model, width=640, height=640, num_images=8 if bench.has_card else 1)
        before = drawn(engine, large if bench.has_card else quick(model, width=256, height=256))
        if not bench.has_card:
            (entry,) = engine.cache._entries.values()
            real, tries = entry.pipeline.vae.decode, []

            def decode(*arguments: Any, **keywords: Any) -> Any:
                tries.append(1)
                if len(tries) == 1:
                    raise torch.OutOfMemoryError
                return real(*arguments, **keywords)

            entry.pipeline.vae.decode = decode
            again = drawn(engine, quick(model, width=256, height=256), listeners)
        else:
            held = int(torch.cuda.memory_allocated(bench.device))
            torch.cuda.empty_cache()
            with _capped(bench, held + (before.memory_peak_mb * MIB - held) // 3):
                again = drawn(engine, large, listeners)
    assert again.environment["decoded_in_tiles"], "memory sufficed: the cap was too high"
    assert steps == [1, 2], steps
    return f"{len(again.images)} pictures decoded in tiles after {len(steps)} steps"


def swaps(bench: Bench) -> str:
    """Two models that take turns come back from pinned memory, draw the same, and leave nothing behind."""
    with bench.engine() as engine:
        engine.cache.resident_bytes = 1
        models = [bench.model(name, dtype="float32") for name in ("sd1", "sdxl")]
        seconds: list[float] = []
        engine.cache.on_resident = lambda model_id, source, took: seconds.append(took)
        first = [drawn(engine, quick(model)) for model in models]
        engine.leaks()
        for _ in range(3):
            for model, before in zip(models, first, strict=True):
                assert np.array_equal(_numbers(drawn(engine, quick(model))), _numbers(before))
        report = engine.leaks()
        assert not report.alarming, report
    return f"{len(seconds)} swaps, the last in {seconds[-1] * 1000:.0f} ms; {report.leaked_mb} MiB leaked"


def cancel(bench: Bench) -> str:
    """A cancel ends a job before its next step."""
    steps: list[int] = []
    listeners = Listeners(
        on_step=lambda step, of: steps.append(step),
        should_stop=lambda: "canceled" if len(steps) == 2 else None,
    )
    with bench.engine() as engine:
        model = bench.model("builtin", dtype="float32")
        try:
            drawn(engine, quick(model, width=256, height=256, num_inference_steps=30), listeners)
        except EngineStopped:
            pass
        else:
            raise AssertionError("it went on to its end")
    assert steps == [1, 2], steps
    return "after step 2 of 30"


_LOSE = """
from pathlib import Path
import torch
from generation.engine import EngineDeviceLost
from tests.gpu.parts import Bench
from tests.support.batches import drawn, quick
bench = Bench(Path("."))
with bench.engine() as engine:
    batch = quick(bench.model("builtin", dtype="float32"), width=256, height=256)
    engine.load(batch.model)
    (entry,) = engine.cache._entries.values()
    def lose(*arguments):
        torch.zeros(1, device="cuda")[torch.tensor([5], device="cuda")].cpu()
    entry.pipeline.unet.register_forward_pre_hook(lose)
    try:
        drawn(engine, batch)
    except EngineDeviceLost:
        print("told")
"""


def lost_device(bench: Bench) -> str:
    """A card that answers nothing any more is told from a broken model; in a process of its own."""
    if not bench.has_card:
        raise NoCardError
    assert _in_process(_LOSE) == "told"
    return "told as such"


def speed(bench: Bench) -> str:
    """How fast the built-in model draws, alone and eight at a time."""
    with bench.engine() as engine:
        model = bench.model("builtin", dtype="auto")
        batch = quick(model, width=256, height=256, num_inference_steps=8 if bench.has_card else 2)
        said = []
        for count in (1, 8) if bench.has_card else (1,):
            many = dataclasses.replace(batch, num_images=count)
            drawn(engine, many)
            began = time.perf_counter()
            drawn(engine, many)
            said.append(f"{count}: {count / (time.perf_counter() - began):.1f} pictures/s")
    return ", ".join(said)


def host_waits(bench: Bench) -> str:
    """How often the host waits for the card at each step of a sampler, where nothing paces it."""
    if not bench.has_card:
        raise NoCardError
    with bench.engine() as engine:
        batch = quick(bench.model("sdxl", dtype="float16"))
        said = []
        for sampler in WAITING:
            few, many = (
                _waits(engine, dataclasses.replace(batch, scheduler=sampler, num_inference_steps=steps))
                for steps in (4, 12)
            )
            said.append(f"{sampler} {(many - few) / 8:g}")
    return ", ".join(said)


def recorded(bench: Bench) -> str:
    """Steps that are played from recordings draw the same pixels, with an adapter at any strength, too."""
    if not bench.has_card:
        raise NoCardError
    uses = [
        AdapterUse("pastel", "0" * 64, builtin.ADAPTERS / "pastel.safetensors", scale) for scale in (1.0, 0.3)
    ]
    counts = []
    for name in RECORDED:
        plain = quick(bench.model(name, dtype="auto"), num_inference_steps=6)
        with_it = [dataclasses.replace(plain, adapters=(use,)) for use in uses if name == "builtin"]
        batches = [plain, *with_it, plain]
        with bench.engine() as engine:
            drawn(engine, plain)
            engine.leaks()
            refusals, count = _as_without(bench, engine, batches)
            assert not refusals, refusals
            assert not engine.leaks().alarming, engine.leaks()
            counts.append(f"{name} {count}")
    return f"the same pixels, from so many recordings: {', '.join(counts)}"


def _as_without(bench: Bench, engine: Engine, batches: list[Batch]) -> tuple[list[str], int]:
    """Draws with and without recordings, and asks for the same pixels; what refused to be recorded, how many are."""
    assert engine.recorded is not None
    refusals: list[str] = []
    engine.recorded.on_refused = refusals.append
    with bench.engine(records=False) as other:
        expected = [_numbers(drawn(other, batch)) for batch in batches]
    for batch, numbers in zip(batches, expected, strict=True):
        assert np.array_equal(_numbers(drawn(engine, batch)), numbers), f"{batch.model.id}, {batch.adapters}"
    return refusals, engine.recorded.count


def not_recorded(bench: Bench) -> str:
    """A denoiser that asks its card for a number in the middle cannot be recorded; it draws the same, as others do."""
    if not bench.has_card:
        raise NoCardError
    batches = [
        quick(bench.model(name, dtype="auto"), num_inference_steps=6) for name in ("sdxl", "sdxl", "sd1")
    ]
    with bench.engine() as engine:
        engine.load(batches[0].model)
        (entry,) = engine.cache._entries.values()
        entry.pipeline.unet.mid_block.register_forward_pre_hook(
            lambda module, inputs: inputs[0].sum().item() and None
        )
        refusals, count = _as_without(bench, engine, batches)
        assert (len(refusals), count) == (1, 0), refusals
    return f"the same pixels, and it is told: {refusals[0].partition(' at ')[0]}"


def samplers(bench: Bench) -> str:
    """Every sampler draws what it draws with its timesteps on the card, as diffusers has them, from pictures too."""
    given = io.BytesIO()
    Image.radial_gradient("L").resize((SIDE, SIDE)).convert("RGB").save(given, "PNG")
    image = {"image": given.getvalue(), "strength": 0.7}
    kinds: dict[str, dict[str, Any]] = {
        "txt2img": {},
        "img2img": image,
        "inpaint": image | {"mask": given.getvalue()},
    }
    most = 0.0
    with bench.engine() as engine:
        model = bench.model("sd1", dtype="auto")
        for sampler, (kind, more) in itertools.product(
            SAMPLERS if bench.has_card else ("ddim",), kinds.items()
        ):
            batch = quick(model, scheduler=sampler, num_inference_steps=6, kind=kind, **more)
            here = _numbers(drawn(engine, batch))
            with patch("generation.engine.drawing.timesteps_on_host"):
                there = _numbers(drawn(engine, batch))
            difference = float(np.abs(here - there).mean())
            assert difference < SAMPLERS_OFF, f"{sampler}, {kind}: {difference:.2f} of 255 off"
            most = max(most, difference)
    return f"{most:.3f} of 255 off at the most"


def _waits(engine: Engine, batch: Batch) -> int:
    """How often torch waits for the card while a batch is drawn."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            drawn(engine, batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in seen)


def true_size(bench: Bench, name: str) -> str:
    """How fast a model of true size draws beside plain diffusers; a tiny one where there is no card."""
    rounds = 2 if bench.has_card else 1
    try:
        found = measure(name, tiny=not bench.has_card, rounds=rounds, seconds=TRUE_SIZE_S)
    except NoRoomError as error:
        return f"no room: {error}"
    assert found.errors[0] < LATENTS_OFF, f"latents are {found.errors[0]:.1e} off after the first step"
    return "; ".join(f"{what}: {measured}" for what, measured in found.lines())


_COMPILE = """
from importlib import import_module
import_module("torch._dynamo")
from benchmarks.true_size import measure
found = measure({name!r}, tiny=False, rounds=2, seconds=60, compiles=True)
print("; ".join(": ".join(line) for line in found.lines()))
"""


def compiled(bench: Bench, name: str) -> str:
    """The same with its blocks compiled; in a process of its own, which imports the compiler."""
    if not bench.has_card:
        raise NoCardError
    return _in_process(_COMPILE.format(name=name))


def _in_process(program: str) -> str:
    """What a program says at its end. Raises TimeoutExpired where that does not come."""
    whole = f"import sys; sys.path[:] = {sys.path!r}\n{program}"
    done = subprocess.run(
        [sys.executable, "-c", whole], capture_output=True, text=True, check=False, timeout=PROCESS_S
    )
    lines = done.stdout.splitlines()
    assert lines, done.stderr[-500:]
    return lines[-1]


def parts(bench: Bench) -> dict[str, Callable[[], str]]:
    """All of them, by name, in order: what says most comes first."""
    families = {f"family {name}": functools.partial(family, bench, name) for name in bench.families}
    others = (
        in_turns,
        in_blocks,
        float8,
        quantized,
        second_chance,
        swaps,
        cancel,
        recorded,
        not_recorded,
        samplers,
        lost_device,
        speed,
        host_waits,
    )
    true_sizes = {f"true size {name}": functools.partial(true_size, bench, name) for name in ARCHITECTURES}
    looks = {part.__name__.replace("_", " "): functools.partial(part, bench) for part in others}
    compileds = {f"compiled {name}": functools.partial(compiled, bench, name) for name in COMPILED}
    return families | looks | true_sizes | compileds
