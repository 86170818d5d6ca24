"""Which of its forms an answer has."""

from typing import Any

from django.http import Http404
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.request import Request


class StrictNegotiation(DefaultContentNegotiation):
    """By `Accept`, or by `?format=`, which is refused without a value as it is with one that there is not."""

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        """A renderer and its media type. Raises Http404 for a format that there is not, NotAcceptable for an Accept."""
        if request.query_params.get(self.settings.URL_FORMAT_OVERRIDE) == "":
            raise Http404
        return super().select_renderer(request, renderers, format_suffix)
