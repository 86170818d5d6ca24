"""Orders to GPU workers: who gets them, how they end, what is shown of them."""

import asyncio
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import close_old_connections
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from generation.choices import CommandKind, CommandStatus, ErrorCode
from generation.errors import OrderFailedError, OrderUnfinishedError
from generation.feed.following import wait_for_end
from generation.models import WorkEntry, Worker, WorkerCommand
from generation.orders import (
    MAX_ORDERS_PER_USER,
    command_finish,
    commands_due,
    order_create,
    order_get,
    order_result,
    order_status,
)
from generation.queue.limits import ORDER_PIXEL_STEPS
from generation.upkeep.housekeeping import housekeeping
from generation.upkeep.sweep import orders_take_back
from models_registry.choices import DiskState
from models_registry.models import Checkpoint
from tests.support.factories import GenerationMaker, client_of, make_worker

RESIDENT = [{"id": "builtin", "tier": "resident", "bytes": 7}]


def load(owner: User, *, model: str = "builtin", everywhere: bool = False) -> list[WorkerCommand]:
    """Orders a load."""
    checkpoint = Checkpoint.objects.get(id=model)
    return order_create(
        kind=CommandKind.LOAD, checkpoint=checkpoint, requested_by=owner, everywhere=everywhere
    )


@pytest.fixture
def two_orders(transactional_db: None, owner: User, worker: Worker) -> list[WorkerCommand]:
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
    unknown = {"fit": None, "fit_reason": ""}
    assert models["builtin"] == [{"worker": "worker-1", "tier": "resident", "bytes": 7, **unknown}]
    assert models["sd-1-5"] == [{"worker": "worker-1", "tier": "cold", "bytes": 0, **unknown}]


def test_strangers_learn_no_host_and_no_process(api: APIClient, worker: Worker) -> None:
    """The list of models is open to all; workers' names are for those who are known."""
    Worker.objects.filter(pk=worker.pk).update(name="gpu-box-7-4711", cached_models=RESIDENT)
    for path in ("/api/v1/models", "/v1/models", "/api/v1/models/builtin"):
        shown = APIClient().get(path)
        assert shown.status_code == 200
        assert "gpu-box" not in shown.content.decode()
        assert '"worker":"worker-1","tier":"resident"' in shown.content.decode()
        assert "gpu-box-7-4711" in api.get(path).content.decode()


def test_an_order_is_shown_to_whoever_gave_it_and_to_staff(
    api: APIClient, worker: Worker, stranger: User, staff: User
) -> None:
    """To others there is none."""
    address = api.post("/api/v1/models/load", {"model": "builtin"})["Location"]
    assert client_of(stranger).get(address).status_code == 404
    assert client_of(staff).get(address).json() == api.get(address).json()


def test_others_need_the_model(
    api: APIClient, worker: Worker, make: GenerationMaker, stranger: User, staff: User
) -> None:
    """Only staff unload what somebody else's generation waits for or is drawn with."""
    theirs = make(owner=stranger)
    refused = api.post("/api/v1/models/unload", {"model": "builtin"})
    assert (refused.status_code, refused.json()["code"]) == (409, "model_in_use")
    assert not WorkerCommand.objects.exists()
    assert client_of(stranger).post("/api/v1/models/unload", {"model": "builtin"}).status_code == 202
    assert client_of(staff).post("/api/v1/models/unload", {"model": "builtin"}).status_code == 202
    theirs.delete()
    assert api.post("/api/v1/models/unload", {"model": "builtin"}).status_code == 202


def test_orders_cost(api: APIClient, worker: Worker, owner: User, settings: Settings) -> None:
    """Each worker that is told counts as a picture does, and unfinished ones are bounded."""
    make_worker("worker-2")
    settings.WORK_LIMIT = 3 * ORDER_PIXEL_STEPS / 1_000_000
    assert api.post("/api/v1/models/unload", {"model": "builtin", "workers": "all"}).status_code == 202
    assert WorkEntry.objects.filter(owner=owner).count() == 2
    refused = api.post("/api/v1/models/load", {"model": "builtin", "workers": "all"})
    assert (refused.status_code, refused.json()["code"]) == (429, "work_limit_reached")
    assert WorkerCommand.objects.count() == 2
    settings.WORK_LIMIT = 0
    for _ in range(MAX_ORDERS_PER_USER - 2):
        assert api.post("/api/v1/models/load", {"model": "builtin"}).status_code == 202
    refused = api.post("/api/v1/models/load", {"model": "builtin"})
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_orders")
    WorkerCommand.objects.update(status=CommandStatus.SUCCEEDED, finished_at=timezone.now())
    assert api.post("/api/v1/models/load", {"model": "builtin"}).status_code == 202


def test_ended_orders_are_forgotten(owner: User, worker: Worker) -> None:
    """After a day; those that wait stay."""
    (old,), (young,), (waiting,) = load(owner), load(owner), load(owner)
    for command, age in ((old, 25), (young, 23)):
        command_finish(command=command, error_code=ErrorCode.ENGINE_ERROR)
        ended_at = timezone.now() - timedelta(hours=age)
        WorkerCommand.objects.filter(pk=command.pk).update(finished_at=ended_at)
    assert housekeeping()
    assert set(WorkerCommand.objects.all()) == {young, waiting}


def test_a_load_waits_for_the_files(owner: User, worker: Worker) -> None:
    """It asks for the download and is due once they are there."""
    (command,) = load(owner, model="sd-1-5")
    checkpoint = Checkpoint.objects.get(id="sd-1-5")
    assert checkpoint.download_requested_at is not None
    assert list(commands_due(worker)) == []
    Checkpoint.objects.filter(id="sd-1-5").update(state=DiskState.PRESENT, revision="c" * 40)
    assert list(commands_due(worker)) == [command]


def test_a_load_whose_files_did_not_come_is_due(owner: User, worker: Worker) -> None:
    """So that its end is told: what kept them away passes, but nobody has asked again."""
    (command,) = load(owner, model="sd-1-5")
    rows = Checkpoint.objects.filter(id="sd-1-5")
    rows.update(error_code="unreachable", error_detail="No connection.", download_requested_at=None)
    assert list(commands_due(worker)) == [command]
    rows.update(download_requested_at=timezone.now())
    assert list(commands_due(worker)) == []


def test_an_order_is_as_far_as_its_parts(owner: User, worker: Worker) -> None:
    """Failed as soon as one part has failed, succeeded when all have succeeded; an end is written once."""
    make_worker("worker-2")
    first, second = load(owner, everywhere=True)
    assert command_finish(command=first, error_code=ErrorCode.MODEL_UNAVAILABLE)
    commands = order_get(user=owner, order_id=first.order_id)
    assert order_status(commands) is CommandStatus.PENDING
    with pytest.raises(OrderUnfinishedError):
        order_result(commands)
    assert command_finish(command=second, error_code=ErrorCode.OUT_OF_MEMORY, detail="It does not fit.")
    assert not command_finish(command=second, error_code=ErrorCode.OUT_OF_MEMORY)
    with pytest.raises(OrderFailedError, match="worker-2: It does not fit") as failed:
        order_result(order_get(user=owner, order_id=first.order_id))
    assert (failed.value.code, failed.value.http_status) == ("out_of_memory", 507)
    # It is no generation, and nobody may look for one under its id.
    assert "generation" not in failed.value.title
    assert failed.value.extra == {"order_id": str(first.order_id)}


def test_a_worker_that_is_gone_carries_nothing_out(owner: User, worker: Worker) -> None:
    """The sweep says so, instead of leaving the order pending."""
    (command,) = load(owner)
    Worker.objects.filter(pk=worker.pk).update(heartbeat_at=timezone.now() - timedelta(seconds=20))
    orders_take_back()
    command.refresh_from_db()
    assert (command.status, command.error_code) == ("failed", "worker_lost")


@pytest.mark.django_db(transaction=True)
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
