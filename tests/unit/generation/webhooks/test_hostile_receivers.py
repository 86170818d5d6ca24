"""Receivers that attack: each costs one attempt, within one deadline, and leads nowhere else."""

import tracemalloc
from collections.abc import Iterator

import pytest
from pytest_django import Settings

from generation.choices import DeliveryStatus
from generation.models import WebhookDelivery
from generation.services import generation_cancel
from generation.webhooks.delivery import deliver, delivery_claim
from generation.webhooks.signing import webhook_secret_create
from tests.attack.receivers import ANSWERS, INSIDE, Receivers, attacking
from tests.support.factories import GenerationMaker

MOST_BYTES = 8 << 20


@pytest.fixture(scope="module")
def receivers() -> Iterator[Receivers]:
    """Servers on loopback."""
    with attacking() as found:
        yield found


@pytest.mark.parametrize("name", ANSWERS)
def test_an_attempt_ends_and_is_on_record(
    make: GenerationMaker, receivers: Receivers, settings: Settings, name: str
) -> None:
    """Nothing of the answer is kept, and no redirect is followed."""
    settings.WEBHOOK_ALLOW_PRIVATE, settings.WEBHOOK_TIMEOUT_S = True, 0.5
    generation = make(webhook_url=receivers.address(name), webhook_events=["canceled"])
    webhook_secret_create(owner=generation.owner)
    generation_cancel(generation=generation)
    claimed = delivery_claim()
    assert claimed is not None
    tracemalloc.start()
    try:
        deliver(claimed)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
    message = WebhookDelivery.objects.get()
    assert (message.attempts, len(message.log)) == (1, 1)
    # The status is what counts; a body is not read.
    taken = {"a body that drips", "a body without an end", "chunks without an end", "packed zeros"}
    expected = DeliveryStatus.DELIVERED if name in taken else DeliveryStatus.PENDING
    assert message.status == expected, message.log
    assert INSIDE not in receivers.came
