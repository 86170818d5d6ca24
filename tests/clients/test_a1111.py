"""Clients of A1111's API against the running service."""

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import webuiapi

from tests.support.a1111_upstream import CHECKS
from tests.support.live import Live
from tests.support.pictures import PICTURE, decoded, gradient, mask_of
from tests.support.service import SAFETY_S, wait_for
from tests.unit.generation.compat.test_a1111 import SILLY_TAVERN

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


@pytest.mark.parametrize("name", CHECKS)
def test_a1111s_own_tests(live: Live, name: str) -> None:
    assert CHECKS[name](live.http)


def test_txt2img(live: Live, client: webuiapi.WebUIApi) -> None:
    answer = client.txt2img(**QUICK, seed=7, batch_size=2, n_iter=2, negative_prompt="blue")
    assert [image.size for image in answer.images] == [(256, 256)] * 4
    assert answer.info["all_seeds"] == [7, 8, 9, 10]
    assert "Negative prompt: blue" in answer.info["infotexts"][0]
    for part in ("Sampler: Euler a", f"Model hash: {answer.info['sd_model_hash']}", "Version: imagegen"):
        assert part in answer.info["infotexts"][0]
    assert answer.parameters["sampler_name"] == answer.info["sampler_name"] == "Euler a"
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


def test_pictures_without_a_job(client: webuiapi.WebUIApi) -> None:
    image = gradient(64, 64)
    assert client.extra_single_image(image, upscaler_1=webuiapi.Upscaler.Lanczos).image.size == (128, 128)
    batch = client.extra_batch_images([image] * 2, upscaler_1="Nearest", upscaling_resize=3)
    assert [picture.size for picture in batch.images] == [(192, 192)] * 2
    drawn = client.txt2img(**QUICK, seed=7)
    assert client.png_info(drawn.image).info == drawn.info["infotexts"][0]
    with pytest.raises(RuntimeError, match="501"):
        client.interrogate(image)


def test_extensions_that_are_absent(client: webuiapi.WebUIApi) -> None:
    """A unit that asks for something is refused in A1111's words, one that is off is not."""
    unit = webuiapi.ControlNetUnit(image=gradient(64, 64), module="canny", model="control")
    with pytest.raises(RuntimeError, match="not found"):
        client.txt2img(**QUICK, controlnet_units=[unit], alwayson_scripts={})
    off = webuiapi.ControlNetUnit(image=gradient(64, 64), enabled=False)
    assert client.txt2img(**QUICK, controlnet_units=[off], alwayson_scripts={}).image.size == (256, 256)
    with pytest.raises(RuntimeError, match="not found"):
        client.txt2img(**QUICK, adetailer=[webuiapi.ADetailer(ad_model="face.pt")], alwayson_scripts={})
    with pytest.raises(RuntimeError, match="script_name"):
        client.txt2img(**QUICK, script_name="X/Y/Z Plot", script_args=[], alwayson_scripts={})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of aiohttp, about how the client calls it
def test_asynchronously(client: webuiapi.WebUIApi) -> None:
    async def draw() -> Any:
        return await client.txt2img(**QUICK, use_async=True)

    assert asyncio.run(draw()).image.size == (256, 256)


def test_progress_and_interrupt(live: Live, client: webuiapi.WebUIApi) -> None:
    """Progress grows while it runs; an interrupt ends the job, and the call that waits with what was drawn."""
    client.util_wait_for_ready(check_interval=0.1)
    answers: list[Any] = []

    def draw() -> None:
        answers.append(client.txt2img(**QUICK | {"width": 1024, "height": 1024, "steps": 100}))

    drawing = threading.Thread(target=draw)
    drawing.start()
    wait_for(lambda: client.get_progress()["current_image"], "a preview")
    state = client.get_progress()["state"]
    assert (state["job_count"], state["sampling_steps"]) == (1, 100)
    assert client.interrupt() == {}
    drawing.join()
    assert answers[0].image.size == (1024, 1024)
    assert answers[0].info["job_id"] == state["job"]
    assert live.get(state["job"])["status"] == "canceled"
    idle = client.get_progress()
    assert (idle["progress"], idle["state"]["job_count"]) == (0, 0)
    assert client.skip() is None


def test_options_and_models(client: webuiapi.WebUIApi) -> None:
    assert client.util_get_current_model() == "builtin"
    assert "sd-xl-base" in client.util_get_model_names()
    client.util_set_model("sd-xl-bas")
    assert client.util_get_current_model() == "sd-xl-base"
    client.set_options(client.get_options() | {"sd_model_checkpoint": "builtin", "my_plugin": {"a": 1}})
    assert client.util_get_current_model() == "builtin"
    assert client.get_options()["my_plugin"] == {"a": 1}


def test_lists(client: webuiapi.WebUIApi) -> None:
    assert "Euler a" in client.util_get_sampler_names()
    assert "karras" in client.util_get_scheduler_names()
    assert [entry["name"] for entry in client.get_upscalers()] == ["None", "Lanczos", "Nearest"]
    assert isinstance(client.get_loras(), list)
    for empty in ("latent_upscale_modes", "sd_vae", "hypernetworks", "face_restorers", "realesrgan_models"):
        assert getattr(client, f"get_{empty}")() == []
    assert client.get_prompt_styles() == []
    assert client.get_scripts() == {"txt2img": [], "img2img": ["sd upscale"]}
    assert client.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert client.get_cmd_flags()["api"] is True
    assert client.get_memory()["ram"]["total"] > 0
    assert client.refresh_checkpoints() is None
    assert client.get_artists()["error"] == "not_found"


def test_errors(live: Live, client: webuiapi.WebUIApi) -> None:
    with pytest.raises(RuntimeError, match="steps"):
        client.txt2img(**QUICK | {"steps": "many"})
    with pytest.raises(RuntimeError, match="404"):
        client.txt2img(**QUICK, sampler_name="DPM adaptive")
    stranger = webui(live, "img_no")
    with stranger.session, pytest.raises(RuntimeError, match="401"):
        stranger.txt2img(**QUICK)


def silly_tavern(http: httpx2.Client, credentials: str) -> dict[str, Any]:
    """What SillyTavern's server asks until it has a picture, with its own headers; the last answer."""
    headers = {"Authorization": ("Basic " + base64.b64encode(credentials.encode()).decode()).strip()}
    lists = {}
    for route in (
        *("options", "upscalers", "latent-upscale-modes", "sd-vae", "sd-modules"),
        *("samplers", "schedulers", "sd-models"),
    ):
        answer = http.get(f"/sdapi/v1/{route}", headers=headers)
        assert answer.status_code == 200, (route, answer.text)
        lists[route] = answer.json()
    chosen = {
        "sd_model_checkpoint": next(
            entry["title"] for entry in lists["sd-models"] if entry["title"] == "builtin"
        )
    }
    assert http.post("/sdapi/v1/options", json=chosen, headers=headers).status_code == 200
    progress = http.get("/sdapi/v1/progress", headers=headers).json()
    assert (progress["progress"], progress["state"]["job_count"]) == (0, 0)
    drawn: dict[str, Any] = {}
    for schedule in ("normal", "karras"):
        body = SILLY_TAVERN | {
            "auth": credentials,
            "steps": 2,
            "scheduler": schedule,
            "sampler_name": "DPM++ 2M SDE",
        }
        answer = http.post(
            "/sdapi/v1/txt2img",
            content=json.dumps(body),
            headers=headers | {"Content-Type": "application/json"},
        )
        assert answer.status_code == 200, answer.text
        drawn = answer.json()
    return drawn


def test_sillytavern(live: Live) -> None:
    """Its lists, its way to set a model, and its request."""
    with httpx2.Client(base_url=live.url, timeout=SAFETY_S) as http:
        drawn = silly_tavern(http, f"me:{live.token}")
    assert decoded(base64.b64decode(drawn["images"][0])).size == (512, 512)
    assert live.token not in live.service.output()
    assert live.token not in json.dumps(live.get(json.loads(drawn["info"])["job_id"]))


def test_clients_with_no_place_for_credentials(live: Live) -> None:
    """A service that loopback may use, from its own address and not from a page of another one."""
    with live.web_beside(A1111_OPEN_NETWORKS="loopback") as (url, _):
        with httpx2.Client(base_url=url, timeout=SAFETY_S) as http:
            drawn = silly_tavern(http, "")
            assert decoded(base64.b64decode(drawn["images"][0])).size == (512, 512)
            for headers in ({"Origin": "https://evil.example"}, {"X-Forwarded-For": "127.0.0.1"}):
                assert http.get("/sdapi/v1/options", headers=headers).status_code == 401
            assert http.get("/sdapi/v1/options", headers={"Host": "evil.example"}).status_code == 400
            assert http.get("/api/v1/generations").status_code == 401
        plain = webuiapi.WebUIApi(host="127.0.0.1", port=int(url.rpartition(":")[2]))
        with plain.session:
            assert plain.txt2img(**QUICK).image.size == (256, 256)
