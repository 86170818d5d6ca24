"""The routes of socket tickets and of one's own tokens."""

from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import User
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from imagegen_project.auth.errors import SessionRequiredError
from imagegen_project.auth.models import MAX_TOKEN_NAME_CHARACTERS, LocalToken
from imagegen_project.auth.services import token_issue, token_revoke, tokens_of
from imagegen_project.auth.sessions import WAY_KEY
from imagegen_project.auth.tickets import ticket_create
from imagegen_project.common.http import caller
from imagegen_project.common.serializers import StrictSerializer, TextField

_NO_STORE = {"Cache-Control": "no-store"}
MAX_TOKEN_DAYS = 3650


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


class TokenIn(StrictSerializer):
    """A token to make."""

    name = TextField(
        max_length=MAX_TOKEN_NAME_CHARACTERS,
        required=False,
        allow_blank=True,
        default="",
        help_text="What it is for.",
    )
    expires_in_days = serializers.IntegerField(
        min_value=1,
        max_value=MAX_TOKEN_DAYS,
        required=False,
        allow_null=True,
        default=90,
        help_text="Null: never.",
    )


class TokenOut(serializers.ModelSerializer[LocalToken]):
    """A token, without what it says."""

    created_at = serializers.DateTimeField(source="token.created", read_only=True)
    expires_at = serializers.DateTimeField(source="token.expiry", read_only=True, allow_null=True)

    class Meta:
        model = LocalToken
        fields = ("id", "name", "created_at", "expires_at", "last_used_at")
        read_only_fields = fields


class TokensOut(serializers.Serializer[Any]):
    """All of one's tokens."""

    results = TokenOut(many=True)


class TokenMadeOut(TokenOut):
    """A new token."""

    value = serializers.CharField(help_text="The token itself, shown only now.")

    class Meta(TokenOut.Meta):
        fields = (*TokenOut.Meta.fields, "value")  # type: ignore[assignment]  # one more than the base has


class TokensView(APIView):
    """One's own local tokens."""

    throttle_scope = "tickets"

    @extend_schema(operation_id="tokens_list", summary="List your tokens", responses=TokensOut)
    def get(self, request: Request) -> Response:
        """Yours, the newest first: what they are for, until when they are good, and when they were used last."""
        return Response(TokensOut({"results": tokens_of(caller(request))}).data)

    @extend_schema(
        operation_id="tokens_create", summary="Make a token", request=TokenIn, responses={201: TokenMadeOut}
    )
    def post(self, request: Request) -> Response:
        """A new one, shown only now; for whoever is signed in on the page: a token cannot make tokens."""
        if request.auth is not None or request.session.get(WAY_KEY) == "local":
            raise SessionRequiredError
        body = TokenIn(data=request.data)
        body.is_valid(raise_exception=True)
        days = body.validated_data["expires_in_days"]
        row, token = token_issue(
            user=caller(request),
            expires_in=None if days is None else timedelta(days=days),
            name=body.validated_data["name"],
        )
        made = TokenOut(row).data | {"value": token}
        return Response(made, status=status.HTTP_201_CREATED, headers=_NO_STORE)


class TokenView(APIView):
    """One of them."""

    @extend_schema(operation_id="tokens_delete", summary="Revoke a token", responses={204: None})
    def delete(self, request: Request, token_id: UUID) -> Response:
        """Revokes it, and ends the sessions that it began."""
        token_revoke(user=caller(request), token_id=token_id)
        return Response(status=status.HTTP_204_NO_CONTENT)
