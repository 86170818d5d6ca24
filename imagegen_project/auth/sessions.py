"""Sessions in the database, under keys that can be ones; and who may begin one."""

import re
from typing import Any, Final, Literal

from django.contrib.auth import login
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone
from knox.crypto import hash_token
from knox.models import AuthToken

_KEY = re.compile(r"[a-z0-9]{8,40}")
# How somebody came in, and the digest of the local token, as a session holds them.
WAY_KEY: Final = "way_in"
TOKEN_KEY: Final = "token_digest"  # noqa: S105 - a name
# The Hub is not asked again while a session lasts.
HUB_SESSION_S: Final = 24 * 3600

Way = Literal["password", "hub", "local", "link"]


def session_begin(request: HttpRequest, user: User, *, way: Way, token: str = "") -> None:
    """Signs in. A session that a local token began ends with that token, which the session only knows by its digest."""
    login(request, user, backend="imagegen_project.auth.backends.PatientModelBackend")
    # The same user's earlier session goes on, with what it held.
    request.session.pop(TOKEN_KEY, None)
    request.session[WAY_KEY] = way
    if way == "local":
        request.session[TOKEN_KEY] = hash_token(token)
    request.session.set_expiry(HUB_SESSION_S if way == "hub" else None)


class SessionStore(DatabaseStore):
    """Django's, which asks the database for whatever a cookie says; PostgreSQL refuses some of that with an error."""

    def load(self) -> dict[str, Any]:
        """The session's data; none once the token that began it is revoked or expired."""
        data: dict[str, Any] = super().load()
        if TOKEN_KEY in data and not _token_lives(data[TOKEN_KEY]):
            return {}
        return data

    def _validate_session_key(self, key: Any) -> bool:
        return isinstance(key, str) and _KEY.fullmatch(key) is not None


def _token_lives(digest: str) -> bool:
    unexpired = Q(expiry__isnull=True) | Q(expiry__gt=timezone.now())
    return bool(AuthToken.objects.filter(unexpired, digest=digest).exists())
