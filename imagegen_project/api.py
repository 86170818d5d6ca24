"""The native API's routes, mounted at /api/v1/ and, for short paths, at /v1/."""

from django.urls import re_path
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
        """Links to the routes that a person would start with."""
        names = (
            "capabilities",
            "generation-list",
            "generate-txt2img",
            "generate-img2img",
            "models",
            "lora-list",
            "tickets",
            "tokens",
            "me",
            "usage",
        )
        return Response({name: reverse(f"api:{name}", request=request) for name in names})


routes = [
    re_path(r"^$", RootView.as_view(), name="root"),
    *generation_routes.urlpatterns,
    *lora_routes.urlpatterns,
    route("tickets", TicketView.as_view(), "tickets"),
    route("tokens", TokensView.as_view(), "tokens"),
    route(rf"tokens/(?P<token_id>{UUID_REGEX})", TokenView.as_view(), "token"),
]
