"""Adapters from the Hub: registered, downloaded with the real client, verified; every failure is stated."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from pytest_django import Settings
from rest_framework.test import APIClient

from generation.upkeep.worker import TaskWorker
from imagegen_project.common.queues import DOWNLOADS_QUEUE, queue_get
from loras.files import content_path
from loras.models import Lora
from loras.processing import lora_process
from loras.tasks import process_lora
from models_registry import pace
from tests.support.factories import client_of
from tests.support.hub import HubDouble, HubReply
from tests.support.hub_repository import HubRepository
from tests.support.lora_files import HOSTILE, lora_bytes, safetensors, transformer_tensors

LOAD = "/api/v1/loras/load"
FILE = "pytorch_lora_weights.safetensors"
# The real client's threads and sockets must see the rows: these tests commit.
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def repository(hub_double: HubDouble, tmp_path: Path) -> HubRepository:
    """One with a single adapter."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / FILE).write_bytes(lora_bytes("sd1", "kohya"))
    return HubRepository(hub_double, "org/Pixel_Art", folder)


@pytest.fixture
def api(transactional_db: None) -> APIClient:
    """An ordinary user's client."""
    return client_of(User.objects.create_user("ada"))


def load(client: APIClient, **fields: Any) -> Any:
    """Asks for the repository, and sees to what that put into the queue."""
    answer = client.post(LOAD, {"lora_path": "org/Pixel_Art"} | fields)
    for entry in queue_get(DOWNLOADS_QUEUE).jobs:
        process_lora(*entry.args)
    queue_get(DOWNLOADS_QUEUE).empty()
    return answer


def test_an_adapter_is_registered_and_downloaded(api: APIClient, repository: HubRepository) -> None:
    """202 at once; then it is there, read, at the commit that it was at."""
    answer = load(api)
    assert answer.status_code == 202
    said = answer.json()
    assert (said["state"], said["family"], said["source"]) == ("downloading", "", "hub")
    assert (said["repository"], said["name"], said["owner"]) == ("org/Pixel_Art", "pixel-art", "ada")
    said = api.get(answer["Location"]).json()
    assert (said["state"], said["family"], said["key_style"], said["error"]) == (
        "present",
        "sd1",
        "kohya",
        None,
    )
    assert (said["weight_name"], said["revision"]) == (FILE, repository.commit)
    content = content_path(said["sha256"])
    assert content.read_bytes() == lora_bytes("sd1", "kohya")
    assert content.stat().st_mode & 0o777 == 0o640


def test_a_distilled_one_shows_its_scheduler(api: APIClient, hub_double: HubDouble, tmp_path: Path) -> None:
    """By its repository's name as soon as it is asked for, and by its family once it has been read."""
    (tmp_path / FILE).write_bytes(lora_bytes("sd1", "kohya"))
    HubRepository(hub_double, "org/lcm-lora", tmp_path)
    assert load(api, lora_path="org/lcm-lora").json()["scheduler"] == "lcm"
    assert Lora.objects.get(repository="org/lcm-lora").scheduler == "lcm"
    flux = tmp_path / "flux"
    flux.mkdir()
    (flux / FILE).write_bytes(safetensors(transformer_tensors("flux")))
    HubRepository(hub_double, "org/flux-lcm", flux)
    load(api, lora_path="org/flux-lcm")
    assert Lora.objects.get(repository="org/flux-lcm").scheduler == ""


def test_the_task_worker_lets_the_entry_through(api: APIClient, repository: HubRepository) -> None:
    """It refuses all but what it knows."""
    url = api.post(LOAD, {"lora_path": "org/Pixel_Art"}).json()["url"]
    queue = queue_get(DOWNLOADS_QUEUE)
    worker = TaskWorker([queue], connection=queue.connection, serializer=queue.serializer)
    worker.work(burst=True, logging_level=None)
    assert api.get(url).json()["state"] == "present"


def test_asking_again_downloads_nothing(api: APIClient, repository: HubRepository) -> None:
    """And registers nothing."""
    load(api)
    before = len(repository.hub.requests)
    again = load(api)
    assert (again.status_code, again.json()["state"]) == (202, "present")
    assert Lora.objects.filter(source="hub").count() == 1
    assert len(repository.hub.requests) == before


def test_a_model_that_it_does_not_fit_is_422(api: APIClient, repository: HubRepository) -> None:
    """As soon as that can be told; both families are named."""
    load(api)
    assert load(api, model_id="sd-1-5").status_code == 202
    answer = load(api, model_id="sd-xl-base")
    assert (answer.status_code, answer.json()["code"]) == (422, "lora_incompatible")
    assert answer.json()["errors"][0]["param"] == "lora_path"
    assert (answer.json()["lora_family"], answer.json()["model_family"]) == ("sd1", "sdxl")
    assert "Stable Diffusion 1.x" in answer.json()["detail"]
    assert "Stable Diffusion XL" in answer.json()["detail"]


def test_a_file_can_be_named(api: APIClient, repository: HubRepository) -> None:
    """Where a repository has several it must be; names are made unlike one another."""
    (repository.folder / FILE).unlink()
    for number, name in enumerate(("styles/One.safetensors", "two.safetensors", "three.safetensors")):
        path = repository.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(lora_bytes(seed=number))
    assert load(api).status_code == 202
    unnamed = Lora.objects.get(name="pixel-art")
    assert (unnamed.state, unnamed.error_code) == ("broken", "unsupported")
    assert "three.safetensors, two.safetensors" in unnamed.error_detail
    named = load(api, weight_name="styles/One.safetensors").json()
    assert named["name"] == "one"
    assert api.get(named["url"]).json()["state"] == "present"
    missing = load(api, weight_name="four.safetensors").json()
    assert api.get(missing["url"]).json()["error"]["code"] == "not_found"


def test_a_name_that_is_taken_is_numbered_or_refused(api: APIClient, repository: HubRepository) -> None:
    """A made one gets a number; a chosen one is the caller's to change."""
    load(api)
    assert load(api, revision="main").json()["name"] == "pixel-art-2"
    taken = load(api, revision="v1", name="pixel-art")
    assert (taken.status_code, taken.json()["code"]) == (409, "lora_name_taken")


def test_a_pruned_file_comes_again_at_the_same_commit(api: APIClient, repository: HubRepository) -> None:
    """Also when the repository has moved on: what was pinned stays pinned."""
    load(api)
    lora = Lora.objects.get(source="hub")
    content_path(lora.sha256).unlink()
    Lora.objects.filter(pk=lora.pk).update(state="absent")
    assert load(api).json()["state"] == "downloading"
    assert repository.hub.requests
    asked = [request.path for request in repository.hub.requests if "/revision/" in request.path]
    assert asked[-1].endswith(lora.revision)
    lora.refresh_from_db()
    assert lora.state == "present"


# What passes by itself leaves the adapter absent; the rest would come again.
FAULTS = {
    "401": "unauthorized",
    "403": "unauthorized",
    "404": "not_found",
    "429": "rate_limited",
    "500": "hub_error",
    "hang": "timeout",
    "truncate": "truncated",
    "flip": "checksum_mismatch",
    "drip": "too_slow",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_is_stated_and_asking_again_repairs_it(
    api: APIClient, repository: HubRepository, fault: Any, lora_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is half there."""
    monkeypatch.setattr(pace, "WINDOW_S", 0.2)
    repository.faults = {FILE: fault}
    url = load(api).json()["url"]
    said = api.get(url).json()
    state = "absent" if fault in {"429", "500", "hang", "truncate", "drip"} else "broken"
    assert (said["state"], said["error"]["code"]) == (state, FAULTS[fault])
    assert list(lora_folder.glob("*.safetensors")) == []
    repository.faults = {}
    assert load(api).json()["state"] == "downloading"
    assert api.get(url).json()["state"] == "present"


@pytest.mark.parametrize(
    "name", ["pickle", "zip (torch.save)", "LoHa", "no family", "overlap", "LFS pointer"]
)
def test_a_hostile_file_of_the_hub_is_refused(
    api: APIClient, repository: HubRepository, name: str, lora_folder: Path
) -> None:
    """The row says why, and nothing of it stays."""
    (repository.folder / FILE).write_bytes(HOSTILE[name][0])
    said = api.get(load(api).json()["url"]).json()
    assert said["state"] == "broken"
    assert said["error"]["code"] in {"bad_header", "unsupported"}
    assert said["error"]["detail"].startswith((f"{FILE} is not a sound", "The file cannot be used"))
    assert [path for path in lora_folder.rglob("*") if path.is_file()] == []


SIBLING = {"rfilename": "a.safetensors", "size": 1, "blobId": "0" * 40}


@pytest.mark.parametrize(
    "sibling",
    [
        *(SIBLING | {"rfilename": name} for name in (None, 7, [], {}, "", "a\0b", "\ud800", "a" * 2000)),
        *(SIBLING | {"size": size} for size in ("1", -1, 1.5, [1], True)),
        *(SIBLING | {"blobId": digest} for digest in (7, "x" * 40, ["0" * 40])),
        *(
            SIBLING | {"lfs": lfs}
            for lfs in ([1], {"sha256": None}, {"sha256": 7, "size": 1, "pointerSize": 1})
        ),
        *(None, 7, "text", []),
    ],
    ids=ascii,
)
def test_a_listing_that_makes_no_sense_ends_the_attempt(
    api: APIClient, repository: HubRepository, sibling: Any
) -> None:
    """It is stated, and nobody asks again by himself."""
    repository.siblings = [sibling]
    said = api.get(load(api).json()["url"]).json()
    assert said["error"]["code"] == "hub_error"
    assert repository.bytes_sent == 0


def test_a_mistake_of_the_server_is_stated_too(
    api: APIClient, repository: HubRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that stayed pending would be tried again for ever."""
    monkeypatch.setattr("loras.processing.check_finite", lambda path: 1 / 0)
    said = api.get(load(api).json()["url"]).json()
    assert (said["state"], said["error"]["code"]) == ("broken", "internal_error")


def test_a_file_over_the_cap_is_not_downloaded(
    api: APIClient, repository: HubRepository, settings: Settings
) -> None:
    """Its size is known before."""
    settings.LORA_MAX_UPLOAD_BYTES = 1000
    said = api.get(load(api).json()["url"]).json()
    assert "LORA_MAX_UPLOAD_MB" in said["error"]["detail"]
    assert repository.bytes_sent == 0


def test_a_repository_of_pickles_says_so(api: APIClient, repository: HubRepository) -> None:
    """There is nothing that would be loaded."""
    (repository.folder / FILE).rename(repository.folder / "pytorch_lora_weights.bin")
    said = api.get(load(api).json()["url"]).json()
    assert (said["error"]["code"], "no safetensors" in said["error"]["detail"]) == ("unsupported", True)


def test_equal_files_of_two_owners_are_one(
    api: APIClient, repository: HubRepository, lora_folder: Path
) -> None:
    """On disk; each has a row of their own."""
    load(api)
    load(client_of(User.objects.create_user("bob")))
    assert Lora.objects.filter(source="hub", state="present").count() == 2
    assert len(list(lora_folder.glob("*.safetensors"))) == 1


def test_a_callers_token_is_not_used(api: APIClient, repository: HubRepository, settings: Settings) -> None:
    """Only the server's own."""
    settings.HF_TOKEN = "-".join(("hf", "server"))
    api.credentials(HTTP_AUTHORIZATION="Bearer hf_of_the_caller")
    load(api)
    assert {request.token for request in repository.hub.requests} <= {settings.HF_TOKEN, ""}


def test_a_row_that_is_gone_is_nothing_to_do(api: APIClient, repository: HubRepository) -> None:
    """Its entry ends at once."""
    lora = Lora.objects.create(
        owner=User.objects.get(), name="a", source="hub", repository="org/Pixel_Art", state="downloading"
    )
    lora.delete()
    lora_process(lora_id=lora.id or Lora().id)
    assert repository.bytes_sent == 0


def test_a_download_has_a_time_limit(
    api: APIClient, repository: HubRepository, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However fast it is."""
    settings.DOWNLOAD_MIN_KB_S, settings.LORA_DOWNLOAD_LIMIT_S = 0, 0.3
    repository.faults = {FILE: "drip"}
    said = api.get(load(api).json()["url"]).json()
    assert (said["state"], said["error"]["code"]) == ("absent", "too_slow")
    assert "longer than 0.3 s" in said["error"]["detail"]


def test_a_listing_that_never_ends_is_given_up(
    api: APIClient, repository: HubRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is held in memory, so it is bounded."""
    monkeypatch.setattr("models_registry.hub.MAX_INFO_BYTES", 10_000)
    repository.siblings = [SIBLING | {"rfilename": f"{number}.txt"} for number in range(1000)]
    said = api.get(load(api).json()["url"]).json()
    assert (said["error"]["code"], "has no end" in said["error"]["detail"]) == ("hub_error", True)


def test_a_packed_listing_is_bounded_by_what_it_may_become(
    api: APIClient, repository: HubRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little comes; it is not asked for either."""
    listing = {
        "sha": "0" * 40,
        "siblings": [SIBLING | {"rfilename": f"{number}.txt"} for number in range(5000)],
    }
    packed = gzip.compress(json.dumps(listing).encode(), 9)
    monkeypatch.setattr("models_registry.hub.MAX_INFO_BYTES", len(packed) * 3)
    answer = HubReply(200, packed, {"Content-Encoding": "gzip"})
    repository.hub.route_first("GET", "/api/models/.*", lambda _: answer)
    said = api.get(load(api).json()["url"]).json()
    assert (said["error"]["code"], "has no end" in said["error"]["detail"]) == ("hub_error", True)
    assert repository.hub.requests[0].headers["accept-encoding"] == "identity"


def test_a_hub_that_wants_a_long_rest_is_not_waited_for(
    api: APIClient, repository: HubRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library would sleep as long as it says, in the middle of a download."""
    slept: list[float] = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", slept.append)
    repository.hub.route_first("GET", ".*/resolve/.*", lambda _: HubReply(429, {}, {"Retry-After": "3600"}))
    said = api.get(load(api).json()["url"]).json()
    assert (said["error"]["code"], slept) == ("rate_limited", [])
