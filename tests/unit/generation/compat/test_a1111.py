"""A1111's dialect: what its clients send is taken, and what has no effect is said."""

import json
from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from generation.compat.a1111.samplers import sampler_fit, sampler_read
from generation.compat.dialect import Params
from generation.requests.a1111_words import sampler_labels
from models_registry.family_facts import FAMILY_FACTS
from models_registry.schedulers import SCHEDULERS
from tests.support.dialects import made, nothing_stored, warned
from tests.unit.generation.test_lora_uses import make_lora

BASE = "/sdapi/v1"
URL = f"{BASE}/txt2img"
REQUEST = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 4}


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
def test_labels_are_read_as_what_they_name(scheduler: str) -> None:
    sampler, schedule = sampler_labels(scheduler)
    read = sampler_read(Params({"sampler_name": sampler, "scheduler": schedule}))
    assert read == {"scheduler": scheduler}


@pytest.mark.parametrize("scheduler", ["no such", 5, ["karras"]])
def test_a_schedule_that_is_not_known_is_the_samplers_own(api: APIClient, scheduler: Any) -> None:
    generation = made(api.post(URL, REQUEST | {"sampler_name": "Euler", "scheduler": scheduler}))
    assert (generation.scheduler, warned(generation)) == ("euler", {"scheduler"})


def test_an_unknown_sampler_is_404(api: APIClient) -> None:
    response = api.post(URL, REQUEST | {"sampler_name": "DPM adaptive"})
    assert response.status_code == 404
    assert response.json()["detail"].startswith("Sampler not found")
    assert nothing_stored()


def test_tags_in_the_prompt_are_adapters(api: APIClient, owner: User) -> None:
    make_lora(owner, "pastel")
    make_lora(owner, "outline")
    body = REQUEST | {"prompt": "a red <lora:pastel:0.8> circle <lora:outline>"}
    generation = made(api.post(URL, body))
    assert generation.prompt == "a red  circle"
    assert [(use.name, use.scale) for use in generation.adapters.all()] == [("pastel", 0.8), ("outline", 1.0)]


@pytest.mark.parametrize(
    ("tag", "used", "said"),
    [
        ("<lora:pastel:0.5:0.5>", 0.5, set()),
        ("<lyco:pastel:te=0.4:unet=0.4>", 0.4, set()),
        ("<lora:pastel:0.8:0.5>", 0.5, {"prompt"}),
        ("<lora:pastel:-1>", 0.0, {"prompt"}),
        ("<lora:pastel:0.3> <lora:pastel:0.7>", 0.7, set()),
    ],
)
def test_strengths_in_tags(api: APIClient, owner: User, tag: str, used: float, said: set[str]) -> None:
    """As A1111 reads them; where it does what there is not here, the nearest, with a warning."""
    make_lora(owner, "pastel")
    generation = made(api.post(URL, REQUEST | {"prompt": f"a red circle {tag}"}))
    assert (generation.prompt, warned(generation)) == ("a red circle", said)
    assert [(use.name, use.scale) for use in generation.adapters.all()] == [("pastel", used)]


def test_layers_beyond_the_last_are_the_last(api: APIClient) -> None:
    generation = made(api.post(URL, REQUEST | {"override_settings": {"CLIP_stop_at_last_layers": 99}}))
    assert generation.clip_skip == FAMILY_FACTS["builtin"].max_clip_skip
    assert "override_settings.CLIP_stop_at_last_layers" in warned(generation)


def test_options_that_a1111_takes_are_taken(api: APIClient, settings: Any) -> None:
    """What they come to is what is read again; a model that there is not is an error there too."""
    odd = {"samples_format": "avif", "CLIP_stop_at_last_layers": 99}
    assert api.post(f"{BASE}/options", odd).status_code == 200
    body = api.get(f"{BASE}/options").json()
    assert (body["samples_format"], body["CLIP_stop_at_last_layers"]) == ("png", 12)
    assert blamed(api.post(f"{BASE}/options", odd | {"sd_model_checkpoint": "x"}), 404) == {
        "sd_model_checkpoint"
    }
    settings.A1111_STRICT = True
    assert blamed(api.post(f"{BASE}/options", odd)) == odd.keys()


def test_all_that_is_wrong_is_named_at_once(api: APIClient) -> None:
    """By the dialect's own reading and by the native fields; what hangs on a wrong field is not blamed for it."""
    body = {"cfg_scale": "x", "batch_size": 0, "seed": "x", "script_name": "y"}
    response = api.post(URL, REQUEST | body | {"override_settings": {"samples_format": 5}})
    assert blamed(response) == {*body, "override_settings.samples_format"}
    assert all(f"{name}: " in response.json()["errors"] for name in ("cfg_scale", "seed", "script_name"))
    picture = {"init_images": ["no picture"], "mask": "no picture", "inpainting_fill": 9, "resize_mode": 9}
    assert blamed(api.post(f"{BASE}/img2img", {"prompt": 5.5} | picture)) == {"prompt", *picture}
    assert nothing_stored()


def test_an_empty_prompt_is_a_prompt(api: APIClient) -> None:
    assert made(api.post(URL, REQUEST | {"prompt": ""})).prompt == ""


SILLY_TAVERN: dict[str, Any] = {
    "url": "http://127.0.0.1:7860",
    "auth": "someone:img_a-secret",
    "prompt": "a red circle",
    "negative_prompt": "blue",
    "sampler_name": "DPM++ 2M",
    "scheduler": "normal",
    "steps": 20,
    "cfg_scale": 7,
    "width": 512,
    "height": 512,
    "restore_faces": False,
    "enable_hr": False,
    "hr_upscaler": "Latent",
    "hr_scale": 2,
    "hr_additional_modules": [],
    "denoising_strength": 0.7,
    "hr_second_pass_steps": 0,
    "override_settings": {"CLIP_stop_at_last_layers": 1},
    "override_settings_restore_afterwards": True,
    "clip_skip": 1,
    "save_images": True,
    "send_images": True,
    "do_not_save_grid": False,
    "do_not_save_samples": False,
}


def test_fields_of_other_programs_are_warned_of_without_their_values(
    api: APIClient, caplog: pytest.LogCaptureFixture
) -> None:
    """What SillyTavern sends: its own settings, a password among them, lie beside A1111's fields."""
    with caplog.at_level("DEBUG"):
        response = api.post(URL, SILLY_TAVERN | {"token": {"deep": "img_deeper"}})
    generation = made(response)
    assert warned(generation) == {"url", "auth", "clip_skip", "token"}
    kept = json.dumps([generation.warnings, [str(vars(record)) for record in caplog.records]])
    assert not [secret for secret in ("img_a-secret", "img_deeper", ":7860") if secret in kept]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"enable_hr": True}, "enable_hr"),
        ({"tiling": True}, "tiling"),
        ({"restore_faces": True}, "restore_faces"),
        ({"styles": ["a"]}, "styles"),
        ({"subseed_strength": 0.5}, "subseed_strength"),
        ({"eta": 0.5}, "eta"),
        ({"refiner_checkpoint": "other"}, "refiner_checkpoint"),
        ({"init_images": ["x"]}, "init_images"),
        ({"mystery": 1}, "mystery"),
        ({"a\0\ud800": 1}, "a?\\ud800"),
        ({"override_settings": {"filter_nsfw": True}}, "override_settings.filter_nsfw"),
        ({"override_settings": {"sd_vae": "other"}}, "override_settings.sd_vae"),
        ({"override_settings_restore_afterwards": False}, "override_settings_restore_afterwards"),
        ({"steps": 150}, "steps"),
        ({"cfg_scale": 30}, "cfg_scale"),
        ({"cfg_scale": 0.5}, "cfg_scale"),
        ({"seed": 2**53}, "seed"),
        ({"override_settings": {"CLIP_stop_at_last_layers": 12}}, "CLIP_stop_at_last_layers"),
        ({"prompt": "a (red:1.3) circle"}, "prompt"),
        ({"prompt": "a <lora:nobody:0.8> circle"}, "prompt"),
        ({"prompt": "a <lora:x:strong> circle"}, "prompt"),
        ({"prompt": "a <hypernet:x:1> circle"}, "prompt"),
        ({"override_settings": {"samples_format": "avif"}}, "override_settings.samples_format"),
        ({"override_settings": {"sd_model_checkpoint": "none"}}, "override_settings.sd_model_checkpoint"),
        ({"alwayson_scripts": {"Seed": {"args": [5, True, 6, 0.5, 0, 0]}}}, "alwayson_scripts.Seed"),
        (
            {"alwayson_scripts": {"sampler": {"args": [30, "DPM++ 2M", "Karras"]}}},
            "alwayson_scripts.sampler",
        ),
        ({"alwayson_scripts": {"Refiner": {"args": [True, "x", 0.8]}}}, "alwayson_scripts.Refiner"),
        ({"alwayson_scripts": {"Extra options": {"args": ["x"]}}}, "alwayson_scripts.Extra options"),
        ({"alwayson_scripts": {"Soft Inpainting": {"args": [True, 1]}}}, "alwayson_scripts.Soft Inpainting"),
    ],
)
def test_what_has_no_effect_is_said(
    api: APIClient, settings: Any, changes: dict[str, Any], field: str
) -> None:
    """And refused where A1111_STRICT asks for it."""
    body = json.dumps(REQUEST | {"sampler_name": "DDIM"} | changes)
    assert warned(made(api.post(URL, body, content_type="application/json"))) == {field}
    settings.A1111_STRICT = True
    refused = api.post(URL, body, content_type="application/json")
    assert blamed(refused) == {field}


def test_numbers_beyond_the_limits_are_moved_to_them(api: APIClient) -> None:
    generation = made(api.post(URL, REQUEST | {"steps": 150, "cfg_scale": 30, "seed": 2**32 + 5}))
    assert (generation.num_inference_steps, generation.guidance_scale, generation.seed) == (100, 20.0, 5)
    lcm = made(api.post(URL, REQUEST | {"steps": 60, "sampler_name": "LCM"}))
    assert (lcm.num_inference_steps, warned(lcm)) == (50, {"steps"})


@pytest.mark.parametrize(
    ("asked", "drawn"),
    [
        ((500, 512), (496, 512)),
        ((64, 64), (256, 256)),
        ((72, 512), (256, 512)),
        ((72, None), (256, 512)),
        ((None, 5000), (512, 1024)),
        ((2048, 1024), (1024, 512)),
        ((512, 512), (512, 512)),
    ],
)
def test_sizes_are_those_the_model_can_draw(
    api: APIClient, asked: tuple[int | None, int | None], drawn: tuple[int, int]
) -> None:
    """A side that is valid stays, unless a large picture keeps its shape; each that was moved is named."""
    sides = dict(zip(("width", "height"), asked, strict=True))
    generation = made(api.post(URL, REQUEST | sides))
    assert (generation.width, generation.height) == drawn
    moved = {name: (side, getattr(generation, name)) for name, side in sides.items() if side is not None}
    # The model itself draws the largest ones smaller, which is a warning of its own.
    said = {entry["param"]: entry["used"] for entry in generation.warnings if isinstance(entry["used"], int)}
    assert said == {name: used for name, (side, used) in moved.items() if side != used}


def test_only_the_first_unknown_fields_are_named(api: APIClient) -> None:
    generation = made(api.post(URL, REQUEST | {f"f{number}": 1 for number in range(9_000)}))
    assert len(generation.warnings) == 11


def test_what_asks_for_nothing_is_taken(api: APIClient) -> None:
    """Empty and disabled units of extensions, arguments without a script, styles that are none."""
    body = REQUEST | {
        "styles": ["None"],
        "script_args": [1, 2],
        "script_name": "None",
        "alwayson_scripts": {
            "ControlNet": {"args": [{"enabled": False, "image": "x"}, {"module": "none", "model": "None"}]},
            "ADetailer": {"args": [False, {"ad_model": "face_yolov8n.pt"}]},
            "Refiner": {"args": []},
            "Sampler": {},
        },
    }
    assert made(api.post(URL, body)).warnings == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"steps": "many"}, "steps"),
        ({"cfg_scale": "nan"}, "cfg_scale"),
        ({"width": 0.5}, "width"),
        ({"seed": "x"}, "seed"),
        ({"batch_size": 11}, "batch_size"),
        ({"n_iter": 0}, "n_iter"),
        ({"sampler_name": ["Euler"]}, "sampler_name"),
        (
            {"alwayson_scripts": {"ControlNet": {"args": [{"module": "canny", "model": "x"}]}}},
            "alwayson_scripts",
        ),
        ({"alwayson_scripts": {"ADetailer": {"args": [True, {"ad_model": "x"}]}}}, "alwayson_scripts"),
        ({"alwayson_scripts": 5}, "alwayson_scripts"),
        ({"script_name": "x/y/z plot"}, "script_name"),
        ({"script_name": "sd upscale"}, "script_name"),
        (
            {"override_settings": {"CLIP_stop_at_last_layers": "many"}},
            "override_settings.CLIP_stop_at_last_layers",
        ),
        ({"override_settings": {"samples_format": 5}}, "override_settings.samples_format"),
        ({"override_settings": {"sd_model_checkpoint": ["x"]}}, "override_settings.sd_model_checkpoint"),
        ({"override_settings": 5}, "override_settings"),
        ({"prompt": 5.5, "mystery": 1}, "prompt"),
        ({"prompt": ["a"]}, "prompt"),
    ],
)
def test_bad_parameters_are_named(api: APIClient, changes: dict[str, Any], field: str) -> None:
    assert blamed(api.post(URL, REQUEST | changes)) == {field}
    assert nothing_stored()


@pytest.mark.parametrize(
    "name", ["builtin", "BUILTIN.safetensors", "builtin.safetensors [0123456789]", "{hash}"]
)
def test_a_model_by_the_names_that_clients_have_for_it(api: APIClient, settings: Any, name: str) -> None:
    settings.DEFAULT_MODEL_ID = "sd-1-5"
    short = next(entry for entry in api.get(f"{BASE}/sd-models").json() if entry["title"] == "builtin")[
        "hash"
    ]
    override = {"sd_model_checkpoint": name.format(hash=short)}
    generation = made(api.post(URL, REQUEST | {"override_settings": override}))
    assert generation.checkpoint_id == "builtin"


@pytest.mark.parametrize("content_type", ["", "application/json", "application/problem+json; charset=utf-8"])
def test_json_needs_no_content_type(api: APIClient, content_type: str) -> None:
    made(api.generic("POST", URL, json.dumps(REQUEST), content_type=content_type))


@pytest.mark.parametrize("headers", [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}])
def test_a_foreign_page_must_name_the_content_type(api: APIClient, headers: dict[str, str]) -> None:
    """Without one its browser would send the request without asking, with HTTP Basic's credentials."""
    body = json.dumps(REQUEST)
    assert api.generic("POST", URL, body, content_type="", headers=headers).status_code == 415
    assert api.generic("POST", URL, body, content_type="text/plain").status_code == 415


def test_errors_have_their_shape(api: APIClient) -> None:
    assert blamed(api.post(f"{BASE}/options", {"sd_model_checkpoint": "none"}), 404) == {
        "sd_model_checkpoint"
    }
    missing = api.post(f"{BASE}/img2img", {"prompt": "a"})
    assert (missing.status_code, missing.json()["detail"]) == (404, "Init image not found")
    assert api.get(f"{BASE}/nothing").json()["error"] == "not_found"
    assert api.post(f"{BASE}/interrogate", {"image": "x"}).status_code == 501
