"""The native API's routes, mounted at /api/v1/ and, for short paths, at /v1/."""

from typing import TypeGuard

from django.urls import re_path
from django.urls.resolvers import URLPattern, URLResolver
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse
from rest_framework.views import APIView

from generation.api import routes as generation_routes
from imagegen_project.auth.api import TicketView, TokensView, TokenView
from imagegen_project.common.ids import UUID_REGEX
from imagegen_project.common.routers import route
from loras.api import routes as lora_routes


class RootView(APIView):
    """Where to go from here."""

    @extend_schema(exclude=True)
    def get(self, request: Request) -> Response:
        """Links to every route that needs no id, and to the documents."""
        named = {pattern.name: f"api:{pattern.name}" for pattern in routes if _is_native(pattern)}
        named |= {name: name for name in ("docs", "schema", "asyncapi")}
        return Response({name: reverse(route, request=request) for name, route in named.items()})


def _is_native(pattern: URLPattern | URLResolver) -> TypeGuard[URLPattern]:
    """Whether a route needs no id, and is no other one's second name."""
    if not isinstance(pattern, URLPattern):
        return False
    alone = not pattern.pattern.regex.groups and pattern.name not in ("root", "txt2img", "img2img")
    return alone and not str(pattern.name).endswith("-alias")


routes = [
    re_path(r"^$", RootView.as_view(), name="root"),
    *generation_routes.urlpatterns,
    *lora_routes.urlpatterns,
    route("tickets", TicketView.as_view(), "tickets"),
    route("tokens", TokensView.as_view(), "tokens"),
    route(rf"tokens/(?P<token_id>{UUID_REGEX})", TokenView.as_view(), "token"),
]
