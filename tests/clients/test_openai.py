"""OpenAI's own client against the running service."""

import base64
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from tests.support.live import Live
from tests.support.pictures import PICTURE, decoded
from tests.unit.generation.compat.test_openai import hole

QUICK: dict[str, Any] = {
    "model": "builtin",
    "prompt": "a red circle",
    "size": "256x256",
    "extra_body": {"num_inference_steps": 2, "seed": 7},
}


@pytest.fixture
def client(live: Live) -> Iterator[openai.OpenAI]:
    """The client, with the service's address and nothing else changed."""
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key=live.token) as made:
        yield made


def test_generate_as_base64(live: Live, client: openai.OpenAI) -> None:
    """Three pictures, of a job that the native API knows."""
    raw = client.images.with_raw_response.generate(**QUICK, n=3)
    answer = raw.parse()
    assert answer.data is not None
    files = [base64.b64decode(image.b64_json or "") for image in answer.data]
    assert [decoded(file).size for file in files] == [(256, 256)] * 3
    job = live.get(raw.headers["x-job-id"])
    assert (job["status"], job["seed"], job["num_images"]) == ("succeeded", 7, 3)
    assert files == [live.picture(job["id"], index) for index in range(3)]


def test_generate_as_urls(live: Live, client: openai.OpenAI) -> None:
    """Fetched by anybody, whole, in part, or its head alone, until the job is deleted."""
    raw = client.images.with_raw_response.generate(**QUICK, response_format="url")
    answer = raw.parse()
    assert answer.data is not None
    url = answer.data[0].url or ""
    whole = httpx2.get(url)
    assert decoded(whole.content).size == (256, 256)
    assert httpx2.get(url, headers={"Range": "bytes=0-7"}).content == b"\x89PNG\r\n\x1a\n"
    head = httpx2.head(url)
    assert (head.content, int(head.headers["content-length"])) == (b"", len(whole.content))
    live.http.delete(f"/api/v1/generations/{raw.headers['x-job-id']}")
    assert httpx2.get(url).status_code == 404


def test_stream(client: openai.OpenAI) -> None:
    """As many partial pictures as were asked for, in order; the finished one at the end."""
    request = QUICK | {"extra_body": {"num_inference_steps": 30}}
    *partial, last = client.images.generate(**request, stream=True, partial_images=2)
    for number, event in enumerate(partial):
        assert event.type == "image_generation.partial_image"
        assert (event.partial_image_index, event.output_format) == (number, "png")
        width, height = decoded(base64.b64decode(event.b64_json)).size
        assert width == height > 1
    assert len(partial) == 2
    assert last.type == "image_generation.completed"
    assert (last.size, last.output_format, last.usage.total_tokens) == ("256x256", "png", 0)
    assert decoded(base64.b64decode(last.b64_json)).size == (256, 256)


def test_edit_with_a_mask(live: Live, client: openai.OpenAI) -> None:
    """Outside of what is transparent, the picture stays as it was, to the pixel."""
    raw = client.images.with_raw_response.edit(
        image=("in.png", PICTURE),
        mask=("mask.png", hole()),
        prompt="a blue star",
        extra_body={"num_inference_steps": "2"},
    )
    answer = raw.parse()
    assert answer.data is not None
    drawn = decoded(base64.b64decode(answer.data[0].b64_json or ""))
    right = (128, 0, 256, 256)
    assert drawn.crop(right).tobytes() == decoded(PICTURE).crop(right).tobytes()
    assert live.get(raw.headers["x-job-id"])["kind"] == "inpaint"


def test_edit_streamed_from_a_list(client: openai.OpenAI) -> None:
    stream = client.images.edit(
        image=[("in.png", PICTURE)], prompt="a", stream=True, extra_body={"num_inference_steps": "2"}
    )
    assert [event.type for event in stream][-1] == "image_edit.completed"


def test_openais_own_words(client: openai.OpenAI) -> None:
    """A call that no line of was written for this service; the address opens as OpenAI's do."""
    answer = client.images.generate(model="dall-e-3", prompt="a star", size="256x256", quality="low", n=1)
    assert answer.data is not None
    assert decoded(httpx2.get(answer.data[0].url or "").content).size == (256, 256)
    assert answer.usage is not None
    assert (answer.quality, answer.size, answer.background) == ("low", "256x256", "opaque")


def test_variations(client: openai.OpenAI) -> None:
    with pytest.deprecated_call():  # OpenAI has given them up; their clients have not all
        answer = client.images.create_variation(
            image=("in.png", PICTURE), size="256x256", response_format="b64_json"
        )
    assert answer.data is not None
    assert decoded(base64.b64decode(answer.data[0].b64_json or "")).size == (256, 256)


def test_models(client: openai.OpenAI) -> None:
    assert "builtin" in {model.id for model in client.models.list()}
    assert client.models.retrieve("builtin").object == "model"


def test_errors_are_the_clients_own(live: Live, client: openai.OpenAI) -> None:
    """Each with code and parameter where the client looks for them."""
    with pytest.raises(openai.BadRequestError) as bad:
        client.images.generate(**QUICK | {"size": "17x17"})
    assert (bad.value.param, bad.value.type) == ("size", "invalid_request_error")
    with pytest.raises(openai.NotFoundError) as missing:
        client.images.generate(**QUICK | {"model": "gpt-4"})
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")
    with (
        openai.OpenAI(base_url=f"{live.url}/v1", api_key="img_wrong") as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()
    with pytest.raises(openai.APIStatusError) as large:
        client.images.edit(image=("in.png", bytes(2_000_000)), prompt="a")
    assert (large.value.status_code, large.value.code) == (413, "body_too_large")


def test_a_canceled_job_raises_once(live: Live, client: openai.OpenAI) -> None:
    """The client repeats conflicts by itself, unless it is told not to; a stream raises too."""
    with live.undrawn():
        before = {job["id"] for job in live.http.get("/api/v1/generations").json()["results"]}
        events = client.images.generate(**QUICK, stream=True)
        new = {job["id"] for job in live.http.get("/api/v1/generations").json()["results"]} - before
        assert len(new) == 1
        live.http.post(f"/api/v1/generations/{new.pop()}/cancel")
        with pytest.raises(openai.APIError) as canceled:
            list(events)
        assert canceled.value.code == "canceled"


async def test_the_asynchronous_client(live: Live) -> None:
    async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key=live.token) as client:
        events = [event async for event in await client.images.generate(**QUICK, stream=True)]
    assert events[-1].type == "image_generation.completed"
