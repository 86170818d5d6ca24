"""What tests make of rows and clients."""

import io
from collections.abc import Callable
from typing import Any, Final

from django.contrib.auth.models import User
from django.utils import timezone
from rest_framework.test import APIClient

from generation.models import Generation, GenerationRequest, Worker
from generation.services import generation_create
from loras.models import Lora
from models_registry.choices import DiskState
from models_registry.models import Checkpoint
from models_registry.selectors import checkpoint_folder

GenerationMaker = Callable[..., Generation]
LoraMaker = Callable[..., Lora]


# Fields of a quick request.
QUICK: Final = {
    "prompt": "a red circle",
    "width": 256,
    "height": 256,
    "num_inference_steps": 4,
    "guidance_scale": 4.0,
    "timeout_s": 60,
    "seed": -1,
}


def create_generation(*, owner: User, **changes: Any) -> Generation:
    """A stored generation of the built-in model; request fields, pictures, LoRA and warnings are named in one."""
    values = QUICK | changes
    if "checkpoint" not in values:
        values["checkpoint"] = Checkpoint.objects.get(id="builtin")
    rest = {name: values.pop(name) for name in ("loras", "warnings") if name in values}
    pictures = {name: values.pop(name) for name in ("input_image", "mask_image") if values.get(name)}
    request = GenerationRequest(**values)
    return generation_create(owner=owner, request=request, pictures=pictures, **rest)


def client_of(user: User) -> APIClient:
    """An API client that is this user."""
    client = APIClient()
    client.force_authenticate(user)
    return client


def make_worker(name: str, **values: Any) -> Worker:
    """A live GPU worker's row."""
    return Worker.objects.create(name=name, hostname="host", pid=1, heartbeat_at=timezone.now(), **values)


def checkpoint_fetch(checkpoint_id: str) -> Checkpoint:
    """A model of the registry, as it is once its files have come to the folder that the settings name."""
    checkpoint = Checkpoint.objects.get(id=checkpoint_id)
    checkpoint.state, checkpoint.revision = DiskState.PRESENT, "0" * 40
    checkpoint.save()
    checkpoint_folder(checkpoint).mkdir(parents=True)
    return checkpoint


def upload(client: APIClient, data: bytes, **fields: Any) -> Any:
    """Posts a LoRA's file as a form."""
    file = io.BytesIO(data)
    file.name = "file.safetensors"
    form = {"file": file, "name": "mine"} | fields
    return client.post("/api/v1/loras/upload", form, format="multipart")
