"""The base of every refusal that a client can understand. How it looks on the wire is in `problems.py`."""

from typing import Any, ClassVar


class DomainError(Exception):
    """A refusal that a client can understand and act on.

    `detail` says what is wrong and what to do; `param` names the request's field where one is to blame.
    """

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 400
    title: ClassVar[str] = "The request could not be served"

    def __init__(
        self, detail: str = "", *, param: str = "", headers: dict[str, str] | None = None, **extra: Any
    ) -> None:
        self.detail = detail or self.title
        self.param = param
        self.headers = headers or {}
        self.extra = extra
        super().__init__(self.detail)
