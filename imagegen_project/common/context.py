"""What the present request or job is, for every log line and error: context variables."""

from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="")
job_id: ContextVar[str] = ContextVar("job_id", default="")
username: ContextVar[str] = ContextVar("username", default="")
