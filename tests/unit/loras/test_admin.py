"""Adapters in the admin: upload with its reasons, share, disable, download, delete."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from loras.files import _is_written, content_path, incoming_folder
from loras.models import Lora
from loras.processing import lora_process
from tests.support.factories import LoraMaker
from tests.support.lora_files import HOSTILE, lora_bytes

LIST = "/admin/loras/lora/"
ADD = f"{LIST}add/"


@pytest.fixture
def page(superuser: User) -> Client:
    """A browser in which a member of staff is logged in."""
    client = Client()
    client.force_login(superuser)
    return client


def form(data: bytes, **fields: Any) -> dict[str, Any]:
    """A filled upload form."""
    return {"name": "mine", "trigger_words": "", "file": SimpleUploadedFile("a.safetensors", data)} | fields


def act(page: Client, action: str, *loras: Lora) -> str:
    """Runs an action on rows; the page that comes then."""
    body = {"action": action, "_selected_action": [str(lora.pk) for lora in loras]}
    return page.post(LIST, body, follow=True).content.decode()


def test_an_upload_is_stored(page: Client, superuser: User) -> None:
    """As the member of staff's own."""
    answer = page.post(ADD, form(lora_bytes("sd2"), trigger_words="a, b"), follow=True)
    assert answer.status_code == 200
    lora = Lora.objects.get(source="upload")
    assert (lora.owner, lora.family, lora.state, lora.trigger_words) == (
        superuser,
        "sd2",
        "checking",
        ["a", "b"],
    )
    assert "was added successfully" in answer.content.decode()


@pytest.mark.parametrize("name", ["pickle", "header of 2 GB", "LoHa", "overlap", "two ranks"])
def test_a_refused_upload_says_why(page: Client, name: str, lora_folder: Path) -> None:
    """In the form; nothing is stored."""
    answer = page.post(ADD, form(HOSTILE[name][0]))
    assert answer.status_code == 200
    assert "The file cannot be used" in answer.content.decode()
    assert not Lora.objects.filter(source="upload").exists()


def test_a_taken_or_bad_name_is_refused_by_the_form(
    page: Client, superuser: User, make_lora: LoraMaker
) -> None:
    """Like any other field."""
    make_lora("mine", owner=superuser)
    assert "another LoRA of this name" in page.post(ADD, form(lora_bytes(seed=1))).content.decode()
    assert "Lower-case letters" in page.post(ADD, form(lora_bytes(), name="No")).content.decode()
    assert page.post(ADD, {"name": "x", "trigger_words": ""}).status_code == 200


def test_what_only_storing_finds_out_is_a_message(page: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a server error."""

    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("loras.services.upload_copy", fail)
    assert "The disk is full" in page.post(ADD, form(lora_bytes()), follow=True).content.decode()


def test_an_upload_is_validated_again(
    page: Client, make_lora: LoraMaker, make_hub_lora: LoraMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a copy, which nobody takes for a leftover; what can be fetched again is not."""
    lora, fetched = make_lora(), make_hub_lora("fetched", content=1)
    real, kept = shutil.copyfile, []

    def copy(source: Path, target: Path) -> None:
        kept.append(_is_written(target))
        real(source, target)

    monkeypatch.setattr("shutil.copyfile", copy)
    assert "Validated again" in act(page, "validate_selected", lora, fetched)
    lora.refresh_from_db()
    fetched.refresh_from_db()
    assert (lora.state, fetched.state, kept) == ("checking", "present", [True])
    assert lora_process(lora_id=lora.id)
    lora.refresh_from_db()
    assert (lora.state, content_path(lora.sha256).exists()) == ("present", True)
    assert not list(incoming_folder().iterdir())


def test_without_room_for_the_copy_it_stays_as_it_was(
    page: Client, make_lora: LoraMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And that is a message."""
    lora = make_lora()

    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", fail)
    assert "The disk is full" in act(page, "validate_selected", lora)
    lora.refresh_from_db()
    assert lora.state == "present"
    assert not list(incoming_folder().iterdir())


def test_the_list_and_the_page_show_reasons(page: Client, make_lora: LoraMaker) -> None:
    """And what the file says."""
    lora = make_lora(state="broken", error_code="unusable", error_detail="Its file is gone from the disk.")
    assert "broken" in page.get(LIST).content.decode()
    shown = page.get(f"{LIST}{lora.pk}/change/").content.decode()
    assert "Its file is gone from the disk." in shown
    assert lora.sha256 in shown


def test_sharing_and_enabling_by_the_page(page: Client, make_lora: LoraMaker) -> None:
    """Nothing else can be changed there."""
    lora = make_lora()
    change = f"{LIST}{lora.pk}/change/"
    page.post(change, {"shared": "on", "trigger_words": "new", "name": "other", "family": "sdxl"})
    lora.refresh_from_db()
    assert (lora.shared, lora.enabled, lora.trigger_words) == (True, False, ["new"])
    assert (lora.name, lora.family) == ("mine", "sd1")


def test_two_shared_adapters_of_one_name_are_refused(
    page: Client, superuser: User, make_lora: LoraMaker
) -> None:
    """By the page and by the action."""
    make_lora("same", shared=True)
    other = make_lora("same", content=1, owner=superuser)
    shown = page.post(f"{LIST}{other.pk}/change/", {"shared": "on", "enabled": "on", "trigger_words": ""})
    assert "Another shared LoRA has this name" in shown.content.decode()
    assert "Another shared LoRA has this name" in act(page, "share_selected", other)
    other.refresh_from_db()
    assert other.shared is False


def test_actions(page: Client, make_lora: LoraMaker, make_hub_lora: LoraMaker) -> None:
    """Share, disable, enable, download."""
    lora, absent = make_lora("one"), make_hub_lora("two", content=1, state="absent")
    act(page, "share_selected", lora)
    act(page, "disable_selected", lora)
    lora.refresh_from_db()
    assert (lora.shared, lora.enabled) == (True, False)
    act(page, "enable_selected", lora)
    act(page, "request_selected", lora, absent)
    for row in (lora, absent):
        row.refresh_from_db()
    assert (lora.enabled, lora.state, absent.state) == (True, "present", "downloading")
    Lora.objects.filter(pk=lora.pk).update(state="broken", error_code="unusable")
    assert "upload it again" in act(page, "request_selected", lora)


def test_deleting_takes_the_file_along(page: Client, make_lora: LoraMaker) -> None:
    """One by one or several."""
    one, two, three = make_lora("one"), make_lora("two", content=1), make_lora("three", content=2)
    page.post(f"{LIST}{one.pk}/delete/", {"post": "yes"})
    body = {"action": "delete_selected", "_selected_action": [two.pk, three.pk], "post": "yes"}
    assert page.post(LIST, body).status_code == 302
    assert not any(content_path(lora.sha256).is_file() for lora in (one, two, three))
    assert not Lora.objects.filter(source="upload").exists()


def test_what_is_in_use_is_not_deleted(page: Client, make_lora: LoraMaker, pins: set[Any]) -> None:
    """Neither from its page nor from the list."""
    used = make_lora()
    pins.add(used.id)
    body = {"action": "delete_selected", "_selected_action": [used.pk], "post": "yes"}
    for url, fields in ((LIST, body), (f"{LIST}{used.pk}/delete/", {"post": "yes"})):
        assert page.post(url, fields).status_code == 403
    assert content_path(used.sha256).is_file()
