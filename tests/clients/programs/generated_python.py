"""A client that `openapi-python-client` makes of the service's OpenAPI document: made, imported, and used."""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from checks import TOKEN, URL, is_png, picture, run

# Pictures are files for the generator where it is told so; it would leave them out by itself.
CONFIG = {
    "post_hooks": [],
    "content_type_overrides": dict.fromkeys(("image/png", "image/webp"), "application/octet-stream"),
}
PAUSE_S = 0.2
SMALL: dict[str, Any] = {"prompt": "a red circle", "width": 256, "height": 256, "num_inference_steps": 2}


def make_it_without_a_warning() -> None:
    with urllib.request.urlopen(f"{URL}/api/schema?format=json") as found:
        Path("openapi.json").write_bytes(found.read())
    Path("config.json").write_text(json.dumps(CONFIG))
    options = ["--path", "openapi.json", "--meta", "none", "--output-path", "generated", "--overwrite"]
    done = subprocess.run(
        [sys.executable, "-m", "openapi_python_client", "generate", *options, "--config", "config.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "WARNING" in done.stdout) == (0, False), done.stdout + done.stderr


def client() -> Any:
    from generated.client import AuthenticatedClient

    return AuthenticatedClient(base_url=URL, token=TOKEN, timeout=300.0)


def ended(job_id: Any) -> Any:
    from generated.api.generations import generations_retrieve

    while (row := generations_retrieve.sync(job_id, client=client())).status in ("queued", "running"):
        time.sleep(PAUSE_S)
    return row


def post_poll_and_fetch() -> None:
    from generated.api.generations import generations_create, generations_image
    from generated.models import GenerationCreateInRequest

    made = generations_create.sync(client=client(), body=GenerationCreateInRequest.from_dict(SMALL))
    row = ended(made.id)
    assert row.status == "succeeded"
    file = generations_image.sync(row.id, str(row.images[0].index), client=client())
    assert is_png(file.payload.read())


def form_with_a_file() -> None:
    from generated.api.generations import generations_create
    from generated.models import GenerationFormInRequest
    from generated.types import File

    body = GenerationFormInRequest(
        **SMALL, strength=0.5, image=File(picture(), file_name="in.png", mime_type="image/png")
    )
    assert ended(generations_create.sync(client=client(), body=body).id).kind == "img2img"


def wait_for_pictures() -> None:
    from generated.api.generate import generate_txt2img
    from generated.models import GenerationCreateInRequest

    answer = generate_txt2img.sync(client=client(), body=GenerationCreateInRequest.from_dict(SMALL))
    assert answer.images[0].b64_json


def refusal() -> None:
    from generated.api.generations import generations_create
    from generated.models import GenerationCreateInRequest

    body = GenerationCreateInRequest.from_dict(SMALL | {"width": 100})
    problem = generations_create.sync(client=client(), body=body)
    assert (problem.code, problem.errors[0].param) == ("invalid_request", "width")


def lists() -> None:
    from generated.api.generations import generations_list
    from generated.api.models import models_list

    assert "builtin" in {model.id for model in models_list.sync(client=client()).data}
    assert len(generations_list.sync(client=client(), limit=2).results) == 2


run(make_it_without_a_warning, post_poll_and_fetch, form_with_a_file, wait_for_pictures, refusal, lists)
