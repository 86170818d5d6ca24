"""Asking for checkpoints: rows, queue entries, the sweep, the admin and the command."""

import io
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings
from tqdm import tqdm

from imagegen_project.common.queues import DOWNLOADS_QUEUE, entries_waiting, queue_get
from models_registry.choices import DiskState
from models_registry.classifier import FILES
from models_registry.management.commands import prefetch_models
from models_registry.models import Checkpoint
from models_registry.selectors import downloads_pending, safety_classifier_folder
from models_registry.services import (
    CHECK_FILES,
    DOWNLOAD_NEXT,
    checkpoint_request_download,
    downloads_restore,
)
from tests.support.hub import HubDouble
from tests.support.hub_repository import HubRepository
from tests.support.repositories import UNET, safetensors_bytes, write_files

PAGE = "/admin/models_registry/checkpoint/"


def entries() -> list[tuple[str, list[str]]]:
    """What waits in the queue: function and arguments."""
    return [(job.func_name, list(job.args)) for job in queue_get(DOWNLOADS_QUEUE).jobs]


@pytest.fixture
def sd15(db: None) -> Checkpoint:
    """sd-1-5, absent."""
    return Checkpoint.objects.get(id="sd-1-5")


def test_a_wish_is_told_to_a_worker_once(
    sd15: Checkpoint, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    """After the commit; a second wish adds nothing."""
    with django_capture_on_commit_callbacks(execute=True):
        assert checkpoint_request_download(checkpoint=sd15)
        assert not checkpoint_request_download(checkpoint=sd15)
        assert entries() == []
    assert entries() == [(DOWNLOAD_NEXT, [])]
    assert [row.pk for row in downloads_pending()] == ["sd-1-5"]


def test_a_wish_survives_a_redis_that_is_away(
    sd15: Checkpoint,
    settings: Settings,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    """The sweep pushes what is missing, and no more than that."""
    working = settings.RQ_QUEUES[DOWNLOADS_QUEUE]["URL"]
    settings.RQ_QUEUES[DOWNLOADS_QUEUE]["URL"] = "redis://127.0.0.1:1/0"
    try:
        with django_capture_on_commit_callbacks(execute=True):
            assert checkpoint_request_download(checkpoint=sd15)
        assert downloads_restore() == 0
    finally:
        settings.RQ_QUEUES[DOWNLOADS_QUEUE]["URL"] = working
    assert downloads_restore() == 1
    assert downloads_restore() == 0
    assert entries_waiting(DOWNLOADS_QUEUE) == 1


@pytest.mark.parametrize(("silent", "pushed"), [("silent", 1), ("alive", 0)])
def test_a_killed_download_is_started_again(sd15: Checkpoint, silent: str, pushed: int) -> None:
    """Once it has given no sign of life for a while; a living one is left alone."""
    at = timezone.now() if silent == "alive" else "2020-01-01T00:00:00Z"
    Checkpoint.objects.filter(pk=sd15.pk).update(
        state=DiskState.DOWNLOADING, download_requested_at="2020-01-01T00:00:00Z", download_alive_at=at
    )
    assert downloads_restore() == pushed


def test_the_admin_downloads_and_checks(
    sd15: Checkpoint, admin_client: Client, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    """Through the queue; state, share, size and error stand in the list."""
    Checkpoint.objects.filter(pk="sd-2-1").update(
        state="broken", error_code="not_found", error_detail="The Hub does not have it.", size_bytes=4_000_000
    )
    Checkpoint.objects.filter(pk="sd-xl-base").update(state="present", revision="b" * 40)
    page = admin_client.get(PAGE).content.decode()
    for text in ("broken", "The Hub does not have it.", "4.0 MB", "100 %"):
        assert text in page
    chosen = {"_selected_action": ["builtin", "sd-1-5", "sd-2-1", "sd-xl-base"]}
    with django_capture_on_commit_callbacks(execute=True):
        answer = admin_client.post(PAGE, {"action": "download", **chosen}, follow=True)
    assert "Asked for: sd-1-5, sd-2-1" in answer.content.decode()
    answer = admin_client.post(PAGE, {"action": "check_files", **chosen}, follow=True)
    assert "are being checked" in answer.content.decode()
    assert sorted(entries()) == sorted(
        [
            (DOWNLOAD_NEXT, []),
            (DOWNLOAD_NEXT, []),
            (CHECK_FILES, ["builtin"]),
            (CHECK_FILES, ["sd-xl-base"]),
        ]
    )


def form_of(client: Client, pk: str) -> dict[str, Any]:
    """What the change page would send back."""
    initial = client.get(f"{PAGE}{pk}/change/").context["adminform"].form.initial
    names = client.get(f"{PAGE}{pk}/change/").context["adminform"].form.fields
    return {name: initial[name] for name in names if initial.get(name)}


def test_a_changed_source_means_other_files(sd15: Checkpoint, admin_client: Client) -> None:
    """The commit of another repository is forgotten; a download in hand is void; a limit changes nothing of it."""
    Checkpoint.objects.filter(pk="sd-1-5").update(state="present", revision="b" * 40, files={"x": {}})
    form = form_of(admin_client, "sd-1-5")
    assert admin_client.post(f"{PAGE}sd-1-5/change/", form | {"default_steps": 7}).status_code == 302
    sd15.refresh_from_db()
    assert (sd15.state, sd15.default_steps, sd15.download_attempt) == ("present", 7, 0)
    assert admin_client.post(f"{PAGE}sd-1-5/change/", form | {"repository": "me/mine"}).status_code == 302
    sd15.refresh_from_db()
    assert (sd15.state, sd15.repository, sd15.revision, sd15.files) == ("absent", "me/mine", "", {})
    assert sd15.download_attempt == 1


def test_any_repository_is_one_row_away(db: None, admin_client: Client) -> None:
    """Written in the admin; a revision that is no commit is refused in the form."""
    form = form_of(admin_client, "sd-1-5") | {
        "id": "mine",
        "name": "Mine",
        "repository": "me/mine",
        "family": "other",
        "revision": "main",
    }
    answer = admin_client.post(f"{PAGE}add/", form)
    assert "40 hexadecimal digits" in answer.content.decode()
    assert admin_client.post(f"{PAGE}add/", form | {"revision": ""}).status_code == 302
    assert Checkpoint.objects.get(id="mine").state == DiskState.ABSENT


@pytest.mark.django_db(transaction=True)
class TestCommand:
    """`manage.py prefetch_models`."""

    def test_it_downloads_what_is_named(
        self, row: Checkpoint, repository: HubRepository, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """By id or repository; what is there is left alone."""
        call_command("prefetch_models", row.repository)
        assert "sd-1-5: downloaded" in capsys.readouterr().out
        call_command("prefetch_models", "sd-1-5", "builtin")
        out = capsys.readouterr().out
        assert "sd-1-5: already there" in out
        assert "builtin: already there" in out

    def test_one_failure_does_not_stop_the_others(
        self, row: Checkpoint, repository: HubRepository, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """It ends with an error all the same, and a sentence a failure."""
        with pytest.raises(CommandError, match="2 could not be downloaded"):
            call_command("prefetch_models", "--all-enabled")
        captured = capsys.readouterr()
        assert "sd-1-5: downloaded" in captured.out
        assert "sd-2-1: The Hub does not have" in captured.err
        assert "sd-xl-base: The Hub does not have" in captured.err

    def test_a_disabled_one_must_be_named(
        self, row: Checkpoint, repository: HubRepository, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """`--all-enabled` leaves it out."""
        Checkpoint.objects.exclude(pk="builtin").update(enabled=False)
        call_command("prefetch_models", "--all-enabled")
        assert "sd-1-5" not in capsys.readouterr().out
        call_command("prefetch_models", "sd-1-5")
        assert "sd-1-5: downloaded" in capsys.readouterr().out

    @pytest.mark.parametrize(("arguments", "words"), [([], "Name models"), (["nope"], "Known: builtin")])
    def test_it_says_what_it_needs(self, row: Checkpoint, arguments: list[str], words: str) -> None:
        """Before anything is downloaded."""
        with pytest.raises(CommandError, match=words):
            call_command("prefetch_models", *arguments)

    def test_the_safety_classifier_comes_too(
        self, hub_double: HubDouble, tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Verified, once, where the filter is on; one with pickles alone is refused."""
        settings.SAFETY_MODEL = "me/checker"
        settings.SAFETY_FILTER = "off"
        classifier = HubRepository(hub_double, "me/checker", tmp_path / "checker")
        call_command("prefetch_models", "builtin")
        settings.SAFETY_FILTER = "block"
        write_files(classifier.folder, {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
        with pytest.raises(CommandError):
            call_command("prefetch_models", "builtin")
        assert "no model.safetensors" in capsys.readouterr().err
        write_files(
            classifier.folder,
            {"preprocessor_config.json": b"{}", "model.safetensors": safetensors_bytes(20_000)},
        )
        classifier.faults["model.safetensors"] = "flip"
        with pytest.raises(CommandError):
            call_command("prefetch_models", "builtin")
        folder = safety_classifier_folder()
        assert folder is not None
        assert not folder.exists()
        classifier.faults.clear()
        call_command("prefetch_models", "builtin")
        assert {path.name for path in folder.iterdir()} == set(FILES)
        seen = len(hub_double.requests)
        call_command("prefetch_models", "builtin")
        assert len(hub_double.requests) == seen

    def test_a_bar_shows_bytes(
        self, row: Checkpoint, repository: HubRepository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of all files together; after a failure it stands where it ended."""
        bars: list[Any] = []

        class Bar(tqdm):  # type: ignore[misc]  # it has no types
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs | {"disable": False, "file": io.StringIO()})
                bars.append(self)

        monkeypatch.setattr(prefetch_models, "tqdm", Bar)
        repository.faults[UNET] = "truncate"
        with pytest.raises(CommandError):
            call_command("prefetch_models", "sd-1-5")
        assert 0 < bars[0].n < bars[0].total
        repository.faults.clear()
        call_command("prefetch_models", "sd-1-5")
        row.refresh_from_db()
        assert bars[1].n == bars[1].total == row.size_bytes
