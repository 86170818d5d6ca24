"""huggingface_hub's own inference client against the running service."""

from collections.abc import Iterator
from typing import Any

import pytest
from huggingface_hub import AsyncInferenceClient, ImageToImageTargetSize, InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import close_session

from tests.support.live import Live
from tests.support.pictures import PICTURE

QUICK: dict[str, Any] = {"width": 320, "height": 256, "num_inference_steps": 2, "seed": 7}


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_session()


@pytest.fixture
def client(live: Live) -> InferenceClient:
    """The client, with the model's address on this service."""
    # With a provider, since it checks health for that one alone; requests go to the address all the same.
    return InferenceClient(model=f"{live.url}/hf/builtin", token=live.token, provider="hf-inference")


def test_text_to_image(live: Live, client: InferenceClient) -> None:
    image = client.text_to_image("a red circle", negative_prompt="blue", guidance_scale=3.0, **QUICK)
    assert image.size == (320, 256)
    newest = live.http.get("/api/v1/generations").json()["results"][0]
    assert (newest["prompt"], newest["guidance_scale"], newest["seed"]) == ("a red circle", 3.0, 7)


def test_image_to_image(client: InferenceClient) -> None:
    """With a prompt and a size, and with the picture alone."""
    size = ImageToImageTargetSize(width=384, height=256)
    drawn = client.image_to_image(PICTURE, prompt="a star", target_size=size, num_inference_steps=2)
    assert drawn.size == (384, 256)
    assert client.image_to_image(PICTURE).size == (256, 256)


async def test_the_asynchronous_client(live: Live) -> None:
    async with AsyncInferenceClient(model=f"{live.url}/hf/builtin", token=live.token) as client:
        assert (await client.text_to_image("a red circle", **QUICK)).size == (320, 256)


def test_errors_are_the_clients_own(live: Live, client: InferenceClient) -> None:
    """With the server's sentence in them."""
    with pytest.raises(HfHubHTTPError, match=r"parameters\.width") as bad:
        client.text_to_image("a", width=17)
    assert bad.value.response.status_code == 400
    with pytest.raises(HfHubHTTPError, match="nothing") as missing:
        client.text_to_image("a", model=f"{live.url}/hf/nothing")
    assert missing.value.response.status_code == 404
    stranger = InferenceClient(model=f"{live.url}/hf/builtin", token="img_wrong")  # noqa: S106 - no real one
    with pytest.raises(HfHubHTTPError) as refused:
        stranger.text_to_image("a")
    assert refused.value.response.status_code == 401


def test_health_and_info(client: InferenceClient) -> None:
    assert client.health_check()
    assert client.get_endpoint_info()["model_pipeline_tag"] == "text-to-image"
