"""Claimed generations on the engine: the first opens a sheet, mates join it between steps, finished ones are stored.

Three kinds of threads share the work, so that the device never waits for anything but a step. The pipeline's draws. The
claims' takes mates from the queue and reads what they are made from, while a step runs. The finishers make files, store
them, and end the generations.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from threading import BoundedSemaphore, Lock
from typing import Final

from django.conf import settings
from django.db import DatabaseError, close_old_connections
from psycopg_pool import PoolTimeout
from redis.exceptions import RedisError

from generation.attempts import mates_claim
from generation.choices import Status
from generation.engine import Batch, BatchResult, Drawn, Engine, EngineError, Sheet, SheetRow
from generation.errors import InputNotFoundError, StorageUnavailableError
from generation.feed.publisher import Publisher
from generation.gpu_worker.run import HAND_BACK, Run, run_end, run_listeners, run_prepare
from generation.gpu_worker.watchdog import watchdog_disarm
from generation.models import Generation, Worker
from generation.pictures.availability import StorageState, storage_state
from generation.queue.entries import queue_length
from imagegen_project.common.context import at_work_on

logger = logging.getLogger(__name__)

# How soon it is asked again whether an entry came when there were no mates, and how soon the queue itself without one.
ASK_AGAIN_S: Final = 0.05
ASK_ANYWAY_S: Final = 1.0
FINISHERS: Final = 2
# Drawn and not stored yet, at the most: the pipeline waits then, as it would for its own storing.
UNSTORED: Final = 32

_PREPARING: Final = (EngineError, InputNotFoundError, StorageUnavailableError)


@dataclass(frozen=True)
class _Prepared:
    """A claimed generation, and what it is to the engine or why it is nothing."""

    run: Run
    batch: Batch | None = None
    error: Exception | None = None


class Easel:
    """Draws claimed generations; `runs` are those that have not ended. `stops_admitting` says when to end a sheet."""

    def __init__(
        self,
        engine: Engine,
        publisher: Publisher,
        worker: Worker,
        *,
        is_draining: Callable[[], bool],
        stops_admitting: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self._publisher = publisher
        self._worker = worker
        self._is_draining = is_draining
        self._stops_admitting = stops_admitting
        self._claims = ThreadPoolExecutor(max_workers=1, thread_name_prefix="claims")
        self._finishers = ThreadPoolExecutor(max_workers=FINISHERS, thread_name_prefix="finisher")
        self._unstored = BoundedSemaphore(UNSTORED)
        self._lock = Lock()
        self._runs: list[Run] = []
        self._backlog: deque[_Prepared] = deque()
        self._rows: dict[int, tuple[SheetRow, Run]] = {}
        self._asking: Future[list[_Prepared] | None] | None = None
        self._asked_again_at = 0.0
        self._entries = 0
        self._ask_anyway_at = 0.0
        self._closed = False

    @property
    def runs(self) -> list[Run]:
        """What was claimed and has not ended."""
        with self._lock:
            return list(self._runs)

    def draw(self, generation: Generation) -> None:
        """Draws a claimed generation, and whoever joins it; returns when all have been drawn."""
        self._backlog.append(self._prepare(self._take(generation)))
        while self._backlog:
            self._draw(self._backlog.popleft())

    def close(self) -> None:
        """Waits for what is being stored, and ends the threads."""
        self._claims.shutdown(wait=True)
        self._finishers.shutdown(wait=True)

    def _take(self, generation: Generation) -> Run:
        run = Run(generation)
        if self._is_draining():
            run.stop(HAND_BACK)
        with self._lock:
            self._runs.append(run)
        return run

    def _prepare(self, run: Run) -> _Prepared:
        with _naming(run):
            try:
                return _Prepared(run, batch=run_prepare(run))
            except _PREPARING as error:
                return _Prepared(run, error=error)

    # The pipeline's thread

    def _draw(self, first: _Prepared) -> None:
        if first.batch is None:
            self._finish(first.run, partial(_raise, first.error or EngineError("It was not prepared.")))
            return
        self._closed = False
        # The claim has just seen the queue: others wait in it where entries do.
        self._entries, self._ask_anyway_at = 0, time.monotonic() + ASK_ANYWAY_S
        self._rows = {}
        listeners = run_listeners(first.run, self._publisher)
        try:
            with self._engine.drawing(first.batch, should_stop=listeners.should_stop) as sheet:
                self._add(sheet, first.run, first.batch)
                while sheet.pictures or self._asking is not None:
                    self._admit(sheet, first.run)
                    for row in sheet.step():
                        self._end(row)
                        self._ask(sheet, first.run)  # while the next ones are decoded
        except EngineError as error:
            self._give_up(first.run, error)
        except Exception as error:
            self._give_up(first.run, EngineError(f"{type(error).__name__} in the worker"))
            raise
        finally:
            watchdog_disarm()
            if self._asking is not None:
                self._backlog.extend(self._asking.result() or ())
                self._asking = None

    def _give_up(self, first: Run, error: EngineError) -> None:
        """Ends what a sheet left behind, or the one for which none was opened."""
        left = [run for _, run in self._rows.values()]
        self._rows = {}
        if first.drawn is None and first not in left:
            left.append(first)
        for run in left:
            self._finish(run, partial(_raise, error))

    def _add(self, sheet: Sheet, run: Run, batch: Batch) -> None:
        with _naming(run):
            row = sheet.add(batch, run_listeners(run, self._publisher))
        self._rows[id(row.row)] = row, run

    def _end(self, row: SheetRow) -> None:
        _, run = self._rows.pop(id(row.row))
        self._ask_anyway_at = 0.0  # there is room that there was not

        def outcome() -> tuple[Batch, BatchResult]:
            drawn: Drawn = row.drawn()
            return drawn.batch, drawn.result()

        self._finish(run, outcome)

    def _admit(self, sheet: Sheet, first: Run) -> None:
        """Takes in mates that were claimed meanwhile, and sends for more where there is room."""
        if not sheet.pictures:
            watchdog_disarm()  # no step comes before the answer
        if self._asking is not None and (self._asking.done() or not sheet.pictures):
            found, self._asking = self._asking.result(), None
            self._closed = self._closed or found is None
            if not found:
                self._asked_again_at = time.monotonic() + ASK_AGAIN_S
            for mate in found or ():
                if mate.batch is not None and sheet.takes(mate.batch):
                    self._add(sheet, mate.run, mate.batch)
                else:
                    self._backlog.append(mate)
        else:
            self._ask(sheet, first)

    def _ask(self, sheet: Sheet, first: Run) -> None:
        """Sends for mates, where there is room and none are under way."""
        if self._asking is None and self._may_ask(sheet, first):
            self._asking = self._claims.submit(self._claim, first.generation, sheet.room)

    def _may_ask(self, sheet: Sheet, first: Run) -> bool:
        closed = self._closed or self._backlog or self._is_draining() or self._stops_admitting()
        due = time.monotonic() >= self._asked_again_at
        return bool(first.generation.batch_key and due and not closed and sheet.pictures and sheet.room)

    # The claims' thread

    def _claim(self, first: Generation, room: int) -> list[_Prepared] | None:
        close_old_connections()
        try:
            if not self._may_have_mates() or storage_state() is not StorageState.OK:
                return []
            mates = mates_claim(worker=self._worker, of=first, pictures=room, publish=self._publisher.send)
            if mates is None:
                return None
            self._ask_anyway_at = time.monotonic() + (0 if mates else ASK_ANYWAY_S)
            # Taken first, all of them: their leases are renewed from now on.
            return [self._prepare(run) for run in [self._take(mate) for mate in mates]]
        except (DatabaseError, PoolTimeout) as error:
            logger.warning("no mates claimed", extra={"reason": type(error).__name__})
            return []
        finally:
            close_old_connections()

    def _may_have_mates(self) -> bool:
        """Whether an entry came since this was asked last; Redis answers that for a hundredth of what the queue costs.

        The queue itself is asked where it had mates, where there is more room, and now and then: entries can be lost.
        """
        before = self._entries
        try:
            self._entries = queue_length(settings.DEVICE_CLASS)
        except (RedisError, OSError):
            return time.monotonic() >= self._ask_anyway_at
        return self._entries > before or time.monotonic() >= self._ask_anyway_at

    # The finishers' threads

    def _finish(self, run: Run, outcome: Callable[[], tuple[Batch, BatchResult]]) -> None:
        self._unstored.acquire()
        run.drawn = time.monotonic()
        self._finishers.submit(self._store, run, outcome)

    def _store(self, run: Run, outcome: Callable[[], tuple[Batch, BatchResult]]) -> None:
        close_old_connections()
        ended: Status | None = None
        try:
            with _naming(run):
                ended = run_end(run, self._publisher, outcome)
        except Exception:
            # Its lease runs out, and brings it back to the queue.
            logger.exception("generation not ended", extra={"job_id": str(run.generation.id)})
        finally:
            run.trace_end(ended)
            with self._lock:
                self._runs.remove(run)
            self._unstored.release()
            close_old_connections()


def _naming(run: Run) -> AbstractContextManager[None]:
    """Whatever is logged meanwhile names the generation."""
    generation = run.generation
    return at_work_on(
        job=str(generation.id), request=generation.request_id, user=generation.owner.get_username()
    )


def _raise(error: Exception) -> tuple[Batch, BatchResult]:
    raise error
