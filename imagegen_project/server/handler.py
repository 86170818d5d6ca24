"""Django's handler for HTTP, with one change of threads for a request's middleware and view, and threads that stay."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest
from django.http.response import HttpResponseBase


class OneThreadHandler(ASGIHandler):
    """Runs all of a request in its thread.

    Django's own goes back to the event loop for each middleware that could be asynchronous, and to the thread for what
    it does: with this project's, which has no asynchronous view, that takes longer than most answers. Django's own also
    starts a thread for each request, and another one that waits for its end; here as many stay as were busy at once.
    """

    def __init__(self) -> None:
        super().__init__()
        # Of one thread each; the gate bounds how many there come to be.
        self._idle: list[ThreadPoolExecutor] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serves one request; by the time it is over nothing of it runs any more."""
        thread = self._idle.pop() if self._idle else ThreadPoolExecutor(1, thread_name_prefix="request")
        try:
            async with ThreadSensitiveContext(executor=thread):
                await self.handle(scope, receive, send)
        finally:
            self._idle.append(thread)

    def load_middleware(self, is_async: bool = False) -> None:  # noqa: FBT001, FBT002 - as Django has it
        """Builds the chain for a thread, whatever it is to be for."""
        super().load_middleware(is_async=False)

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        """The answer of the chain."""
        respond: Any = self.get_response
        response: HttpResponseBase = await sync_to_async(respond, thread_sensitive=True)(request)
        return response
