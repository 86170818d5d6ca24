"""Routes that take a trailing slash or none."""

from typing import Any

from django.urls import re_path
from django.urls.resolvers import URLPattern
from rest_framework.routers import SimpleRouter


class OptionalSlashRouter(SimpleRouter):
    """DRF's router with the slash left open: a redirect would lose a POST's body."""

    def __init__(self) -> None:
        super().__init__()
        self.trailing_slash = "/?"


def route(pattern: str, view: Any, name: str) -> URLPattern:
    """One route, with an optional slash at its end."""
    path: URLPattern = re_path(rf"^{pattern}/?$", view, name=name)
    return path
