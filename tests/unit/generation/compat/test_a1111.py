"""A1111's dialect: what its clients always send is taken, and what would change the picture is refused."""

import base64
import json
from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from generation.attempts import generation_claim
from generation.compat.a1111.samplers import sampler_fit, sampler_label, sampler_read
from generation.compat.dialect import Params
from generation.feed.stream import event_publish
from generation.models import Generation, Worker
from generation.pictures.files import image_read
from imagegen_project.auth.services import token_create
from models_registry.family_facts import FAMILY_FACTS
from models_registry.schedulers import SCHEDULERS
from tests.support.dialects import finish, made, nothing_stored, warned
from tests.support.factories import GenerationMaker, client_of
from tests.support.pictures import MASK, PICTURE, text_of
from tests.unit.generation.test_lora_uses import make_lora

BASE = "/sdapi/v1"
URL = f"{BASE}/txt2img"
REQUEST = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 4}
IMG2IMG: dict[str, Any] = {"prompt": "a", "init_images": [text_of(PICTURE)], "denoising_strength": 0.5}

pytestmark = pytest.mark.django_db


def blamed(response: Any, status: int = 422) -> set[str]:
    """The fields that an error names, in FastAPI's list."""
    assert response.status_code == status, response.content
    body = response.json()
    assert set(body) == {"error", "detail", "body", "errors"}
    assert isinstance(body["detail"], list), body
    return {".".join(entry["loc"][1:]) for entry in body["detail"]}


def test_parameters_become_native_ones(api: APIClient) -> None:
    body = REQUEST | {
        "negative_prompt": "blue",
        "seed": 5,
        "cfg_scale": 3.5,
        "batch_size": 2,
        "n_iter": 3,
        "sampler_name": "DPM++ 2M",
        "scheduler": "Karras",
        "override_settings": {
            "sd_model_checkpoint": "builtin",
            "CLIP_stop_at_last_layers": 2,
            "samples_format": "jpg",
        },
    }
    generation = made(api.post(URL, body))
    assert (generation.negative_prompt, generation.seed, generation.guidance_scale) == ("blue", 5, 3.5)
    assert (generation.num_images, generation.scheduler) == (6, "dpmpp_2m_karras")
    assert (generation.clip_skip, generation.output_format) == (1, "jpeg")
    assert generation.warnings == []


@pytest.mark.parametrize(
    ("sampler", "scheduler", "expected"),
    [
        (None, None, ""),
        ("Automatic", "automatic", ""),
        ("Euler a", "automatic", "euler_a"),
        ("euler A", None, "euler_a"),
        ("DPM++ 2M Karras", "karras", "dpmpp_2m_karras"),
        ("UniPC", "uniform", "unipc_linspace"),
        ("Euler", "karras", "euler_karras"),
        ("Euler", "Karras", "euler_karras"),
        ("DPM++ 2M SDE", "exponential", "dpmpp_2m_sde_exponential"),
        ("DPM++ 3M SDE", "polyexponential", "dpmpp_3m_sde_exponential"),
        ("DPM++ SDE Karras", None, "dpmpp_sde_karras"),
        ("LMS", "SGM Uniform", "lms_trailing"),
        ("Euler SGM Uniform", None, "euler_trailing"),
        ("PLMS", "simple", "plms_trailing"),
        ("DDIM", "ddim", "ddim_leading"),
        ("DPM2", "normal", "dpm2_linspace"),
        ("Heun", "N/A", "heun"),
        ("", "", ""),
        ("dpm2_a", "automatic", "dpm2_a"),
    ],
)
def test_samplers(api: APIClient, sampler: Any, scheduler: Any, expected: str) -> None:
    settings = {"sd_model_checkpoint": "sd-1-5"}
    body = REQUEST | {"sampler_name": sampler, "scheduler": scheduler, "override_settings": settings}
    generation = made(api.post(URL, body | {"width": 512, "height": 512}))
    assert (generation.scheduler, generation.warnings) == (expected, [])


@pytest.mark.parametrize(
    ("sampler", "scheduler", "expected", "field"),
    [
        ("Euler a", "karras", "euler_a", "scheduler"),
        ("Automatic", "karras", "", "scheduler"),
        ("Euler", "kl_optimal", "euler", "scheduler"),
        ("DPM++ 2M Karras", "exponential", "dpmpp_2m_karras", "scheduler"),
        ("Euler", "beta", "euler", "scheduler"),
        ("Heun", "automatic", "heun_karras", "sampler_name"),
    ],
)
def test_a_combination_that_does_not_exist_becomes_the_nearest(
    api: APIClient, sampler: str, scheduler: str, expected: str, field: str
) -> None:
    """Both are listed, so each pair must work, and the answer says what was used."""
    generation = made(api.post(URL, REQUEST | {"sampler_name": sampler, "scheduler": scheduler}))
    assert generation.scheduler == expected
    assert warned(generation) == {field}


def test_every_pair_that_is_listed_draws(api: APIClient) -> None:
    """With a scheduler that fits the model."""
    samplers = [entry["name"] for entry in api.get(f"{BASE}/samplers").json()]
    types = [entry["name"] for entry in api.get(f"{BASE}/schedulers").json()]
    fitting = FAMILY_FACTS["builtin"].schedulers
    for sampler in samplers:
        for schedule in types:
            read = sampler_read(Params({"sampler_name": sampler, "scheduler": schedule}))["scheduler"]
            used = sampler_fit(Params({}), read, model="builtin")
            assert used in ("", *fitting)
            assert (used == "") == (sampler == "Automatic")


@pytest.mark.parametrize("scheduler", ["", *SCHEDULERS])
def test_a_label_is_read_as_what_it_names(scheduler: str) -> None:
    assert sampler_read(Params({"sampler_name": sampler_label(scheduler)})) == {"scheduler": scheduler}


def test_tags_in_the_prompt_are_adapters(api: APIClient, owner: User) -> None:
    make_lora(owner, "pastel")
    make_lora(owner, "outline")
    body = REQUEST | {"prompt": "a red <lora:pastel:0.8> circle <lora:outline>"}
    generation = made(api.post(URL, body))
    assert generation.prompt == "a red  circle"
    assert [(use.name, use.scale) for use in generation.adapters.all()] == [("pastel", 0.8), ("outline", 1.0)]


def test_an_empty_prompt_is_a_prompt(api: APIClient) -> None:
    assert made(api.post(URL, REQUEST | {"prompt": ""})).prompt == ""


def test_what_has_no_effect_is_said(api: APIClient) -> None:
    body = REQUEST | {"prompt": "a (red:1.3) circle", "eta": 1.0, "sampler_name": "DDIM"}
    assert warned(made(api.post(URL, body))) == {"prompt", "eta"}
    with_mask = IMG2IMG | {"mask": text_of(MASK), "mask_blur": 4, "inpaint_full_res": True}
    assert warned(made(api.post(f"{BASE}/img2img", with_mask))) == {"mask_blur", "inpaint_full_res"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"steps": 101}, "steps"),
        ({"cfg_scale": 0.5}, "cfg_scale"),
        ({"width": 100}, "width"),
        ({"seed": "x"}, "seed"),
        ({"batch_size": 9}, "batch_size"),
        ({"n_iter": 0}, "n_iter"),
        ({"sampler_name": "DPM adaptive"}, "sampler_name"),
        ({"sampler_name": ["Euler"]}, "sampler_name"),
        ({"scheduler": "turbo"}, "scheduler"),
        ({"scheduler": ["karras"]}, "scheduler"),
        ({"enable_hr": True}, "enable_hr"),
        ({"tiling": True}, "tiling"),
        ({"restore_faces": True}, "restore_faces"),
        ({"styles": ["a"]}, "styles"),
        ({"alwayson_scripts": {"ControlNet": {"args": []}}}, "alwayson_scripts"),
        ({"script_name": "x/y plot"}, "script_name"),
        ({"subseed_strength": 0.5}, "subseed_strength"),
        ({"eta": 0.5}, "eta"),
        ({"override_settings": {"eta_noise": 1}}, "override_settings.eta_noise"),
        (
            {"override_settings": {"CLIP_stop_at_last_layers": 99}},
            "override_settings.CLIP_stop_at_last_layers",
        ),
        ({"override_settings": 5}, "override_settings"),
        ({"prompt": "a <lora:x:strong>"}, "prompt"),
        ({"prompt": 5.5, "styles": None, "mystery": 1}, "mystery"),
        ({"prompt": ["a"]}, "prompt"),
    ],
)
def test_bad_parameters_are_named(api: APIClient, changes: dict[str, Any], field: str) -> None:
    assert blamed(api.post(URL, REQUEST | changes)) == {field}
    assert nothing_stored()


def test_errors_have_their_shape(api: APIClient) -> None:
    assert blamed(api.post(URL, REQUEST | {"override_settings": {"sd_model_checkpoint": "none"}}), 404)
    missing = api.post(f"{BASE}/img2img", {"prompt": "a"})
    assert (missing.status_code, missing.json()["detail"]) == (404, "Init image not found")
    assert api.get(f"{BASE}/nothing").json()["error"] == "not_found"
    stranger = APIClient().post(URL, REQUEST)
    assert (stranger.status_code, stranger["WWW-Authenticate"]) == (401, 'Basic realm="imagegen"')
    assert set(stranger.json()) == {"error", "detail", "body", "errors"}


def test_basic_authentication_with_a_token(owner: User) -> None:
    """Whatever the name before it; a password that is no token is 401."""
    token = token_create(user=owner, expires_in=None)
    client = APIClient()

    def status(password: str) -> int:
        header = "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()
        return client.get(f"{BASE}/progress", headers={"authorization": header}).status_code

    assert [status(password) for password in (token, "img_wrong", "", "two words")] == [200, 401, 401, 401]
    for header in ("Basic", "Basic !!!", "Basic " + base64.b64encode("ä:ö".encode()).decode()):
        assert client.get(f"{BASE}/progress", headers={"authorization": header}).status_code == 401


def test_pictures_from_pictures(api: APIClient) -> None:
    """With a mask it is inpainting; several pictures are refused."""
    generation = made(api.post(f"{BASE}/img2img", IMG2IMG | {"resize_mode": 1}))
    assert (generation.kind, generation.strength, generation.width) == ("img2img", 0.5, 256)
    assert made(api.post(f"{BASE}/img2img", IMG2IMG | {"mask": text_of(MASK)})).kind == "inpaint"
    for changes, field in (
        ({"init_images": IMG2IMG["init_images"] * 2}, "init_images"),
        ({"init_images": ["no picture"]}, "init_images"),
        ({"init_images": "text"}, "init_images"),
        ({"denoising_strength": 0}, "denoising_strength"),
        ({"mask": "no picture"}, "mask"),
        ({"inpainting_mask_invert": 1}, "inpainting_mask_invert"),
        ({"resize_mode": 2}, "resize_mode"),
    ):
        assert blamed(api.post(f"{BASE}/img2img", IMG2IMG | changes)) == {field}


def test_results_have_pictures_parameters_and_info(api: APIClient, worker: Worker) -> None:
    generation = finish(made(api.post(URL, REQUEST | {"seed": 5})), worker)
    body = api.get(f"{BASE}/results/{generation.id}").json()
    assert set(body) == {"images", "parameters", "info"}
    assert base64.b64decode(body["images"][0]) == image_read(generation.images.get())
    info = json.loads(body["info"])
    assert (info["seed"], info["all_seeds"], len(info["infotexts"])) == (5, [5], 1)
    assert info["sd_model_name"] == "builtin"
    assert api.get(f"{BASE}/results/{generation.id}?send_images=false").json()["images"] == []


def test_idle_progress(api: APIClient) -> None:
    body = api.get(f"{BASE}/progress").json()
    assert (body["progress"], body["state"]["job_count"], body["current_image"]) == (0, 0, None)


def test_progress_shows_the_callers_job(
    make: GenerationMaker, api: APIClient, stranger: User, worker: Worker
) -> None:
    """What runs before what waits, from whichever door, with the latest preview; nothing of anybody else's."""
    first = make()
    make()
    generation_claim(worker=worker)
    Generation.objects.filter(pk=first.pk).update(step=1)
    event_publish(first.id, "progress", attempt=1, step=1, preview="cGljdHVyZQ==")
    event_publish(first.id, "progress", attempt=1, step=2, preview=None)
    response = api.get(f"{BASE}/progress")
    body = response.json()
    assert (body["progress"], body["state"]["job_count"]) == (0.25, 2)
    assert (body["state"]["job"], body["current_image"]) == (str(first.id), "cGljdHVyZQ==")
    assert response["X-Job-Id"] == str(first.id)
    assert api.get(f"{BASE}/progress?skip_current_image=true").json()["current_image"] is None
    assert client_of(stranger).get(f"{BASE}/progress").json()["state"]["job_count"] == 0


def test_interrupt_stops_only_the_callers_job(make: GenerationMaker, api: APIClient, stranger: User) -> None:
    mine, theirs = make(), make(owner=stranger)
    response = api.post(f"{BASE}/interrupt")
    assert (response.json(), response["X-Job-Id"]) == ({}, str(mine.id))
    mine.refresh_from_db()
    theirs.refresh_from_db()
    assert (mine.status, theirs.status) == ("canceled", "queued")
    assert api.post(f"{BASE}/interrupt").json() == {}


def test_options_are_each_users_own(api: APIClient, stranger: User) -> None:
    """A part, or the whole object as it was read; requests follow them."""
    assert api.get(f"{BASE}/options").json()["sd_model_checkpoint"] == "builtin"
    assert api.post(f"{BASE}/options", {"sd_model_checkpoint": "sd-xl-base"}).status_code == 200
    whole = api.get(f"{BASE}/options").json()
    assert whole["sd_model_checkpoint"] == "sd-xl-base"
    assert api.post(f"{BASE}/options", whole | {"CLIP_stop_at_last_layers": 2}).status_code == 200
    generation = made(api.post(URL, {"prompt": "a"}))
    assert (generation.checkpoint_id, generation.clip_skip) == ("sd-xl-base", 1)
    assert client_of(stranger).get(f"{BASE}/options").json()["sd_model_checkpoint"] == "builtin"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"sd_model_checkpoint": "none"}, "sd_model_checkpoint"),
        ({"sd_vae": "other"}, "sd_vae"),
        ({"samples_format": "gif"}, "samples_format"),
        ({"live_previews_enable": True}, "live_previews_enable"),
    ],
)
def test_bad_options_are_named(api: APIClient, changes: dict[str, Any], field: str) -> None:
    response = api.post(f"{BASE}/options", changes)
    assert blamed(response, response.status_code) == {field}
    assert response.status_code in (404, 422)


def test_lists(api: APIClient, owner: User) -> None:
    make_lora(owner, "mine")
    assert {"title", "model_name", "hash", "sha256", "filename", "config"} == set(
        api.get(f"{BASE}/sd-models").json()[0]
    )
    assert "Euler a" in {sampler["name"] for sampler in api.get(f"{BASE}/samplers").json()}
    assert {"automatic", "karras"} < {entry["name"] for entry in api.get(f"{BASE}/schedulers").json()}
    assert "mine" in {lora["name"] for lora in api.get(f"{BASE}/loras").json()}
    assert api.get(f"{BASE}/upscalers").json()[0]["name"] == "None"
    assert [api.get(f"{BASE}/{name}").json() for name in ("latent-upscale-modes", "sd-vae")] == [[], []]
