"""Sockets that make a generation: the request first, the feed after it, the pictures last."""

import asyncio
import base64
import json
from typing import Any
from uuid import UUID

import pytest
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import AnonymousUser, User

from generation.feed.snapshots import image_refs
from generation.feed.stream import event_append, events_notify
from generation.models import Generation, Worker
from generation.streams import draw_socket as streaming
from generation.streams.draw_socket import (
    MAX_MESSAGE_BYTES,
    MAX_REQUEST_BYTES,
    Img2ImgConsumer,
    Txt2ImgConsumer,
)
from imagegen_project.common.executors import run_in_socket_executor
from tests.support.dialects import finish
from tests.support.factories import GenerationMaker
from tests.support.pictures import MASK, PICTURE, decoded, text_of

NOBODYS = UUID("00000000-0000-7000-8000-000000000000")
pytestmark = pytest.mark.django_db(transaction=True)

WAIT_S = 20
REQUEST = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 2}


def socket(user: Any, consumer: Any = Txt2ImgConsumer) -> WebsocketCommunicator:
    """A socket of this user."""
    communicator = WebsocketCommunicator(consumer.as_asgi(), "/stream/generate/txt2img")
    communicator.scope["user"] = user
    return communicator


async def opened(user: Any, consumer: Any = Txt2ImgConsumer) -> WebsocketCommunicator:
    """One that was accepted."""
    communicator = socket(user, consumer)
    assert (await communicator.connect())[0]
    return communicator


async def answer(communicator: WebsocketCommunicator) -> dict[str, Any]:
    """The next message."""
    message: dict[str, Any] = await communicator.receive_json_from(WAIT_S)
    return message


async def assert_refused(communicator: WebsocketCommunicator, code: str, close: int) -> dict[str, Any]:
    """A typed message, then the close code."""
    error = await answer(communicator)
    assert (error["type"], error["code"]) == ("error", code)
    assert {"type", "job_id", "code", "status", "title", "detail", "errors"} == set(error)
    assert await communicator.receive_output(WAIT_S) == {"type": "websocket.close", "code": close}
    await communicator.disconnect()
    return error


async def ended(generation: Generation, event_type: Any, **data: Any) -> None:
    """Puts the last event into the feed."""
    event = await asyncio.to_thread(event_append, generation.id, event_type, attempt=1, **data)
    assert event is not None
    events_notify([event])


async def generation_of(job_id: str) -> Generation:
    """The row."""
    return await run_in_socket_executor(Generation.objects.select_related("owner").get, pk=job_id)


async def test_the_request_comes_first_and_the_picture_last(owner: User, worker: Worker) -> None:
    communicator = await opened(owner)
    await communicator.send_json_to(REQUEST)
    accepted = await answer(communicator)
    assert (accepted["type"], accepted["seq"], accepted["total_steps"]) == ("accepted", 0, 2)
    assert (await answer(communicator))["type"] == "queued"
    generation = await generation_of(accepted["job_id"])
    assert generation.owner_id == owner.pk
    await run_in_socket_executor(finish, generation, worker)
    refs = await run_in_socket_executor(lambda: image_refs(generation.images.all()))
    await ended(generation, "succeeded", seed=generation.seed, images=refs)
    last = await answer(communicator)
    assert last["type"] == "succeeded"
    assert decoded(base64.b64decode(last["images"][0]["b64_json"])).size == (16, 16)
    assert await communicator.receive_output(WAIT_S) == {"type": "websocket.close", "code": 1000}
    await communicator.disconnect()


async def test_a_socket_goes_on_with_a_job(make: GenerationMaker, owner: User, worker: Worker) -> None:
    """Behind the last event that was seen, or with a snapshot; also after the end."""
    generation = await run_in_socket_executor(make)
    await run_in_socket_executor(finish, generation, worker)
    refs = await run_in_socket_executor(lambda: image_refs(generation.images.all()))
    await ended(generation, "succeeded", images=refs)
    communicator = await opened(owner)
    await communicator.send_json_to({"job_id": str(generation.id)})
    told = [await answer(communicator) for _ in range(4)]
    assert [message["type"] for message in told] == ["accepted", "snapshot", "queued", "succeeded"]
    await communicator.disconnect()
    communicator = await opened(owner)
    await communicator.send_json_to({"job_id": str(generation.id), "after": told[2]["seq"]})
    told = [await answer(communicator) for _ in range(2)]
    assert [message["type"] for message in told] == ["accepted", "succeeded"]
    assert told[1]["images"][0]["b64_json"]
    await communicator.disconnect()


async def test_cancel(owner: User) -> None:
    communicator = await opened(owner)
    await communicator.send_json_to(REQUEST)
    job_id = (await answer(communicator))["job_id"]
    assert (await answer(communicator))["type"] == "queued"
    await communicator.send_json_to({"type": "cancel"})
    assert (await answer(communicator))["type"] == "canceled"
    assert await communicator.receive_output(WAIT_S) == {"type": "websocket.close", "code": 1000}
    await communicator.disconnect()
    assert (await generation_of(job_id)).status == "canceled"


async def test_the_job_goes_on_without_its_socket(owner: User) -> None:
    communicator = await opened(owner)
    await communicator.send_json_to(REQUEST)
    job_id = (await answer(communicator))["job_id"]
    await communicator.disconnect()
    assert (await generation_of(job_id)).status == "queued"


async def test_the_job_ends_with_its_socket_where_that_was_asked_for(owner: User) -> None:
    """Only with the one that made it."""
    communicator = await opened(owner)
    await communicator.send_json_to(REQUEST | {"cancel_on_disconnect": True})
    job_id = (await answer(communicator))["job_id"]
    other = await opened(owner)
    await other.send_json_to({"job_id": job_id})
    assert (await answer(other))["type"] == "accepted"
    await other.disconnect()
    assert (await generation_of(job_id)).status == "queued"
    await communicator.disconnect()
    assert (await generation_of(job_id)).status == "canceled"


async def test_pictures_come_in_the_first_message(owner: User) -> None:
    communicator = await opened(owner, Img2ImgConsumer)
    request = {"prompt": "a", "image": text_of(PICTURE), "mask_image": text_of(MASK)}
    await communicator.send_json_to(request)
    assert (await generation_of((await answer(communicator))["job_id"])).kind == "inpaint"
    await communicator.disconnect()


async def test_nobody_is_refused_before_the_socket_opens() -> None:
    assert not (await socket(AnonymousUser()).connect())[0]


@pytest.mark.parametrize(
    ("text", "code", "close"),
    [
        (" ", "protocol_error", 4400),
        ("{", "protocol_error", 4400),
        ('{"prompt": NaN}', "protocol_error", 4400),
        ("[" * 100_000, "protocol_error", 4400),
        ("[]", "invalid_request", 4400),
        ("{}", "invalid_request", 4400),
        ('{"prompt": "a", "stepz": 1}', "invalid_request", 4400),
        ('{"prompt": "a", "model": "none"}', "invalid_request", 4400),
        ('{"prompt": "a", "image": "x"}', "invalid_request", 4400),
        ('{"prompt": "a", "timeout_s": 9999999, "strict": true}', "would_be_adjusted", 4422),
        ('{"job_id": "x"}', "protocol_error", 4400),
        ('{"job_id": ["x"]}', "protocol_error", 4400),
        (json.dumps({"job_id": str(NOBODYS), "after": -1}), "protocol_error", 4400),
        (json.dumps({"job_id": str(NOBODYS), "after": True}), "protocol_error", 4400),
        (json.dumps({"job_id": str(NOBODYS), "other": 1}), "protocol_error", 4400),
        (json.dumps({"job_id": str(NOBODYS)}), "generation_not_found", 4404),
    ],
)
async def test_bad_first_messages(owner: User, text: str, code: str, close: int) -> None:
    communicator = await opened(owner)
    await communicator.send_to(text_data=text)
    await assert_refused(communicator, code, close)
    assert not await run_in_socket_executor(Generation.objects.exists)


async def test_somebody_elses_job_is_not_there(make: GenerationMaker, stranger: User) -> None:
    generation = await run_in_socket_executor(make)
    communicator = await opened(stranger)
    await communicator.send_json_to({"job_id": str(generation.id)})
    await assert_refused(communicator, "generation_not_found", 4404)


async def test_bytes_are_no_message(owner: User) -> None:
    communicator = await opened(owner)
    await communicator.send_to(bytes_data=b"{}")
    await assert_refused(communicator, "protocol_error", 4400)


async def test_only_a_cancel_comes_after_the_request(owner: User) -> None:
    """The error says which job it is about; the job goes on."""
    communicator = await opened(owner)
    await communicator.send_json_to(REQUEST)
    job_id = (await answer(communicator))["job_id"]
    assert (await answer(communicator))["type"] == "queued"
    await communicator.send_json_to(REQUEST)
    error = await assert_refused(communicator, "protocol_error", 4400)
    assert error["job_id"] == job_id


async def test_messages_have_a_limit(owner: User) -> None:
    """15 MiB for the request, 64 kB for what follows."""
    communicator = await opened(owner)
    await communicator.send_to(text_data=" " * (MAX_REQUEST_BYTES + 1))
    await assert_refused(communicator, "message_too_large", 4413)
    communicator = await opened(owner)
    await communicator.send_to(text_data=json.dumps(REQUEST) + " " * 2_000_000)
    assert (await answer(communicator))["type"] == "accepted"
    assert (await answer(communicator))["type"] == "queued"
    await communicator.send_to(text_data=" " * (MAX_MESSAGE_BYTES + 1))
    await assert_refused(communicator, "message_too_large", 4413)


async def test_a_silent_client_is_not_waited_for(owner: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "REQUEST_WITHIN_S", 0.01)
    await assert_refused(await opened(owner), "no_request", 4408)
