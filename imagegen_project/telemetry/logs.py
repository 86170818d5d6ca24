"""Structured logs: one JSON object a line, with the request, job and user of the moment. No token is ever logged."""

import fcntl
import logging
import logging.handlers
import socket
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, Final

from imagegen_project.common.context import address, job_id, request_id, username

logger = logging.getLogger(__name__)

WINDOW_S: Final = 60.0
# Of more addresses in a minute, those that came last share one count.
MAX_ADDRESSES: Final = 1000
MAX_TOLD: Final = 10
OTHERS: Final = "others"
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


class StrangersFilter(logging.Filter):
    """Bounds the lines that requests without an account cause: so many per minute and address.

    What came beyond that is told by number at the minute's end, in a line for each of the `MAX_TOLD` addresses with
    most of it and one for the rest. An instance may serve several handlers: it looks at a record once.
    """

    def __init__(self, lines: int) -> None:
        super().__init__()
        self.lines = lines
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._end: threading.Timer | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written; `ContextFilter` has named its user."""
        where = _network(address.get())
        facts = vars(record)  # of which those with an underscore are not written
        if not self.lines or not where or facts.get("user"):
            return True
        if "_is_written" not in facts:
            facts["_is_written"] = self._count(where) <= self.lines
        return bool(facts["_is_written"])

    def _count(self, where: str) -> int:
        with self._lock:
            if where not in self._counts and len(self._counts) >= MAX_ADDRESSES:
                where = OTHERS
            self._counts[where] += 1
            if self._end is None:
                self._end = threading.Timer(WINDOW_S, self.tell)
                self._end.daemon = True
                self._end.start()
            return self._counts[where]

    def tell(self) -> None:
        """Ends the minute, and says what was left out."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
            if self._end is not None:
                self._end.cancel()
                self._end = None
        left_out = {where: count - self.lines for where, count in counts.most_common() if count > self.lines}
        for where in list(left_out)[:MAX_TOLD]:
            logger.warning("lines left out", extra={"address": where, "lines": left_out.pop(where)})
        if left_out:
            extra = {"addresses": len(left_out), "lines": sum(left_out.values())}
            logger.warning("lines left out", extra=extra)


def _network(where: str) -> str:
    """Whose address it is: of IPv6 a customer gets a /64 at least."""
    try:
        found = ip_address(where)
    except ValueError:
        return where
    return f"{IPv6Address(int(found) >> 64 << 64)}/64" if isinstance(found, IPv6Address) else where


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
    *,
    level: str,
    log_dir: str,
    max_bytes: int,
    keep: int,
    stranger_lines: int,
    secrets: Sequence[str],
) -> dict[str, Any]:
    """The dictConfig: JSON lines on standard error and, with a folder, in
    `<log_dir>/<process>-<host>.jsonl` too.

    A file that has grown to `max_bytes` is set aside, and `keep` such files are kept. Requests without an account
    cause `stranger_lines` lines per minute and address at most (0: any number). `secrets` never appear.
    """
    handlers: dict[str, Any] = {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": "json",
            "filters": ["context", "strangers"],
        },
    }
    if log_dir:
        Path(log_dir).mkdir(parents=True, exist_ok=True)
        handlers["file"] = {
            "()": RotatingFile,
            "filename": str(Path(log_dir) / f"{process_name()}-{socket.gethostname()}.jsonl"),
            "max_bytes": max_bytes,
            "keep": keep,
            "formatter": "json",
            "filters": ["context", "strangers"],
        }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {
            "context": {"()": ContextFilter},
            "strangers": {"()": StrangersFilter, "lines": stranger_lines},
            "traceback": {"()": TracebackFilter},
        },
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
