"""Runs a few child processes together: restarts those that die, and stops all of them when one of us is asked to stop.

Everything happens in the main thread, in `pause`: the kernel ends orphans when the *thread* that started them ends.
"""

import ctypes
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)

_TICK_S = 0.1
# `timeout` and some terminals deliver one request as two signals.
_SAME_REQUEST_S = 1.0
# A child that lived this long is healthy: its next death starts the pauses anew.
_HEALTHY_S = 10.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_DEATHS_BEFORE_REPORT = 3
# Of the log of a child that died, for our own log.
_LAST_LINES = 5
_LAST_LINE_CHARACTERS = 1000
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class StopRequestedError(Exception):
    """Somebody asked this process to end (Ctrl-C, SIGTERM); raised from `Supervisor.pause`."""


@dataclass(frozen=True, kw_only=True)
class Child:
    """One process to keep running.

    Stages start in the order in which they are given and stop in reverse: all children of the highest stage first.
    Without a `log_file` a child writes where we do. `orphan_signal` is what the kernel sends when the supervisor itself
    was killed (Linux). `stdin` is a file descriptor.
    """

    name: str
    command: Sequence[str]
    log_file: Path | None = None
    stage: int = 0
    stop_signal: signal.Signals = signal.SIGTERM
    orphan_signal: signal.Signals = signal.SIGKILL
    grace_s: float = 10.0
    stdin: int = subprocess.DEVNULL
    popen_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class _Running:
    child: Child
    process: subprocess.Popen[bytes]
    started_at: float
    log_offset: int
    quick_deaths: int = 0
    restart_at: float | None = None


class Gate:
    """What children wait at until it opens: a standard input for them, `closed`, which ends then."""

    def __init__(self) -> None:
        self.closed, self._holding = os.pipe()

    def open(self) -> None:
        """Lets everybody through, from now on."""
        os.close(self._holding)


class Supervisor:
    """The children, and what to say when one keeps dying (`report`, called with one sentence).

    Each death is in the log. A child's own log is set aside when it has grown to `log_max_bytes`, and `log_keep` of
    those are kept.
    """

    def __init__(
        self,
        report: Callable[[str], object],
        *,
        log_max_bytes: int = 64 * 1024 * 1024,
        log_keep: int = 5,
    ) -> None:
        self._report = report
        self._log_max_bytes = log_max_bytes
        self._log_keep = log_keep
        self._all: list[_Running] = []
        self._stop = threading.Event()
        self._stop_asked_at = 0.0
        self._hurry = False

    @contextmanager
    def signals(self) -> Iterator[None]:
        """While inside, SIGINT, SIGTERM and SIGHUP ask for a stop; a later one cuts the grace short."""
        caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, self._on_signal) for number in caught}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self._stop.is_set():
            self._stop_asked_at = now
        elif now - self._stop_asked_at > _SAME_REQUEST_S:
            self._hurry = True
        self._stop.set()

    def start(self, child: Child) -> None:
        """Starts a child and keeps it running."""
        self._all.append(self._spawn(child))

    def is_running(self, name: str) -> bool:
        """Whether the named child is alive right now."""
        return any(one.child.name == name and one.process.poll() is None for one in self._all)

    def pause(self, seconds: float) -> None:
        """Waits, and meanwhile restarts children that died.

        Raises StopRequestedError as soon as a stop is asked for.
        """
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            if self._stop.wait(max(0.0, min(_TICK_S, left))):
                raise StopRequestedError
            for one in self._all:
                self._keep_running(one)
            if left <= _TICK_S:
                return

    def run(self) -> None:
        """Keeps the children running until a stop is asked for."""
        with suppress(StopRequestedError):
            while True:
                self.pause(60.0)

    def stop_all(self) -> None:
        """Stops the children, the last stage first, each with its signal and grace, then by force."""
        for stage in sorted({one.child.stage for one in self._all}, reverse=True):
            group = [one for one in reversed(self._all) if one.child.stage == stage]
            for one in group:
                _signal(one.process, one.child.stop_signal)
            self._await_end(group)
        self._all.clear()

    def _await_end(self, group: Iterable[_Running]) -> None:
        began = time.monotonic()
        for one in group:
            while one.process.poll() is None:
                hurry = (
                    self._hurry and one.child.orphan_signal == signal.SIGKILL
                )  # a database is never hurried
                if hurry or time.monotonic() - began > one.child.grace_s:
                    logger.warning("process killed, since it did not end", extra={"child": one.child.name})
                    _signal_group(one.process, signal.SIGKILL)
                    one.process.wait()
                    break
                time.sleep(0.02)

    def _spawn(self, child: Child) -> _Running:
        with child.log_file.open("ab") if child.log_file else nullcontext() as log:
            offset = log.tell() if log else 0
            process = subprocess.Popen(  # noqa: S603 - the caller's own commands
                child.command,
                stdin=child.stdin,
                stdout=log,
                stderr=subprocess.STDOUT if log else None,
                # A session of its own: Ctrl-C in the terminal reaches only the supervisor.
                start_new_session=True,
                # Only this can tie a child's life to ours; it calls nothing that could wait for a lock.
                preexec_fn=_tie_to_parent(child.orphan_signal),  # noqa: PLW1509
                **child.popen_options,
            )
        return _Running(child, process, time.monotonic(), offset)

    def _keep_running(self, one: _Running) -> None:
        if one.child.log_file and log_rotate(
            one.child.log_file, max_bytes=self._log_max_bytes, keep=self._log_keep
        ):
            one.log_offset = 0
        code = one.process.poll()
        if code is None:
            return
        now = time.monotonic()
        if one.restart_at is None:
            one.quick_deaths = one.quick_deaths + 1 if now - one.started_at < _HEALTHY_S else 1
            pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (one.quick_deaths - 1))
            one.restart_at = now + pause
            logger.error(
                "process ended",
                extra={
                    "child": one.child.name,
                    "pid": one.process.pid,
                    "ended_by": _ending(code),
                    "lived_s": round(now - one.started_at, 1),
                    "restart_in_s": pause,
                    "last_lines": last_lines(one.child.log_file, one.log_offset),
                },
            )
            if one.quick_deaths == _DEATHS_BEFORE_REPORT:
                said = last_line(one.child.log_file, one.log_offset) or "nothing in its log"
                self._report(
                    f"{one.child.name} keeps ending ({_ending(code)}): {said} [{one.child.log_file}]"
                    if one.child.log_file
                    else f"{one.child.name} keeps ending ({_ending(code)})"
                )
        elif now >= one.restart_at:
            fresh = self._spawn(one.child)
            one.process, one.started_at, one.log_offset = fresh.process, fresh.started_at, fresh.log_offset
            one.restart_at = None
            logger.warning("process started again", extra={"child": one.child.name, "pid": one.process.pid})

    def last_words(self, name: str) -> str:
        """The last line that the named child wrote since it was last started, or ""."""
        return next(
            (last_line(one.child.log_file, one.log_offset) for one in self._all if one.child.name == name), ""
        )


def log_rotate(log: Path, *, max_bytes: int, keep: int) -> bool:
    """Sets a log that has grown to `max_bytes` aside as `<log>.1`, `<log>.2`, …; whether it did.

    The process that writes it has it open to append, and goes on at the beginning. What it writes in the moment between
    the copy and the cut is lost, and so is the copy where the disk is full.
    """
    try:
        if log.stat().st_size < max_bytes:
            return False
    except FileNotFoundError:
        return False
    copy = Path(f"{log}.1")
    try:
        for number in range(keep - 1, 0, -1):
            older = Path(f"{log}.{number}")
            if older.exists():
                older.replace(f"{log}.{number + 1}")
        shutil.copyfile(log, copy)
    except OSError as error:
        with suppress(OSError):
            copy.unlink()
        logger.warning("log not set aside", extra={"log": str(log), "reason": str(error)})
    os.truncate(log, 0)
    return True


def last_lines(log_file: Path | None, offset: int = 0) -> list[str]:
    """The last few lines of a log beyond `offset` that are not empty."""
    if log_file is None:
        return []
    with suppress(OSError), log_file.open("rb") as log:
        log.seek(max(offset, log_file.stat().st_size - 16_384))
        lines = log.read().decode(errors="replace").split("\n")
        return [text.strip()[-_LAST_LINE_CHARACTERS:] for text in lines if text.strip()][-_LAST_LINES:]
    return []


def last_line(log_file: Path | None, offset: int = 0) -> str:
    """The last line of a log beyond `offset`; of a line in JSON, its message."""
    line = next(reversed(last_lines(log_file, offset)), "")
    with suppress(ValueError):
        entry = json.loads(line)
        if isinstance(entry, dict) and "message" in entry:
            trace = str(entry.get("exc_info") or "").strip()
            return " ".join([str(entry["message"]), *trace.splitlines()[-1:]])
    return line


def _ending(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exit status {code}"
    with suppress(ValueError):
        return f"signal {signal.Signals(-code).name}"
    return f"signal {-code}"


def _tie_to_parent(orphan_signal: signal.Signals) -> Callable[[], None]:
    """What a child runs before its program, so that it ends when we do."""
    parent = os.getpid()

    def tie() -> None:
        if _LIBC is None:
            return
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(orphan_signal))
        if os.getppid() != parent:  # we died before the line above
            os.kill(os.getpid(), signal.SIGKILL)

    return tie


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.poll() is None:
        process.send_signal(number)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signals a child together with whatever it started in its session."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
