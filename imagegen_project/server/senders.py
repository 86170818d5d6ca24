"""Who sends a body, looked up before it is stored; the application asks again, by its own rules."""

from typing import Any

from rest_framework.exceptions import AuthenticationFailed

from imagegen_project.auth.authentication import basic_token
from imagegen_project.auth.errors import challenge
from imagegen_project.auth.websocket import scope_user
from imagegen_project.common.asgi import Scope
from imagegen_project.common.errors import DomainError
from imagegen_project.common.problems import problem_of
from imagegen_project.server.bodies import Head, Refusal

NOBODY = "A body of this size needs a credential: send a token, or log in."


async def sender(head: Head) -> Any:
    """The key of the user whose credential the head carries, or the Refusal of it.

    The same limits on guessing and on questions to the Hub hold as for sockets.
    """
    authorization = head.header(b"authorization")
    if not authorization and not head.header(b"cookie"):
        return _unauthorized(NOBODY, code="not_authenticated", presented=False)
    try:
        if (token := basic_token(authorization)) is not None:
            authorization = f"Bearer {token}"
        user = await scope_user(_scope(head, authorization))
    except (AuthenticationFailed, DomainError) as error:
        problem = problem_of(error)
        if problem["status"] == 401:
            return _unauthorized(problem["detail"], code=problem["code"], presented=True)
        return Refusal(problem["status"], problem["code"], problem["detail"], getattr(error, "headers", {}))
    except Exception as error:  # noqa: BLE001 - for instance that the database is away
        problem = problem_of(error)
        return Refusal(problem["status"], problem["code"], problem["detail"], {"Retry-After": "5"})
    if user is None:
        return _unauthorized(NOBODY, code="not_authenticated", presented=False)
    return user.pk


def _unauthorized(detail: str, *, code: str, presented: bool) -> Refusal:
    return Refusal(401, code, detail, {"WWW-Authenticate": challenge(presented=presented)})


def _scope(head: Head, authorization: str) -> Scope:
    """What the lookup reads of a connection's scope; no query, since a ticket there must be used only once."""
    kept = [(name, value) for name, value in head.headers if name in (b"cookie", b"x-forwarded-for")]
    if authorization:
        kept.append((b"authorization", authorization.encode("latin-1")))
    return {"type": "http", "headers": kept, "client": head.client, "query_string": b""}
