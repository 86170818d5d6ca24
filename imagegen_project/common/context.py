"""What the present request or job is, for every log line and error: context variables."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

MAX_BASE_URL_CHARACTERS = 300  # a host's name has 253 at most

request_id: ContextVar[str] = ContextVar("request_id", default="")
job_id: ContextVar[str] = ContextVar("job_id", default="")
username: ContextVar[str] = ContextVar("username", default="")
# The request's place in a trace (W3C), where there is one.
traceparent: ContextVar[str] = ContextVar("traceparent", default="")
# Who the present request is from; "" where no request is served.
address: ContextVar[str] = ContextVar("address", default="")
# Where the client reaches the service, such as https://images.example.com; "" where no request is served.
base_url: ContextVar[str] = ContextVar("base_url", default="")


@contextlib.contextmanager
def at_work_on(*, job: str, request: str, user: str) -> Iterator[None]:
    """Whatever is logged meanwhile names this job, the request that made it, and its owner."""
    tokens = [
        (variable, variable.set(value))
        for variable, value in ((job_id, job), (request_id, request), (username, user))
    ]
    try:
        yield
    finally:
        for variable, token in tokens:
            variable.reset(token)
