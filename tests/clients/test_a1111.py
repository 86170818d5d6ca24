"""A client of A1111's API against the running service."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import webuiapi

from tests.support.live import Live
from tests.support.pictures import PICTURE, decoded, gradient, mask_of
from tests.support.service import wait_for

QUICK: dict[str, Any] = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 2}


def webui(live: Live, password: str) -> webuiapi.WebUIApi:
    """The client, with a token as its password."""
    return webuiapi.WebUIApi(host="127.0.0.1", port=live.service.port, username="anyone", password=password)


@pytest.fixture
def client(live: Live) -> Iterator[webuiapi.WebUIApi]:
    """The local user's client."""
    made = webui(live, live.token)
    with made.session:
        yield made


def test_txt2img(live: Live, client: webuiapi.WebUIApi) -> None:
    answer = client.txt2img(**QUICK, seed=7, batch_size=2, n_iter=2, negative_prompt="blue")
    assert [image.size for image in answer.images] == [(256, 256)] * 4
    assert answer.info["all_seeds"] == [7, 8, 9, 10]
    assert "Negative prompt: blue" in answer.info["infotexts"][0]
    assert answer.parameters["sampler_name"] == "Euler a"
    assert live.get(answer.info["job_id"])["status"] == "succeeded"


def test_img2img(live: Live, client: webuiapi.WebUIApi) -> None:
    """With a mask it is inpainting; without a picture it is 404."""
    image = gradient(256, 256)
    answer = client.img2img(images=[image], **QUICK)
    assert answer.image.size == (256, 256)
    answer = client.img2img(images=[image], mask_image=mask_of(image), **QUICK)
    left = (0, 0, 128, 256)
    assert answer.image.crop(left).tobytes() == decoded(PICTURE).crop(left).tobytes()
    assert live.get(answer.info["job_id"])["kind"] == "inpaint"
    with pytest.raises(RuntimeError, match="404"):
        client.img2img(images=[], **QUICK)


def test_progress_and_interrupt(live: Live, client: webuiapi.WebUIApi) -> None:
    """Progress grows while it runs; an interrupt ends the call that waits, and the job."""
    client.util_wait_for_ready(check_interval=0.1)
    failures: list[RuntimeError] = []

    def draw() -> None:
        try:
            client.txt2img(**QUICK | {"width": 1024, "height": 1024, "steps": 100})
        except RuntimeError as error:
            failures.append(error)

    drawing = threading.Thread(target=draw)
    drawing.start()
    wait_for(lambda: client.get_progress()["progress"] > 0, "progress")
    state = client.get_progress()["state"]
    assert (state["job_count"], state["sampling_steps"]) == (1, 100)
    assert client.interrupt() == {}
    drawing.join()
    assert failures[0].args[0] == 409
    assert live.get(state["job"])["status"] == "canceled"
    idle = client.get_progress()
    assert (idle["progress"], idle["state"]["job_count"]) == (0, 0)


def test_options_and_models(client: webuiapi.WebUIApi) -> None:
    assert client.util_get_current_model() == "builtin"
    assert "sd-xl-base" in client.util_get_model_names()
    client.util_set_model("sd-xl-bas")
    assert client.util_get_current_model() == "sd-xl-base"
    client.set_options(client.get_options() | {"sd_model_checkpoint": "builtin"})
    assert client.util_get_current_model() == "builtin"


def test_lists(client: webuiapi.WebUIApi) -> None:
    assert "Euler a" in client.util_get_sampler_names()
    assert "karras" in client.util_get_scheduler_names()
    assert client.get_upscalers()[0]["name"] == "None"
    assert client.get_latent_upscale_modes() == client.get_sd_vae() == []
    assert isinstance(client.get_loras(), list)


def test_errors(live: Live, client: webuiapi.WebUIApi) -> None:
    with pytest.raises(RuntimeError, match="enable_hr"):
        client.txt2img(**QUICK, enable_hr=True)
    with pytest.raises(RuntimeError, match="sampler_name"):
        client.txt2img(**QUICK, sampler_name="DPM adaptive")
    stranger = webui(live, "img_no")
    with stranger.session, pytest.raises(RuntimeError, match="401"):
        stranger.txt2img(**QUICK)
