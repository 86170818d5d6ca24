"""Files that take GPU workers down: the second death puts them out of use, whatever they are called."""

from pathlib import Path
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from django.test import Client
from rest_framework.test import APIClient

from loras.models import Lora, LoraTrial
from loras.processing import lora_process
from loras.trials import trial_begin, trial_end, trials_judge
from tests.support.factories import LoraMaker, upload
from tests.support.lora_files import lora_bytes


def die(lora: Lora, worker: str) -> None:
    """A worker dies while it puts the file on a model, and is found dead."""
    trial_begin(sha256=lora.sha256, worker=worker)
    trials_judge(alive=["another"])


def state_of(lora: Lora) -> tuple[str, str]:
    lora.refresh_from_db()
    return lora.state, lora.error_code


def test_the_second_death_puts_it_out_of_use(
    api: APIClient, make_lora: LoraMaker, stranger: User, lora_folder: Path
) -> None:
    """For everybody who has the same file; the reason is said, and the file goes."""
    lora, same = make_lora(), make_lora("same", owner=stranger)
    innocent = make_lora("innocent", content=1)
    die(lora, "one")
    assert state_of(lora) == ("present", "")
    die(lora, "two")
    assert state_of(lora) == state_of(same) == ("broken", "unusable")
    assert state_of(innocent) == ("present", "")
    assert "2 GPU workers died" in api.get(f"/api/v1/loras/{lora.id}").json()["error"]["detail"]
    assert [path.name for path in lora_folder.glob("*.safetensors")] == [f"{innocent.sha256}.safetensors"]


def test_the_same_file_under_another_name_stays_out(api: APIClient, make_lora: LoraMaker) -> None:
    """It is known by its content."""
    lora = make_lora()
    for worker in ("one", "two"):
        die(lora, worker)
    said = upload(api, lora_bytes(seed=0), name="again").json()
    lora_process(lora_id=UUID(said["id"]))
    assert api.get(said["url"]).json()["error"]["code"] == "unsupported"


def test_what_a_worker_survives_counts_for_nothing(make_lora: LoraMaker) -> None:
    """Also when it was taken for dead because its machine slept; and success clears the file of earlier deaths."""
    lora = make_lora()
    trial_begin(sha256=lora.sha256, worker="one")
    trials_judge(alive=["one"])
    trial_end(sha256=lora.sha256, worker="one", harmless=False)
    assert not LoraTrial.objects.exists()
    die(lora, "two")
    trial_begin(sha256=lora.sha256, worker="three")
    trial_end(sha256=lora.sha256, worker="three", harmless=True)
    assert not LoraTrial.objects.exists()
    die(lora, "four")
    assert state_of(lora) == ("present", "")


def test_one_that_was_only_refused_keeps_its_deaths(make_lora: LoraMaker) -> None:
    """A refusal proves nothing about the file on another model."""
    lora = make_lora()
    die(lora, "one")
    trial_begin(sha256=lora.sha256, worker="two")
    trial_end(sha256=lora.sha256, worker="two", harmless=False)
    die(lora, "three")
    assert state_of(lora) == ("broken", "unusable")


def test_staff_may_forgive(superuser: User, make_lora: LoraMaker, api: APIClient) -> None:
    """Deaths are listed in the admin; without them the file is as any other."""
    lora = make_lora()
    for worker in ("one", "two"):
        die(lora, worker)
    client = Client()
    client.force_login(superuser)
    page = client.get("/admin/loras/loratrial/")
    assert lora.sha256 in page.content.decode()
    pks = [str(pk) for pk in LoraTrial.objects.values_list("pk", flat=True)]
    client.post(
        "/admin/loras/loratrial/",
        {"action": "delete_selected", "_selected_action": pks, "post": "yes"},
    )
    said = upload(api, lora_bytes(seed=0), name="again").json()
    lora_process(lora_id=UUID(said["id"]))
    assert api.get(said["url"]).json()["state"] == "present"


@pytest.mark.parametrize("method", ["add", "change"])
def test_deaths_are_not_written_by_hand(superuser: User, make_lora: LoraMaker, method: str) -> None:
    lora = make_lora()
    die(lora, "one")
    client = Client()
    client.force_login(superuser)
    path = "add" if method == "add" else f"{LoraTrial.objects.get().pk}/change"
    assert client.post(f"/admin/loras/loratrial/{path}/", {}).status_code == 403
