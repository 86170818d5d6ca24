"""Whatever goes wrong with a download is stated on the row, leaves nothing half-present, and is repaired later."""

import errno
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http
from pytest_django import Settings

from models_registry import downloads, hub, pace
from models_registry.choices import PASSING, DiskState
from models_registry.errors import DownloadFailedError
from models_registry.models import Checkpoint
from tests.support.hub_repository import INFO, Fault, HubRepository
from tests.support.model_folders import on_disk, prefetch
from tests.support.repositories import NEEDED, UNET, safetensors_bytes, write_files, write_repository

pytestmark = pytest.mark.django_db(transaction=True)


FAULTS: list[tuple[str, Fault, str, str]] = [
    (INFO, "401", "unauthorized", "HF_TOKEN"),
    (INFO, "403", "unauthorized", "HF_TOKEN"),
    (INFO, "404", "not_found", "does not have"),
    (INFO, "429", "rate_limited", "429"),
    (INFO, "500", "hub_error", "HTTP 500"),
    (INFO, "hang", "timeout", "stopped answering"),
    (UNET, "401", "unauthorized", "HF_TOKEN"),
    (UNET, "403", "unauthorized", "HF_TOKEN"),
    (UNET, "404", "not_found", "does not have"),
    (UNET, "429", "rate_limited", "429"),
    (UNET, "500", "hub_error", "HTTP 500"),
    (UNET, "hang", "timeout", "stopped answering"),
    (UNET, "truncate", "truncated", "connection broke"),
    (UNET, "short", "truncated", "not as long"),
    (UNET, "drip", "too_slow", "DOWNLOAD_MIN_KB_S"),
    (UNET, "flip", "checksum_mismatch", "damaged"),
    ("tokenizer/vocab.json", "flip", "checksum_mismatch", "damaged"),
]


@pytest.mark.parametrize(("path", "fault", "code", "words"), FAULTS, ids=lambda value: value or "info")
def test_each_failure_is_stated_and_repaired_later(
    row: Checkpoint,
    repository: HubRepository,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    fault: Fault,
    code: str,
    words: str,
) -> None:
    """On the row, in a sentence; nothing half-present; the next attempt brings it."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    if fault == "drip":  # on a busy machine any file is slow for so short a while
        monkeypatch.setattr(pace, "WINDOW_S", 0.2)
    repository.faults[path] = fault
    with pytest.raises(DownloadFailedError, match=words):
        prefetch(row)
    row.refresh_from_db()
    # What passes by itself is no fault of the repository.
    state = DiskState.ABSENT if code in PASSING else DiskState.BROKEN
    assert (row.state, row.error_code) == (state, code)
    assert words in row.error_detail
    assert on_disk(row, settings) == set()
    assert row.download_requested_at is None
    repository.faults.clear()
    monkeypatch.setattr(pace, "WINDOW_S", 30.0)
    assert prefetch(row)
    row.refresh_from_db()
    assert (row.state, row.error_code, row.error_detail) == (DiskState.PRESENT, "", "")
    assert on_disk(row, settings) == NEEDED


def test_a_hub_that_is_gone_is_unreachable(row: Checkpoint, repository: HubRepository) -> None:
    """Connection refused is not a missing model."""
    repository.hub.stop()
    with pytest.raises(DownloadFailedError, match="no connection"):
        prefetch(row)
    row.refresh_from_db()
    assert (row.state, row.error_code) == (DiskState.ABSENT, "unreachable")


def test_being_offline_on_purpose_is_said(
    row: Checkpoint, repository: HubRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator who set HF_HUB_OFFLINE is reminded of it."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    # The library's own client: a process that asks about tokens uses one that ignores the variable.
    monkeypatch.setattr(_http, "_GLOBAL_CLIENT", None)
    monkeypatch.setattr(_http, "_GLOBAL_CLIENT_FACTORY", _http.default_client_factory)
    with pytest.raises(DownloadFailedError, match="HF_HUB_OFFLINE"):
        prefetch(row)
    row.refresh_from_db()
    assert row.error_code == "offline"


def test_gated_files_need_the_servers_own_token(
    row: Checkpoint, repository: HubRepository, settings: Settings
) -> None:
    """Without it, and with a token whose account has not accepted, the sentence says what to do."""
    repository.gated = True
    for token in ("", "hf_not_accepted"):
        settings.HF_TOKEN = token
        repository.hub.tokens = {"hf_not_accepted": {}}
        with pytest.raises(DownloadFailedError, match=r"gated .*accept its licence at http.*HF_TOKEN"):
            prefetch(row)
    row.refresh_from_db()
    assert row.gated
    settings.HF_TOKEN = token = "hf_accepted"  # noqa: S105 - a name
    repository.accepted = {token}
    assert prefetch(row)


def test_a_hostile_header_is_refused(row: Checkpoint, repository: HubRepository, settings: Settings) -> None:
    """With the right checksum, since it is the repository itself that is bad."""
    write_files(repository.folder, {UNET: safetensors_bytes(20_000, header={"weight": {"dtype": "U8"}})})
    with pytest.raises(DownloadFailedError, match="not a sound safetensors file"):
        prefetch(row)
    row.refresh_from_db()
    assert (row.state, row.error_code) == (DiskState.BROKEN, "bad_header")
    assert on_disk(row, settings) == set()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_class_name": ["pipeline", "Mine"]}, "code of its own"),
        ({"unet": ["my_unet", "UNet"]}, "code of its own"),
        ({"image_encoder": ["transformers", "CLIPVisionModel"]}, "no weights"),
    ],
)
def test_an_unusable_repository_is_refused(
    row: Checkpoint, repository: HubRepository, change: dict[str, Any], words: str
) -> None:
    """Before its weights are fetched."""
    write_repository(repository.folder, **change)
    with pytest.raises(DownloadFailedError, match=words):
        prefetch(row)
    assert {request.path.rpartition("/")[2] for request in repository.requests()} == {"model_index.json"}


def test_a_repository_without_an_index_is_refused(row: Checkpoint, repository: HubRepository) -> None:
    """A single-file checkpoint, for instance."""
    (repository.folder / "model_index.json").unlink()
    with pytest.raises(DownloadFailedError, match="layout of diffusers"):
        prefetch(row)


def test_a_disk_without_room_is_noticed_first(
    row: Checkpoint, repository: HubRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any weights are fetched."""
    monkeypatch.setattr(downloads, "DISK_MARGIN_BYTES", 1 << 60)
    with pytest.raises(DownloadFailedError, match="MB left"):
        prefetch(row)
    row.refresh_from_db()
    assert row.error_code == "disk_full"
    assert not any(UNET in request.path for request in repository.requests())


def test_a_disk_that_fills_up_is_left_clean(
    row: Checkpoint, repository: HubRepository, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had arrived makes room again."""

    def full(self: Any, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(hub._PartFile, "write", full)
        with pytest.raises(DownloadFailedError, match="is full"):
            prefetch(row)
    row.refresh_from_db()
    assert row.error_code == "disk_full"
    assert on_disk(row, settings) == set()
    assert prefetch(row)


def test_a_mistake_of_the_server_is_stated_too(
    row: Checkpoint, repository: HubRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row never stays on `downloading`."""
    monkeypatch.setattr(downloads, "files_select", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prefetch(row)
    row.refresh_from_db()
    assert (row.state, row.error_code) == (DiskState.BROKEN, "internal_error")
