"""What A1111's dialect does with pictures: fitting them and their masks, resizing, and reading what they say."""

import base64
import io
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageOps, ImageStat
from PIL.PngImagePlugin import PngInfo
from pytest_django import Settings
from rest_framework.test import APIClient

from generation.compat.a1111 import canvas, extras
from generation.compat.a1111.canvas import hole_fill
from generation.models import Generation, Worker
from generation.pictures.files import input_read
from generation.pictures.infotext import infotext_parse
from tests.support.dialects import finish, made, nothing_stored, warned
from tests.support.pictures import MASK, PICTURE, decoded, encoded, gradient, mask_of, png_header, text_of
from tests.unit.generation.compat.test_a1111 import BASE, REQUEST, URL, blamed

IMG2IMG: dict[str, Any] = {"prompt": "a", "init_images": [text_of(PICTURE)], "denoising_strength": 0.5}
IMG2IMG_URL = f"{BASE}/img2img"
WIDE = gradient(512, 256)
SQUARE = {"width": 256, "height": 256}

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _media(settings: Any, tmp_path: Any) -> None:
    settings.MEDIA_ROOT = tmp_path


def drawn_from(api: APIClient, **changes: Any) -> Generation:
    """The generation that an img2img request makes."""
    return made(api.post(IMG2IMG_URL, IMG2IMG | changes))


def stored(name: str) -> Image.Image:
    """A kept input picture."""
    return decoded(input_read(name))


def close(one: Image.Image, other: Image.Image) -> bool:
    """Whether two pictures look the same."""
    return one.size == other.size and max(ImageStat.Stat(ImageChops.difference(one, other)).mean) < 2


def test_pictures_from_pictures(api: APIClient) -> None:
    """With a mask it is inpainting; without a size it has the picture's."""
    generation = drawn_from(api)
    assert (generation.kind, generation.strength, generation.width) == ("img2img", 0.5, 256)
    assert drawn_from(api, mask=text_of(MASK)).kind == "inpaint"
    assert drawn_from(api, mask="").kind == "img2img"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"init_images": IMG2IMG["init_images"] * 2}, "init_images"),
        ({"init_images": ["no picture"]}, "init_images"),
        ({"init_images": [5]}, "init_images"),
        ({"init_images": [text_of(png_header(100_000, 100_000))]}, "init_images"),
        ({"init_images": "text"}, "init_images"),
        ({"denoising_strength": "much"}, "denoising_strength"),
        ({"mask": "no picture"}, "mask"),
        ({"mask": [1]}, "mask"),
        ({"resize_mode": 4}, "resize_mode"),
        ({"mask": text_of(MASK), "inpainting_fill": 4}, "inpainting_fill"),
        ({"mask": text_of(MASK), "inpainting_mask_invert": "x"}, "inpainting_mask_invert"),
        ({"mask": text_of(MASK), "inpaint_full_res": "x"}, "inpaint_full_res"),
        ({"script_name": "sd upscale", "script_args": ["", 8, "Lanczos", "big"]}, "script_args"),
    ],
)
def test_bad_parameters_are_named(api: APIClient, changes: dict[str, Any], field: str) -> None:
    assert blamed(api.post(IMG2IMG_URL, IMG2IMG | changes)) == {field}
    assert nothing_stored()


def test_base64_as_clients_wrap_it(api: APIClient) -> None:
    wrapped = base64.encodebytes(PICTURE).decode().replace("=", "")
    drawn_from(api, init_images=[f"data:image/png;base64,{text_of(PICTURE)}"])
    drawn_from(api, init_images=[wrapped])


def test_a_picture_by_its_address(
    api: APIClient, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    """Fetched as OpenAI's are, and refused alike; not by the batch, which would hold a thread for long."""
    url = "https://example.com/x.png"
    settings.FETCH_PICTURES = "off"
    assert blamed(api.post(IMG2IMG_URL, IMG2IMG | {"init_images": [url]})) == {"init_images"}
    asked: list[str] = []
    monkeypatch.setattr(canvas, "picture_fetch", lambda address: asked.append(address) or PICTURE)
    assert drawn_from(api, init_images=[url]).width == 256
    assert drawn_from(api, mask=url).kind == "inpaint"
    assert resized(api, image=url)[0].size == (256, 256)
    assert asked == [url] * 3
    body = {"imageList": [{"data": url, "name": "x"}] * 2}
    assert blamed(api.post(f"{BASE}/extra-batch-images", body)) == {"imageList.0.data"}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (0, WIDE.resize((256, 256))),
        (1, ImageOps.fit(WIDE, (256, 256))),
        (3, WIDE.resize((256, 256))),
    ],
)
def test_resize_modes(api: APIClient, mode: int, expected: Image.Image) -> None:
    """Stretched, cropped, and, where A1111 resizes latents, stretched with a warning."""
    generation = drawn_from(api, init_images=[text_of(encoded(WIDE))], resize_mode=mode, **SQUARE)
    assert close(stored(generation.input_image), expected)
    assert warned(generation) == ({"resize_mode"} if mode == 3 else set())


@pytest.mark.parametrize("size", [(512, 256), (256, 512)])
def test_resize_and_fill(api: APIClient, size: tuple[int, int]) -> None:
    """The whole picture is in the middle, and its edges run on to the border."""
    image = gradient(*size)
    generation = drawn_from(api, init_images=[text_of(encoded(image))], resize_mode=2, **SQUARE)
    fitted = stored(generation.input_image)
    small = image.resize((size[0] // 2, size[1] // 2))
    left, top = (256 - small.width) // 2, (256 - small.height) // 2
    assert close(fitted.crop((left, top, left + small.width, top + small.height)), small)
    for corner, of_small in (((0, 0), (0, 0)), ((255, 255), (small.width - 1, small.height - 1))):
        pairs = zip(fitted.getpixel(corner), small.getpixel(of_small), strict=True)
        assert all(abs(one - other) < 12 for one, other in pairs)


def test_a_mask_of_another_size_is_fitted_like_the_picture(api: APIClient) -> None:
    mask = text_of(encoded(mask_of(gradient(96, 64))))
    files = {"init_images": [text_of(encoded(WIDE))], "mask": mask}
    generation = drawn_from(api, inpaint_full_res=False, **files, **SQUARE)
    assert stored(generation.mask_image).getbbox() == (128, 0, 256, 256)
    assert generation.padding_mask_crop is None


def test_only_what_is_masked_is_drawn(api: APIClient) -> None:
    """As A1111 does it unless it is told otherwise, and answers a picture as large as the one that was sent."""
    files = {"init_images": [text_of(encoded(WIDE))], "mask": text_of(encoded(mask_of(WIDE)))}
    generation = drawn_from(api, inpaint_full_res_padding=32, **files)
    assert (generation.width, generation.height, generation.padding_mask_crop) == (512, 256, 32)
    assert warned(generation) == set()
    assert warned(drawn_from(api, width=512, height=256, **files)) == set()
    other = drawn_from(api, **files, **SQUARE)
    assert (other.width, other.height, other.padding_mask_crop) == (512, 256, 0)
    assert warned(other) == {"inpaint_full_res"}
    large = WIDE.resize((2048, 1024))
    files = {"init_images": [text_of(encoded(large))], "mask": text_of(encoded(mask_of(large)))}
    smaller = drawn_from(api, inpaint_full_res_padding=32, **files)
    assert (smaller.width, smaller.height, smaller.padding_mask_crop) == (1024, 512, 16)
    assert warned(smaller) >= {"width", "height"}
    assert drawn_from(api, inpaint_full_res_padding=32).padding_mask_crop is None


def test_a_mask_inverted_or_drawn_by_its_opacity(api: APIClient) -> None:
    inverted = drawn_from(api, mask=text_of(MASK), inpainting_mask_invert=1)
    assert stored(inverted.mask_image).getbbox() == (0, 0, 128, 256)
    brush = Image.new("RGBA", (256, 256), (0, 0, 0, 0))
    brush.paste((10, 20, 30, 255), (64, 64, 128, 128))
    opaque = drawn_from(api, mask=text_of(encoded(brush)))
    assert stored(opaque.mask_image).getbbox() == (64, 64, 128, 128)


def test_what_is_below_the_mask(api: APIClient) -> None:
    """By default, or with 0, it is filled from around; 1 is the original, 3 grey; outside the mask nothing changes."""
    red = Image.new("RGB", (256, 256), "red")
    hole = Image.new("L", (256, 256))
    hole.paste(255, (64, 64, 192, 192))
    image = red.copy()
    image.paste("blue", (64, 64, 192, 192))
    files = {"init_images": [text_of(encoded(image))], "mask": text_of(encoded(hole))}
    for fill, colour, said in (
        (None, (255, 0, 0), set()),
        (1, (0, 0, 255), set()),
        (0, (255, 0, 0), set()),
        (2, (0, 0, 255), {"inpainting_fill"}),
        (3, (127, 127, 127), {"inpainting_fill"}),
    ):
        generation = drawn_from(api, inpainting_fill=fill, **files)
        used = stored(generation.input_image)
        assert (used.getpixel((128, 128)), warned(generation)) == (colour, said)
        assert used.getpixel((10, 10)) == (255, 0, 0)
    everything = Image.new("L", red.size, 255)
    assert hole_fill(red, everything, fill=0).getpixel((5, 5)) == (127, 127, 127)


def test_the_masks_settings_without_effect_are_said(api: APIClient) -> None:
    settings = {"mask_blur": 4, "inpaint_full_res": True, "inpaint_full_res_padding": 32, "mask_round": False}
    assert warned(drawn_from(api, mask=text_of(MASK), **settings)) == {"mask_blur"}
    assert warned(drawn_from(api, **settings)) == set()


def test_transparent_parts_are_filled(api: APIClient) -> None:
    image = gradient(256, 256).convert("RGBA")
    image.putalpha(mask_of(image))
    generation = drawn_from(api, init_images=[text_of(encoded(image))])
    assert stored(generation.input_image).getpixel((0, 0)) == (255, 255, 255)
    assert warned(generation) == {"init_images"}


def test_no_strength_still_draws_a_step(api: APIClient) -> None:
    for steps in (1, 7, 49, 50):
        generation = drawn_from(api, denoising_strength=0, steps=steps)
        assert generation.total_steps == 1
        assert warned(generation) == {"denoising_strength"}


@pytest.mark.parametrize(
    ("asked", "drawn"),
    [
        ({"width": 72}, (256, 512)),
        ({"width": 72, "height": 512}, (256, 512)),
        ({"height": 5000}, (512, 1024)),
    ],
)
def test_a_side_that_is_left_out_follows_the_picture(
    api: APIClient, asked: dict[str, int], drawn: tuple[int, int]
) -> None:
    """In its shape, beside the side that the model takes instead of the one that was asked for."""
    tall = text_of(encoded(gradient(256, 512)))
    generation = made(api.post(IMG2IMG_URL, {"prompt": "a", "init_images": [tall], "steps": 4} | asked))
    assert (generation.width, generation.height) == drawn
    assert warned(generation) >= {name for name, side in asked.items() if side not in drawn}


def test_sd_upscale_draws_the_whole_picture_larger(api: APIClient) -> None:
    generation = drawn_from(api, script_name="SD upscale", script_args=["", 8, "Lanczos", 2.0], **SQUARE)
    assert (generation.width, generation.height, warned(generation)) == (512, 512, {"script_name"})


def resized(api: APIClient, **changes: Any) -> tuple[Image.Image, str]:
    """The picture and the page that `extra-single-image` answers."""
    response = api.post(f"{BASE}/extra-single-image", {"image": text_of(encoded(WIDE))} | changes)
    assert response.status_code == 200, response.content
    body = response.json()
    assert set(body) == {"image", "html_info"}
    return decoded(base64.b64decode(body["image"])), body["html_info"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, WIDE),
        ({"upscaler_1": "None", "upscaling_resize": 4}, WIDE),
        ({"upscaler_1": "Lanczos"}, WIDE.resize((1024, 512), Image.Resampling.LANCZOS)),
        (
            {"upscaler_1": "Nearest", "upscaling_resize": 0.5},
            WIDE.resize((256, 128), Image.Resampling.NEAREST),
        ),
        (
            {"upscaler_1": "Lanczos", "resize_mode": 1, "upscaling_resize_w": 200, "upscaling_resize_h": 200},
            ImageOps.fit(WIDE, (200, 200), Image.Resampling.LANCZOS),
        ),
        (
            {"upscaler_1": "Lanczos", "resize_mode": 1, "upscaling_resize_w": 200, "upscaling_resize_h": 200,
             "upscaling_crop": False},
            WIDE.resize((400, 200), Image.Resampling.LANCZOS),
        ),
        (
            {"upscaler_1": "Nearest", "upscaler_2": "Lanczos", "extras_upscaler_2_visibility": 1},
            WIDE.resize((1024, 512), Image.Resampling.LANCZOS),
        ),
    ],
    ids=["nothing", "none", "larger", "smaller", "cropped", "covering", "blended"],
)  # fmt: skip
def test_extra_single_image(api: APIClient, changes: dict[str, Any], expected: Image.Image) -> None:
    image, page = resized(api, **changes)
    assert close(image, expected)
    assert f"{image.width}x{image.height}" in page


def test_extras_say_what_they_do_not_do(api: APIClient) -> None:
    """In a page that repeats nothing of the request."""
    image, page = resized(api, upscaler_1="R-ESRGAN<script>", gfpgan_visibility=0.5, upscaling_resize=1)
    assert close(image, WIDE)
    assert "Lanczos" in page
    assert "gfpgan_visibility" in page
    assert "script" not in page


def test_extras_keep_parameters_and_follow_the_format(api: APIClient) -> None:
    info = PngInfo()
    info.add_itxt("parameters", "a circle\nSteps: 1, Seed: 2, Size: 3x4")
    file = encoded(WIDE, pnginfo=info)
    image, _ = resized(api, image=text_of(file), upscaler_1="Lanczos")
    assert image.text["parameters"].startswith("a circle")  # type: ignore[attr-defined]
    assert api.post(f"{BASE}/options", {"samples_format": "webp"}).status_code == 200
    assert resized(api, upscaler_1="Lanczos")[0].format == "WEBP"


def test_extra_batch_images(api: APIClient) -> None:
    files = [encoded(gradient(64, 64)), encoded(gradient(32, 64), "JPEG")]
    body = {
        "upscaler_1": "Lanczos",
        "upscaling_resize": 3,
        "imageList": [{"data": text_of(file), "name": f"{index}.png"} for index, file in enumerate(files)],
    }
    response = api.post(f"{BASE}/extra-batch-images", body)
    assert response.status_code == 200, response.content
    pictures = [decoded(base64.b64decode(text)) for text in response.json()["images"]]
    assert [picture.size for picture in pictures] == [(192, 192), (96, 192)]


@pytest.mark.parametrize(
    ("route", "changes", "field"),
    [
        ("extra-single-image", {"image": "no picture"}, "image"),
        ("extra-single-image", {"image": text_of(png_header(100_000, 100_000))}, "image"),
        ("extra-single-image", {"upscaler_1": "Lanczos", "upscaling_resize": 100}, "image"),
        ("extra-single-image", {"upscaling_resize": 0}, "upscaling_resize"),
        ("extra-single-image", {"upscaler_1": "Lanczos", "upscaling_resize": "1e999"}, "upscaling_resize"),
        ("extra-single-image", {"resize_mode": 2}, "resize_mode"),
        ("extra-single-image", {"upscaler_1": 5}, "upscaler_1"),
        ("extra-batch-images", {}, "imageList"),
        ("extra-batch-images", {"imageList": [1]}, "imageList"),
        ("extra-batch-images", {"imageList": [{"name": "x"}]}, "imageList.0.data"),
        ("extra-batch-images", {"imageList": [{"data": "x"}] * 65}, "imageList"),
        ("png-info", {"image": "no picture"}, "image"),
        ("png-info", {}, "image"),
    ],
)
def test_bad_pictures_are_refused(api: APIClient, route: str, changes: dict[str, Any], field: str) -> None:
    body = {"image": text_of(PICTURE)} if route == "extra-single-image" else {}
    assert blamed(api.post(f"{BASE}/{route}", body | changes)) == {field}


def test_the_pixels_of_a_batch_are_counted_together(api: APIClient) -> None:
    """Small files can hold large pictures."""
    large = text_of(encoded(Image.new("RGB", (3000, 3000))))
    body = {"imageList": [{"data": large, "name": "x"}] * 2}
    assert blamed(api.post(f"{BASE}/extra-batch-images", body)) == {"imageList.1.data"}


def test_only_so_many_are_resized_at_once(api: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "_PATIENCE_S", 0.01)
    with extras.resizing_place(), extras.resizing_place():
        response = api.post(f"{BASE}/extra-single-image", {"image": text_of(PICTURE)})
    assert (response.status_code, response.json()["error"], response["Retry-After"]) == (503, "busy", "5")
    assert api.post(f"{BASE}/extra-single-image", {"image": text_of(PICTURE)}).status_code == 200


@pytest.mark.parametrize("samples_format", ["png", "jpg", "webp"])
def test_png_info_reads_what_is_written_here(api: APIClient, worker: Worker, samples_format: str) -> None:
    """The engine's own file, in each format."""
    from generation.engine.encoding import picture_encode
    from generation.engine.specs import Batch, ModelRef

    batch = Batch(
        model=ModelRef("builtin", "a/b", "", None, short_hash="0123456789"),  # type: ignore[arg-type]
        prompt="a red circle, in a: b, c\nsecond line",
        negative_prompt="blue · groß",
        width=256,
        height=256,
        num_inference_steps=4,
        guidance_scale=4.5,
        seed=7,
        scheduler="dpmpp_2m_karras",
        output_format={"jpg": "jpeg"}.get(samples_format, samples_format),
        software="imagegen 1.2.3",
    )
    file = picture_encode(gradient(256, 256), batch, 0).data
    body = api.post(f"{BASE}/png-info", {"image": text_of(file)}).json()
    assert set(body) == {"info", "items", "parameters"}
    assert body["info"].startswith(
        "a red circle, in a: b, c\nsecond line\nNegative prompt: blue · groß\nSteps: 4,"
    )
    assert body["parameters"] == {
        "Prompt": "a red circle, in a: b, c\nsecond line",
        "Negative prompt": "blue · groß",
        "Steps": "4",
        "Sampler": "DPM++ 2M",
        "Schedule type": "Karras",
        "CFG scale": "4.5",
        "Seed": "7",
        "Size-1": "256",
        "Size-2": "256",
        "Model hash": "0123456789",
        "Model": "builtin",
        "Version": "imagegen 1.2.3",
        "Clip skip": "1",
    }
    assert set(body["items"]) == ({"imagegen"} if samples_format == "png" else set())


def test_a_picture_that_says_nothing(api: APIClient) -> None:
    body = api.post(f"{BASE}/png-info", {"image": text_of(PICTURE)}).json()
    assert body == {"info": "", "items": {}, "parameters": {}}


def test_texts_without_end_are_refused(api: APIClient) -> None:
    info = PngInfo()
    for number in range(8):
        info.add_text(f"n{number}", "x" * 100_000, zip=True)
    assert blamed(api.post(f"{BASE}/png-info", {"image": text_of(encoded(WIDE, pnginfo=info))})) == {"image"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("only: a prompt", {"Prompt": "only: a prompt"}),
        (
            'x\nSteps: 1, Lora hashes: "a: b, c: \\"d\\"", Seed: 2',
            {"Prompt": "x", "Steps": "1", "Lora hashes": 'a: b, c: "d"', "Seed": "2"},
        ),
    ],
)
def test_infotexts(text: str, expected: dict[str, str]) -> None:
    parsed = infotext_parse(text)
    assert parsed == (expected and {"Negative prompt": "", "Clip skip": "1"} | expected)


def test_long_infotexts_take_no_time() -> None:
    """Quotes that are never closed, and words that might begin a name."""
    for text in ('a: "' * 60_000, "a" * 250_000, "a-/ " * 60_000, 'a: "' + "\\" * 250_000):
        infotext_parse(text)


def test_a_job_says_what_its_file_says(api: APIClient, worker: Worker) -> None:
    generation = finish(made(api.post(URL, REQUEST)), worker)
    file = api.get(f"{BASE}/results/{generation.id}").json()["images"][0]
    assert api.post(f"{BASE}/png-info", {"image": file}).status_code == 200
    assert io.BytesIO(base64.b64decode(file)).read(4) == b"\x89PNG"
