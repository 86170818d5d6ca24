"""No token anywhere but in the request that brought it."""

import logging
import traceback
from typing import Literal

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django_redis import get_redis_connection
from rest_framework.exceptions import APIException
from rest_framework.test import APIClient

from imagegen_project.auth.authentication import TokenAuth
from imagegen_project.auth.identity import hub_identity
from imagegen_project.auth.services import token_create
from imagegen_project.auth.tickets import ticket_create
from imagegen_project.common.errors import DomainError
from tests.support.hub import HubDouble, Mode, Outage, whoami

HUB_TOKEN = "hf_secretOfNobody"  # noqa: S105 - nobody's
REVOKED = "hf_revokedOfNobody"

pytestmark = pytest.mark.django_db


def everything_in_redis() -> bytes:
    redis = get_redis_connection("default")
    keys = list(redis.scan_iter("*"))
    return b"\n".join(keys + [redis.dump(key) or b"" for key in keys])


def everything_in_postgres() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        tables = [name for (name,) in cursor.fetchall()]
        rows = []
        for table in tables:
            cursor.execute(f'SELECT t::text FROM "{table}" t')
            rows += [row for (row,) in cursor.fetchall()]
    return "\n".join(rows)


def everything_logged(caplog: pytest.LogCaptureFixture) -> str:
    formatter = logging.Formatter()
    return "\n".join(formatter.format(record) + repr(record.__dict__) for record in caplog.records)


@pytest.mark.parametrize("outage", ["ok", "429", "500", "hang", "garbage", "gone"])
def test_tokens_leave_no_trace(
    hub: HubDouble, bare_api: APIClient, caplog: pytest.LogCaptureFixture, outage: Outage | Literal["ok"]
) -> None:
    """Not in a log record of any library at DEBUG, an answer, a cache key or value, or a row."""
    hub.tokens[HUB_TOKEN] = whoami()
    if outage != "ok":
        hub.fail(outage)
    user = User.objects.create_user("ada")
    local, ticket = token_create(user=user, expires_in=None), ticket_create(user=user)
    names = ["", "httpx2", "httpcore2", "httpcore2.http11", "huggingface_hub", "django", "imagegen_project"]
    for name in names:
        caplog.set_level(logging.DEBUG, logger=name)

    answers = [
        bare_api.get("/whoami", headers={"Authorization": f"Bearer {token}"}).content.decode()
        for token in (HUB_TOKEN, HUB_TOKEN, REVOKED, local, local[:-1] + "x", f"{HUB_TOKEN} {REVOKED}")
    ]

    places = [everything_logged(caplog), everything_in_redis().decode("latin-1"), everything_in_postgres()]
    assert caplog.records
    for place in [*places, *answers]:
        for secret in (HUB_TOKEN, REVOKED, local, ticket):
            # The body of a secret too: without its prefix it is as good.
            assert secret[4:] not in place


@pytest.mark.parametrize("mode", ["ok", "500", "hang", "garbage"])
def test_errors_do_not_carry_tokens(hub: HubDouble, mode: Mode) -> None:
    """Neither an error nor what caused it, however it is printed."""
    hub.mode = mode
    with pytest.raises((APIException, DomainError)) as caught:
        hub_identity(token=REVOKED)
    assert REVOKED not in "".join(traceback.format_exception(caught.value)) + repr(caught.value)


def test_request_auth_does_not_carry_the_token() -> None:
    """What a view can log of `request.auth` is the kind of token only."""
    assert repr(TokenAuth(kind="hub")) == "TokenAuth(kind='hub')"
