"""Django's handler for HTTP: all of a request in one change of threads, and threads that stay."""

from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.core import signals
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix


class OneThreadHandler(ASGIHandler):
    """Runs all of a request in its thread, at once.

    Django's own goes back to the event loop for each middleware that could be asynchronous, and to the thread for what
    it does: with this project's, which has no asynchronous view, that takes longer than most answers. It also changes
    threads to say that a request begins and that it has ended, and for all that time runs a task that listens for the
    client to hang up, which stops no thread. Django's own starts a thread for each request, and another one that waits
    for its end; here as many stay as were busy at once.
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

    async def handle(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Reads the body, has the thread answer, and sends what it answered."""
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        with body:
            response = await self._respond(scope, body)
            try:
                await self.send_response(response, send)
            finally:  # also where the client hung up, and the server cancels what still sends
                if response.streaming:
                    await sync_to_async(response.close)()

    @sync_to_async
    def _respond(self, scope: dict[str, Any], body: IO[bytes]) -> HttpResponseBase:
        """The answer of the chain; one that is whole is closed, so that its database connection is free meanwhile."""
        set_script_prefix(get_script_prefix(scope))
        signals.request_started.send(sender=self.__class__, scope=scope)
        request, refusal = self.create_request(scope, body)
        given: Any = refusal if request is None else self.get_response(request)
        response: HttpResponseBase = given
        given._handler_class = self.__class__  # noqa: SLF001 - as Django's own
        if not response.streaming:
            response.close()
        return response

    def load_middleware(self, is_async: bool = False) -> None:  # noqa: FBT001, FBT002 - as Django has it
        """Builds the chain for a thread, whatever it is to be for."""
        super().load_middleware(is_async=False)
