"""Every feature of the stock pipelines works on the trained model; the detector judges."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models_registry.builtin.drawing import draw_scene
from models_registry.builtin.scenes import Item, Scene
from tests.integration.builtin.pictures import Draw, drawer, read, values
from tests.support.pictures import decoded, encoded

PROMPTS = [
    "a large red circle in the centre on a white background",
    "a medium blue square on the left on a yellow background",
    "a large green heart on the right on a pink background",
    "a medium black star at the top on an orange background",
]
COLOURS = [("red", "white"), ("blue", "yellow"), ("green", "pink"), ("black", "orange")]


def input_scene(size: int = 512) -> Image.Image:
    item = Item("square", "blue", "large", 0.29, 0.5, 0.26)
    return draw_scene(Scene((item,), ("yellow",), "plain", "left"), size)


UNWANTED = "a red circle on a white background"


@pytest.mark.long
def test_a_negative_prompt_keeps_its_colours_away(draw: Draw) -> None:
    """Nothing else being asked for, no picture has what it names; some had without it."""
    plain = [read(image) for image in draw([""] * 6)]
    assert any("white" in reading.background for reading in plain)
    for image in draw([""] * 6, negative_prompt=[UNWANTED] * 6, guidance_scale=3.0):
        reading = read(image)
        assert "white" not in reading.background
        assert "red" not in {found.colour for found in reading.found}


def test_without_guidance_a_negative_prompt_does_nothing(draw: Draw) -> None:
    plain, refused = (
        draw(PROMPTS[:1], guidance_scale=1.0, **changes) for changes in ({}, {"negative_prompt": [UNWANTED]})
    )
    assert np.array_equal(values(plain[0]), values(refused[0]))


@pytest.fixture(scope="module")
def redraw(pipeline: Any) -> Draw:
    from diffusers import AutoPipelineForImage2Image

    other = AutoPipelineForImage2Image.from_pipe(pipeline)
    other.set_progress_bar_config(disable=True)
    return drawer(other, image=input_scene())


def test_a_weak_redraw_keeps_the_layout(redraw: Draw) -> None:
    reading = read(redraw(["a large green heart on the right on a pink background"], strength=0.3)[0])
    assert reading.background == ("yellow",)
    found = reading.only()
    assert found is not None
    assert (found.colour, found.position, found.size) == ("blue", "left", "large")


def test_a_strong_redraw_follows_the_prompt(redraw: Draw) -> None:
    reading = read(redraw(["a large green heart on the right on a pink background"], strength=0.9)[0])
    assert reading.background == ("pink",)
    assert reading.found[0].colour == "green"


def test_inpainting_keeps_the_outside(pipeline: Any) -> None:
    """Where the mask is black the picture stays as it was, up to what the autoencoder changes."""
    from diffusers import AutoPipelineForInpainting

    other = AutoPipelineForInpainting.from_pipe(pipeline)
    other.set_progress_bar_config(disable=True)
    before = input_scene()
    mask = Image.new("L", before.size, 0)
    mask.paste(255, (320, 96, 512, 416))
    prompt = "a large blue square left of a small red circle on a yellow background"
    after = drawer(other, image=before, mask_image=mask, strength=1.0)([prompt])[0]
    outside = np.asarray(mask) == 0
    change = np.abs(values(after) - values(before)).mean(axis=2)
    assert change[outside].mean() < 6
    assert change[~outside].mean() > 3 * change[outside].mean()
    reading = read(after)
    assert reading.background == ("yellow",)
    assert any((found.shape, found.colour) == ("square", "blue") for found in reading.found)


@pytest.mark.parametrize(("height", "width"), [(256, 256), (384, 640), (768, 768)])
def test_other_sizes_give_pictures_of_the_named_colours(draw: Draw, height: int, width: int) -> None:
    image = draw(["a large red circle on a white background"], height=height, width=width)[0]
    assert image.size == (width, height)
    reading = read(image)
    assert reading.background == ("white",)
    assert reading.found[0].colour == "red"


@pytest.fixture(scope="module")
def large() -> Callable[..., list[Image.Image]]:
    """What the service draws when it is asked for 1024 pixels: the model's own size, enlarged."""
    from generation.engine import Batch, Engine, ModelRef
    from models_registry.builtin import DEFAULT_GUIDANCE, DEFAULT_STEPS, WEIGHTS
    from models_registry.family_facts import drawn_size

    base = Batch(
        model=ModelRef("builtin", "imagegen/builtin", "", WEIGHTS),
        prompt="",
        negative_prompt="",
        width=1024,
        height=1024,
        num_inference_steps=DEFAULT_STEPS,
        guidance_scale=DEFAULT_GUIDANCE,
        seed=0,
        drawn_size=drawn_size(family="builtin", size=(1024, 1024), multiple=16),
    )
    engine = Engine(threads=1)

    def draw(**changes: Any) -> list[Image.Image]:
        return [decoded(picture.data) for picture in engine.run(replace(base, **changes)).pictures]

    return draw


def test_the_largest_size_shows_what_was_asked_for(large: Callable[..., list[Image.Image]]) -> None:
    """Most clients of OpenAI's ask for it; drawn as it is, the model repeats its shapes there."""
    images = large(prompt="a large red circle in the centre on a white background", num_images=4)
    assert {image.size for image in images} == {(1024, 1024)}
    found = [read(image).only() for image in images]
    assert sum(each is not None and (each.shape, each.colour) == ("circle", "red") for each in found) >= 3


def test_a_redraw_at_the_largest_size_does_too(large: Callable[..., list[Image.Image]]) -> None:
    (image,) = large(
        kind="img2img", image=encoded(input_scene(1024)), strength=0.9,
        prompt="a large green heart on the right on a pink background",
    )  # fmt: skip
    reading = read(image)
    found = reading.only()
    assert found is not None
    assert (reading.background, found.colour, found.position) == (("pink",), "green", "right")


def test_the_same_seed_gives_the_same_picture(draw: Draw) -> None:
    first, second = (draw(PROMPTS[:1], height=256, width=256)[0] for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_tiled_decoding_gives_nearly_the_same_picture(pipeline: Any) -> None:
    """AutoencoderTiny assumes three halvings when it tiles; with the right sizes set, tiles join without seams."""
    import torch

    from generation.engine.pipelines import in_tiles

    drawn = torch.from_numpy(values(input_scene(768))).permute(2, 0, 1)[None].to(pipeline.dtype) / 127.5 - 1
    vae = pipeline.vae
    with torch.no_grad():
        latents = vae.encode(drawn).latents
        whole = vae.decode(latents).sample
        with in_tiles(vae, side=512):
            tiled_latents = vae.encode(drawn).latents
            tiled = vae.decode(latents).sample
    assert (tiled_latents - latents).abs().mean() < 0.02
    assert (tiled - whole).abs().mean() < 0.01
    assert (tiled - whole).abs().max() < 0.5
