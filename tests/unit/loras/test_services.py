"""Finding adapters, what they fit, and the rules that the database repeats."""

import io
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from loras.cache import loras_resume
from loras.errors import LoraIncompatibleError, LoraNotFoundError, LoraUnavailableError
from loras.files import lock_key
from loras.models import Lora
from loras.processing import lora_process
from loras.selectors import lora_get
from loras.services import (
    lora_check_fits,
    lora_mark_lost,
    lora_request,
    lora_touch,
    loras_tell_schedulers,
)
from models_registry.models import Checkpoint
from tests.support.factories import LoraMaker
from tests.support.service import wait_for


def test_an_adapter_is_found_by_id_name_and_repository(owner: User, make_hub_lora: LoraMaker) -> None:
    """Whatever a request calls it."""
    lora = make_hub_lora("mine")
    for name in (str(lora.id), "mine", "org/mine"):
        assert lora_get(user=owner, name=name) == lora


@pytest.mark.parametrize("name", ["", "other", "org/other", "01a217dc-0000-7000-8000-000000000000", "MINE"])
def test_an_unknown_adapter_is_not_found(owner: User, make_lora: LoraMaker, name: str) -> None:
    """404, which blames the field that it came in."""
    make_lora("mine")
    with pytest.raises(LoraNotFoundError) as caught:
        lora_get(user=owner, name=name, param="loras")
    assert caught.value.param == "loras"


def test_older_adapters_are_told_what_they_were_distilled_for(
    make_lora: LoraMaker, make_hub_lora: LoraMaker
) -> None:
    """By the title in their file, and their names, where their family is drawn with that; what is said stays."""
    before = [
        make_lora("hyper-sd15-1step", scheduler=""),
        make_hub_lora("for-lcm-lora", content=1, scheduler=""),
        make_lora("lcm", content=2, scheduler="euler"),
        make_lora("soft", content=3),
        make_hub_lora("pruned-lcm", content=4, scheduler="", state="absent", sha256="0" * 64),
        make_lora("flux-lcm", content=5, scheduler=""),
    ]
    Lora.objects.filter(name="flux-lcm").update(family="flux")
    expected = {"hyper-sd15-1step": "tcd", "for-lcm-lora": "lcm", "pruned-lcm": "lcm"}
    said = io.StringIO()
    call_command("tell_schedulers", dry_run=True, stdout=said)
    assert said.getvalue().endswith("3 LoRA would be told.\n")
    assert not Lora.objects.filter(name="for-lcm-lora", scheduler="lcm").exists()
    assert {lora.name: lora.scheduler for lora in loras_tell_schedulers()} == expected
    for lora in before:
        told = expected.get(lora.name, lora.scheduler)
        lora.refresh_from_db()
        assert lora.scheduler == told
    assert loras_tell_schedulers() == []


def test_ones_own_comes_before_a_shared_one(owner: User, stranger: User, make_lora: LoraMaker) -> None:
    """Nobody can take a name away by sharing one; staff do not get private ones by name."""
    shared = make_lora("same", owner=stranger, shared=True)
    assert lora_get(user=owner, name="same") == shared
    own = make_lora("same", content=1)
    assert lora_get(user=owner, name="same") == own
    assert lora_get(user=stranger, name="same") == shared
    staff = User.objects.create_user("eve", is_staff=True)
    private = make_lora("private", content=2)
    with pytest.raises(LoraNotFoundError):
        lora_get(user=staff, name="private")
    assert lora_get(user=staff, name=str(private.id)) == private


def test_an_adapter_fits_its_family_alone(make_lora: LoraMaker) -> None:
    """What it fits passes; else both families are named."""
    lora = make_lora(family="sdxl")
    lora_check_fits(lora=lora, checkpoint=Checkpoint.objects.get(id="sd-xl-base"))
    with pytest.raises(
        LoraIncompatibleError, match=r"Stable Diffusion XL.*sd-2-1.*Stable Diffusion 2"
    ) as caught:
        lora_check_fits(lora=lora, checkpoint=Checkpoint.objects.get(id="sd-2-1"))
    assert caught.value.extra == {"lora_family": "sdxl", "model_family": "sd2"}


def changed(lora: Lora, **changes: Any) -> Lora:
    """The adapter with other values in its row."""
    Lora.objects.filter(pk=lora.pk).update(**changes)
    lora.refresh_from_db()
    return lora


@pytest.mark.parametrize(
    "changes",
    [
        {"enabled": False},
        {"state": "broken", "error_code": "unusable", "error_detail": "Its file is gone."},
        {"state": "downloading", "family": ""},
    ],
    ids=str,
)
def test_what_cannot_be_used_says_why(make_lora: LoraMaker, changes: dict[str, Any]) -> None:
    """409, whatever the model."""
    with pytest.raises(LoraUnavailableError):
        lora_check_fits(lora=changed(make_lora(), **changes), checkpoint=Checkpoint.objects.get(id="sd-1-5"))


def test_a_pruned_adapter_still_fits(make_hub_lora: LoraMaker) -> None:
    """Its family is known; its file can be had again."""
    lora = make_hub_lora(state="absent")
    lora_check_fits(lora=lora, checkpoint=Checkpoint.objects.get(id="sd-1-5"))
    assert lora_request(lora=lora).state == "downloading"


def test_a_lost_upload_cannot_be_asked_for(make_lora: LoraMaker) -> None:
    """There is nowhere to get it from."""
    lora = make_lora()
    lora_mark_lost(lora=lora)
    lora.refresh_from_db()
    assert lora.state == "broken"
    with pytest.raises(LoraUnavailableError, match="upload it again"):
        lora_request(lora=lora)


def test_use_is_noted(make_lora: LoraMaker) -> None:
    """It is what the order of pruning goes by."""
    lora = make_lora()
    assert lora.last_used_at is None
    lora_touch(ids=[lora.id])
    lora.refresh_from_db()
    assert lora.last_used_at is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Upper"},
        {"name": "../x"},
        {"sha256": "xyz"},
        {"state": "present", "sha256": ""},
        {"state": "present", "family": ""},
        {"state": "broken"},
        {"error_code": "unusable"},
        {"source": "hub"},
        {"repository": "org/name"},
        {"owner": None},
        {"source": "builtin"},
    ],
    ids=str,
)
def test_the_database_refuses_contradictions(make_lora: LoraMaker, changes: dict[str, Any]) -> None:
    """Whoever writes them."""
    lora = make_lora()
    with pytest.raises(IntegrityError), transaction.atomic():
        Lora.objects.filter(pk=lora.pk).update(**changes)


def test_a_shared_name_is_unique(stranger: User, make_lora: LoraMaker) -> None:
    """Else it would mean two things."""
    make_lora("same", shared=True)
    other = make_lora("same", content=1, owner=stranger)
    with pytest.raises(IntegrityError), transaction.atomic():
        Lora.objects.filter(pk=other.pk).update(shared=True)


def asked_at(lora: Lora, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids that a look at pending adapters asks for again."""
    asked: list[str] = []
    monkeypatch.setattr("loras.cache.lora_enqueue", lambda lora: asked.append(lora.name))
    loras_resume()
    return asked


@pytest.mark.parametrize(
    ("state", "age_s", "again"),
    [
        ("downloading", 120, True),
        ("checking", 120, True),
        ("downloading", 10, False),
        ("present", 120, False),
    ],
)
def test_pending_adapters_are_asked_for_again(
    make_hub_lora: LoraMaker,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    age_s: int,
    again: bool,  # noqa: FBT001
) -> None:
    """After a while, when an entry was lost or its worker died."""
    lora = make_hub_lora(state=state, requested_at=timezone.now() - timedelta(seconds=age_s))
    assert asked_at(lora, monkeypatch) == (["mine"] if again else [])


def locks_of(pid: int) -> list[Any]:
    """What a process of PostgreSQL has locked; it lets go a moment after its client has gone."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT locktype FROM pg_locks WHERE pid = %s", [pid])
        return cursor.fetchall()


def test_what_somebody_has_in_hand_is_left_alone(
    make_hub_lora: LoraMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No second download, and no second entry; a process that dies lets go."""
    lora = make_hub_lora(state="downloading", requested_at="2026-01-01T00:00:00Z")
    seen_to: list[Lora] = []
    monkeypatch.setattr("loras.processing._process", seen_to.append)
    parameters = connection.get_connection_params()
    address = {
        name: parameters[name]
        for name in ("dbname", "user", "password", "host", "port")
        if name in parameters
    }
    with psycopg.connect(**address) as other_process:
        other_process.execute("SELECT pg_advisory_lock(%s)", [lock_key(lora.id.bytes)])
        lora_process(lora_id=lora.id)
        assert seen_to == []
        assert asked_at(lora, monkeypatch) == []
        pid = other_process.info.backend_pid
    wait_for(lambda: not locks_of(pid), "the end of the other process's locks")
    lora_process(lora_id=lora.id)
    assert seen_to == [lora]
