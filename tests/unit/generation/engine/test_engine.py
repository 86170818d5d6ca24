"""The engine alone, without Django or RQ: pixels, files, stops and failures."""

import dataclasses
import errno
import functools
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.PngImagePlugin import PngImageFile

from generation.engine import (
    Batch,
    Engine,
    EngineDeviceLost,
    EngineError,
    EngineModelBroken,
    EngineModelUnavailable,
    EngineOutOfMemory,
    EngineRefused,
    EngineStopped,
    ModelRef,
)
from generation.engine.encoding import picture_encode
from generation.engine.framing import part_of
from tests.support.batches import BatchMaker
from tests.support.pictures import decoded, encoded


@pytest.mark.slow
def test_equal_requests_give_equal_bytes(engine: Engine, batch: BatchMaker) -> None:
    """And another seed other ones."""
    first, again = (engine.run(batch()).pictures[0] for _ in range(2))
    other = engine.run(batch(seed=8)).pictures[0]
    assert first.data == again.data
    assert first.pixel_sha256 != other.pixel_sha256


@pytest.mark.slow
def test_reloading_the_model_changes_nothing(engine: Engine, batch: BatchMaker) -> None:
    """No state is left from earlier runs."""
    before = engine.run(batch()).pictures[0].data
    assert engine.unload("builtin")
    assert "builtin" not in engine.resident
    assert not engine.unload("builtin")
    assert engine.run(batch()).pictures[0].data == before
    assert engine.resident[0] == "builtin"


def test_the_picture_is_as_asked_and_says_how_it_was_made(engine: Engine, batch: BatchMaker) -> None:
    """A PNG of the size, with prompt, seed and model inside, and nothing that changes from run to run."""
    request = batch(width=320, negative_prompt="blue", prompt="a red circle · groß")
    picture = engine.run(request).pictures[0]
    with Image.open(io.BytesIO(picture.data)) as image:
        image.load()
        assert (image.format, image.size) == ("PNG", (320, 256))
        assert hashlib.sha256(image.convert("RGB").tobytes()).hexdigest() == picture.pixel_sha256
        text = image.text  # type: ignore[attr-defined]  # a PNG has it
    made = json.loads(text["imagegen"])
    assert (made["prompt"], made["seed"], made["model"]) == ("a red circle · groß", 7, "builtin")
    assert text["parameters"].splitlines()[1] == "Negative prompt: blue"
    assert (
        "Steps: 2, Sampler: Automatic, Schedule type: Automatic, CFG scale: 4, Seed: 7, Size: 320x256, "
        "Model: builtin" in text["parameters"]
    )
    assert set(text) == {"imagegen", "parameters"}


def test_picture_i_uses_seed_plus_i(engine: Engine, batch: BatchMaker) -> None:
    """Wrapping at 2**32, each with noise of its own."""
    result = engine.run(batch(num_images=2, seed=2**32 - 1))
    assert [picture.seed for picture in result.pictures] == [2**32 - 1, 0]
    assert result.pictures[0].pixel_sha256 != result.pictures[1].pixel_sha256
    assert result.environment["batch_shape"] == [2, 3, 256, 256]


def test_a_picture_is_enlarged_from_the_size_that_it_is_drawn_at(engine: Engine, batch: BatchMaker) -> None:
    """By Lanczos; what made it says so, and the file is what was asked for."""
    small = engine.run(batch(width=256, height=192)).pictures[0]
    result = engine.run(batch(width=512, height=384, drawn_size=(256, 192)))
    with (
        Image.open(io.BytesIO(small.data)) as drawn,
        Image.open(io.BytesIO(result.pictures[0].data)) as enlarged,
    ):
        assert enlarged.size == (512, 384)
        assert enlarged.tobytes() == drawn.resize((512, 384), Image.Resampling.LANCZOS).tobytes()
        assert "Size: 512x384" in enlarged.text["parameters"]  # type: ignore[attr-defined]  # a PNG has it
    assert result.environment["batch_shape"] == [1, 3, 192, 256]
    assert (result.environment["enlarged_by"], engine.run(batch()).environment["enlarged_by"]) == (
        "lanczos",
        None,
    )


def test_a_picture_is_redrawn_at_that_size_too(engine: Engine, batch: BatchMaker) -> None:
    """From its smaller copy; outside a mask it stays as it was, to the pixel of the size that was asked for."""
    picture = Image.effect_noise((512, 384), 80).convert("RGB")
    mask = Image.new("L", picture.size)
    mask.paste(255, (0, 0, 256, 384))
    guided = batch(kind="img2img", strength=0.9, image=encoded(picture), width=512, height=384)
    guided = dataclasses.replace(guided, num_inference_steps=3, drawn_size=(256, 192))
    small = dataclasses.replace(
        guided, image=encoded(picture.resize((256, 192), Image.Resampling.LANCZOS)), width=256, height=192
    )
    drawn = decoded(engine.run(dataclasses.replace(small, drawn_size=None)).pictures[0].data)
    enlarged = decoded(engine.run(guided).pictures[0].data)
    assert enlarged.tobytes() == drawn.resize((512, 384), Image.Resampling.LANCZOS).tobytes()
    masked = dataclasses.replace(guided, kind="inpaint", mask=encoded(mask))
    kept = decoded(engine.run(masked).pictures[0].data)
    outside, inside = (257, 0, 512, 384), (0, 0, 250, 384)
    assert kept.crop(outside).tobytes() == picture.crop(outside).tobytes()
    assert kept.crop(inside).tobytes() != picture.crop(inside).tobytes()


def test_only_the_masked_part_is_drawn(engine: Engine, batch: BatchMaker) -> None:
    """With its surroundings, at the whole size; it comes back to its place, and the rest stays to the pixel."""
    picture = Image.effect_noise((256, 256), 80).convert("RGB")
    mask, part = Image.new("L", picture.size), (40, 24, 88, 72)
    mask.paste(255, (56, 40, 72, 56))
    asked = batch(
        kind="inpaint", strength=1.0, image=encoded(picture), mask=encoded(mask), padding_mask_crop=16
    )
    result = engine.run(asked)
    alone = dataclasses.replace(
        asked,
        image=encoded(picture.resize((256, 256), Image.Resampling.LANCZOS, box=part)),
        mask=encoded(mask.resize((256, 256), Image.Resampling.NEAREST, box=part)),
        padding_mask_crop=None,
    )
    drawn = decoded(engine.run(alone).pictures[0].data).resize((48, 48), Image.Resampling.LANCZOS)
    kept = decoded(result.pictures[0].data)
    middle = (62, 46, 66, 50)  # where next to nothing of what was there is blended in
    inner = drawn.crop((22, 22, 26, 26)).tobytes()
    assert max(abs(one - other) for one, other in zip(kept.crop(middle).tobytes(), inner, strict=True)) < 40
    assert kept.crop(middle).tobytes() != picture.crop(middle).tobytes()
    outside = Image.new("L", picture.size, 255)
    outside.paste(0, (56, 40, 72, 56))
    assert Image.composite(kept, picture, outside).tobytes() == picture.tobytes()
    assert result.environment["batch_shape"] == [1, 3, 256, 256]


@pytest.mark.parametrize(
    ("masked", "padding", "part"),
    [
        ((56, 40, 72, 56), 16, (32, 24, 96, 72)),  # in the shape of 256x192
        ((0, 0, 16, 12), 0, (0, 0, 16, 12)),
        ((0, 150, 8, 192), 0, (0, 150, 56, 192)),  # at the edge: the rest of the shape lies inside
        ((100, 10, 140, 20), 4, (96, 0, 144, 36)),
        ((10, 10, 250, 180), 32, None),  # all of it
        (None, 16, None),  # a mask that is black everywhere
    ],
)
def test_the_part_around_a_mask(
    batch: BatchMaker, masked: tuple[int, int, int, int] | None, padding: int, part: Any
) -> None:
    """Has the picture's shape, holds what is masked with its padding, and lies inside the picture."""
    mask = Image.new("L", (256, 192))
    if masked:
        mask.paste(255, masked)
    size = {"width": 256, "height": 192}
    assert part_of(batch(kind="inpaint", mask=encoded(mask), padding_mask_crop=padding, **size)) == part


def test_every_step_is_reported(engine: Engine, batch: BatchMaker) -> None:
    """From the first to the last."""
    steps: list[tuple[int, int]] = []
    engine.run(batch(num_inference_steps=3), on_step=lambda step, total: steps.append((step, total)))
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_a_stop_takes_effect_before_the_next_step(engine: Engine, batch: BatchMaker) -> None:
    """And the engine is as good as before."""
    steps: list[int] = []
    with pytest.raises(EngineStopped) as stopped:
        engine.run(
            batch(num_inference_steps=9),
            on_step=lambda step, total: steps.append(step),
            should_stop=lambda: "canceled" if len(steps) >= 2 else None,
        )
    assert (stopped.value.reason, steps) == ("canceled", [1, 2])
    assert engine.run(batch()).pictures


def test_the_environment_names_what_the_pixels_depend_on(engine: Engine, batch: BatchMaker) -> None:
    """For the receipt."""
    environment = engine.run(batch()).environment
    assert environment["torch"] == torch.__version__
    assert environment["pipeline"] == "StableDiffusionPipeline"
    assert len(environment["weights_sha256"]) == 64
    assert {"device", "dtype", "threads", "diffusers", "transformers"} <= set(environment)


def test_a_png_is_packed_quickly(engine: Engine, batch: BatchMaker) -> None:
    """By zlib's level 1, which the head of its stream says."""
    data = engine.run(batch(num_inference_steps=1)).pictures[0].data
    assert data[data.index(b"IDAT") + 4 :][:2] == b"\x78\x01"


def test_a_model_that_is_not_there_is_unavailable(engine: Engine, batch: BatchMaker, tmp_path: Path) -> None:
    """Also one with a broken file, and one that only exists as a pickle."""
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(EngineModelUnavailable):
            engine.load(ModelRef(id="gone", repository="a/b", revision="", folder=folder))
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(EngineModelUnavailable):
        engine.load(ModelRef(id="gone", repository="a/b", revision="", folder=tmp_path))


def test_a_pickle_is_never_loaded(engine: Engine, model: ModelRef, tmp_path: Path) -> None:
    """Weights that exist only as .bin count as missing."""
    import shutil

    folder = tmp_path / "pickled"
    shutil.copytree(model.folder, folder)
    weights = next((folder / "unet").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(EngineModelUnavailable):
        engine.load(ModelRef(id="pickled", repository="a/b", revision="", folder=folder))


def starving(pipeline_type: type, monkeypatch: pytest.MonkeyPatch, *, room: int) -> list[int]:
    """Makes a pipeline run out of memory when more than `room` pictures are drawn at once; returns the batch sizes."""
    sizes: list[int] = []
    real = pipeline_type.__call__

    @functools.wraps(real)
    def call(self: Any, *args: Any, **options: Any) -> Any:
        sizes.append(options["num_images_per_prompt"])
        if sizes[-1] > room:
            raise torch.OutOfMemoryError
        return real(self, *args, **options)

    monkeypatch.setattr(pipeline_type, "__call__", call)
    return sizes


@pytest.mark.slow
def test_an_out_of_memory_is_tried_again_sparingly(
    engine: Engine, batch: BatchMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One picture at a time, with the seeds that were asked for, and said in the answer."""
    alone = [engine.run(batch(seed=seed)).pictures[0].pixel_sha256 for seed in (7, 8)]
    sizes = starving(StableDiffusionPipeline, monkeypatch, room=1)
    warned: list[dict[str, Any]] = []
    result = engine.run(batch(num_images=2), on_warning=warned.append)
    assert sizes == [2, 1, 1]
    assert [picture.pixel_sha256 for picture in result.pictures] == alone
    assert [picture.seed for picture in result.pictures] == [7, 8]
    assert result.environment["batch_shape"] == [1, 3, 256, 256]
    assert [warning["param"] for warning in warned] == ["num_images"] == [w["param"] for w in result.warnings]


@pytest.mark.slow
def test_the_second_try_has_its_number_format_back(
    engine: Engine, batch: BatchMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SDXL's pipeline widens the autoencoder to decode, and leaves it so where memory ends in the middle."""
    alone = engine.run(batch()).pictures[0].pixel_sha256
    real, tries = StableDiffusionPipeline.__call__, []

    @functools.wraps(real)
    def call(self: Any, *args: Any, **options: Any) -> Any:
        tries.append(next(self.vae.parameters()).dtype)
        if len(tries) == 1:
            self.vae.to(torch.float64)
            raise torch.OutOfMemoryError
        return real(self, *args, **options)

    monkeypatch.setattr(StableDiffusionPipeline, "__call__", call)
    again = engine.run(batch())
    assert again.pictures[0].pixel_sha256 == alone
    assert tries == [getattr(torch, again.environment["dtype"])] * 2


def test_a_device_that_fails_is_told_from_a_broken_pipeline(
    engine: Engine, batch: BatchMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, *args: Any, **options: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    with monkeypatch.context() as patch:
        patch.setattr(
            StableDiffusionPipeline, "__call__", functools.wraps(StableDiffusionPipeline.__call__)(fail)
        )
        with pytest.raises(EngineDeviceLost, match="illegal memory access"):
            engine.run(batch())


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: out of memory"),
        OSError(errno.EIO, "Input/output error"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["device", "disk", "memory"],
)
def test_a_host_out_of_order_does_not_make_files_broken(
    batch: BatchMaker, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Else one such host would take the model out of service for every worker there is."""

    def fail(*args: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr("generation.engine.loader._module_read", fail)
    with pytest.raises(EngineModelUnavailable) as raised:
        Engine(threads=1).run(batch())
    assert not isinstance(raised.value, EngineModelBroken)


@pytest.mark.slow
def test_an_out_of_memory_that_lasts_is_named_and_survived(
    engine: Engine, batch: BatchMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next request works."""
    with monkeypatch.context() as patch:
        sizes = starving(StableDiffusionPipeline, patch, room=0)
        with pytest.raises(EngineOutOfMemory, match="smaller"):
            engine.run(batch())
    assert sizes == [1, 1]
    assert engine.run(batch()).pictures


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_other_formats_carry_the_parameters_too(
    engine: Engine, batch: BatchMaker, output_format: str
) -> None:
    """In Exif, where A1111's tools look; equal requests give equal bytes."""
    request = batch(output_format=output_format, prompt="a red circle · groß", scheduler="euler", clip_skip=1)
    picture = engine.run(request).pictures[0]
    assert picture.content_type == f"image/{output_format}"
    assert engine.run(request).pictures[0].data == picture.data
    with Image.open(io.BytesIO(picture.data)) as image:
        assert (image.format or "").lower() == output_format
        exif = image.getexif()
    comment = exif.get_ifd(IFD.Exif)[Base.UserComment]
    text = comment.removeprefix(b"UNICODE\0").decode("utf-16-be")
    assert text.startswith(
        "a red circle · groß\nSteps: 2, Sampler: Euler, Schedule type: Automatic, CFG scale: 4, Seed: 7"
    )
    assert text.endswith("Clip skip: 2")
    assert json.loads(exif[Base.ImageDescription])["scheduler"] == "euler"


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("character", ["a", "\N{GRINNING FACE}"])
def test_every_format_takes_the_longest_prompts(output_format: str, character: str) -> None:
    """A JPEG's metadata have little room: the ends of the prompts go, the other parameters stay."""
    prompt, negative_prompt = "begin " + character * 31_994, "avoid " + character * 31_994
    model = ModelRef("builtin", "imagegen/builtin", "", Path())
    batch = Batch(
        model=model,
        prompt=prompt,
        negative_prompt=negative_prompt,
        width=16,
        height=16,
        num_inference_steps=2,
        guidance_scale=4,
        seed=7,
        output_format=output_format,
    )
    picture = picture_encode(Image.new("RGB", (16, 16)), batch, 0)
    with Image.open(io.BytesIO(picture.data)) as image:
        image.load()
        if output_format == "png":
            text = cast(PngImageFile, image).text["parameters"]
        else:
            comment = image.getexif().get_ifd(IFD.Exif)[Base.UserComment]
            text = comment.removeprefix(b"UNICODE\0").decode("utf-16-be")
    first, negative, last = text.splitlines()
    assert first.startswith("begin " + character * 10_000)
    assert negative.startswith("Negative prompt: avoid ")
    assert "Seed: 7" in last
    assert (first == prompt) == (output_format != "jpeg")


def test_quality_is_that_of_the_file(engine: Engine, batch: BatchMaker) -> None:
    """Of JPEG and WebP; the pixels before are the same."""
    for output_format in ("jpeg", "webp"):
        low, high = (
            engine.run(batch(output_format=output_format, output_quality=quality)).pictures[0]
            for quality in (10, 100)
        )
        assert len(low.data) < len(high.data) / 2
        assert low.pixel_sha256 == high.pixel_sha256


def test_a_prompt_that_is_too_long_is_said_to_be(engine: Engine, batch: BatchMaker) -> None:
    """With the words that are not read; a strict request is refused."""
    prompt = " ".join(["red", "circle"] * 30) + " the very end"
    warned: list[dict[str, Any]] = []
    result = engine.run(batch(prompt=prompt), on_warning=warned.append)
    assert warned == result.warnings
    assert warned[0]["param"] == "prompt"
    assert "the very end" in warned[0]["reason"]
    read = warned[0]["used"]
    assert prompt.startswith(read)
    assert (
        engine.run(batch(prompt=read)).pictures[0].pixel_sha256 == result.pictures[0].pixel_sha256
    ), "what is said to be read is what is read"
    assert not engine.run(batch(prompt=read)).warnings
    with pytest.raises(EngineRefused, match="the very end"):
        engine.run(batch(prompt=prompt, strict=True))


@pytest.mark.slow
def test_an_unexpected_error_drops_the_pipeline(engine: Engine, batch: BatchMaker) -> None:
    """Nobody knows what state it is in."""

    def broken(step: int, total_steps: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(EngineError, match="ZeroDivisionError"):
        engine.run(batch(), on_step=broken)
    assert "builtin" not in engine.resident
    assert engine.run(batch()).pictures


@pytest.mark.slow
def test_the_engine_imports_no_more_than_it_needs() -> None:
    """It works from a plain script; what takes seconds to import (every pipeline of diffusers) waits for its use."""
    code = "import sys, generation.engine; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    unwanted = {
        "django",
        "rq",
        "channels",
        "diffusers.pipelines.auto_pipeline",
        "transformers.models.qwen2_vl",
    }
    assert unwanted & set(done.stdout.split()) == set()
