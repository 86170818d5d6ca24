"""LiteLLM: its image calls, with `openai/` before a model's name."""

import asyncio
import base64
import urllib.request

import litellm
from checks import TOKEN, URL, is_png, picture, run

SERVICE = {"api_base": f"{URL}/v1", "api_key": TOKEN}
SMALL = {"prompt": "a red circle", "size": "256x256"}


def is_picture(answer) -> bool:
    return is_png(base64.b64decode(answer.data[0].b64_json))


def image_generation() -> None:
    for model in ("openai/builtin", "openai/gpt-image-1"):
        assert is_picture(litellm.image_generation(model=model, quality="low", **SMALL, **SERVICE))


def pictures_by_url() -> None:
    answer = litellm.image_generation(model="openai/dall-e-3", n=1, **SMALL, **SERVICE)
    with urllib.request.urlopen(answer.data[0].url) as found:
        assert is_png(found.read())


def aimage_generation() -> None:
    assert is_picture(asyncio.run(litellm.aimage_generation(model="openai/builtin", **SMALL, **SERVICE)))


def image_edit() -> None:
    answer = litellm.image_edit(model="openai/gpt-image-1", image=picture(), prompt="a star", **SERVICE)
    assert is_picture(answer)


def image_edit_with_a_mask() -> None:
    answer = litellm.image_edit(
        model="openai/gpt-image-1", image=[picture()], mask=picture("mask.png"), prompt="a star", **SERVICE
    )
    assert is_picture(answer)


def image_variation() -> None:
    answer = litellm.image_variation(model="openai/dall-e-2", image=picture(), **SERVICE)
    with urllib.request.urlopen(answer.data[0].url) as found:
        assert is_png(found.read())


def errors() -> None:
    said = ""
    try:
        litellm.image_generation(model="openai/builtin", prompt="a", size="17x17", **SERVICE)
    except litellm.BadRequestError as error:
        said = str(error)
    assert "size" in said


run(
    image_generation,
    pictures_by_url,
    aimage_generation,
    image_edit,
    image_edit_with_a_mask,
    image_variation,
    errors,
)
