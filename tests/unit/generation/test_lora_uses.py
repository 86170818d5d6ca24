"""Adapters in generations: who may ask for which, what waits for them, what becomes of those that do not come."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from pytest_django import Settings
from rest_framework.test import APIClient

from generation.attempts import generation_claim
from generation.choices import CommandKind
from generation.models import Generation, GenerationLora, Worker, WorkerCommand
from generation.orders import commands_due
from generation.services import generation_replay
from generation.upkeep.sweep import adapters_restore
from loras.choices import LoraSource, LoraState
from loras.models import Lora
from loras.processing import lora_process
from loras.selectors import loras_pinned
from loras.services import lora_break, lora_mark_lost
from models_registry.choices import DownloadProblem
from models_registry.models import Checkpoint
from tests.support.endings import succeed
from tests.support.factories import client_of, make_worker
from tests.support.lora_files import lora_bytes

REQUEST = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 2}


@pytest.fixture(autouse=True)
def _own_cache(db: None, settings: Settings, tmp_path: Path) -> None:
    settings.MODEL_CACHE_DIR = tmp_path
    Lora.objects.filter(source=LoraSource.BUILTIN).delete()


def make_lora(owner: User, name: str = "soft", **values: Any) -> Lora:
    """An adapter that is there."""
    sha256 = hashlib.sha256(name.encode()).hexdigest()
    facts: dict[str, Any] = {
        "state": LoraState.PRESENT,
        "family": "builtin",
        "rank": 4,
        "alpha": 4.0,
        "sha256": sha256,
        "source": LoraSource.UPLOAD,
    }
    return Lora.objects.create(owner=owner, name=name, **facts | values)


def from_hub(owner: User, **values: Any) -> Lora:
    """An adapter that is on its way."""
    facts = {
        "source": LoraSource.HUB,
        "repository": "org/style",
        "state": LoraState.DOWNLOADING,
        "sha256": "",
    }
    return make_lora(owner, "style", **facts | {"family": "", "rank": None, "alpha": None} | values)


def post(api: APIClient, **fields: Any) -> Any:
    """Asks for a generation."""
    return api.post("/api/v1/generations", REQUEST | fields, format="json")


def test_adapters_are_noted_in_their_order(api: APIClient, owner: User) -> None:
    """By name or id, with their scales; the answer shows them, and they are in use until it ends."""
    soft, lines = make_lora(owner), make_lora(owner, "lines")
    response = post(api, loras=[{"lora": "lines", "scale": 0.5}, {"lora": str(soft.id)}])
    assert response.status_code == 202, response.content
    assert [(use["name"], use["scale"]) for use in response.json()["loras"]] == [
        ("lines", 0.5),
        ("soft", 1.0),
    ]
    assert loras_pinned() == {soft.id, lines.id}
    assert api.delete(f"/api/v1/loras/{soft.id}").json()["code"] == "lora_in_use"
    generation = Generation.objects.get()
    Worker.objects.all()
    succeed(generation_claim(worker=make_worker("w")) or generation)
    assert loras_pinned() == set()
    assert Lora.objects.get(name="soft").last_used_at is not None
    again = generation_replay(generation=Generation.objects.get(), owner=owner)
    assert [use.name for use in again.adapters.all()] == ["lines", "soft"]
    assert api.post(f"/api/v1/generations/{again.id}/cancel").status_code == 200
    assert api.delete(f"/api/v1/loras/{soft.id}").status_code == 204
    assert [use.name for use in again.adapters.all()] == ["lines", "soft"], "the name stays"


def test_nothing_is_tried_again_without_an_adapter_that_is_gone(
    api: APIClient, owner: User, worker: Worker
) -> None:
    """Neither as a retry nor as a replay: it would be another picture."""
    lora = make_lora(owner)
    job = post(api, loras=[{"lora": "soft"}]).json()["id"]
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    assert succeed(claimed)
    assert api.delete(f"/api/v1/loras/{lora.id}").status_code == 204
    for action in ("retry", "replay"):
        response = api.post(f"/api/v1/generations/{job}/{action}")
        assert (response.status_code, response.json()["code"]) == (409, "lora_unavailable")
        assert "soft" in response.json()["detail"]
    assert Generation.objects.count() == 1


@pytest.mark.parametrize("withdrawn", ["adapter", "model"])
def test_nothing_is_tried_again_with_what_staff_withdrew(
    api: APIClient, owner: User, worker: Worker, withdrawn: str
) -> None:
    """Whoever used it once may not go on for ever."""
    lora = make_lora(owner)
    job = post(api, loras=[{"lora": "soft"}]).json()["id"]
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    assert succeed(claimed)
    if withdrawn == "adapter":
        Lora.objects.filter(pk=lora.pk).update(enabled=False)
    else:
        Checkpoint.objects.filter(pk=claimed.checkpoint_id).update(enabled=False)
    for action in ("retry", "replay"):
        assert 400 <= api.post(f"/api/v1/generations/{job}/{action}").status_code < 500
    assert Generation.objects.count() == 1


def test_the_shorthand_is_one_adapter_more(api: APIClient, owner: User) -> None:
    """`lora_path` with `lora_scale`, beside `loras`."""
    make_lora(owner)
    make_lora(owner, "lines")
    body = post(api, loras=[{"lora": "lines"}], lora_path="soft", lora_scale=0.25).json()
    assert [(use["name"], use["scale"]) for use in body["loras"]] == [("lines", 1.0), ("soft", 0.25)]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"loras": [{"lora": "none"}]}, "loras.0.lora"),
        ({"loras": [{"lora": "soft", "scale": 2.1}]}, "loras.0.scale"),
        ({"loras": [{"lora": "soft", "scale": -0.1}]}, "loras.0.scale"),
        ({"loras": [{"scale": 1}]}, "loras.0.lora"),
        ({"loras": [{"lora": "soft", "weight": 1}]}, "loras.0.weight"),
        ({"loras": "soft"}, "loras"),
        ({"loras": [{"lora": "soft"}, {"lora": "soft"}]}, "loras"),
        ({"loras": [{"lora": "soft"}] * 9}, "loras"),
        ({"lora_path": "none"}, "lora_path"),
        ({"lora_path": "../../etc/passwd"}, "lora_path"),
        ({"lora_path": "soft", "lora_scale": 3}, "lora_scale"),
        ({"lora_scale": 1}, "lora_scale"),
    ],
)
def test_bad_adapters_are_named(api: APIClient, owner: User, fields: dict[str, Any], param: str) -> None:
    """400 with the field, and nothing is stored."""
    make_lora(owner)
    response = post(api, **fields)
    assert response.status_code == 400, response.content
    assert param in {error["param"] for error in response.json()["errors"]}
    assert not Generation.objects.exists()


def scheduler_and_warnings(response: Any) -> tuple[str, list[Any]]:
    """What a generation is drawn with, and which warnings it has of that."""
    body = response.json()
    return body["scheduler"], [each["used"] for each in body["warnings"] if each["param"] == "scheduler"]


def test_a_distilled_adapter_brings_its_scheduler(api: APIClient, owner: User) -> None:
    """Said in a warning; the request's own comes first, and so does a model or a number of steps that it cannot."""
    make_lora(owner, "lightning-4step", scheduler="euler_trailing")
    make_lora(owner, "lcm", scheduler="lcm")
    make_lora(owner)
    fast = [{"lora": "lightning-4step"}]
    for loras in (fast, [{"lora": "soft"}, *fast, {"lora": "lcm"}], [{"lora": "lcm", "scale": 0}, *fast]):
        assert scheduler_and_warnings(post(api, loras=loras)) == ("euler_trailing", ["euler_trailing"])
    assert scheduler_and_warnings(post(api, loras=fast, scheduler="euler")) == ("euler", [])
    assert scheduler_and_warnings(post(api, loras=[{"lora": "lcm"}], steps=60)) == ("", [])
    assert scheduler_and_warnings(post(api, loras=[{"lora": "soft"}])) == ("", [])
    refused = post(api, loras=fast, strict=True)
    assert (refused.status_code, refused.json()["errors"][0]["param"]) == (422, "scheduler")
    Lora.objects.update(scheduler="heun")  # does not fit the model
    assert scheduler_and_warnings(post(api, loras=fast)) == ("", [])


def test_a_repository_that_is_not_there_yet_brings_its_scheduler_too(api: APIClient) -> None:
    """By its name."""
    found = scheduler_and_warnings(post(api, lora_path="org/lcm-lora-builtin"))
    assert found == ("lcm", ["lcm"])
    assert Lora.objects.get().scheduler == "lcm"


def test_somebody_else_s_adapter_does_not_exist(api: APIClient, owner: User, stranger: User) -> None:
    """Unless it is shared."""
    lora = make_lora(owner)
    assert post(client_of(stranger), loras=[{"lora": str(lora.id)}]).status_code == 400
    Lora.objects.update(shared=True)
    assert post(client_of(stranger), loras=[{"lora": "soft"}]).status_code == 202


def test_another_family_is_refused_before_anything_is_queued(api: APIClient, owner: User) -> None:
    """422, with both families."""
    make_lora(owner, family="sdxl")
    response = post(api, loras=[{"lora": "soft"}])
    assert (response.status_code, response.json()["code"]) == (422, "lora_incompatible")
    assert "XL" in response.json()["detail"]
    assert "built-in" in response.json()["detail"]
    assert not Generation.objects.exists()


def test_a_broken_or_disabled_adapter_is_refused(api: APIClient, owner: User) -> None:
    """409, with the reason."""
    lora = make_lora(owner)
    Lora.objects.update(enabled=False)
    assert post(api, loras=[{"lora": "soft"}]).json()["code"] == "lora_unavailable"
    Lora.objects.update(enabled=True)
    lora_break(lora=lora, problem=DownloadProblem.UNUSABLE, detail="It has holes.")
    response = post(api, loras=[{"lora": "soft"}])
    assert (response.status_code, "holes" in response.json()["detail"]) == (409, True)


def test_a_generation_waits_for_its_adapter(api: APIClient, owner: User, worker: Worker) -> None:
    """A repository that is not known yet is registered as the caller's and downloaded; then the job runs."""
    response = post(api, lora_path="org/style", lora_scale=0.5)
    assert response.status_code == 202, response.content
    lora = Lora.objects.get()
    assert (lora.owner, lora.repository, lora.state) == (owner, "org/style", LoraState.DOWNLOADING)
    assert generation_claim(worker=worker) is None
    Lora.objects.update(state=LoraState.PRESENT, family="builtin", rank=4, alpha=4, sha256="a" * 64)
    assert generation_claim(worker=worker) is not None


def test_an_adapter_that_does_not_come_ends_those_who_wait(
    api: APIClient, owner: User, settings: Settings
) -> None:
    """With its sentence."""
    from_hub(owner)
    job = post(api, loras=[{"lora": "style"}]).json()["id"]
    lora_break(lora=Lora.objects.get(), problem=DownloadProblem.NOT_FOUND, detail="The Hub has no org/style.")
    body = api.get(f"/api/v1/generations/{job}").json()
    assert (body["status"], body["error"]["code"]) == ("failed", "lora_unavailable")
    assert "no org/style" in body["error"]["detail"]


def test_an_adapter_that_turns_out_not_to_fit_ends_those_who_wait(
    api: APIClient, owner: User, worker: Worker
) -> None:
    """Its family was not known when they asked."""
    from loras.files import incoming_path

    job = post(api, lora_path="org/style").json()["id"]
    lora = Lora.objects.get()
    Lora.objects.update(source=LoraSource.UPLOAD, repository="", state=LoraState.CHECKING)
    incoming_path(lora.id).parent.mkdir(parents=True, exist_ok=True)
    incoming_path(lora.id).write_bytes(lora_bytes("sdxl"))
    lora_process(lora_id=lora.id)
    assert Lora.objects.get().state == LoraState.PRESENT
    body = api.get(f"/api/v1/generations/{job}").json()
    assert (body["status"], body["error"]["code"]) == ("failed", "lora_incompatible")


def test_a_file_that_went_is_asked_for_again(api: APIClient, owner: User, worker: Worker) -> None:
    """While somebody waits to use it."""
    lora = from_hub(
        owner, state=LoraState.PRESENT, family="builtin", rank=4, alpha=4, sha256="b" * 64, revision="c" * 40
    )
    post(api, loras=[{"lora": "style"}])
    lora_mark_lost(lora=lora)
    assert generation_claim(worker=worker) is None
    adapters_restore()
    lora.refresh_from_db()
    assert lora.state == LoraState.DOWNLOADING


def test_a_load_goes_to_a_worker_with_a_fitting_model(api: APIClient, owner: User, worker: Worker) -> None:
    """And waits for the file; the list says who holds it, and an unload goes to them."""
    make_worker("empty", memory_free_mb=10**6)
    Worker.objects.filter(pk=worker.pk).update(resident_models=["builtin"])
    response = api.post("/api/v1/loras/load", {"lora_path": "org/style"})
    assert (response.status_code, response.json()["state"]) == (202, "downloading")
    command = WorkerCommand.objects.get()
    assert (command.kind, command.worker, command.lora) == (CommandKind.ATTACH, worker, Lora.objects.get())
    assert list(commands_due(worker)) == []
    Lora.objects.update(state=LoraState.PRESENT, family="builtin", rank=4, alpha=4, sha256="a" * 64)
    assert list(commands_due(worker)) == [command]
    assert api.post("/api/v1/loras/unload", {"lora": "style"}).status_code == 204
    cached = [{"id": "builtin", "tier": "resident", "bytes": 7, "adapters": ["a" * 64]}]
    Worker.objects.filter(pk=worker.pk).update(cached_models=cached)
    assert api.get("/api/v1/loras").json()["results"][0]["workers"] == ["worker-1"]
    unload = api.post("/api/v1/loras/unload", {"lora": "style"})
    assert (unload.status_code, unload.json()["kind"]) == (202, "detach")
    missing = api.post("/api/v1/loras/unload", {"lora": "none"})
    assert (missing.status_code, missing.json()["code"]) == (404, "lora_not_found")


def test_an_order_for_an_adapter_that_does_not_come_fails(
    api: APIClient, owner: User, worker: Worker
) -> None:
    """With the same sentence."""
    Worker.objects.filter(pk=worker.pk).update(resident_models=["builtin"])
    api.post("/api/v1/loras/load", {"lora_path": "org/style"})
    lora_break(lora=Lora.objects.get(), problem=DownloadProblem.NOT_FOUND, detail="The Hub has no org/style.")
    command = WorkerCommand.objects.get()
    assert (command.status, command.error_code) == ("failed", "lora_unavailable")
    assert GenerationLora.objects.count() == 0
