"""The route of socket tickets."""

from typing import cast

from django.conf import settings
from django.contrib.auth.models import User
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from imagegen_project.auth.tickets import ticket_create


class TicketOut(serializers.Serializer[dict[str, object]]):
    """A ticket, to be sent as `?ticket=` when a socket is opened."""

    ticket = serializers.CharField(help_text="Opens one socket, as the user who asked for it.")
    expires_in = serializers.IntegerField(help_text="Seconds until it is worthless.")


class TicketView(APIView):
    """Makes single-use tickets for sockets, for clients that cannot send a header with them (browsers)."""

    permission_classes = (IsAuthenticated,)
    throttle_scope = "tickets"

    @extend_schema(
        operation_id="ticket_create", summary="Make a socket ticket", request=None, responses={201: TicketOut}
    )
    def post(self, request: Request) -> Response:
        """A ticket that opens one socket as the caller, within a short time."""
        ticket = ticket_create(user=cast("User", request.user))
        body = TicketOut({"ticket": ticket, "expires_in": settings.TICKET_TTL_S}).data
        return Response(body, status=status.HTTP_201_CREATED, headers={"Cache-Control": "no-store"})
