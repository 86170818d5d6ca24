"""Sockets that make a generation and follow it to its pictures."""

import asyncio
import base64
import contextlib
import json
import logging
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import UUID

from channels.generic.websocket import AsyncWebsocketConsumer
from django.contrib.auth.models import User

from generation.choices import Kind
from generation.errors import GenerationEndedError
from generation.feed.following import follow
from generation.feed.messages import Event
from generation.models import Generation
from generation.pictures.files import image_read
from generation.requests.creation import generation_submit
from generation.selectors import generation_get
from generation.services import generation_cancel, generations_abandon
from generation.streams.cursor import MAX_SEQ
from imagegen_project.common.errors import DomainError
from imagegen_project.common.executors import run_in_socket_executor
from imagegen_project.common.json_bounds import TooComplexError, json_read
from imagegen_project.common.problems import problem_of
from imagegen_project.common.shutdown import is_ending

logger = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 15 * 1024 * 1024
MAX_MESSAGE_BYTES = 64 * 1024
REQUEST_WITHIN_S = 30.0
CLOSE_BASE = 4000  # plus the status that the same mistake has over HTTP


class ProtocolError(DomainError):
    """A message that this socket does not understand."""

    code = "protocol_error"
    title = "The message is not understood"


class MessageTooLargeError(DomainError):
    """A message over the socket's limit."""

    code = "message_too_large"
    http_status = 413
    title = "The message is too large"


class NoRequestError(DomainError):
    """The socket was opened and nothing was asked for."""

    code = "no_request"
    http_status = 408
    title = "No request came in time"


@dataclass(frozen=True)
class Begun:
    """What a first message led to: a generation to follow, behind an event or from its start."""

    generation: Generation
    after: int | None
    is_new: bool = False


class StreamConsumer(AsyncWebsocketConsumer):
    """The first message is the request, or `{"job_id", "after"}` to go on with one; the feed follows, then a close.

    Whoever has no valid credential is refused before the socket is accepted (HTTP 403). What else is wrong is said in
    a message of type `error`, and the close code is 4000 plus the HTTP status. The generation goes on when the socket
    is gone, unless the request said `cancel_on_disconnect`; `{"type": "cancel"}` cancels it.
    """

    channel_layer_alias = "none"  # the feed hub subscribes, once a generation and process
    kinds: ClassVar[tuple[Kind, ...]] = ()
    job_id: UUID | None = None  # once there is a request
    task: asyncio.Task[None] | None = None
    cancels = False  # the generation, when the client hangs up

    async def connect(self) -> None:
        """Accepts whoever may make generations, and waits for the request."""
        if not self.scope["user"].is_authenticated:
            await self.close()
            return
        await self.accept(self.scope.get("accepted_subprotocol"))
        self.task = asyncio.create_task(self._expire())

    async def _expire(self) -> None:
        await asyncio.sleep(REQUEST_WITHIN_S)
        await self._refuse(NoRequestError(f"Send the request within {REQUEST_WITHIN_S:g} s."))

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """The request, then orders about the generation that it made."""
        try:
            if self.job_id is None:
                await self._begin(_sized(text_data, MAX_REQUEST_BYTES))
            else:
                await self._order(self.job_id, _sized(text_data, MAX_MESSAGE_BYTES))
        except Exception as error:  # noqa: BLE001 - whatever it is, the client hears of it
            await self._refuse(error)

    async def _begin(self, text: str) -> None:
        begun = await run_in_socket_executor(_begin, self.scope["user"], self.kinds, text)
        self.job_id = begun.generation.id
        self.cancels = begun.is_new and begun.generation.cancel_on_disconnect
        self._stop()
        await self._send(_accepted(begun))
        self.task = asyncio.create_task(self._forward(begun.generation.id, begun.after))

    async def _order(self, job_id: UUID, text: str) -> None:
        if _json(text) != {"type": "cancel"}:
            raise ProtocolError('After the request only {"type": "cancel"} is understood.')
        await run_in_socket_executor(_cancel, self.scope["user"], job_id)

    async def _forward(self, generation_id: UUID, after: int | None) -> None:
        try:
            async with contextlib.aclosing(follow(generation_id, after=after)) as events:
                async for event in events:
                    if event["type"] == "succeeded":
                        await self._send(
                            await run_in_socket_executor(_with_pictures, self.scope["user"], event)
                        )
                    else:
                        await self._send(event)
            self.cancels = False
            await self.close(code=1000)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client hears of it
            await self._refuse(error)

    async def _send(self, message: Any) -> None:
        await self.send(text_data=json.dumps(message, separators=(",", ":")))

    async def _refuse(self, error: Exception) -> None:
        """Says what is wrong, and closes."""
        problem = problem_of(error)
        told = {name: problem[name] for name in ("code", "status", "title", "detail", "errors")}
        job_id = None if self.job_id is None else str(self.job_id)
        await self._send({"type": "error", "job_id": job_id, **told})
        await self.close(code=CLOSE_BASE + problem["status"])

    def _stop(self) -> None:
        if self.task is not None:
            self.task.cancel()

    async def disconnect(self, code: int) -> None:
        """Stops what runs for this socket, and the generation where that was asked for."""
        self._stop()
        if self.cancels and self.job_id is not None and not is_ending():
            await run_in_socket_executor(generations_abandon, ids=(self.job_id,))


class Txt2ImgConsumer(StreamConsumer):
    """`/stream/generate/txt2img`."""

    kinds = (Kind.TXT2IMG,)


class Img2ImgConsumer(StreamConsumer):
    """`/stream/generate/img2img`; with a mask, inpainting; with a model that edits, editing."""

    kinds = (Kind.IMG2IMG, Kind.INPAINT, Kind.EDIT)


def _sized(text: str | None, limit: int) -> str:
    if text is None:
        raise ProtocolError("Messages are JSON, as text.")
    if len(text.encode("utf-8", "surrogatepass")) > limit:
        raise MessageTooLargeError(f"At most {limit} bytes.")
    return text


def _json(text: str) -> Any:
    try:
        return json_read(text.encode("utf-8", "surrogatepass"))
    except TooComplexError as error:
        raise ProtocolError(f"Not JSON that is taken here: {error}.") from error
    except ValueError as error:
        raise ProtocolError("Not JSON.") from error


def _begin(user: User, kinds: tuple[Kind, ...], text: str) -> Begun:
    message = _json(text)
    if isinstance(message, dict) and "job_id" in message:
        return _resume(user, message)
    return Begun(generation_submit(owner=user, data=message, kinds=kinds), after=0, is_new=True)


def _resume(user: User, message: dict[str, Any]) -> Begun:
    after = message.get("after")
    if message.keys() - {"job_id", "after"} or not (
        after is None or (type(after) is int and 0 <= after <= MAX_SEQ)
    ):
        raise ProtocolError("To go on with a job send its job_id and, as after, the seq of the last event.")
    try:
        generation_id = UUID(message["job_id"])
    except (ValueError, TypeError, AttributeError) as error:
        raise ProtocolError("job_id is no job's id.", param="job_id") from error
    return Begun(generation_get(user=user, generation_id=generation_id), after)


def _accepted(begun: Begun) -> Event:
    generation, seq = begun.generation, begun.after or 0
    return {
        "type": "accepted",
        "seq": seq,
        "prev": seq,
        "job_id": str(generation.id),
        "at": generation.created_at.isoformat(timespec="milliseconds"),
        "attempt": generation.attempt,
        "status": generation.status,
        "model": generation.checkpoint_id,
        "seed": generation.seed,
        "total_steps": generation.total_steps,
        "warnings": generation.warnings,
    }


def _cancel(user: User, generation_id: UUID) -> None:
    with contextlib.suppress(GenerationEndedError):  # its last event is on the way
        generation_cancel(generation=generation_get(user=user, generation_id=generation_id))


def _with_pictures(user: User, event: Event) -> dict[str, Any]:
    """The last event, with the pictures themselves."""
    generation = generation_get(user=user, generation_id=UUID(event["job_id"]))
    files = {
        image.index: base64.b64encode(image_read(image)).decode("ascii") for image in generation.images.all()
    }
    images = [{**image, "b64_json": files[image["index"]]} for image in event["images"]]
    return {**event, "images": images}
