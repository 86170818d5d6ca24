"""OpenAI's picture streams: partial pictures from the job's feed, then the finished ones."""

import base64
import contextlib
import io
import json
import time
from collections.abc import AsyncGenerator
from typing import Any

from django.contrib.auth.models import User
from PIL import Image

from generation.choices import OutputFormat
from generation.compat.openai.answers import USAGE, image_facts
from generation.compat.shapes import openai_shape
from generation.feed.following import follow
from generation.models import Generation
from generation.pictures.files import image_read
from generation.selectors import generation_get, generation_result
from generation.services import generations_abandon
from imagegen_project.common.asgi import Receive, Scope, Send
from imagegen_project.common.errors import DomainError
from imagegen_project.common.event_stream import event_bytes, stream_send
from imagegen_project.common.executors import run_in_socket_executor
from imagegen_project.common.problems import problem_of
from imagegen_project.common.shutdown import is_ending


def _in_format(preview: str, output_format: str) -> str:
    """A preview of the feed, which is a small JPEG in base64, in the format that was asked for."""
    if output_format == OutputFormat.JPEG:
        return preview
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(preview)), formats=["JPEG"]) as image:
        image.save(buffer, format=output_format.upper())
    return base64.b64encode(buffer.getvalue()).decode("ascii")


class ImageStream:
    """The ASGI application that answers one streaming request."""

    def __init__(
        self, generation: Generation, *, user: User, name: str, partial_images: int, quality: str
    ) -> None:
        self.user = user
        self.generation_id = generation.id
        self.cancels = generation.cancel_on_disconnect
        self.name = name
        self.partial_images = partial_images
        self.facts = image_facts(generation, quality=quality)
        self.output_format = generation.output_format

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Streams until the job has ended or the client hangs up, which may end the job."""
        headers = {"X-Job-Id": str(self.generation_id)}
        await stream_send(scope, receive, send, self._events(), headers=headers)
        if self.cancels and not is_ending():
            await run_in_socket_executor(generations_abandon, ids=(self.generation_id,))

    async def _events(self) -> AsyncGenerator[bytes, None]:
        sent = 0
        async with contextlib.aclosing(follow(self.generation_id, after=0)) as events:
            async for event in events:
                preview = event.get("preview") if event["type"] == "progress" else None
                # Spread over the run: of k partial pictures, picture i comes once i+1 of k+1 parts are done.
                due = 100 * (sent + 1) / (self.partial_images + 1)
                if preview and sent < self.partial_images and event["percent"] >= due:
                    shown = await run_in_socket_executor(_in_format, preview, self.output_format)
                    yield self._event("partial_image", shown, self.output_format, partial_image_index=sent)
                    sent += 1
        for item in await run_in_socket_executor(self._finished):
            yield item

    def _event(self, kind: str, b64_json: str, output_format: str, **more: Any) -> bytes:
        data = {
            "type": f"{self.name}.{kind}",
            "b64_json": b64_json,
            "created_at": int(time.time()),
            "output_format": output_format,
            **self.facts,
            **more,
        }
        return event_bytes(data["type"], json.dumps(data))

    def _finished(self) -> list[bytes]:
        """The finished pictures, or the reason why there are none."""
        try:
            generation = generation_get(user=self.user, generation_id=self.generation_id)
            generation_result(generation, waited=False)
            return [
                self._event(
                    "completed",
                    base64.b64encode(image_read(image)).decode("ascii"),
                    self.output_format,
                    usage=USAGE,
                )
                for image in generation.images.all()
            ]
        except DomainError as error:
            return [event_bytes("error", json.dumps(openai_shape(problem_of(error))))]
