"""Who one is here, what one may ask for, and what one has used of it."""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from generation.models import MAX_PRIORITY
from generation.queue.limits import limits_left
from generation.selectors import usage_by_day
from imagegen_project.auth.authentication import TokenAuth
from imagegen_project.auth.models import HubAccount
from imagegen_project.auth.services import tokens_of
from imagegen_project.auth.sessions import WAY_KEY
from imagegen_project.common.http import caller

DEFAULT_DAYS, MAX_DAYS = 30, 366


class WaysOut(serializers.Serializer[Any]):
    """How one can come in."""

    password = serializers.BooleanField()
    hub_account = serializers.CharField(allow_null=True, help_text="Its name on the Hugging Face Hub.")
    tokens = serializers.IntegerField(help_text="Local ones, expired ones too; see `tokens`.")


class UserLimitsOut(serializers.Serializer[Any]):
    """What one user may have and ask for; 0 is no limit."""

    max_queued = serializers.IntegerField(help_text="Generations that wait.")
    work_megapixel_steps = serializers.FloatField(help_text="Asked for within `work_window_s`.")
    work_window_s = serializers.IntegerField()
    storage_bytes = serializers.IntegerField()
    max_connections = serializers.IntegerField(help_text="Sockets and event streams.")
    max_priority = serializers.IntegerField()


class MeOut(serializers.Serializer[Any]):
    """The user of the request."""

    username = serializers.CharField()
    is_staff = serializers.BooleanField()
    came_by = serializers.CharField(help_text="`hub` or `local` token, or a session by `password` or `link`.")
    session = serializers.BooleanField(help_text="Whether the request belongs to a page's session.")
    ways_in = WaysOut()
    limits = UserLimitsOut()


class MeView(APIView):
    """Who one is here."""

    @extend_schema(operation_id="me", summary="Who you are here", responses=MeOut)
    def get(self, request: Request) -> Response:
        """The user of the request, how he came in and can, and what he may ask for."""
        user = caller(request)
        token = request.auth if isinstance(request.auth, TokenAuth) else None
        account = HubAccount.objects.filter(user=user).first()
        ways = {
            "password": user.has_usable_password(),
            "hub_account": account and account.name,
            "tokens": tokens_of(user).count(),
        }
        limits = {
            "max_queued": settings.MAX_QUEUED_PER_USER,
            "work_megapixel_steps": settings.WORK_LIMIT,
            "work_window_s": settings.WORK_WINDOW_S,
            "storage_bytes": settings.STORAGE_QUOTA_BYTES,
            "max_connections": settings.CONNECTIONS_PER_USER,
            "max_priority": MAX_PRIORITY if user.is_staff else 0,
        }
        me = {
            "username": user.get_username(),
            "is_staff": user.is_staff,
            "came_by": token.kind if token else request.session.get(WAY_KEY, "password"),
            "session": token is None,
            "ways_in": ways,
            "limits": limits,
        }
        return Response(MeOut(me).data)


class UsageDayOut(serializers.Serializer[Any]):
    """What was asked of one model on one day (UTC), as far as it is still there."""

    day = serializers.DateField()
    model = serializers.CharField()
    jobs = serializers.IntegerField()
    pictures = serializers.IntegerField()
    megapixel_steps = serializers.FloatField(help_text="Of what succeeded.")
    bytes = serializers.IntegerField(help_text="Of its pictures.")


class LeftOut(serializers.Serializer[Any]):
    """A limit; null where there is none."""

    limit = serializers.FloatField(allow_null=True)
    used = serializers.FloatField()
    left = serializers.FloatField(allow_null=True)


class WorkLeftOut(LeftOut):
    """The limit of work, in megapixels x steps."""

    window_s = serializers.IntegerField()


class QuotaOut(serializers.Serializer[Any]):
    """What is left of each limit."""

    work = WorkLeftOut()
    storage = LeftOut(help_text="Bytes.")
    queued = LeftOut(help_text="Generations that wait.")


class UsageOut(serializers.Serializer[Any]):
    """What one has used and what is left."""

    days = UsageDayOut(many=True)
    quota = QuotaOut()


class UsageView(APIView):
    """What one has used."""

    @extend_schema(
        operation_id="usage",
        summary="What you have used, and what is left",
        parameters=[
            OpenApiParameter("days", int, description=f"How many days back, 1 to {MAX_DAYS}; {DEFAULT_DAYS}.")
        ],
        responses=UsageOut,
    )
    def get(self, request: Request) -> Response:
        """Your jobs, pictures, work and bytes by day and model, newest day first; and what is left of your limits."""
        owner = caller(request)
        today = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
        since = today - timedelta(days=_days(request) - 1)
        return Response(
            UsageOut({"days": usage_by_day(owner=owner, since=since), "quota": limits_left(owner)}).data
        )


def _days(request: Request) -> int:
    given = request.query_params.getlist("days") or [str(DEFAULT_DAYS)]
    if len(given) > 1 or not (
        given[0].isascii() and given[0].isdigit() and 1 <= int(given[0][:9]) <= MAX_DAYS
    ):
        raise ValidationError({"days": f"Must be given once, as a whole number from 1 to {MAX_DAYS}."})
    return int(given[0])
