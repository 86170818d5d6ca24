"""What A1111's dialect answers: pictures with their `info`, progress, options, and lists."""

import base64
import io
import json
from typing import Any

import pytest
from django.contrib.auth.models import User
from PIL import Image
from rest_framework.test import APIClient

from generation.attempts import generation_claim
from generation.engine.encoding import _SAMPLER_WORDS, _SCHEDULE_WORDS
from generation.feed.stream import event_publish
from generation.models import A1111Options, Generation, Worker
from generation.pictures.files import image_read
from generation.requests.a1111_words import sampler_labels
from generation.services import generation_cancel
from models_registry.schedulers import SCHEDULERS, sampler_and_schedule
from tests.support.dialects import finish, made
from tests.support.factories import GenerationMaker, client_of
from tests.support.pictures import encoded, gradient, text_of
from tests.unit.generation.compat.test_a1111 import BASE, REQUEST, URL, blamed
from tests.unit.generation.test_lora_uses import make_lora

# The keys of `info`, with their types, as A1111's `Processed.js` writes them.
INFO: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("prompt", "negative_prompt", "sampler_name", "sd_model_name", "sd_model_hash"), (str,)),
    **dict.fromkeys(("job_timestamp", "version"), (str,)),
    **dict.fromkeys(("all_prompts", "all_negative_prompts", "all_seeds", "all_subseeds"), (list,)),
    **dict.fromkeys(("infotexts", "styles"), (list,)),
    **dict.fromkeys(("seed", "subseed", "width", "height", "steps", "batch_size"), (int,)),
    **dict.fromkeys(
        ("seed_resize_from_w", "seed_resize_from_h", "index_of_first_image", "clip_skip"), (int,)
    ),
    **dict.fromkeys(("subseed_strength", "cfg_scale"), (int, float)),
    **dict.fromkeys(("restore_faces", "is_using_inpainting_conditioning"), (bool,)),
    **dict.fromkeys(("face_restoration_model", "sd_vae_name", "sd_vae_hash"), (str, type(None))),
    "denoising_strength": (int, float, type(None)),
    "extra_generation_params": (dict,),
}

pytestmark = pytest.mark.django_db


def test_results_have_pictures_parameters_and_info(api: APIClient, worker: Worker) -> None:
    generation = finish(made(api.post(URL, REQUEST | {"seed": 5, "batch_size": 2})), worker)
    body = api.get(f"{BASE}/results/{generation.id}").json()
    assert set(body) == {"images", "parameters", "info"}
    assert base64.b64decode(body["images"][0]) == image_read(generation.images.first())
    info = json.loads(body["info"])
    assert {name: type(info[name]) for name, types in INFO.items() if not isinstance(info[name], types)} == {}
    assert (info["seed"], info["all_seeds"], info["all_subseeds"]) == (5, [5, 6], [5, 6])
    assert (info["sd_model_name"], len(info["sd_model_hash"])) == ("builtin", 10)
    assert body["parameters"]["sampler_name"] == "Automatic"
    assert api.get(f"{BASE}/results/{generation.id}?send_images=false").json()["images"] == []


def test_a_file_names_samplers_as_the_dialect_does() -> None:
    for scheduler in ("", *SCHEDULERS):
        sampler, schedule = sampler_and_schedule(scheduler)
        assert (_SAMPLER_WORDS[sampler], _SCHEDULE_WORDS[schedule]) == sampler_labels(scheduler)


@pytest.mark.parametrize("with_preview", [True, False])
def test_an_interrupted_job_answers_what_was_drawn(
    make: GenerationMaker, api: APIClient, worker: Worker, *, with_preview: bool
) -> None:
    """200, as A1111: the latest preview at the full size, or nothing."""
    generation = make(num_images=2)
    generation_claim(worker=worker)
    preview = text_of(encoded(gradient(128, 128), "JPEG")) if with_preview else None
    event_publish(generation.id, "progress", attempt=1, step=1, preview=preview)
    generation.refresh_from_db()
    generation_cancel(generation=generation)
    Generation.objects.filter(pk=generation.pk).update(
        status="canceled", finished_at=generation.created_at, lease_expires_at=None
    )
    response = api.get(f"{BASE}/results/{generation.id}")
    assert response.status_code == 200
    body = response.json()
    assert len(body["images"]) == int(with_preview)
    if with_preview:
        picture = Image.open(io.BytesIO(base64.b64decode(body["images"][0])))
        assert (picture.format, picture.size) == ("PNG", (256, 256))
    info = json.loads(body["info"])
    assert (info["all_seeds"], info["warnings"][-1]["param"]) == ([7, 8], "images")


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


def test_options_keep_what_clients_store(api: APIClient, stranger: User) -> None:
    """As A1111's own test asks of `send_seed`; a later part leaves it alone."""
    before = api.get(f"{BASE}/options").json()["send_seed"]
    assert (
        api.post(f"{BASE}/options", {"send_seed": not before, "my_plugin": {"a": [1, "b"]}}).status_code
        == 200
    )
    assert api.post(f"{BASE}/options", {"sd_vae": "Automatic"}).json() is None
    after = api.get(f"{BASE}/options").json()
    assert (after["send_seed"], after["my_plugin"]) == (not before, {"a": [1, "b"]})
    assert "my_plugin" not in client_of(stranger).get(f"{BASE}/options").json()


@pytest.mark.parametrize(
    "changes",
    [
        {f"name{number}": 1 for number in range(501)},
        {"long": "x" * 70_000},
        {"n" * 101: 1},
        {"nul": "\0"},
        {"surrogate": "\ud800"},
        {"deep": [[[[[[[[[]]]]]]]]]},
    ],
    ids=["many", "long", "name", "nul", "surrogate", "deep"],
)
def test_options_are_bounded(api: APIClient, changes: dict[str, Any]) -> None:
    body = json.dumps(changes)
    assert api.post(f"{BASE}/options", body, content_type="application/json").status_code == 422
    assert api.post(f"{BASE}/options", '{"big": 1e999}', content_type="application/json").status_code == 422
    assert not A1111Options.objects.exists()


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"sd_model_checkpoint": "none"}, "sd_model_checkpoint"), ({"samples_format": 5}, "samples_format")],
)
def test_bad_options_are_named(api: APIClient, changes: dict[str, Any], field: str) -> None:
    response = api.post(f"{BASE}/options", changes)
    assert blamed(response, response.status_code) == {field}
    assert response.status_code in (404, 422)


LISTS = [
    "cmd-flags",
    "samplers",
    "upscalers",
    "sd-models",
    "hypernetworks",
    "face-restorers",
    "realesrgan-models",
    "prompt-styles",
    "embeddings",
    "sd-vae",
    "sd-modules",
    "latent-upscale-modes",
    "schedulers",
    "scripts",
    "script-info",
    "extensions",
    "loras",
    "memory",
]


@pytest.mark.parametrize("name", LISTS)
def test_every_list_is_there(api: APIClient, name: str) -> None:
    assert isinstance(api.get(f"{BASE}/{name}").json(), dict | list)


def test_lists(api: APIClient, owner: User) -> None:
    make_lora(owner, "mine")
    assert {"title", "model_name", "hash", "sha256", "filename", "config"} == set(
        api.get(f"{BASE}/sd-models").json()[0]
    )
    assert "Euler a" in {sampler["name"] for sampler in api.get(f"{BASE}/samplers").json()}
    assert {"automatic", "karras"} < {entry["name"] for entry in api.get(f"{BASE}/schedulers").json()}
    assert "mine" in {lora["name"] for lora in api.get(f"{BASE}/loras").json()}
    names = [entry["name"] for entry in api.get(f"{BASE}/upscalers").json()]
    assert names == ["None", "Lanczos", "Nearest"]
    assert api.get(f"{BASE}/embeddings").json() == {"loaded": {}, "skipped": {}}


def test_memory_counts_the_workers_devices(api: APIClient, worker: Worker) -> None:
    assert api.get(f"{BASE}/memory").json()["cuda"] == {"error": "unavailable"}
    Worker.objects.update(memory_total_mb=1000, memory_free_mb=250)
    body = api.get(f"{BASE}/memory").json()
    assert body["ram"]["free"] + body["ram"]["used"] == body["ram"]["total"]
    mib = 1024 * 1024
    assert body["cuda"]["system"] == {"free": 250 * mib, "used": 750 * mib, "total": 1000 * mib}


@pytest.mark.parametrize(
    ("route", "body"),
    [
        *((f"refresh-{what}", None) for what in ("checkpoints", "vae", "loras", "embeddings")),
        *((f"{verb}-checkpoint", {}) for verb in ("unload", "reload")),
        ("skip", None),
        ("interrupt", {}),
    ],
)
def test_actions_answer_as_a1111_does(api: APIClient, route: str, body: Any) -> None:
    response = api.post(f"{BASE}/{route}")
    assert (response.status_code, response.json()) == (200, body)
