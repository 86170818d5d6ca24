"""Clients that ask for pictures at the same time, and how many come back per second."""

import json
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

from generation.engine.cpu import CPU_INFO, quick_bfloat16

PROMPTS = (
    "a large red circle on a white background",
    "a blue square",
    "a small green triangle on a black background",
    "two yellow stars",
    "a purple circle above an orange square",
    "a white star on a blue background",
)
Ask = Callable[[dict[str, Any]], bytes]


def post(port: int, path: str, headers: dict[str, str] | None = None) -> Ask:
    """What posts a request to a server on this machine and returns the picture's bytes. Raises RuntimeError."""
    local = threading.local()

    def sent(body: dict[str, Any]) -> HTTPResponse:
        connection: HTTPConnection = local.connection
        told = {"Content-Type": "application/json"} | (headers or {})
        connection.request("POST", path, json.dumps(body), told)
        return connection.getresponse()

    def ask(body: dict[str, Any]) -> bytes:
        if not hasattr(local, "connection"):
            local.connection = HTTPConnection("127.0.0.1", port, timeout=900)
        try:
            answer = sent(body)
        except (BrokenPipeError, ConnectionResetError):  # it lay idle, and the server closed it
            local.connection.close()
            answer = sent(body)
        content: bytes = answer.read()
        if answer.status != 200 or len(content) < 1000:
            message = f"{path} on port {port}: {answer.status} {content[:300]!r}"
            raise RuntimeError(message)
        return content

    return ask


def measure(ask: Ask, requests: Sequence[dict[str, Any]], *, clients: int) -> tuple[float, list[float]]:
    """Pictures per second, and each request's seconds: so many clients, each asking again when it has its answer."""

    def one(request: dict[str, Any]) -> float:
        began = time.perf_counter()
        ask(request)
        return time.perf_counter() - began

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        seconds = list(pool.map(one, requests))
    return len(requests) / (time.perf_counter() - began), seconds


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median and the range."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    try:
        lines = CPU_INFO.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model or platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "quick_bfloat16": quick_bfloat16(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def say(line: str) -> None:
    """Writes a line of the table."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def write(path: Path | None, found: dict[str, Any]) -> None:
    """Writes what was measured, as JSON, where a file is named."""
    if path is not None:
        path.write_text(json.dumps(found | {"load_after": os.getloadavg()[0]}, indent=1) + "\n")
