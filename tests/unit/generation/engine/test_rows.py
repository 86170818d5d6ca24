"""Rows: pipelines that share the denoiser's steps, and are what they are alone."""

import dataclasses
import inspect
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import AutoPipelineForText2Image, StableDiffusionPipeline
from PIL import Image, ImageChops

from generation.engine import Batch, Engine, EngineError, EngineStopped, Listeners, ModelRef, Sheet, SheetRow
from generation.engine.capacity import Capacity
from generation.engine.drawing import Drawn
from generation.engine.joining import Call
from generation.engine.rows import Row, Rows
from generation.engine.schedulers import scheduler_make
from models_registry.builtin import WEIGHTS
from tests.support.batches import BatchMaker, TinyModel
from tests.support.pictures import encoded

SIZE = 128
SAMPLERS = ("", "euler_a", "ddim", "dpmpp_2m_karras", "dpmpp_2m_sde", "unipc", "plms", "lcm")


def difference(one: Image.Image | None, other: Image.Image | None) -> int:
    """The largest of one colour of one pixel."""
    assert one is not None
    assert other is not None
    return max(high for _, high in ImageChops.difference(one, other).getextrema())  # type: ignore[misc]


def finish(sheet: Sheet) -> list[SheetRow]:
    """Draws all that is on a sheet; in the order in which it ended."""
    ended = []
    while sheet.pictures:
        ended += sheet.step()
    return ended


def drawn_alone(engine: Engine, batch: Batch) -> Drawn:
    """What a batch is without company."""
    with engine.drawing(batch) as sheet:
        row = sheet.add(batch, Listeners())
        finish(sheet)
    return row.drawn()


@pytest.fixture(params=[1, 2], ids=["whole", "in lanes"])
def roomy(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> Iterator[Engine]:
    """The engine with room for many from the first step on; with two threads it has lanes."""
    monkeypatch.setattr("generation.engine.capacity.Capacity._judge", lambda self: None)
    monkeypatch.setattr(engine, "_capacities", {})
    monkeypatch.setattr("generation.engine.capacity.FIRST", 8)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield engine
    torch.set_num_threads(before)


@pytest.fixture
def small(batch: BatchMaker) -> BatchMaker:
    """A request of few pixels."""
    return lambda **changes: batch(**{"width": SIZE, "height": SIZE, "num_inference_steps": 4} | changes)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_alone_is_the_stock_pipeline(
    engine: Engine, small: BatchMaker, model: ModelRef, dtype: str
) -> None:
    """Bit for bit, by each kind of scheduler."""
    named = dataclasses.replace(model, dtype=dtype)
    stock = StableDiffusionPipeline.from_pretrained(WEIGHTS, dtype=getattr(torch, dtype))
    stock.set_progress_bar_config(disable=True)
    if dtype == "bfloat16":
        stock.unet.to(memory_format=torch.channels_last)
        stock.vae.to(memory_format=torch.channels_last)
    own = stock.scheduler
    for sampler in SAMPLERS:
        request = small(model=named, scheduler=sampler)
        stock.scheduler = scheduler_make(sampler, own, from_start=True)
        expected = stock(
            request.prompt,
            width=SIZE,
            height=SIZE,
            num_inference_steps=4,
            guidance_scale=request.guidance_scale,
            generator=torch.Generator().manual_seed(request.seed),
        ).images[0]
        assert difference(drawn_alone(engine, request).images[0], expected) == 0, sampler


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sd3"])
def test_every_family_shares_steps(roomy: Engine, small: BatchMaker, tiny: TinyModel, family: str) -> None:
    """Two rows with prompts, seeds and guidance of their own, each as it is alone."""
    first = small(model=tiny(family), guidance_scale=3.0)
    second = dataclasses.replace(
        first, prompt="a blue square", seed=9, guidance_scale=6.0, num_inference_steps=3
    )
    with roomy.drawing(first) as sheet:
        rows = [sheet.add(each, Listeners()) for each in (first, second)]
        finish(sheet)
    for row, request in zip(rows, (first, second), strict=True):
        assert row.drawn().environment["batched_with"] == 1
        assert difference(row.drawn().images[0], drawn_alone(roomy, request).images[0]) <= 1


def test_rows_of_all_kinds_join_and_leave_between_steps(roomy: Engine, small: BatchMaker) -> None:
    """Own schedulers, steps and previews, with guidance and without it; each is what it is alone."""
    picture = encoded(Image.new("RGB", (SIZE, SIZE), "white"))
    mask = encoded(Image.new("L", (SIZE, SIZE), "white"))
    requests = [
        small(scheduler="euler_a", num_inference_steps=6),
        small(scheduler="dpmpp_2m", num_inference_steps=3, seed=8, preview_every=1),
        small(guidance_scale=1.0, seed=9),
        small(kind="img2img", image=picture, strength=0.75, seed=10),
        small(kind="inpaint", image=picture, mask=mask, strength=1.0, seed=11, num_images=2),
    ]
    previews: list[Any] = []
    with roomy.drawing(requests[0]) as sheet:
        rows = [sheet.add(requests[0], Listeners())]
        list(sheet.step())
        rows.append(sheet.add(requests[1], Listeners(on_preview=previews.append)))
        list(sheet.step())
        rows += [sheet.add(request, Listeners()) for request in requests[2:]]
        ended = finish(sheet)
    assert sorted(map(rows.index, ended)) == [0, 1, 2, 3, 4]
    assert len(previews) == 3
    assert [row.drawn().joined for row in rows] == [False, True, True, True, True]
    assert all(row.drawn().share < 1 for row in rows)
    for row, request in zip(rows, requests, strict=True):
        alone = drawn_alone(roomy, request)
        assert alone.environment["batched_with"] == 0
        for one, other in zip(row.drawn().images, alone.images, strict=True):
            assert difference(one, other) <= 1


def test_one_row_stops_within_a_step_and_leaves_its_mates_alone(roomy: Engine, small: BatchMaker) -> None:
    """Their pixels are what they are without it."""
    steps: list[int] = []
    reasons: list[str] = []
    stopping = Listeners(
        on_step=lambda step, total: steps.append(step), should_stop=lambda: reasons[0] if reasons else None
    )
    request = small()
    with roomy.drawing(request) as sheet:
        mate = sheet.add(request, Listeners())
        stopped = sheet.add(dataclasses.replace(request, seed=8), stopping)
        while not steps:
            list(sheet.step())
        reasons.append("canceled")
        assert finish(sheet) == [stopped, mate]
    with pytest.raises(EngineStopped, match="canceled"):
        stopped.drawn()
    assert steps == [1]
    assert difference(mate.drawn().images[0], drawn_alone(roomy, request).images[0]) <= 1


def test_a_row_that_fails_leaves_its_mates_alone(
    roomy: Engine, small: BatchMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes wrong in a joint step is found by drawing each row singly; the model goes when they are done."""
    request = small()
    expected = drawn_alone(roomy, request).images[0]
    with roomy.drawing(request) as sheet:
        unet = sheet._entry.pipeline.unet
        real = unet.forward

        def forward(sample: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
            text = keywords["encoder_hidden_states"]
            if any(torch.equal(text[index], poison) for index in range(len(text))):
                message = "a kernel does not like this"
                raise RuntimeError(message)
            return real(sample, *arguments, **keywords)

        encode = sheet._entry.pipeline.encode_prompt
        poison = encode("a blue square", "cpu", 1, do_classifier_free_guidance=False)[0][0]
        monkeypatch.setattr(unet, "forward", forward)
        mate = sheet.add(request, Listeners())
        failed = sheet.add(dataclasses.replace(request, prompt="a blue square"), Listeners())
        finish(sheet)
        assert (sheet.room, sheet.takes(request)) == (0, False)
    with pytest.raises(EngineError, match="RuntimeError"):
        failed.drawn()
    assert difference(mate.drawn().images[0], expected) <= 1
    assert roomy.resident == [] or "builtin" not in roomy.resident


def test_rows_without_memory_for_all_go_half_by_half(
    roomy: Engine, small: BatchMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None begins anew, and from then on fewer are drawn at a time."""
    request = small()
    sizes: list[int] = []
    with roomy.drawing(request) as sheet:
        unet = sheet._entry.pipeline.unet
        real = unet.forward

        def forward(sample: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
            if len(sample) > 4:
                raise torch.OutOfMemoryError
            sizes.append(len(sample))
            return real(sample, *arguments, **keywords)

        monkeypatch.setattr(unet, "forward", forward)
        rows = [sheet.add(dataclasses.replace(request, seed=seed), Listeners()) for seed in range(8)]
        finish(sheet)
    assert (max(sizes), sum(sizes)) == (4, 2 * 8 * 4)  # with guidance, in four steps
    assert all(row.drawn().warnings == [] for row in rows)


@pytest.mark.parametrize("beside_bytes", [0, 1 << 30])
def test_large_pictures_are_decoded_one_after_the_other(
    roomy: Engine, small: BatchMaker, monkeypatch: pytest.MonkeyPatch, beside_bytes: int
) -> None:
    """What is small is decoded in lanes, where there are lanes."""
    monkeypatch.setattr("generation.engine.drawing.BESIDE_BYTES", beside_bytes)
    request = small(num_inference_steps=2)
    threads: list[str] = []
    with roomy.drawing(request) as sheet:
        vae = sheet._entry.pipeline.vae
        real = vae.decode

        def decode(*arguments: Any, **keywords: Any) -> Any:
            threads.append(threading.current_thread().name)
            return real(*arguments, **keywords)

        monkeypatch.setattr(vae, "decode", decode)
        for seed in range(2):
            sheet.add(dataclasses.replace(request, seed=seed), Listeners())
        finish(sheet)
    in_lanes = bool(beside_bytes) and torch.get_num_threads() > 1
    assert threads[0].startswith("lane") == in_lanes
    assert len(threads) == 2


def test_the_host_is_one_step_ahead_of_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the step before the one that it has just begun, and learns by the card's clock."""
    told: list[str] = []
    numbers = itertools.count()

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing
            self.number = next(numbers)

        def record(self) -> None:
            told.append(f"record {self.number}")

        def synchronize(self) -> None:
            told.append(f"wait for {self.number}")

        def elapsed_time(self, other: "Event") -> float:
            return 2000.0 * (other.number - self.number)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    capacity = Capacity()
    rows = Rows(torch.device("cuda"), capacity)

    def denoise(sample: torch.Tensor, **options: Any) -> list[torch.Tensor]:
        told.append("step")
        return [sample]

    def work(row: Row) -> None:
        for _ in range(3):
            rows.denoise(denoise, Call((torch.ones(1),), {"return_dict": False}))

    rows.add(work)
    while not list(rows.tick()):
        pass
    first, second = ["record 0", "step", "record 1"], ["record 2", "step", "record 3", "wait for 1"]
    assert told == [*first, *second, "record 4", "step", "record 5", "wait for 3"]
    assert list(capacity._seconds[1]) == [2.0, 2.0]


def test_a_sheet_takes_what_has_the_same_weights_and_adapters(roomy: Engine, small: BatchMaker) -> None:
    """Rows that are left when it closes end without results."""
    request = small()
    with roomy.drawing(request) as sheet:
        assert sheet.takes(dataclasses.replace(request, seed=1, width=64))
        assert not sheet.takes(
            dataclasses.replace(request, model=dataclasses.replace(request.model, revision="x"))
        )
        row = sheet.add(request, Listeners())
        list(sheet.step())
        assert sheet.room == 7
    assert row.row.result is None
    assert drawn_alone(roomy, request).images


def test_pipelines_without_a_shared_denoiser_have_no_room(roomy: Engine, small: BatchMaker) -> None:
    """They are drawn one after the other."""
    request = small()
    with roomy.drawing(request) as sheet:
        assert sheet.room == 8
        sheet._entry.pipeline = AutoPipelineForText2Image
        assert sheet.room == 0
    roomy.unload("builtin")


def test_attention_is_not_asked_anew_what_it_takes(
    roomy: Engine, small: BatchMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers would ask for each block and step."""
    asked: list[str] = []
    real = inspect._signature_from_function  # type: ignore[attr-defined]

    def signature(kind: Any, function: Any, *arguments: Any, **keywords: Any) -> Any:
        asked.append(function.__qualname__)
        return real(kind, function, *arguments, **keywords)

    with roomy.drawing(small()) as sheet:
        monkeypatch.setattr(inspect, "_signature_from_function", signature)
        sheet.add(small(), Listeners())
        finish(sheet)
    assert not [name for name in asked if name.startswith("AttnProcessor")]
