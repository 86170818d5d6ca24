"""Structured logs: one JSON object a line, with the request, job and user of the moment. No token is ever logged."""

import logging
import sys
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


def process_name() -> str:
    """This process's part: `web`, or the management command's name."""
    program = Path(sys.argv[0]).name
    return sys.argv[1] if program == "manage.py" and len(sys.argv) > 1 else "web"


def logging_config(*, level: str, log_dir: str) -> dict[str, Any]:
    """The dictConfig: JSON lines on standard error and, with a folder, in `<log_dir>/<process>.jsonl` too."""
    handlers: dict[str, Any] = {
        "stderr": {"class": "logging.StreamHandler", "formatter": "json", "filters": ["context"]},
    }
    if log_dir:
        Path(log_dir).mkdir(parents=True, exist_ok=True)
        handlers["file"] = {
            "class": "logging.handlers.WatchedFileHandler",  # notices when logrotate moved the file
            "filename": str(Path(log_dir) / f"{process_name()}.jsonl"),
            "formatter": "json",
            "filters": ["context"],
            "delay": True,
        }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"context": {"()": ContextFilter}, "traceback": {"()": TracebackFilter}},
        "formatters": {
            "json": {
                "()": "pythonjsonlogger.json.JsonFormatter",
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
