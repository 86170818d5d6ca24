"""How commands end: the exit statuses, and the error that carries one."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit statuses, for scripts; `imagegen --help` lists them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_ALLOWED = 4
    LATER = 5
    INTERRUPTED = 130


MEANINGS = {
    Exit.DONE: "done",
    Exit.FAILED: "it did not succeed: a generation failed or was canceled, an order failed, doctor found a fault",
    Exit.USAGE: "the command line or the request is wrong, or what it names does not exist",
    Exit.UNREACHABLE: "the service, its database or its Redis does not answer",
    Exit.NOT_ALLOWED: "no token, a wrong one, or one that may not do this",
    Exit.LATER: "a limit is reached, or a part of the service is away: the same command may succeed later",
    Exit.INTERRUPTED: "stopped by Ctrl-C",
}


class CliError(Exception):
    """A command cannot do what was asked; the message says why, and what to do about it."""

    def __init__(self, detail: str, *, code: str = "failed", exit_status: Exit = Exit.FAILED) -> None:
        super().__init__(detail)
        self.code = code
        self.exit_status = exit_status


def exit_of(http_status: int) -> Exit:
    """The exit status that an HTTP error means."""
    match http_status:
        case 401 | 403:
            return Exit.NOT_ALLOWED
        case 408 | 425 | 429 | 502 | 503 | 504 | 507:
            return Exit.LATER
        case status if status < 500:
            return Exit.USAGE
        case _:
            return Exit.FAILED
