"""Who a Hub token is: the Hub's answer, cached, with a grace period and allow-lists."""

import time
from collections.abc import Callable
from math import ceil
from typing import Any

from django.conf import settings
from django.core.cache import cache
from django.utils.crypto import salted_hmac

from imagegen_project.auth.errors import (
    RETRY_AFTER_S,
    HubUnavailableError,
    HubUserNotAllowedError,
    InvalidTokenError,
)
from imagegen_project.auth.hub import Answer, HubIdentity, HubRefusal, HubUnknown, hub_ask

REFUSAL_CACHE_S = 15

# The wall clock: the age of an answer must mean the same in every process.
now: Callable[[], float] = time.time


def hub_identity(*, token: str) -> HubIdentity:
    """The account behind a Hub token.

    Raises InvalidTokenError (401), HubUserNotAllowedError (403), HubUnavailableError (503, nothing is known).
    """
    fingerprint = _digest(f"{settings.HF_ENDPOINT}\n{token}")
    cached, age_s = _recall(fingerprint)
    answer = cached if cached and _is_fresh(cached, age_s) else _ask(token, fingerprint)
    if isinstance(answer, HubUnknown):
        if not isinstance(cached, HubIdentity):
            raise HubUnavailableError(retry_after_s=max(ceil(answer.wait_s), RETRY_AFTER_S))
        answer = cached  # seen valid within the grace period, else it would not be remembered
    if isinstance(answer, HubRefusal):
        raise InvalidTokenError(answer.detail, code=answer.code)
    if not _is_allowed(answer):
        raise HubUserNotAllowedError
    return answer


def _ask(token: str, fingerprint: str) -> Answer:
    """Asks the Hub, unless it asked to be left alone, with this token or altogether; a real answer is remembered."""
    everyones, tokens = f"hub:rest:{_digest(settings.HF_ENDPOINT)}", f"hub:rest:{fingerprint}"
    ends = [until for until in cache.get_many((everyones, tokens)).values() if isinstance(until, int | float)]
    if (wait_s := max(ends, default=0.0) - now()) > 0:
        return HubUnknown("left alone", wait_s=wait_s)
    answer = hub_ask(token=token, fingerprint=fingerprint)
    if not isinstance(answer, HubUnknown):
        _remember(fingerprint, answer)
    elif answer.wait_s > 0:
        # After a silence: else every request costs a question and a waiting thread. A 429 is about one account, and
        # must not shut everybody else out.
        rest_key = tokens if answer.about_token else everyones
        cache.set(rest_key, now() + answer.wait_s, timeout=ceil(answer.wait_s))
    return answer


def _is_fresh(answer: HubIdentity | HubRefusal, age_s: float) -> bool:
    return isinstance(answer, HubRefusal) or age_s < settings.HUB_CACHE_S


def _remember(fingerprint: str, answer: HubIdentity | HubRefusal) -> None:
    value: dict[str, Any] = {"at": now()}
    if isinstance(answer, HubIdentity):
        value |= {"hub_id": answer.hub_id, "name": answer.name, "orgs": list(answer.orgs)}
        timeout = max(settings.HUB_CACHE_S, settings.HUB_GRACE_S)
    else:
        value |= {"refused": answer.code, "detail": answer.detail}
        timeout = min(settings.HUB_CACHE_S, REFUSAL_CACHE_S)
    cache.set(f"hub:token:{fingerprint}", value, timeout=timeout)


def _recall(fingerprint: str) -> tuple[HubIdentity | HubRefusal | None, float]:
    """The remembered answer and its age in seconds; nothing where Redis is down or does not know."""
    match cache.get(f"hub:token:{fingerprint}"):
        case {"at": int() | float() as at, "hub_id": str(hub_id), "name": str(name), "orgs": list(orgs)}:
            return HubIdentity(hub_id=hub_id, name=name, orgs=tuple(orgs)), now() - at
        case {"at": int() | float() as at, "refused": str(code), "detail": str(detail)}:
            return HubRefusal(code, detail), now() - at
        case _:
            return None, 0


def _is_allowed(identity: HubIdentity) -> bool:
    """Whether the allow-lists admit the account; without any list all are admitted. Hub names ignore case."""
    if not settings.HUB_ALLOWED_USERS and not settings.HUB_ALLOWED_ORGS:
        return True
    users = {name.casefold() for name in settings.HUB_ALLOWED_USERS}
    orgs = {name.casefold() for name in settings.HUB_ALLOWED_ORGS}
    return identity.name.casefold() in users or not orgs.isdisjoint(org.casefold() for org in identity.orgs)


def _digest(text: str) -> str:
    """Names a secret without holding it: useless to whoever reads Redis without SECRET_KEY."""
    return salted_hmac("imagegen.hub", text, algorithm="sha256").hexdigest()
