"""The routes that these tests ask."""

from django.contrib import admin
from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from imagegen_project.auth.api import TicketView
from imagegen_project.auth.authentication import TokenAuth


class WhoAmIView(APIView):
    def get(self, request: Request) -> Response:
        kind = request.auth.kind if isinstance(request.auth, TokenAuth) else "session"
        return Response({"username": request.user.get_username(), "kind": kind})


urlpatterns = [
    path("whoami", WhoAmIView.as_view()),
    path("tickets", TicketView.as_view()),
    path("admin/", admin.site.urls),
]
