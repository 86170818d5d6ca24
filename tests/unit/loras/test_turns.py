"""Whose adapter is seen to next: one source that drips keeps nobody but its owner waiting."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from pytest_django import Settings
from rest_framework.test import APIClient

from imagegen_project.common.lanes import lanes_open
from loras.models import Lora
from loras.processing import lora_process_next
from loras.selectors import loras_in_turn
from loras.services import lora_load, lora_upload
from loras.tasks import LANE, process_lora
from models_registry import downloads
from tests.support.factories import client_of, upload
from tests.support.hub import HubDouble
from tests.support.hub_repository import HubRepository
from tests.support.lora_files import lora_bytes
from tests.support.service import wait_for

FILE = "pytorch_lora_weights.safetensors"
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def users(transactional_db: None) -> dict[str, User]:
    """Three of them."""
    return {name: User.objects.create_user(name) for name in ("ada", "bob", "cid")}


@pytest.fixture
def repositories(hub_double: HubDouble, tmp_path: Path) -> dict[str, HubRepository]:
    """Six of one adapter each."""
    made = {}
    for number in range(6):
        folder = tmp_path / f"repository-{number}"
        folder.mkdir()
        (folder / FILE).write_bytes(lora_bytes(seed=number))
        made[f"org/a{number}"] = HubRepository(hub_double, f"org/a{number}", folder)
    return made


@pytest.fixture
def lanes() -> Iterator[None]:
    """What a task worker has."""
    with lanes_open(LANE):
        yield


def states(owner: User) -> list[str]:
    return list(Lora.objects.filter(owner=owner).order_by("id").values_list("state", flat=True))


@pytest.mark.slow
def test_a_source_that_drips_keeps_only_its_owner_waiting(
    users: dict[str, User], repositories: dict[str, HubRepository], hub_double: HubDouble, lanes: None
) -> None:
    """One user with more of them than there are places; the others' come and go."""
    for number in range(4):
        repositories[f"org/a{number}"].faults = {FILE: "drip"}
        lora_load(owner=users["ada"], repository=f"org/a{number}")
    wait_for(lambda: repositories["org/a0"].bytes_sent > 2, "the first drops")
    for name, number in (("bob", 4), ("cid", 5)):
        process_lora(str(lora_load(owner=users[name], repository=f"org/a{number}").id))
    for name in ("bob", "cid"):
        wait_for(lambda name=name: states(users[name]) == ["present"], f"{name}'s adapter")
    assert states(users["ada"]) == ["downloading"] * 4
    # The rest of hers has not even begun.
    assert [repositories[f"org/a{number}"].bytes_sent for number in range(1, 4)] == [0, 0, 0]
    hub_double.stop()


def test_owners_take_turns(users: dict[str, User], repositories: dict[str, HubRepository]) -> None:
    """Whoever was served longest ago is next, however many somebody else asked for before."""
    for number in range(3):
        lora_load(owner=users["ada"], repository=f"org/a{number}")
    for name, number in (("bob", 3), ("cid", 4)):
        lora_load(owner=users[name], repository=f"org/a{number}")
    served = []
    while lora_process_next():
        newest = Lora.objects.order_by("-taken_at").exclude(taken_at=None)[0]
        served.append((newest.owner.username if newest.owner else "", newest.repository))
    assert served == [
        ("ada", "org/a0"),
        ("bob", "org/a3"),
        ("cid", "org/a4"),
        ("ada", "org/a1"),
        ("ada", "org/a2"),
    ]
    assert loras_in_turn() == []


def test_a_worker_that_is_told_to_stop_leaves_a_download_for_later(
    users: dict[str, User], repositories: dict[str, HubRepository], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its next bytes; what has come stays, and the next one goes on from there."""
    lora = lora_load(owner=users["ada"], repository="org/a0")
    downloads._stopping.set()
    try:
        assert not lora_process_next()
    finally:
        downloads._stopping.clear()
    assert states(users["ada"]) == ["downloading"]
    assert lora_process_next()
    lora.refresh_from_db()
    assert lora.state == "present"


class TestShare:
    """How much of the cache one user's may take."""

    @pytest.fixture(autouse=True)
    def share(self, settings: Settings) -> int:
        """Two adapters and a half."""
        size = len(lora_bytes())
        settings.LORA_USER_SHARE_BYTES = 2 * size + size // 2
        return size

    def test_uploads_beyond_it_are_refused(self, users: dict[str, User], settings: Settings) -> None:
        """Each user's by itself; staff have no share."""
        api: APIClient = client_of(users["ada"])
        for number in range(2):
            assert upload(api, lora_bytes(seed=number), name=f"a{number}").status_code == 202
        refused = upload(api, lora_bytes(seed=2), name="a2")
        assert (refused.status_code, refused.json()["code"]) == (507, "lora_storage_full")
        assert "LORA_USER_SHARE_PERCENT" in refused.json()["detail"]
        assert upload(client_of(users["bob"]), lora_bytes(seed=2), name="a2").status_code == 202
        User.objects.filter(pk=users["ada"].pk).update(is_staff=True)
        api = client_of(User.objects.get(pk=users["ada"].pk))
        assert upload(api, lora_bytes(seed=2), name="a2").status_code == 202

    def test_downloads_beyond_it_push_out_the_owner_s_own(
        self, users: dict[str, User], repositories: dict[str, HubRepository]
    ) -> None:
        """The least recently used of them, and nobody else's."""
        lora_load(owner=users["bob"], repository="org/a5")
        for number in range(3):
            lora_load(owner=users["ada"], repository=f"org/a{number}")
        while lora_process_next():
            pass
        assert states(users["ada"]) == ["absent", "present", "present"]
        assert states(users["bob"]) == ["present"]

    def test_what_fits_in_no_way_says_so(
        self, users: dict[str, User], repositories: dict[str, HubRepository], settings: Settings, share: int
    ) -> None:
        """Uploads cannot be had again, and stay."""
        for number in range(2):
            file = upload_file(lora_bytes(seed=number))
            lora_upload(owner=users["ada"], name=f"up{number}", file=file)
        lora = lora_load(owner=users["ada"], repository="org/a2")
        while lora_process_next():
            pass
        lora.refresh_from_db()
        assert (lora.state, lora.error_code) == ("absent", "disk_full")
        assert "LORA_USER_SHARE_PERCENT" in lora.error_detail
        assert repositories["org/a2"].bytes_sent == 0


def upload_file(data: bytes) -> SimpleUploadedFile:
    """A file as a form brings it."""
    return SimpleUploadedFile("file.safetensors", data)
