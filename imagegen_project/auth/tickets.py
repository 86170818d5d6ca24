"""What works once and for a short time: tickets for sockets, and links that sign in.

Browsers can send no header with a WebSocket, and whoever starts the service on his own machine should not have to look
for a password. A token never stands in a URL; these may, since they are worthless once used.
"""

import hashlib
import secrets
from typing import Final, Literal

from django.conf import settings
from django.contrib.auth.models import User
from redis.exceptions import RedisError

from imagegen_project.auth.errors import TicketStoreUnavailableError
from imagegen_project.common.redis import redis_client

TICKET_BYTES = 32
MAX_TICKET_LENGTH = 128
LINK_TTL_S: Final = 15 * 60


def ticket_create(*, user: User) -> str:
    """A ticket of `user` that lives TICKET_TTL_S. Raises TicketStoreUnavailableError where Redis is down."""
    return _create("ticket", user, ttl_s=settings.TICKET_TTL_S)


def ticket_redeem(ticket: str) -> User | None:
    """The ticket's user, once: reading deletes it in one step. None where it is unknown, used or expired.

    Raises TicketStoreUnavailableError where Redis is down.
    """
    return _user("getdel", "ticket", ticket)


def link_create(*, user: User) -> str:
    """The nonce of a link that signs in as `user` within LINK_TTL_S. Raises TicketStoreUnavailableError."""
    return _create("link", user, ttl_s=LINK_TTL_S)


def link_user(nonce: str) -> User | None:
    """Whom a link would sign in; it stays good. Raises TicketStoreUnavailableError."""
    return _user("get", "link", nonce)


def link_redeem(nonce: str) -> User | None:
    """The link's user, once. Raises TicketStoreUnavailableError."""
    return _user("getdel", "link", nonce)


def _create(kind: str, user: User, *, ttl_s: int) -> str:
    secret = secrets.token_urlsafe(TICKET_BYTES)
    try:
        redis_client().set(_key(kind, secret), str(user.pk), ex=ttl_s)
    except RedisError as error:
        raise TicketStoreUnavailableError from error
    return secret


def _user(command: Literal["get", "getdel"], kind: str, secret: str) -> User | None:
    if not 0 < len(secret) <= MAX_TICKET_LENGTH:
        return None
    try:
        user_id = getattr(redis_client(), command)(_key(kind, secret))
    except RedisError as error:
        raise TicketStoreUnavailableError from error
    if user_id is None:
        return None
    return User.objects.filter(pk=int(user_id), is_active=True).first()


def _key(kind: str, secret: str) -> str:
    """Redis only sees the hash; 256 random bits need no key or salt."""
    return f"imagegen:{kind}:{hashlib.sha256(secret.encode()).hexdigest()}"
