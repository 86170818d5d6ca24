"""Classes of workers: a generation that asks for one runs there, and any other one anywhere."""

from typing import Any

import pytest
from pytest_django import Settings
from rest_framework.test import APIClient

from generation.attempts import generation_claim
from generation.models import Generation
from generation.queue.entries import device_classes, queue_length, queue_name
from generation.upkeep.sweep import entries_restore
from imagegen_project.common.queues import queue_get
from tests.support.endings import succeed
from tests.support.factories import make_worker

REQUEST = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 2}


@pytest.fixture(autouse=True)
def _classes(settings: Settings) -> None:
    settings.DEVICE_CLASSES = ["large", "small"]
    common = settings.RQ_QUEUES["generations"]
    settings.RQ_QUEUES = settings.RQ_QUEUES | {queue_name(name): common for name in settings.DEVICE_CLASSES}


def post(api: APIClient, **fields: Any) -> Any:
    """Asks for a generation."""
    return api.post("/api/v1/generations", REQUEST | fields, format="json")


def test_a_class_is_asked_for_by_name(api: APIClient) -> None:
    """One that there is; `capabilities` lists them."""
    assert post(api, device_class="large").json()["device_class"] == "large"
    assert post(api).json()["device_class"] == ""
    refused = post(api, device_class="huge")
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["param"] == "device_class"
    assert "large, small" in refused.json()["errors"][0]["detail"]
    assert api.get("/api/v1/capabilities").json()["device_classes"] == ["large", "small"]


def test_only_a_worker_of_the_class_takes_it(api: APIClient) -> None:
    """What asks for none goes to any, also to those of a class."""
    asked = post(api, device_class="large").json()["id"]
    for name, device_class in (("w1", ""), ("w2", "small")):
        assert generation_claim(worker=make_worker(name, device_class=device_class)) is None
    large = make_worker("w3", device_class="large")
    claimed = generation_claim(worker=large)
    assert claimed is not None
    assert str(claimed.pk) == asked
    anywhere = post(api).json()["id"]
    claimed = generation_claim(worker=large)
    assert claimed is not None
    assert str(claimed.pk) == anywhere


def test_each_class_has_a_queue(api: APIClient, django_capture_on_commit_callbacks: Any) -> None:
    """An entry goes to those who may run it, and the sweep sees to each."""

    def lengths() -> dict[str, int]:
        return {device_class: queue_length(device_class) for device_class in device_classes()}

    with django_capture_on_commit_callbacks(execute=True):
        post(api, device_class="large")
    assert lengths() == {"": 0, "large": 1, "small": 0}
    with django_capture_on_commit_callbacks(execute=True):
        post(api)
    assert lengths() == {"": 1, "large": 2, "small": 1}
    for device_class in device_classes():
        queue_get(queue_name(device_class)).empty()
    assert entries_restore() == 4
    assert lengths() == {"": 1, "large": 2, "small": 1}


def test_a_retry_asks_for_the_same_class(api: APIClient) -> None:
    """It is the same request."""
    post(api, device_class="large")
    claimed = generation_claim(worker=make_worker("w1", device_class="large"))
    assert claimed is not None
    assert succeed(claimed)
    again = api.post(f"/api/v1/generations/{claimed.pk}/retry")
    assert again.json()["device_class"] == "large"
    assert Generation.objects.count() == 2
