"""Orders to GPU workers: who gets them, how they end, what is shown of them."""

import asyncio
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import close_old_connections
from django.utils import timezone
from rest_framework.test import APIClient

from generation.choices import CommandKind, CommandStatus, ErrorCode
from generation.errors import FailedError, UnfinishedError
from generation.feed.following import wait_for_end
from generation.models import Worker, WorkerCommand
from generation.orders import (
    command_finish,
    commands_due,
    order_create,
    order_get,
    order_result,
    order_status,
)
from generation.upkeep.sweep import orders_take_back
from models_registry.choices import DiskState
from models_registry.models import Checkpoint
from tests.support.factories import make_worker

RESIDENT = [{"id": "builtin", "tier": "resident", "bytes": 7}]


def load(owner: User, *, model: str = "builtin", everywhere: bool = False) -> list[WorkerCommand]:
    """Orders a load."""
    checkpoint = Checkpoint.objects.get(id=model)
    return order_create(
        kind=CommandKind.LOAD, checkpoint=checkpoint, requested_by=owner, everywhere=everywhere
    )


@pytest.fixture
def two_orders(
    transactional_db: None, django_db_serialized_rollback: None, owner: User, worker: Worker
) -> list[WorkerCommand]:
    """Two loads that nobody has begun."""
    return load(owner) + load(owner)


def test_the_worker_with_most_free_memory_gets_it(api: APIClient, worker: Worker, owner: User) -> None:
    """202 with the order outside a server that can wait; an unload goes to one that holds the model."""
    Worker.objects.filter(pk=worker.pk).update(memory_free_mb=10, cached_models=RESIDENT)
    roomy = make_worker("worker-2", memory_free_mb=99)
    response = api.post("/api/v1/models/load", {"model_id": "builtin"})
    body = response.json()
    assert (response.status_code, body["status"], body["model"]) == (202, "pending", "builtin")
    assert [command["worker"] for command in body["commands"]] == [roomy.name]
    assert response["Location"] == f"/api/v1/models/orders/{body['id']}"
    assert api.get(response["Location"]).json() == body
    unload = api.post("/v1/models/unload/", {"model": "builtin"}).json()
    assert [command["worker"] for command in unload["commands"]] == [worker.name]
    command = WorkerCommand.objects.get(kind=CommandKind.LOAD)
    assert (command.checkpoint_id, command.requested_by) == ("builtin", owner)


def test_all_workers_can_be_meant(api: APIClient, worker: Worker) -> None:
    """One part each, one order."""
    make_worker("worker-2")
    body = api.post("/api/v1/models/load", {"model": "builtin", "workers": "all"}).json()
    assert sorted(command["worker"] for command in body["commands"]) == ["worker-1", "worker-2"]
    refused = api.post("/api/v1/models/load", {"model": "builtin", "workers": "some"})
    assert (refused.status_code, refused.json()["errors"][0]["param"]) == (400, "workers")


def test_a_load_needs_a_live_worker_and_a_known_model(api: APIClient) -> None:
    """503 with Retry-After, 404, 400; an unknown order is 404."""
    response = api.post("/api/v1/models/load", {"model_id": "builtin"})
    assert (response.status_code, response.json()["code"]) == (503, "no_worker")
    assert response["Retry-After"] == "10"
    assert api.post("/api/v1/models/load", {"model_id": "none"}).status_code == 404
    assert api.post("/api/v1/models/load", {}).json()["errors"][0]["param"] == "model"
    assert not WorkerCommand.objects.exists()
    unknown = api.get("/api/v1/models/orders/01a2066a-64cc-7454-855a-4804e62ffeae")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "order_not_found")


def test_the_list_says_where_each_model_is(api: APIClient, worker: Worker) -> None:
    """Cold where a worker's cache does not name it."""
    Worker.objects.filter(pk=worker.pk).update(cached_models=RESIDENT)
    models = {model["id"]: model["workers"] for model in api.get("/api/v1/models").json()["data"]}
    assert models["builtin"] == [{"worker": "worker-1", "tier": "resident", "bytes": 7}]
    assert models["sd-1-5"] == [{"worker": "worker-1", "tier": "cold", "bytes": 0}]


def test_a_load_waits_for_the_files(owner: User, worker: Worker) -> None:
    """It asks for the download and is due once they are there."""
    (command,) = load(owner, model="sd-1-5")
    checkpoint = Checkpoint.objects.get(id="sd-1-5")
    assert checkpoint.download_requested_at is not None
    assert list(commands_due(worker)) == []
    Checkpoint.objects.filter(id="sd-1-5").update(state=DiskState.PRESENT, revision="c" * 40)
    assert list(commands_due(worker)) == [command]


def test_an_order_is_as_far_as_its_parts(owner: User, worker: Worker) -> None:
    """Failed as soon as one part has failed, succeeded when all have succeeded; an end is written once."""
    make_worker("worker-2")
    first, second = load(owner, everywhere=True)
    assert command_finish(command=first, error_code=ErrorCode.MODEL_UNAVAILABLE)
    commands = order_get(order_id=first.order_id)
    assert order_status(commands) is CommandStatus.PENDING
    with pytest.raises(UnfinishedError):
        order_result(commands)
    assert command_finish(command=second, error_code=ErrorCode.OUT_OF_MEMORY, detail="It does not fit.")
    assert not command_finish(command=second, error_code=ErrorCode.OUT_OF_MEMORY)
    with pytest.raises(FailedError, match="worker-2: It does not fit") as failed:
        order_result(order_get(order_id=first.order_id))
    assert (failed.value.code, failed.value.http_status) == ("out_of_memory", 507)


def test_a_worker_that_is_gone_carries_nothing_out(owner: User, worker: Worker) -> None:
    """The sweep says so, instead of leaving the order pending."""
    (command,) = load(owner)
    Worker.objects.filter(pk=worker.pk).update(heartbeat_at=timezone.now() - timedelta(seconds=20))
    orders_take_back()
    command.refresh_from_db()
    assert (command.status, command.error_code) == ("failed", "worker_lost")


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
async def test_an_order_can_be_waited_for(two_orders: list[WorkerCommand]) -> None:
    """Without a thread, by its feed; also one whose end was never published."""
    told, silent = two_orders

    def finish() -> None:
        command_finish(command=told, error_code=ErrorCode.MODEL_UNAVAILABLE)
        WorkerCommand.objects.filter(pk=silent.pk).update(
            status=CommandStatus.SUCCEEDED, finished_at=timezone.now()
        )
        close_old_connections()

    feeds = [command.pk for command in two_orders]
    assert not await wait_for_end(feeds, seconds=0.05)
    waiting = asyncio.create_task(wait_for_end(feeds, seconds=30))
    await asyncio.sleep(0.05)
    await sync_to_async(finish)()
    assert await waiting
