"""Adapters over HTTP: upload, list, look, delete; who may, and what is refused."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_django import Settings
from rest_framework.test import APIClient

from imagegen_project.common.queues import DOWNLOADS_QUEUE, queue_get
from loras.cache import cache_repair
from loras.choices import LoraState
from loras.files import content_path, incoming_path
from loras.models import Lora
from loras.processing import lora_process
from loras.services import lora_validate
from tests.support.factories import LoraMaker, client_of, upload
from tests.support.lora_files import HOSTILE, assemble, lora_bytes, safetensors, unet_tensors

LORAS = "/api/v1/loras"
UPLOAD = f"{LORAS}/upload"


def params_of(response: Any) -> set[str]:
    """The fields that a problem blames."""
    return {error["param"] for error in response.json()["errors"]}


def files_below(folder: Path) -> list[str]:
    """Every file's name."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def modes_below(folder: Path) -> dict[str, int]:
    """The permissions of the folder and of everything in it, by name."""
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}


def test_an_upload_is_stored_and_checked(
    api: APIClient, django_capture_on_commit_callbacks: Any, lora_folder: Path
) -> None:
    """202 with what the header says; once the task worker has seen to it, the file lies under its SHA-256."""
    with django_capture_on_commit_callbacks(execute=True):
        answer = upload(api, lora_bytes("sdxl", "kohya", rank=8), trigger_words="pixel art, 8 bit,pixel art")
    assert answer.status_code == 202
    said = answer.json()
    assert answer["Location"] == said["url"] == f"{LORAS}/{said['id']}"
    assert (said["family"], said["rank"], said["alpha"], said["state"]) == ("sdxl", 8, 4.0, "checking")
    assert said["trigger_words"] == ["pixel art", "8 bit"]
    assert (said["owner"], said["shared"], said["source"], said["error"]) == ("ada", False, "upload", None)
    entry = queue_get(DOWNLOADS_QUEUE).jobs[0]
    assert (entry.func_name, entry.args) == ("loras.tasks.process_lora", [said["id"]])
    lora = Lora.objects.get(source="upload")
    lora_process(lora_id=lora.id)
    said = api.get(said["url"]).json()
    assert said["state"] == "present"
    assert files_below(lora_folder) == [f"{said['sha256']}.safetensors"]
    assert content_path(said["sha256"]).stat().st_size == said["size_bytes"]


def test_a_distilled_adapter_shows_its_scheduler(api: APIClient) -> None:
    """By its name, or by what the file calls itself; which staff may correct for good."""
    assert upload(api, lora_bytes("sd1"), name="hyper-sd15-1step").json()["scheduler"] == "tcd"
    titled = safetensors(unet_tensors(), {"modelspec.title": "SDXL-Lightning 4 steps"})
    said = upload(api, titled, name="fast").json()
    assert said["scheduler"] == "euler_trailing"
    lora = Lora.objects.get(pk=said["id"])
    assert lora_process(lora_id=lora.id)
    Lora.objects.filter(pk=lora.pk).update(scheduler="euler")
    lora.refresh_from_db()
    assert lora_validate(lora=lora)
    assert lora_process(lora_id=lora.id)
    assert api.get(said["url"]).json()["scheduler"] == "euler"


def test_adapters_files_are_nobody_else_s(api: APIClient, lora_folder: Path) -> None:
    """Root's umask lets everybody on the host read what is private here; an older version's files are mended."""
    before = os.umask(0o022)
    try:
        upload(api, lora_bytes())
        lora = Lora.objects.get(source="upload")
        assert modes_below(lora_folder) == {f"{lora.id}.part": 0o640, "incoming": 0o750, "loras": 0o750}
        lora_process(lora_id=lora.id)
        lora.refresh_from_db()
        path = content_path(lora.sha256)
        assert modes_below(lora_folder)[path.name] == 0o640
        path.chmod(0o644)
        cache_repair()
        assert modes_below(lora_folder)[path.name] == 0o640
    finally:
        os.umask(before)


def test_a_file_on_disk_is_taken_as_well(api: APIClient, settings: Settings) -> None:
    """Large uploads are on disk before a view sees them."""
    settings.FILE_UPLOAD_MAX_MEMORY_SIZE = 0
    assert upload(api, lora_bytes()).status_code == 202
    lora = Lora.objects.get(source="upload")
    assert incoming_path(lora.id).read_bytes() == lora_bytes()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_upload_is_a_400_and_leaves_nothing(api: APIClient, lora_folder: Path, name: str) -> None:
    """The field is named, with the reason."""
    answer = upload(api, HOSTILE[name][0])
    assert answer.status_code == 400, answer.content
    assert (answer.json()["code"], params_of(answer)) == ("invalid_lora", {"file"})
    assert not Lora.objects.filter(source="upload").exists()
    assert files_below(lora_folder) == []


@given(header=st.binary(max_size=200), data=st.binary(max_size=50))
@hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_upload_is_a_server_error(api: APIClient, header: bytes, data: bytes) -> None:
    """Whatever the bytes."""
    assert upload(api, assemble(header, data)).status_code == 400


BAD_FORMS: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name"),
    ({"name": "Upper"}, "name"),
    ({"name": "../x"}, "name"),
    ({"name": "a/b"}, "name"),
    ({"name": ".hidden"}, "name"),
    ({"name": "x" * 65}, "name"),
    ({"name": "a\x00"}, "name"),
    ({"name": ["a", "b"]}, "name"),
    ({"file": "text"}, "file"),
    ({"file": ""}, "file"),
    ({"trigger_words": "x" * 101}, "trigger_words"),
    ({"trigger_words": ",".join(str(number) for number in range(21))}, "trigger_words"),
    ({"trigger_words": "a\x00"}, "trigger_words"),
    ({"shared": "true"}, "shared"),
    ({"owner": "1"}, "owner"),
]


@pytest.mark.parametrize(("fields", "blamed"), BAD_FORMS, ids=lambda value: repr(value)[:30])
def test_a_bad_field_is_named(api: APIClient, fields: dict[str, Any], blamed: str) -> None:
    """400, and nothing is written."""
    answer = upload(api, lora_bytes(), **fields)
    assert answer.status_code == 400, answer.content
    assert params_of(answer) == {blamed}
    assert not Lora.objects.filter(source="upload").exists()


def test_an_empty_file_and_no_file_are_refused(api: APIClient) -> None:
    """By name."""
    assert params_of(upload(api, b"")) == {"file"}
    assert params_of(api.post(UPLOAD, {"name": "a"}, format="multipart")) == {"file"}


def test_only_forms_are_uploads(api: APIClient) -> None:
    """415 for anything else; a form without a boundary is 400."""
    assert api.post(UPLOAD, {"name": "a"}, format="json").status_code == 415
    broken = api.post(UPLOAD, b"xx", content_type="multipart/form-data")
    assert broken.status_code == 400


def test_a_name_is_taken_once(api: APIClient, stranger: User, lora_folder: Path) -> None:
    """By each owner."""
    assert upload(api, lora_bytes()).status_code == 202
    taken = upload(api, lora_bytes(seed=5))
    assert (taken.status_code, taken.json()["code"], params_of(taken)) == (409, "lora_name_taken", {"name"})
    assert len(files_below(lora_folder)) == 1
    assert upload(client_of(stranger), lora_bytes()).status_code == 202


def test_a_file_over_the_cap_is_413(api: APIClient, settings: Settings, lora_folder: Path) -> None:
    """And says which setting it is."""
    settings.LORA_MAX_UPLOAD_BYTES = 1000
    answer = upload(api, lora_bytes())
    assert (answer.status_code, answer.json()["code"]) == (413, "lora_too_large")
    assert "LORA_MAX_UPLOAD_MB" in answer.json()["detail"]
    assert files_below(lora_folder) == []


def test_uploads_together_have_a_limit(api: APIClient, settings: Settings) -> None:
    """They are never pruned, so what is over the budget is refused; waiting ones count."""
    settings.LORA_CACHE_MAX_BYTES = int(len(lora_bytes()) * 1.5)
    assert upload(api, lora_bytes()).status_code == 202
    full = upload(api, lora_bytes(seed=5), name="second")
    assert (full.status_code, full.json()["code"]) == (507, "lora_storage_full")
    lora_process(lora_id=Lora.objects.get(source="upload").id)
    assert upload(api, lora_bytes(seed=5), name="second").status_code == 507


def test_a_full_disk_is_507_and_leaves_nothing(
    api: APIClient, lora_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a row nor a partial file."""

    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("loras.services.upload_copy", fail)
    assert upload(api, lora_bytes()).status_code == 507
    assert not Lora.objects.filter(source="upload").exists()
    assert files_below(lora_folder) == []


def test_a_mistake_in_between_leaves_nothing(
    owner: User, lora_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All or nothing, whatever goes wrong."""

    def fail(*args: Any) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr("loras.services._enqueue", fail)
    with pytest.raises(RuntimeError):
        upload(client_of(owner), lora_bytes())
    assert not Lora.objects.filter(source="upload").exists()
    assert files_below(lora_folder) == []


@pytest.mark.parametrize("path", [LORAS, f"{LORAS}/", f"{LORAS}/list", "/v1/loras", "/v1/loras/list/"])
def test_lists_hold_what_one_may_use(
    api: APIClient, owner: User, stranger: User, superuser: User, make_lora: LoraMaker, path: str
) -> None:
    """One's own, and what is shared and enabled; staff see all."""
    make_lora("mine")
    make_lora("private", content=1, owner=stranger)
    make_lora("open", content=2, owner=stranger, shared=True)
    make_lora("closed", content=3, owner=stranger, shared=True, enabled=False)

    def names(client: APIClient) -> set[str]:
        found = client.get(path).json()["results"]
        return {lora["name"] for lora in found if lora["source"] != "builtin"}

    assert names(api) == {"mine", "open"}
    assert names(client_of(stranger)) == {"private", "open", "closed"}
    assert names(client_of(superuser)) == {"mine", "private", "open", "closed"}


def test_lists_are_narrowed(api: APIClient, make_lora: LoraMaker) -> None:
    """By family and state; a wrong word is refused."""
    make_lora("one", family="sd1")
    make_lora("two", family="sdxl", content=1)
    found = api.get(LORAS, {"family": "sdxl"}).json()["results"]
    assert [lora["name"] for lora in found] == ["two"]
    assert api.get(LORAS, {"state": ["absent", "broken"]}).json()["results"] == []
    assert api.get(LORAS, {"family": "sd9"}).status_code == 400


def test_a_list_costs_the_same_however_long(
    api: APIClient, make_lora: LoraMaker, django_assert_max_num_queries: Any
) -> None:
    """One query."""
    for number in range(4):
        make_lora(f"lora-{number}", content=number)
    with django_assert_max_num_queries(2):
        assert len(api.get(LORAS).json()["results"]) >= 4


def test_another_users_private_adapter_is_not_found(
    api: APIClient, stranger: User, make_lora: LoraMaker
) -> None:
    """For looking and for deleting; a shared one can be seen, and not deleted."""
    url = f"{LORAS}/{make_lora('private', owner=stranger).id}"
    for answer in (api.get(url), api.delete(url)):
        assert (answer.status_code, answer.json()["code"]) == (404, "lora_not_found")
    Lora.objects.update(shared=True)
    assert api.get(url).status_code == 200
    assert api.delete(url).status_code == 403
    assert Lora.objects.filter(name="private").exists()


def test_nobody_sees_adapters_without_a_token(make_lora: LoraMaker) -> None:
    """401 everywhere."""
    url = f"{LORAS}/{make_lora(shared=True).id}"
    client = APIClient()
    answers = [client.get(LORAS), client.get(url), client.delete(url), upload(client, lora_bytes())]
    answers.append(client.post(f"{LORAS}/load", {"lora_path": "org/name"}))
    assert {answer.status_code for answer in answers} == {401}


def test_a_deleted_adapter_takes_its_file_along(
    api: APIClient, stranger: User, make_lora: LoraMaker, lora_folder: Path
) -> None:
    """Unless another one has the same."""
    first, twin = make_lora("first"), make_lora("twin", owner=stranger)
    assert first.sha256 == twin.sha256
    assert api.delete(f"{LORAS}/{first.id}").status_code == 204
    assert content_path(twin.sha256).is_file()
    assert client_of(stranger).delete(f"{LORAS}/{twin.id}").status_code == 204
    assert files_below(lora_folder) == []


def test_staff_may_delete_anybodys(superuser: User, make_lora: LoraMaker) -> None:
    """They answer for the disk."""
    assert client_of(superuser).delete(f"{LORAS}/{make_lora().id}").status_code == 204


def test_an_adapter_in_use_is_not_deleted(api: APIClient, make_lora: LoraMaker, pins: set[Any]) -> None:
    """409 until the work has ended."""
    lora = make_lora()
    pins.add(lora.id)
    answer = api.delete(f"{LORAS}/{lora.id}")
    assert (answer.status_code, answer.json()["code"]) == (409, "lora_in_use")
    assert content_path(lora.sha256).is_file()
    pins.clear()
    assert api.delete(f"{LORAS}/{lora.id}").status_code == 204


def test_an_upload_that_waits_can_be_deleted(api: APIClient, lora_folder: Path) -> None:
    """With its unchecked file; the task then finds nothing to do."""
    url = upload(api, lora_bytes()).json()["url"]
    lora_id = Lora.objects.get(source="upload").id
    assert api.delete(url).status_code == 204
    assert files_below(lora_folder) == []
    lora_process(lora_id=lora_id)


def test_why_an_adapter_is_broken_is_shown(api: APIClient, lora_folder: Path) -> None:
    """A weight that is no number is found by the task worker; nothing of the file stays."""
    tensors = unet_tensors()
    name = next(iter(tensors))
    broken = ("F16", tensors[name][1], b"\xff\x7f" * (tensors[name][1][0] * tensors[name][1][1]))
    url = upload(api, safetensors(tensors | {name: broken})).json()["url"]
    lora = Lora.objects.get(source="upload")
    lora_process(lora_id=lora.id)
    said = api.get(url).json()
    assert said["state"] == LoraState.BROKEN
    assert said["error"]["code"] == "unsupported"
    assert "NaN or infinite" in said["error"]["detail"]
    assert files_below(lora_folder) == []


BAD_LOADS: list[tuple[dict[str, Any], str]] = [
    ({"lora_path": ""}, "lora_path"),
    ({"lora_path": "name"}, "lora_path"),
    ({"lora_path": "/etc/passwd"}, "lora_path"),
    ({"lora_path": "../../etc"}, "lora_path"),
    ({"lora_path": "org/../name"}, "lora_path"),
    ({"lora_path": "https://huggingface.co/org/name"}, "lora_path"),
    ({"lora_path": "org/name/more"}, "lora_path"),
    ({"lora_path": "x" * 200 + "/name"}, "lora_path"),
    ({"lora_path": 7}, "lora_path"),
    ({"lora_path": "org/\x00"}, "lora_path"),
    ({"weight_name": "../a.safetensors"}, "weight_name"),
    ({"weight_name": "/a.safetensors"}, "weight_name"),
    ({"weight_name": "a.bin"}, "weight_name"),
    ({"weight_name": "a//b.safetensors"}, "weight_name"),
    ({"weight_name": "a/.b.safetensors"}, "weight_name"),
    ({"weight_name": "a" * 300 + ".safetensors"}, "weight_name"),
    ({"revision": "../main"}, "revision"),
    ({"revision": "a b"}, "revision"),
    ({"revision": "x" * 101}, "revision"),
    ({"name": "No"}, "name"),
    ({"model_id": "no-such-model"}, "model_id"),
    ({"token": "hf_abc"}, "token"),
]


@pytest.mark.parametrize(("fields", "blamed"), BAD_LOADS, ids=lambda value: repr(value)[:40])
def test_a_bad_field_of_a_load_is_named(api: APIClient, fields: dict[str, Any], blamed: str) -> None:
    """400, and nothing is registered."""
    body = json.dumps({"lora_path": "org/name"} | fields)
    answer = api.post(f"{LORAS}/load", body, content_type="application/json")
    assert answer.status_code == 400, answer.content
    assert params_of(answer) == {blamed}
    assert not Lora.objects.filter(source="hub").exists()
