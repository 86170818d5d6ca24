"""Single-use, short-lived socket tickets, for browsers: they can send no header with a WebSocket.

A token never stands in a URL; a ticket may, since it is worthless once used.
"""

import hashlib
import secrets

from django.conf import settings
from django.contrib.auth.models import User
from django_redis import get_redis_connection
from redis.exceptions import RedisError

from imagegen_project.auth.errors import TicketStoreUnavailableError

TICKET_BYTES = 32
MAX_TICKET_LENGTH = 128


def ticket_create(*, user: User) -> str:
    """A ticket of `user` that lives TICKET_TTL_S. Raises TicketStoreUnavailableError where Redis is down."""
    ticket = secrets.token_urlsafe(TICKET_BYTES)
    try:
        get_redis_connection("default").set(_key(ticket), str(user.pk), ex=settings.TICKET_TTL_S)
    except RedisError as error:
        raise TicketStoreUnavailableError from error
    return ticket


def ticket_redeem(ticket: str) -> User | None:
    """The ticket's user, once: reading deletes it in one step. None where it is unknown, used or expired.

    Raises TicketStoreUnavailableError where Redis is down.
    """
    if not 0 < len(ticket) <= MAX_TICKET_LENGTH:
        return None
    try:
        user_id = get_redis_connection("default").getdel(_key(ticket))
    except RedisError as error:
        raise TicketStoreUnavailableError from error
    if user_id is None:
        return None
    return User.objects.filter(pk=int(user_id), is_active=True).first()


def _key(ticket: str) -> str:
    """Redis only sees the hash; 256 random bits need no key or salt."""
    return f"imagegen:ticket:{hashlib.sha256(ticket.encode()).hexdigest()}"
