"""Reading the request headers that choose how an answer comes."""

import re
from dataclasses import dataclass
from typing import cast

from django.conf import settings
from django.contrib.auth.models import User
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


def caller(request: Request) -> User:
    """The user of a request that the permissions let through, so never an anonymous one."""
    return cast(User, request.user)
