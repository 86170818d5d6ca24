"""Models come, wait and go beside running jobs."""

import dataclasses
import shutil
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from generation.engine import (
    Batch,
    Engine,
    EngineModelBroken,
    EngineModelUnavailable,
    EngineStopped,
    ModelRef,
    memory,
)
from generation.engine.memory import LeakCanary, allocated_bytes
from tests.support.batches import BatchMaker, TinyModel, drawn, entry_of, quick

WAIT_S = 30


@pytest.fixture
def fresh() -> Any:
    """An engine with nothing in its cache."""
    engine = Engine(threads=1)
    yield engine
    engine.close()


def tiers(engine: Engine) -> dict[str, str]:
    """Where each model is."""
    return {model.id: model.tier for model in engine.models()}


def small(batch: Batch, model: ModelRef) -> Batch:
    """A quick request to a tiny model."""
    return dataclasses.replace(batch, model=model, width=64, height=64)


@pytest.mark.slow
def test_a_model_loads_while_another_draws(fresh: Engine, batch: BatchMaker, tiny: TinyModel) -> None:
    """Its files are read by a thread and its modules made between steps; the picture is that of an undisturbed run."""
    undisturbed = fresh.run(batch(num_inference_steps=30)).pictures[0].data
    loaded_at: list[int] = []
    loading = fresh.load_beside(tiny("sdxl"))
    assert tiers(fresh) == {"tiny-sdxl": "loading", "builtin": "resident"}

    def on_step(step: int, total_steps: int) -> None:
        if step == 1:  # the test is about the building, not about how fast this machine reads
            fresh.cache.request(tiny("sdxl")).reading and fresh.cache._reader.submit(int).result(WAIT_S)
        if loading.done():
            loaded_at.append(step)

    disturbed = fresh.run(batch(num_inference_steps=30), on_step=on_step).pictures[0].data
    assert loaded_at, "it was resident before the last step"
    assert loaded_at[0] >= 5, "a piece a step, not all at once"
    assert disturbed == undisturbed
    assert tiers(fresh) == {"builtin": "resident", "tiny-sdxl": "resident"}
    assert fresh.run(small(batch(), tiny("sdxl"))).pictures


def test_an_idle_engine_builds_what_is_waited_for(fresh: Engine, tiny: TinyModel) -> None:
    """As soon as it has been read."""
    readable = threading.Event()
    fresh.cache.on_readable = readable.set
    loading = fresh.load_beside(tiny("sd1"))
    assert readable.wait(WAIT_S)
    fresh.build_waiting()
    assert loading.result(timeout=0) is None
    assert fresh.load_beside(tiny("sd1")).done(), "already there"


@pytest.mark.slow
def test_the_least_recently_used_gives_way(fresh: Engine, tiny: TinyModel) -> None:
    """From the device to host memory, and from there to nowhere."""
    sizes = {}
    for family in ("sd1", "sd2", "sdxl", "sd3"):
        fresh.load(tiny(family))
        sizes[family] = fresh.models()[0].bytes
    fresh.cache.resident_bytes = sizes["sd1"] + sizes["sd3"]
    fresh.cache.warm_bytes = sizes["sd2"]
    for family in ("sdxl", "sd2"):
        fresh.unload(f"tiny-{family}")
    fresh.load(tiny("sd1"))  # so that sd3 is now the older one
    fresh.load(tiny("sd2"))
    assert tiers(fresh) == {"tiny-sd2": "resident", "tiny-sd1": "resident"}, "larger than what may stay warm"
    fresh.load(tiny("sd3"))
    assert tiers(fresh)["tiny-sd3"] == "resident"
    assert "warm" in tiers(fresh).values()
    assert (
        sum(model.bytes for model in fresh.models() if model.tier == "resident") <= fresh.cache.resident_bytes
    )


@pytest.mark.slow
def test_it_says_how_long_a_swap_took_and_from_where(fresh: Engine, tiny: TinyModel) -> None:
    """Once a swap: from the disk first, then from host memory; none while it stays."""
    swaps: list[tuple[str, str]] = []
    fresh.cache.on_resident = lambda model_id, source, seconds: swaps.append((model_id, source))
    fresh.cache.resident_bytes = 1
    for name in ("sd1", "sd1", "sdxl", "sd1"):
        fresh.load(tiny(name))
    assert swaps == [("tiny-sd1", "disk"), ("tiny-sdxl", "disk"), ("tiny-sd1", "memory")]


def test_modules_are_built_once_while_their_model_is_warm(fresh: Engine, tiny: TinyModel) -> None:
    """Building them anew takes longer than bringing their weights to the device; pixels stay the same."""
    batch = quick(tiny("sd1"))
    before = drawn(fresh, batch)
    unet = entry_of(fresh, batch.model).pipeline.unet
    fresh.cache.drop_idle()
    assert tiers(fresh) == {"tiny-sd1": "warm"}
    after = drawn(fresh, batch)
    assert entry_of(fresh, batch.model).pipeline.unet is unet
    assert after.result().pictures[0].pixel_sha256 == before.result().pictures[0].pixel_sha256
    assert entry_of(fresh, batch.model).host.modules["unet"].built is None  # type: ignore[union-attr]


@pytest.mark.parametrize("what", ["adapters", "an error", "a library"])
def test_modules_that_are_no_more_as_they_were_built_are_built_anew(
    fresh: Engine, tiny: TinyModel, what: str
) -> None:
    fresh.load(tiny("sd1"))
    entry = entry_of(fresh, tiny("sd1"))
    unet, rack = entry.pipeline.unet, entry.rack
    assert rack is not None
    rack.changes, entry.broken = int(what == "adapters"), what == "an error"
    if what == "a library":
        entry.quantized = {"unet": "torchao"}
    fresh.cache.drop_idle()
    entry.broken = False
    fresh.load(tiny("sd1"))
    assert entry_of(fresh, tiny("sd1")).pipeline.unet is not unet


@pytest.mark.slow
def test_a_model_in_use_is_never_evicted(fresh: Engine, tiny: TinyModel) -> None:
    """What does not fit beside it waits until it is done."""
    fresh.cache.resident_bytes = 1
    with fresh.cache.borrow(tiny("sd1"), while_waiting=lambda: None):
        loading = fresh.load_beside(tiny("sd2"))
        fresh.cache._reader.submit(int).result(WAIT_S)
        assert not fresh.cache.advance()
        assert not fresh.unload("tiny-sd1")
        assert tiers(fresh)["tiny-sd1"] == "resident"
    fresh.build_waiting()
    assert loading.done()
    assert fresh.resident == ["tiny-sd2"]


def test_a_broken_model_tells_its_waiters(fresh: Engine, tiny: TinyModel, tmp_path: Path) -> None:
    """And does not stay in the cache: mended, it loads."""
    folder = tmp_path / "broken"
    shutil.copytree(tiny("sd1").folder, folder)
    weights = next((folder / "unet").glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    model = ModelRef(id="broken", repository="a/b", revision="", folder=folder)
    loading = fresh.load_beside(model)
    assert isinstance(loading.exception(timeout=WAIT_S), EngineModelBroken)
    assert tiers(fresh) == {}
    weights.write_bytes(whole)
    fresh.load(model)
    assert fresh.resident == ["broken"]


def test_an_unload_ends_a_wait(fresh: Engine, tiny: TinyModel) -> None:
    """Whoever waited hears of it."""
    loading = fresh.load_beside(tiny("sd1"))
    fresh.unload("tiny-sd1")
    assert isinstance(loading.exception(timeout=WAIT_S), EngineModelUnavailable)


def test_other_files_under_the_same_name_replace_the_old(
    fresh: Engine, tiny: TinyModel, batch: BatchMaker, tmp_path: Path
) -> None:
    """A registry row that names a new commit."""
    old = dataclasses.replace(tiny("sd1"), id="same")
    new = dataclasses.replace(tiny("sd2"), id="same", revision="2")
    first = fresh.run(small(batch(), old)).pictures[0].pixel_sha256
    assert fresh.run(small(batch(), new)).pictures[0].pixel_sha256 != first


def test_a_wait_for_files_can_be_stopped(fresh: Engine, tiny: TinyModel) -> None:
    """A cancel does not have to wait for gigabytes."""
    release = threading.Event()
    fresh.cache._reader.submit(release.wait, WAIT_S)
    try:
        with pytest.raises(EngineStopped):
            fresh.load(tiny("sd1"), should_stop=lambda: "canceled")
    finally:
        release.set()


@pytest.mark.slow
def test_alternating_models_leak_nothing(fresh: Engine, tiny: TinyModel, batch: BatchMaker) -> None:
    """Swapped thirty times through a cache that holds one; same pixels as at first (`benchmarks/swap.py` does more)."""
    fresh.cache.resident_bytes = fresh.cache.warm_bytes = 1
    models = [tiny("sd1"), tiny("sd2")]
    first = [fresh.run(small(batch(), model)).pictures[0].data for model in models]
    canary = LeakCanary(fresh.device)
    for model in models * 5:
        fresh.load(model)
    canary.look(fresh.cache.held_bytes())
    settled = allocated_bytes(fresh.device)
    for model in models * 10:
        fresh.load(model)
    assert [fresh.run(small(batch(), model)).pictures[0].data for model in models] == first
    assert allocated_bytes(fresh.device) < settled * 1.05
    assert not canary.look(fresh.cache.held_bytes()).alarming


def test_the_canary_sees_a_leak() -> None:
    """Memory that nobody accounts for."""
    canary = LeakCanary(Engine().device)
    assert not canary.look(1).alarming
    lost = bytearray(700 * 1024 * 1024)
    lost[::4096] = b"x" * len(lost[::4096])
    report = canary.look(1)
    assert report.alarming
    assert report.leaked_mb > 600


@pytest.mark.parametrize(("limit", "warm_mb"), [("1073741824\n", 256), ("max\n", None), (None, None)])
def test_budgets_are_the_containers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str | None, warm_mb: int | None
) -> None:
    """Not its machine's, of which it would use more than it may; a process without a limit has the machine."""
    file = tmp_path / "memory.max"
    if limit is not None:
        file.write_text(limit)
    monkeypatch.setattr(memory, "CONTAINER_LIMITS", (file, tmp_path / "none"))
    machine_mb = psutil.virtual_memory().total // memory.MIB
    resident, warm = memory.budgets_bytes(torch.device("cpu"), resident_mb=0, warm_mb=0)
    assert warm // memory.MIB == (warm_mb or machine_mb // 4)
    assert resident // memory.MIB == (warm_mb or machine_mb // 4) * 2
    _, shared = memory.budgets_bytes(torch.device("cpu"), resident_mb=0, warm_mb=0, workers=8)
    assert shared // memory.MIB == (warm_mb or machine_mb // 4) // 8
    _, stated = memory.budgets_bytes(torch.device("cpu"), resident_mb=0, warm_mb=100, workers=8)
    assert stated // memory.MIB == 100, "what an operator says is each one's"
