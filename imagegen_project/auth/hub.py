"""One question to the Hugging Face Hub: who is this token?

Speaks `GET /api/whoami-v2` through `huggingface_hub`. Only a 401 or a well-formed identity is an answer;
whatever else happens (429, 5xx, silence, nonsense, no network) means that nothing is known.
"""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeAlias

import httpx2
from django.conf import settings
from huggingface_hub import HfApi, constants, set_client_factory
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]  # lazily exported

logger = logging.getLogger(__name__)

MAX_IN_FLIGHT = 8
MAX_NAME_LENGTH = 100
MAX_ID_LENGTH = 64
MAX_WAIT_S = 30
WHOAMI_PATH = "/api/whoami-v2"
# Some kB, but for somebody in thousands of organisations.
MAX_REPLY_BYTES = 4 << 20
# How many bytes gzip makes of one at most.
MOST_UNPACKED = 1032
CLASSIC_ROLES = ("read", "write")
# Writing includes reading: the Hub's own form ticks both.
READ_PERMISSIONS = frozenset({"repo.content.read", "repo.read", "repo.content.write", "repo.write"})


@dataclass(frozen=True)
class HubIdentity:
    """A Hub account, as a valid token with a read scope shows it."""

    hub_id: str
    name: str
    orgs: tuple[str, ...]


@dataclass(frozen=True)
class HubRefusal:
    """The Hub does not know the token, or the token may not read."""

    code: str
    detail: str


@dataclass(frozen=True)
class HubUnknown:
    """No answer; `wait_s` is how long the Hub should be left alone (0: it may be asked again at once).

    `about_token` says that only this token may not be asked about: the Hub limits each account by itself.
    """

    reason: str
    wait_s: float = 0
    about_token: bool = False


Answer: TypeAlias = HubIdentity | HubRefusal | HubUnknown

INVALID = HubRefusal(
    "invalid_token", "The Hugging Face Hub does not know this token: it is mistyped, expired or revoked."
)
NO_READ_SCOPE = HubRefusal(
    "token_without_read_scope",
    "This Hugging Face token may not read. Use one of role read or write, or a fine-grained one that may read"
    " the contents of repositories.",
)

_in_flight: dict[str, Future[Answer]] = {}
_lock = threading.Lock()
_client_timeout_s: float | None = None


def hub_ask(*, token: str, fingerprint: str) -> Answer:
    """Asks the Hub, within HUB_TIMEOUT_S in all; the same question (by `fingerprint`) is in flight only once.

    The client's own timeouts bound each read, not their sum, and none bounds name resolution: hence a thread
    that can be left behind. An answer that drips or has no end is left too, so that the thread ends.
    """
    with _lock:
        future = _in_flight.get(fingerprint)
        if future is None:
            if len(_in_flight) >= MAX_IN_FLIGHT:
                return HubUnknown("too many questions at once")
            _install_client()
            future = _in_flight[fingerprint] = Future()
            # A daemon: an answer that never comes must not keep the process from ending.
            threading.Thread(
                target=_work, args=(token, fingerprint, future), name="hub-whoami", daemon=True
            ).start()
    try:
        return future.result(timeout=settings.HUB_TIMEOUT_S)
    except TimeoutError:
        return _unknown("no answer in time", wait_s=settings.HUB_TIMEOUT_S)


def _work(token: str, fingerprint: str, future: Future[Answer]) -> None:
    answer = _fetch(token)
    with _lock:
        _in_flight.pop(fingerprint, None)
    future.set_result(answer)


def _fetch(token: str) -> Answer:
    try:
        reply = HfApi(endpoint=settings.HF_ENDPOINT).whoami(token=token)
    except HfHubHTTPError as error:
        return _refused_by_http(error)
    except httpx2.TimeoutException:
        return _unknown("timeout", wait_s=settings.HUB_TIMEOUT_S)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong on the way, the token is not to blame
        return _unknown(type(error).__name__)
    return identity_parse(reply)


def _refused_by_http(error: HfHubHTTPError) -> Answer:
    status = error.response.status_code
    if status == httpx2.codes.UNAUTHORIZED:
        return INVALID
    wait_s: float = 0
    limited = status == httpx2.codes.TOO_MANY_REQUESTS
    if limited:
        headers = error.response.headers
        limit = parse_ratelimit_headers(headers)
        given = headers.get("retry-after", "")
        wait_s = int(given) if given.isdigit() else (limit.reset_in_seconds if limit else 0)
    return _unknown(f"HTTP {status}", wait_s=wait_s, about_token=limited)


def _unknown(reason: str, *, wait_s: float = 0, about_token: bool = False) -> HubUnknown:
    logger.warning("The Hub did not say who a token is: %s", reason)
    return HubUnknown(reason, wait_s=min(wait_s, MAX_WAIT_S), about_token=about_token)


def identity_parse(reply: Any) -> Answer:
    """What a whoami-v2 reply says; `HubUnknown` where it is not one."""
    match reply:
        case {"id": str(hub_id), "name": str(name)} if 0 < len(hub_id) <= MAX_ID_LENGTH and name:
            if not _may_read(_mapping(_mapping(reply.get("auth")).get("accessToken"))):
                return NO_READ_SCOPE
            orgs = [org.get("name") for org in _mappings(reply.get("orgs"))]
            return HubIdentity(
                hub_id=hub_id,
                name=name[:MAX_NAME_LENGTH],
                orgs=tuple(org for org in orgs if isinstance(org, str)),
            )
        case _:
            return _unknown("not a whoami reply")


def _may_read(access_token: Mapping[str, Any]) -> bool:
    """Role read or write; or fine-grained, with reading of any entity's repositories or of the gated ones."""
    role, fine = access_token.get("role"), _mapping(access_token.get("fineGrained"))
    if role in CLASSIC_ROLES:
        return True
    return role == "fineGrained" and (
        fine.get("canReadGatedRepos") is True or not READ_PERMISSIONS.isdisjoint(_permissions(fine))
    )


def _permissions(fine_grained: Mapping[str, Any]) -> Iterator[str]:
    scopes = _mappings(fine_grained.get("scoped"))
    for permissions in (fine_grained.get("global"), *(scope.get("permissions") for scope in scopes)):
        if isinstance(permissions, list):
            yield from (name for name in permissions if isinstance(name, str))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _install_client() -> None:
    """Gives `huggingface_hub` a client with timeouts; done at the first question, for the whole process."""
    global _client_timeout_s  # noqa: PLW0603 - the client is the library's own global
    if _client_timeout_s == settings.HUB_TIMEOUT_S:
        return
    # The user agent's agent detection would first fetch a registry from the Hub, and write a file.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    set_client_factory(_client)
    _client_timeout_s = settings.HUB_TIMEOUT_S


def _client() -> httpx2.Client:
    """A client without the library's request hook: HF_HUB_OFFLINE, meant for weights, must not stop it."""
    return httpx2.Client(
        timeout=settings.HUB_TIMEOUT_S,
        follow_redirects=True,
        # One client serves every user: a cookie set for one must not travel with another's token.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        headers={"Accept-Encoding": "identity"},
        event_hooks={"response": [_bound]},
    )


def _bound(response: httpx2.Response) -> None:
    """Bounds the answer before it is read, if it is about a token: files have bounds of their own."""
    if response.request.url.path.endswith(WHOAMI_PATH):
        packed = "content-encoding" in response.headers
        limit_bytes = MAX_REPLY_BYTES // (MOST_UNPACKED if packed else 1)
        response.stream = _BoundedStream(response.stream, limit_bytes, settings.HUB_TIMEOUT_S)


class _BoundedStream(httpx2.SyncByteStream):
    def __init__(self, stream: Any, limit_bytes: int, limit_s: float) -> None:
        self._stream = stream
        self._left = limit_bytes
        self._end = time.monotonic() + limit_s

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._stream:
            self._left -= len(piece)
            if self._left < 0:
                raise httpx2.ReadError("the answer has no end")
            if time.monotonic() > self._end:
                raise httpx2.ReadTimeout("the answer drips")
            yield piece

    def close(self) -> None:
        self._stream.close()
