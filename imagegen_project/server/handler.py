"""Django's handler for HTTP, with one change of threads for a request's middleware and view."""

from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest
from django.http.response import HttpResponseBase


class OneThreadHandler(ASGIHandler):
    """Runs all of a request in its thread.

    Django's own goes back to the event loop for each middleware that could be asynchronous, and to the thread for what
    it does: with this project's, which has no asynchronous view, that takes longer than most answers.
    """

    def load_middleware(self, is_async: bool = False) -> None:  # noqa: FBT001, FBT002 - as Django has it
        """Builds the chain for a thread, whatever it is to be for."""
        super().load_middleware(is_async=False)

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        """The answer of the chain."""
        respond: Any = self.get_response
        response: HttpResponseBase = await sync_to_async(respond, thread_sensitive=True)(request)
        return response
