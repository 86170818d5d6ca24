"""Every kind, scheduler and option on each family's real pipeline class, with tiny random weights."""

import dataclasses
import hashlib
import io
from collections.abc import Callable

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw

from generation.choices import Scheduler
from generation.engine import Batch, Engine, EngineModelBroken, ModelRef
from generation.engine.schedulers import SCHEDULERS
from models_registry.family_facts import FAMILY_FACTS
from tests.support.tiny_checkpoints import TINY_FAMILIES

TinyModel = Callable[[str], ModelRef]
SIDE = 64


def png(image: Image.Image) -> bytes:
    """A picture's file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def request(model: ModelRef, **changes: object) -> Batch:
    """A quick request."""
    base = Batch(
        model=model,
        prompt="a large red circle",
        negative_prompt="",
        width=SIDE,
        height=SIDE,
        num_inference_steps=4,
        guidance_scale=4.0,
        seed=7,
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def pixels(engine: Engine, batch: Batch) -> str:
    """What the first picture's pixels hash to."""
    return engine.run(batch).pictures[0].pixel_sha256


def test_scheduler_names_agree() -> None:
    """Those that requests may name, those that the engine knows, and those that families list."""
    assert set(Scheduler.values) == set(SCHEDULERS)
    assert {name for facts in FAMILY_FACTS.values() for name in facts.schedulers} == set(SCHEDULERS)


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_it_draws_what_the_stock_pipeline_draws(engine: Engine, tiny: TinyModel, family: str) -> None:
    """Although its weights were read by hand and put in without a copy."""
    model = tiny(family)
    stock = DiffusionPipeline.from_pretrained(model.folder, use_safetensors=True)
    stock.set_progress_bar_config(disable=True)
    image = stock(
        "a large red circle",
        width=SIDE,
        height=SIDE,
        num_inference_steps=4,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(7)],
    ).images[0]
    assert pixels(engine, request(model)) == hashlib.sha256(image.tobytes()).hexdigest()


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_image_to_image_starts_from_the_picture(engine: Engine, tiny: TinyModel, family: str) -> None:
    """As many steps as int(steps x strength), and another picture gives another result."""
    model = tiny(family)
    results = []
    for colour in ("red", "blue"):
        picture = png(Image.new("RGB", (SIDE, SIDE), colour))
        totals: set[int] = set()
        result = engine.run(
            request(model, kind="img2img", strength=0.5, image=picture),
            on_step=lambda step, total, totals=totals: totals.add(total),  # type: ignore[misc]
        )
        # The scheduler of Stable Diffusion 1.x, PNDM, does its second step twice.
        assert totals == {3 if family == "sd1" else 2}
        assert (result.pictures[0].width, result.pictures[0].height) == (SIDE, SIDE)
        results.append(result.pictures[0].pixel_sha256)
    assert results[0] != results[1]


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_inpainting_leaves_the_rest_as_it_was(engine: Engine, tiny: TinyModel, family: str) -> None:
    """To the pixel outside the mask; inside something else appears."""
    model = tiny(family)
    picture = Image.effect_noise((SIDE, SIDE), 80).convert("RGB")
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).rectangle((0, 0, SIDE // 2, SIDE), fill=255)
    batch = request(model, kind="inpaint", strength=1.0, image=png(picture), mask=png(mask))
    with Image.open(io.BytesIO(engine.run(batch).pictures[0].data)) as drawn:
        right = (SIDE // 2 + 1, 0, SIDE, SIDE)
        assert drawn.crop(right).tobytes() == picture.crop(right).tobytes()
        left = (0, 0, SIDE // 2, SIDE)
        assert drawn.crop(left).tobytes() != picture.crop(left).tobytes()


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_every_scheduler_of_a_family_runs(engine: Engine, tiny: TinyModel, family: str) -> None:
    """And leaves no trace: the checkpoint's own draws the same pixels before and after."""
    model = tiny(family)
    before = pixels(engine, request(model))
    for name in FAMILY_FACTS[family].schedulers:
        result = engine.run(request(model, scheduler=name))
        assert result.environment["scheduler"].endswith("Scheduler")
        assert pixels(engine, request(model, scheduler=name)) == result.pictures[0].pixel_sha256
    assert pixels(engine, request(model)) == before


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_clip_skip_changes_the_picture(engine: Engine, tiny: TinyModel, family: str) -> None:
    """The text is read a layer earlier."""
    model = tiny(family)
    assert pixels(engine, request(model, clip_skip=1)) != pixels(engine, request(model))


def test_an_option_that_a_pipeline_does_not_take_is_said(engine: Engine, tiny: TinyModel) -> None:
    """Instead of being dropped in silence."""
    from generation.engine.pipelines import call_arguments

    class Plain:
        def __call__(self, prompt: str) -> None: ...

    arguments, warnings = call_arguments(Plain(), request(tiny("sd1"), negative_prompt="blue", clip_skip=1))
    assert arguments == {"prompt": "a large red circle"}
    assert [warning["param"] for warning in warnings] == ["negative_prompt", "clip_skip"]


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_kinds_share_their_weights(engine: Engine, tiny: TinyModel, family: str) -> None:
    """No second copy is made."""
    model = tiny(family)
    image = png(Image.new("RGB", (SIDE, SIDE), "red"))
    engine.run(request(model, kind="img2img", strength=0.5, image=image))
    with engine.cache.borrow(model, while_waiting=lambda: None) as entry:
        other = entry.kinds["img2img"]
        assert other.vae is entry.pipeline.vae
        assert other.scheduler is not entry.pipeline.scheduler


def test_a_missing_tensor_is_refused(engine: Engine, tiny: TinyModel, tmp_path: object) -> None:
    """The stock loader would fill it with noise and go on."""
    import shutil
    from pathlib import Path

    from safetensors.torch import load_file, save_file

    folder = Path(str(tmp_path)) / "holey"
    shutil.copytree(tiny("sd1").folder, folder)
    for part in ("unet", "text_encoder"):
        path = next((folder / part).glob("*.safetensors"))
        whole = load_file(path)
        save_file(dict(list(whole.items())[1:]), path, metadata={"format": "pt"})
        with pytest.raises(EngineModelBroken, match="lack 1 tensors"):
            engine.load(ModelRef(id=f"holey-{part}", repository="a/b", revision="", folder=folder))
        save_file(whole, path, metadata={"format": "pt"})
