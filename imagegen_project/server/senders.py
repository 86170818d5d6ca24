"""Who sends a body, looked up before it is stored; the application asks again, by its own rules."""

import re
from io import BytesIO
from typing import Any, Final

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from rest_framework.exceptions import AuthenticationFailed

from imagegen_project.auth.authentication import basic_token
from imagegen_project.auth.errors import challenge, challenges
from imagegen_project.auth.open_access import open_user
from imagegen_project.auth.websocket import scope_user
from imagegen_project.common.asgi import Scope
from imagegen_project.common.errors import DomainError
from imagegen_project.common.executors import run_in_socket_executor
from imagegen_project.common.problems import problem_of
from imagegen_project.server.bodies import Head, Refusal

# Where HTTP Basic with a token is taken, and networks may be let in without any (A1111's API).
BASIC_PATHS: Final = re.compile(r"/sdapi/")
NOBODY = "A body of this size needs a credential: send a token, or log in."
NOBODY_BASIC = (
    "A body of this size needs a credential: send `Authorization: Bearer <token>`, or HTTP Basic with the token as the "
    "user name or as the password."
)


async def sender(head: Head) -> Any:
    """The key of the user whose credential the head carries, or the Refusal of it.

    The same limits on guessing and on questions to the Hub hold as for sockets.
    """
    authorization = head.header(b"authorization")
    is_open = bool(settings.A1111_OPEN_NETWORKS and BASIC_PATHS.match(head.path))
    if not authorization and not head.header(b"cookie") and not is_open:
        return _nobody(head)
    try:
        if (token := basic_token(authorization)) is not None:
            authorization = f"Bearer {token}"
        user = await scope_user(_scope(head, authorization))
        if user is None and is_open:
            user = await run_in_socket_executor(open_user, _request(head))
    except (AuthenticationFailed, DomainError) as error:
        problem = problem_of(error)
        if problem["status"] == 401:
            return _unauthorized(head, problem["detail"], code=problem["code"], presented=True)
        return Refusal(problem["status"], problem["code"], problem["detail"], getattr(error, "headers", {}))
    except Exception as error:  # noqa: BLE001 - for instance that the database is away
        problem = problem_of(error)
        return Refusal(problem["status"], problem["code"], problem["detail"], {"Retry-After": "5"})
    return _nobody(head) if user is None else user.pk


def _nobody(head: Head) -> Refusal:
    detail = NOBODY_BASIC if BASIC_PATHS.match(head.path) else NOBODY
    return _unauthorized(head, detail, code="not_authenticated", presented=False)


def _unauthorized(head: Head, detail: str, *, code: str, presented: bool) -> Refusal:
    ways = challenges() if BASIC_PATHS.match(head.path) else challenge(presented=presented)
    return Refusal(401, code, detail, {"WWW-Authenticate": ways})


def _request(head: Head) -> ASGIRequest:
    """The request that the head begins, as the application will see it."""
    scope = {
        "type": "http",
        "method": head.method,
        "path": head.path,
        "query_string": b"",
        "headers": head.headers,
        "client": head.client,
    }
    return ASGIRequest(scope, BytesIO())


def _scope(head: Head, authorization: str) -> Scope:
    """What the lookup reads of a connection's scope; no query, since a ticket there must be used only once."""
    kept = [(name, value) for name, value in head.headers if name in (b"cookie", b"x-forwarded-for")]
    if authorization:
        kept.append((b"authorization", authorization.encode("latin-1")))
    return {"type": "http", "headers": kept, "client": head.client, "query_string": b""}
