"""Webhooks: what goes into the outbox, how it is signed and sent, and where it must not go."""

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError, transaction
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from generation.attempts import attempt_fail, generation_claim
from generation.choices import DeliveryStatus, ErrorCode
from generation.models import Generation, WebhookDelivery, WebhookGone, Worker
from generation.services import generation_cancel, generation_delete
from generation.upkeep.sweep import sweep
from generation.webhooks import delivery as webhook_delivery
from generation.webhooks.delivery import deliver, deliver_due, delivery_claim
from generation.webhooks.signing import webhook_secret, webhook_secret_create
from generation.webhooks.worker import WebhookWorker
from imagegen_project.common.queues import WEBHOOKS_QUEUE, entries_waiting, queue_get
from tests.support.endings import succeed
from tests.support.factories import GenerationMaker, client_of
from tests.support.receivers import Receiver, receiving

BASE = "/api/v1/generations"
ALL = ["started", "succeeded", "failed", "canceled"]
PUBLIC = "https://hooks.example.com/in"


@pytest.fixture
def secret(owner: User) -> str:
    """The owner's signing secret."""
    return webhook_secret_create(owner=owner)


@pytest.fixture
def receiver(settings: Settings) -> Iterator[Receiver]:
    """A server on loopback, where webhooks may go in this test."""
    settings.WEBHOOK_ALLOW_PRIVATE = True
    with receiving() as found:
        yield found


@pytest.fixture
def message(make: GenerationMaker, secret: str, receiver: Receiver) -> WebhookDelivery:
    """A message to the receiver, in the outbox."""
    generation_cancel(generation=make(webhook_url=receiver.url, webhook_events=ALL))
    return WebhookDelivery.objects.get()


def due(message: WebhookDelivery) -> None:
    """Lets the next attempt be due."""
    WebhookDelivery.objects.filter(pk=message.pk).update(next_attempt_at=Now() - timedelta(seconds=1))


def attempt(message: WebhookDelivery) -> WebhookDelivery:
    """The message after one more attempt."""
    due(message)
    claimed = delivery_claim()
    assert claimed is not None
    deliver(claimed)
    message.refresh_from_db()
    return message


def test_moves_leave_messages_for_whom_asked(make: GenerationMaker, worker: Worker, secret: str) -> None:
    """Of the events that were asked for, small, and without the prompt."""
    make(webhook_url=PUBLIC, webhook_events=["started", "succeeded"], prompt="a secret")
    make(webhook_url=PUBLIC, webhook_events=["failed"])
    make()
    first, second, third = (generation_claim(worker=worker) for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    succeed(first)
    attempt_fail(generation=second, code=ErrorCode.TIMEOUT, detail="too slow")
    succeed(third)
    messages = list(WebhookDelivery.objects.order_by("id"))
    assert [(message.generation_id, message.event) for message in messages] == [
        (first.id, "started"),
        (first.id, "succeeded"),
        (second.id, "failed"),
    ]
    payload = messages[1].payload
    assert payload["type"] == "generation.succeeded"
    assert payload["data"]["status"] == "succeeded"
    assert payload["data"]["images"] == [f"{BASE}/{first.id}/images/0"]
    assert messages[2].payload["data"]["error"] == {"code": "timeout", "detail": "too slow"}
    assert "secret" not in json.dumps(payload)


def test_a_message_and_its_move_are_one_transaction(
    make: GenerationMaker, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither without the other."""
    generation = make(webhook_url=PUBLIC, webhook_events=ALL)

    def fail(**values: Any) -> None:
        raise DatabaseError("gone")

    monkeypatch.setattr(WebhookDelivery.objects, "create", fail)
    with pytest.raises(DatabaseError), transaction.atomic():
        generation_cancel(generation=generation)
    generation.refresh_from_db()
    assert generation.status == "queued"


def test_deleting_what_has_not_ended_is_told_as_a_cancel(make: GenerationMaker, secret: str) -> None:
    """The message outlives the row."""
    generation = make(webhook_url=PUBLIC, webhook_events=ALL)
    name = str(generation.id)
    generation_delete(generation=generation)
    message = WebhookDelivery.objects.get()
    assert (message.event, message.payload["data"]["job_id"]) == ("canceled", name)


def test_a_delivery_is_signed_as_standard_webhooks_says(
    message: WebhookDelivery, secret: str, receiver: Receiver
) -> None:
    """Its own library verifies it; another secret does not."""
    sent = attempt(message)
    assert (sent.status, sent.attempts, sent.log[0]["status"]) == (DeliveryStatus.DELIVERED, 1, 204)
    headers, body = receiver.requests[0]
    assert Webhook(secret).verify(body, headers)["data"]["status"] == "canceled"
    assert headers["webhook-id"] == f"msg_{message.pk.hex}"
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "A" * 43 + "=").verify(body, headers)
    assert delivery_claim() is None


def test_a_delivery_has_addresses_that_open(
    api: APIClient, secret: str, receiver: Receiver, worker: Worker
) -> None:
    """Where the client reached the service; signed when it is sent, and in the outbox not at all."""
    request = {"prompt": "a", "webhook_url": receiver.url, "webhook_events": ["succeeded"]}
    answer = api.post(BASE, request)
    generation = generation_claim(worker=worker)
    assert generation is not None
    succeed(generation)
    attempt(WebhookDelivery.objects.get())
    data = json.loads(receiver.requests[0][1])["data"]
    assert data["url"] == f"http://testserver{BASE}/{answer.json()['id']}"
    (url,) = data["images"]
    assert url.startswith(f"{data['url']}/images/0?expires=")
    assert APIClient().get(url).status_code == 200
    assert "signature" not in json.dumps(WebhookDelivery.objects.get().payload)


def test_what_fails_is_tried_again_with_growing_pauses(
    message: WebhookDelivery, receiver: Receiver, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same message under the same id, until it arrives or is given up."""
    settings.WEBHOOK_MAX_ATTEMPTS = 3
    monkeypatch.setattr(webhook_delivery, "jitter", lambda low, high: 1.0)
    receiver.status = 500
    before = timezone.now()
    for attempts, pause_s in ((1, 5), (2, 20)):
        attempt(message)
        assert (message.status, message.attempts) == (DeliveryStatus.PENDING, attempts)
        assert message.next_attempt_at >= before + timedelta(seconds=pause_s)
        assert delivery_claim() is None
    attempt(message)
    assert (message.status, [entry["status"] for entry in message.log]) == (DeliveryStatus.FAILED, [500] * 3)
    assert message.finished_at is not None
    assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 1
    assert len({body for _, body in receiver.requests}) == 1


def test_pauses_grow_to_hours_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what failed together does not come back together."""
    longest = timedelta(hours=9)
    assert all(webhook_delivery.pause(attempts) <= longest for attempts in range(1, 60))
    assert len({webhook_delivery.pause(5) for _ in range(10)}) > 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(message: WebhookDelivery, receiver: Receiver, status: int) -> None:
    """They are no success either."""
    receiver.status, receiver.headers = status, {"Location": receiver.url}
    attempt(message)
    assert (message.status, message.log[0]["status"]) == (DeliveryStatus.PENDING, status)
    assert len(receiver.requests) == 1


def test_410_disables_the_address_until_a_new_secret_is_made(
    message: WebhookDelivery, receiver: Receiver, make: GenerationMaker, api: APIClient, worker: Worker
) -> None:
    """For this user: what waits is not sent, and no new request may name it."""
    waiting = make(webhook_url=receiver.url, webhook_events=ALL)
    generation_cancel(generation=waiting)
    receiver.status = 410
    attempt(message)
    assert message.status == DeliveryStatus.DISABLED
    other = attempt(WebhookDelivery.objects.exclude(pk=message.pk).get())
    assert other.status == DeliveryStatus.DISABLED
    assert len(receiver.requests) == 1
    generation_cancel(generation=make(webhook_url=receiver.url, webhook_events=ALL))
    assert WebhookDelivery.objects.count() == 2
    refused = api.post(BASE, {"prompt": "a", "webhook_url": receiver.url})
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (400, "webhook_gone")
    assert api.post("/api/v1/webhook-secret").status_code == 201
    assert not WebhookGone.objects.exists()
    assert api.post(BASE, {"prompt": "a", "webhook_url": receiver.url}).status_code == 202


def test_a_server_that_never_answers_is_left_in_time(
    message: WebhookDelivery, receiver: Receiver, settings: Settings
) -> None:
    """One deadline for all of it."""
    settings.WEBHOOK_TIMEOUT_S = 0.3
    receiver.hang = threading.Event()
    attempt(message)
    assert message.log[0]["error"] == "no answer in time"


@pytest.mark.parametrize(
    "url",
    ["ftp://example.com", "example.com/in", "https://", "https://u:p@example.com", "https://example.com/#a",
     "https://example.com/ä", "https://exa mple.com", "https://[::1", "https://example.com:99999/",
     "http://127.0.0.1/", "http://[fe80::1]/", "http://169.254.169.254/latest", "https://e.com/" + "a" * 1000],
)  # fmt: skip
def test_addresses_that_cannot_be_are_refused_at_once(api: APIClient, secret: str, url: str) -> None:
    """As a 400 for the field."""
    response = api.post(BASE, {"prompt": "a", "webhook_url": url})
    assert response.status_code == 400
    assert response.json()["errors"][0]["param"] == "webhook_url"
    assert not Generation.objects.exists()


def test_events_are_a_list_or_a_forms_text(api: APIClient, secret: str) -> None:
    """By default those that end a generation."""
    body = {"prompt": "a", "webhook_url": PUBLIC}
    assert api.post(BASE, body).json()["webhook_events"] == ["succeeded", "failed", "canceled"]
    assert api.post(BASE, body | {"webhook_events": ["started"]}).json()["webhook_events"] == ["started"]
    form = api.post(BASE, body | {"webhook_events": "started, failed,started"}, format="multipart")
    assert form.json()["webhook_events"] == ["started", "failed"]
    for wrong in ([], ["done"], "done", {"a": 1}, 3, None):
        response = api.post(BASE, body | {"webhook_events": wrong})
        assert response.status_code == 400
        assert response.json()["errors"][0]["param"].startswith("webhook_events")
    alone = api.post(BASE, {"prompt": "a", "webhook_events": ["started"]})
    assert alone.json()["errors"][0]["param"] == "webhook_events"


def test_a_signing_secret_comes_first_and_is_shown_once(api: APIClient, owner: User, stranger: User) -> None:
    """A new one replaces it; nothing in the database gives it away."""
    refused = api.post(BASE, {"prompt": "a", "webhook_url": PUBLIC})
    assert refused.json()["errors"][0]["code"] == "no_webhook_secret"
    response = api.post("/api/v1/webhook-secret")
    assert (response.status_code, response["Cache-Control"]) == (201, "no-store")
    made = response.json()["secret"]
    assert made.startswith("whsec_")
    assert webhook_secret(owner_id=owner.pk) == made
    again = api.post("/api/v1/webhook-secret").json()["secret"]
    assert len({made, again, client_of(stranger).post("/api/v1/webhook-secret").json()["secret"]}) == 3
    assert APIClient().post("/api/v1/webhook-secret").status_code == 401


def test_of_each_owner_one_at_a_time(
    make: GenerationMaker, secret: str, stranger: User, receiver: Receiver
) -> None:
    """One whose server hangs keeps nobody else's messages waiting; a claim that was lost comes back."""
    webhook_secret_create(owner=stranger)
    for user in (None, None, stranger):
        values = {"owner": user} if user else {}
        generation_cancel(generation=make(webhook_url=receiver.url, webhook_events=ALL, **values))
    first, second = delivery_claim(), delivery_claim()
    assert first is not None
    assert second is not None
    assert {first.owner.username, second.owner.username} == {"ada", "bob"}
    assert delivery_claim() is None
    past = Now() - timedelta(seconds=1)
    WebhookDelivery.objects.filter(pk=first.pk).update(claimed_until=past, next_attempt_at=past)
    again = delivery_claim()
    assert again is not None
    assert (again.pk, again.attempts) == (first.pk, 2)
    assert not deliver(first)  # the late one's result counts for nothing
    first.refresh_from_db()
    assert first.status == DeliveryStatus.PENDING


def test_an_entry_is_pushed_once_committed_and_restored_when_lost(
    make: GenerationMaker, secret: str, django_capture_on_commit_callbacks: Any
) -> None:
    """The outbox is the truth; Redis only says that there is work."""
    generation = make(webhook_url=PUBLIC, webhook_events=ALL)
    with django_capture_on_commit_callbacks(execute=True):
        generation_cancel(generation=generation)
        assert entries_waiting(WEBHOOKS_QUEUE) == 0
    assert entries_waiting(WEBHOOKS_QUEUE) == 1
    queue_get(WEBHOOKS_QUEUE).empty()
    for _ in range(2):
        sweep()
    assert entries_waiting(WEBHOOKS_QUEUE) == 1


@pytest.mark.django_db(transaction=True)
def test_the_webhook_worker_delivers(make: GenerationMaker, secret: str, receiver: Receiver) -> None:
    """Through RQ, in several threads, each message once."""
    for _ in range(6):
        generation_cancel(generation=make(webhook_url=receiver.url, webhook_events=ALL))
    queue = queue_get(WEBHOOKS_QUEUE)
    worker = WebhookWorker([queue], connection=queue.connection, serializer=queue.serializer)
    worker.work(burst=True, logging_level=None)
    assert set(WebhookDelivery.objects.values_list("status", flat=True)) == {DeliveryStatus.DELIVERED}
    assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == len(receiver.requests) == 6


@pytest.mark.django_db(transaction=True)
def test_nothing_due_is_nothing_done(db: None) -> None:
    """An entry too many is harmless."""
    deliver_due()


def test_the_admin_shows_the_log(message: WebhookDelivery, client: Client) -> None:
    """Read only; an address that is gone can be let back."""
    attempt(message)
    client.force_login(User.objects.create_superuser("root"))
    for path in ("webhookdelivery/", f"webhookdelivery/{message.pk}/change/", "webhookgone/"):
        assert client.get(f"/admin/generation/{path}").status_code == 200
