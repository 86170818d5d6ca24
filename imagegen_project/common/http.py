"""Reading the request headers that choose how an answer comes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.models import User
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from rest_framework.request import Request

from imagegen_project.common.context import MAX_BASE_URL_CHARACTERS

_RANGE = re.compile(
    r"bytes=(?=[^-]|-[0-9])(?P<begin>[0-9]{0,18})-(?P<end>[0-9]{0,18})", re.ASCII | re.IGNORECASE
)
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


def base_url_of(request: HttpRequest) -> str:
    """Where clients reach the service: `PUBLIC_URL`, else as this request has it; "" for a host it does not go by."""
    if settings.PUBLIC_URL:
        return str(settings.PUBLIC_URL)
    try:
        found = f"{request.scheme}://{request.get_host()}"
    except DisallowedHost:
        return ""
    return found if len(found) <= MAX_BASE_URL_CHARACTERS else ""


def file_response(
    request: HttpRequest | Request, data: bytes, *, content_type: str, headers: Mapping[str, str]
) -> HttpResponse:
    """A file's bytes, or the range of them that is asked for (RFC 9110, 14); several ranges are answered as a whole."""
    told = {**headers, "Accept-Ranges": "bytes"}
    begin, end, size = 0, len(data), len(data)
    asked = _RANGE.fullmatch(request.headers.get("Range", "").strip())
    if asked and request.headers.get("If-Range", told.get("ETag")) == told.get("ETag"):
        if not asked["begin"]:
            begin = max(0, size - int(asked["end"]))
        else:
            begin = int(asked["begin"])
            end = min(size, int(asked["end"]) + 1) if asked["end"] else size
            if end <= begin < size:  # it ends before it begins, which counts as none
                begin, end = 0, size
        if begin >= size:
            return HttpResponse(status=416, headers=told | {"Content-Range": f"bytes */{size}"})
    status = 200
    if (begin, end) != (0, size):
        status = 206
        told["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
    told["Content-Length"] = str(end - begin)
    return HttpResponse(data[begin:end], status=status, content_type=content_type, headers=told)


def wants_page(request: HttpRequest) -> bool:
    """Whether a browser asks for a page: it always names HTML."""
    return "text/html" in request.headers.get("Accept", "")


def is_foreign(request: HttpRequest | Request) -> bool:
    """Whether a browser says that another site's page sent the request: by its Origin, or by Sec-Fetch-Site."""
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("Host", "").lower():
        return True
    return site is not None and site.lower() not in ("same-origin", "none")


def user_of(request: HttpRequest) -> User:
    """The user of a page that lets only those in who are signed in."""
    return cast(User, request.user)


def caller(request: Request) -> User:
    """The user of a request that the permissions let through, so never an anonymous one."""
    return cast(User, request.user)
