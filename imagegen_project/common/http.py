"""Reading the request headers that choose how an answer comes."""

import re
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest
from rest_framework.request import Request

_WAIT = re.compile(r"wait\s*=\s*\"?(\d{1,9})\"?")


@dataclass(frozen=True)
class Preference:
    """The client's `Prefer` header (RFC 7240): `respond-async` and `wait=<seconds>`."""

    respond_async: bool
    wait_s: int | None

    @classmethod
    def of(cls, request: Request) -> "Preference":
        """Reads the header; what it does not know it ignores, as the RFC asks."""
        tokens = [token.strip().lower() for token in request.headers.get("Prefer", "").split(",")]
        waits = [match for token in tokens if (match := _WAIT.fullmatch(token))]
        return cls(respond_async="respond-async" in tokens, wait_s=int(waits[0][1]) if waits else None)

    @property
    def wait_seconds(self) -> float:
        """How long to wait: what was asked for, `WAIT_LIMIT_S` at most and by default."""
        return float(
            settings.WAIT_LIMIT_S if self.wait_s is None else min(self.wait_s, settings.WAIT_LIMIT_S)
        )


def is_foreign(request: HttpRequest | Request) -> bool:
    """Whether a browser says that another site's page sent the request: by its Origin, or by Sec-Fetch-Site."""
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("Host", "").lower():
        return True
    return site is not None and site.lower() not in ("same-origin", "none")


def caller(request: Request) -> User:
    """The user of a request that the permissions let through, so never an anonymous one."""
    return cast(User, request.user)
