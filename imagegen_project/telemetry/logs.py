"""Structured logs: one JSON object a line, with the request, job and user of the moment. No token is ever logged."""

import fcntl
import logging
import logging.handlers
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imagegen_project.common.context import job_id, request_id, username

_NOISY = (
    "daphne",
    "asyncio",
    "urllib3",
    "httpx2",
    "httpcore2",
    "huggingface_hub",
    "filelock",
    "PIL",
    "rq.worker",
)


class ContextFilter(logging.Filter):
    """Adds the present request's, job's and user's names to a record that does not bring its own."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always true: it only adds."""
        for name, variable in (("request_id", request_id), ("job_id", job_id), ("user", username)):
            if not hasattr(record, name) and (value := variable.get()):
                setattr(record, name, value)
        return True


class TracebackFilter(logging.Filter):
    """Lets only unexpected errors pass: Django logs every 4xx and 5xx answer, which the request's own line has."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record carries a traceback."""
        return bool(record.exc_info)


class RotatingFile(logging.handlers.WatchedFileHandler):
    """A log file that is set aside as `<file>.1`, `<file>.2`, … when it has grown; several processes may share it.

    The library's own rotating handler loses lines there: each process would go on writing to the file that another
    one set aside. This one notices, and rotates under a lock.
    """

    def __init__(self, filename: str, *, max_bytes: int, keep: int) -> None:
        super().__init__(filename, encoding="utf-8", delay=True)
        self.max_bytes = max_bytes
        self.keep = keep

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line, then sets the file aside if it is full."""
        super().emit(record)
        try:
            if Path(self.baseFilename).stat().st_size >= self.max_bytes:
                self._set_aside()
        except FileNotFoundError:
            pass  # another process has just set it aside
        except OSError:
            self.handleError(record)

    def _set_aside(self) -> None:
        current = Path(self.baseFilename)
        with current.with_name(f".{current.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Whoever had the lock before may have done it.
            if current.stat().st_size < self.max_bytes:
                return
            for number in range(self.keep - 1, 0, -1):
                older = Path(f"{current}.{number}")
                if older.exists():
                    older.replace(f"{current}.{number + 1}")
            current.replace(f"{current}.1")


def process_name() -> str:
    """This process's part: `web`, or the management command's name."""
    program = Path(sys.argv[0]).name
    return sys.argv[1] if program in ("manage.py", "imagegen") and len(sys.argv) > 1 else "web"


def logging_config(
    *, level: str, log_dir: str, max_bytes: int, keep: int, secrets: Sequence[str]
) -> dict[str, Any]:
    """The dictConfig: JSON lines on standard error and, with a folder, in
    `<log_dir>/<process>-<host>.jsonl` too.

    A file that has grown to `max_bytes` is set aside, and `keep` such files are kept. `secrets` never appear.
    """
    handlers: dict[str, Any] = {
        "stderr": {"class": "logging.StreamHandler", "formatter": "json", "filters": ["context"]},
    }
    if log_dir:
        Path(log_dir).mkdir(parents=True, exist_ok=True)
        handlers["file"] = {
            "()": RotatingFile,
            "filename": str(Path(log_dir) / f"{process_name()}-{socket.gethostname()}.jsonl"),
            "max_bytes": max_bytes,
            "keep": keep,
            "formatter": "json",
            "filters": ["context"],
        }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"context": {"()": ContextFilter}, "traceback": {"()": TracebackFilter}},
        "formatters": {
            "json": {
                "()": "imagegen_project.telemetry.redaction.RedactingJsonFormatter",
                "secrets": list(secrets),
                "format": "%(asctime)s %(levelname)s %(name)s %(message)s",
                "rename_fields": {"asctime": "at", "levelname": "level", "name": "logger"},
                "defaults": {"process": process_name()},
            }
        },
        "handlers": handlers,
        "root": {"handlers": list(handlers), "level": level},
        # Their chatter is at INFO; warnings still come through.
        "loggers": {
            "django.request": {"filters": ["traceback"]},
            **{name: {"level": max(logging.WARNING, logging.getLevelName(level))} for name in _NOISY},
        },
    }
