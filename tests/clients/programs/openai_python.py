"""`openai` for Python: every call of its images, and its models."""

import base64
import urllib.request

import openai
from checks import TOKEN, URL, is_png, picture, run

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=TOKEN)
SMALL = {"prompt": "a red circle", "size": "256x256", "quality": "low"}


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url) as found:
        return found.read()


def generate() -> None:
    answer = client.images.generate(**SMALL, model="gpt-image-2.5-flare", n=2, output_format="png")
    assert [is_png(base64.b64decode(image.b64_json)) for image in answer.data] == [True, True]


def pictures_by_url() -> None:
    assert is_png(fetched(client.images.generate(**SMALL, model="dall-e-3").data[0].url))


def stream() -> None:
    request = {"prompt": "a star", "size": "256x256", "model": "gpt-image-1"}
    events = [event.type for event in client.images.generate(**request, stream=True, partial_images=2)]
    assert events[-1] == "image_generation.completed", events
    assert len(events) == 3, events


def edit_with_a_mask() -> None:
    answer = client.images.edit(**SMALL, model="gpt-image-1", image=picture(), mask=picture("mask.png"))
    assert is_png(base64.b64decode(answer.data[0].b64_json))


def variation() -> None:
    assert is_png(fetched(client.images.create_variation(image=picture(), size="256x256").data[0].url))


def models() -> None:
    assert "builtin" in {model.id for model in client.models.list()}
    assert client.models.retrieve("gpt-image-1").id == "gpt-image-1"


run(generate, pictures_by_url, stream, edit_with_a_mask, variation, models)
