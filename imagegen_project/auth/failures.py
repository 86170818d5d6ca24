"""Slows down who tries credentials: counts failures by address and by token, in Redis, for a minute.

An address over the limit is refused before its credential is looked at, so it costs neither the database nor the Hub
anything. A token that worked from anywhere within the hour is still looked at: who shares an address with a guesser
(an office, a proxy that TRUSTED_PROXIES does not name) is not locked out. One that worked in this process within the
minute is looked at without asking Redis, until it fails. Without Redis nobody is refused.
"""

import logging
import math
import time

from django.conf import settings
from django.http import HttpRequest
from django.utils.crypto import salted_hmac
from redis.exceptions import RedisError

from imagegen_project.auth.errors import TooManyFailuresError
from imagegen_project.common.redis import redis_client

logger = logging.getLogger(__name__)

WINDOW_S = 60
WORKED_S = 3600
_PREFIX = "imagegen:auth"
# When a token worked in this process last (monotonic seconds), by the name that Redis has for it.
_worked: dict[str, float] = {}
_MAX_WORKED = 10_000


def client_address(*, peer: str, forwarded_for: str) -> str:
    """Who a request is from: the peer, or what the outermost of TRUSTED_PROXIES proxies saw."""
    hops = [hop.strip() for hop in forwarded_for.split(",") if hop.strip()]
    if not settings.TRUSTED_PROXIES or not hops:
        return peer
    return hops[-min(settings.TRUSTED_PROXIES, len(hops))]


def address_of(request: HttpRequest) -> str:
    """Who a Django request is from."""
    meta = request.META
    return client_address(
        peer=meta.get("REMOTE_ADDR", ""), forwarded_for=meta.get("HTTP_X_FORWARDED_FOR", "")
    )


def failures_check(*, address: str, credential: str) -> None:
    """Lets a try with a credential pass, or raises TooManyFailuresError."""
    if not settings.AUTH_FAILURES:
        return
    name = _name(credential)
    if time.monotonic() - _worked.get(name, -math.inf) < WINDOW_S:
        return
    try:
        of_address, of_token, worked = redis_client().mget(
            _failed("address", address), _failed("token", name), f"{_PREFIX}:worked:{name}"
        )
    except (RedisError, OSError) as error:
        _open(error)
        return
    limit = settings.AUTH_FAILURES
    if int(of_token or 0) >= limit or (int(of_address or 0) >= limit and worked is None):
        logger.warning("too many failures", extra={"address": address})
        raise TooManyFailuresError(retry_after_s=_seconds_left(address, name))


def _seconds_left(address: str, name: str) -> int:
    """How long the failures that were counted still count."""
    try:
        ends = [redis_client().ttl(_failed(kind, of)) for kind, of in (("address", address), ("token", name))]
    except (RedisError, OSError):
        ends = []
    return max([seconds for seconds in ends if seconds > 0], default=WINDOW_S)


def failure_note(*, address: str, credential: str) -> None:
    """Counts a credential that was refused."""
    if not settings.AUTH_FAILURES:
        return
    name = _name(credential)
    _worked.pop(name, None)
    try:
        pipe = redis_client().pipeline()
        for key in (_failed("address", address), _failed("token", name)):
            pipe.set(key, 0, ex=WINDOW_S, nx=True)
            pipe.incr(key)
        pipe.execute()
    except (RedisError, OSError) as error:
        _open(error)


def success_note(*, credential: str) -> None:
    """Remembers a token that worked."""
    if not settings.AUTH_FAILURES:
        return
    name, now = _name(credential), time.monotonic()
    if now - _worked.get(name, -math.inf) < WINDOW_S:
        return
    if len(_worked) >= _MAX_WORKED:
        _worked.clear()
    _worked[name] = now
    try:
        redis_client().set(f"{_PREFIX}:worked:{name}", 1, ex=WORKED_S, nx=True)
    except (RedisError, OSError) as error:
        _open(error)


def _failed(kind: str, name: str) -> str:
    return f"{_PREFIX}:failed:{kind}:{name}"


def _name(credential: str) -> str:
    """Redis never sees a credential, nor what could be made one without SECRET_KEY."""
    return salted_hmac("imagegen.failures", credential, algorithm="sha256").hexdigest()


def _open(error: Exception) -> None:
    logger.debug("failures not counted", extra={"reason": type(error).__name__})
