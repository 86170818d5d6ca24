"""The signing secret of one's webhooks."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from generation.webhooks.signing import webhook_secret_create
from imagegen_project.common.http import caller


class WebhookSecretOut(serializers.Serializer[Any]):
    """A new signing secret, in the form that libraries of Standard Webhooks take."""

    secret = serializers.CharField(help_text="Shown only now.")


class WebhookSecretView(APIView):
    """Makes signing secrets."""

    throttle_scope = "tickets"

    @extend_schema(operation_id="webhook_secret_create", request=None, responses={201: WebhookSecretOut})
    def post(self, request: Request) -> Response:
        """A new secret for all of your webhooks; the old one ends, and addresses that were gone are tried again."""
        body = WebhookSecretOut({"secret": webhook_secret_create(owner=caller(request))}).data
        return Response(body, status=status.HTTP_201_CREATED, headers={"Cache-Control": "no-store"})
