"""What is done for a generation, as its row and its feed say it."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from generation.attempts import attempt_cancel, attempt_hand_back, generation_claim
from generation.choices import Phase
from generation.feed.snapshots import feed_snapshots
from generation.models import Generation, Worker
from generation.receivers import tell_of_download
from models_registry.choices import DiskState
from models_registry.models import Checkpoint
from tests.support.endings import attempt_renew
from tests.support.factories import GenerationMaker


def shown(api: APIClient, generation: Generation) -> Any:
    """The phase in the answer, which the list and a snapshot say too."""
    said = api.get(generation.get_absolute_url()).json()["phase"]
    assert api.get("/api/v1/generations").json()["results"][0]["phase"] == said
    assert feed_snapshots([generation.id])[generation.id]["phase"] == said
    return said


def test_a_row_says_its_phase(api: APIClient, make: GenerationMaker, worker: Worker) -> None:
    """From the queue to the end, and back into the queue."""
    generation = make()
    assert shown(api, generation) == "queued"
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    assert shown(api, generation) == "loading"
    for phase in (Phase.DENOISING, Phase.DECODING, Phase.SAVING):
        assert attempt_renew(generation_id=claimed.id, attempt=1, step=1, phase=phase).held
        assert shown(api, generation) == phase
    attempt_hand_back(generation=claimed)
    assert shown(api, generation) == "queued"
    claimed = generation_claim(worker=worker)
    assert claimed is not None
    assert shown(api, generation) == "loading"
    attempt_cancel(generation=claimed)
    assert shown(api, generation) is None


def test_what_waits_for_files_says_so(
    api: APIClient, make: GenerationMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its events, too."""
    checkpoint = Checkpoint.objects.get(id="sd-1-5")
    generation = make(checkpoint=checkpoint)
    Checkpoint.objects.filter(pk=checkpoint.pk).update(state=DiskState.DOWNLOADING)
    assert shown(api, generation) == "downloading"
    told: list[str] = []
    monkeypatch.setattr("generation.receivers.event_publish", lambda *_, **data: told.append(data["phase"]))
    tell_of_download(checkpoint=checkpoint)
    assert told == ["downloading"]
