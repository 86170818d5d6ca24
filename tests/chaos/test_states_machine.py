"""Lives of generations as hypothesis deals them out: whatever comes in whatever order, the rules hold."""

import copy
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from django.db.models.functions import Now
from django_redis import get_redis_connection
from hypothesis import HealthCheck
from hypothesis import settings as bounds
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pytest_django import Settings

from generation import attempts
from generation.choices import ACTIVE, TERMINAL, ErrorCode, Kind, Status
from generation.errors import GenerationActiveError, GenerationEndedError
from generation.feed.messages import TERMINAL_EVENTS
from generation.feed.stream import event_decode, stream_key
from generation.models import (
    GeneratedImage,
    Generation,
    IdempotencyKey,
    QueueTurn,
    WebhookDelivery,
    WorkEntry,
    Worker,
)
from generation.pictures.files import image_store
from generation.queue.entries import queue_length
from generation.queue.precedence import generations_claimable
from generation.services import (
    generation_cancel,
    generation_delete,
    generation_retry,
)
from generation.upkeep.stored_files import ORPHAN_AGE, storage_reconcile
from generation.upkeep.sweep import sweep
from imagegen_project.common.queues import GENERATIONS_QUEUE, queue_get
from tests.support.endings import attempt_renew, drawn_picture, succeed
from tests.support.factories import create_generation, make_worker

BOUNDS = bounds(
    max_examples=20,
    stateful_step_count=40,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
WORKERS = 3
# Few, so that several things happen to each.
AT_ONCE = 3
WHICH = st.integers(0, AT_ONCE - 1)
MAX_ATTEMPTS = 3
TOLD = ("succeeded", "failed", "canceled")


@dataclass
class Life:
    """What the row of a generation should say."""

    status: Status = Status.QUEUED
    attempt: int = 0
    cancel_requested: bool = False
    lease_over: bool = False
    end: dict[str, Any] = field(default_factory=dict)


def _pictures(claim: Generation) -> list[attempts.FinishedImage]:
    """As many as were asked for."""
    drawn = drawn_picture(seed=claim.seed)
    return [replace(drawn, index=index) for index in range(claim.num_images)]


def _lease_end(generation_id: UUID) -> None:
    running = Generation.objects.filter(pk=generation_id, status=Status.RUNNING)
    running.update(lease_expires_at=Now() - timedelta(seconds=1))


class Lives(RuleBasedStateMachine):
    """Clients, workers and the sweep in any order; the model is a dictionary."""

    media: Path
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.owner = User.objects.create_user("ada")
        self.workers = [make_worker(f"worker-{number}") for number in range(WORKERS)]
        self.lives: dict[UUID, Life] = {}
        self.left_behind: set[Path] = set()

    def teardown(self) -> None:
        """The next example finds nothing of this one."""
        self.owner.delete()
        for model in (Worker, QueueTurn, WorkEntry, WebhookDelivery, IdempotencyKey):
            model.objects.all().delete()
        get_redis_connection("default").flushdb()
        shutil.rmtree(self.media, ignore_errors=True)

    @initialize(target=claims)
    def begin(self) -> Any:
        """Two workers believe that one generation is theirs, as after a long sleep of the first."""
        self.create(1, Kind.TXT2IMG)
        asleep = self.claim(0)
        return multiple(asleep, self.another_takes_over(asleep, 1))

    # Clients

    @precondition(lambda self: len(self.lives) < AT_ONCE)
    @rule(num_images=st.integers(1, 2), kind=st.sampled_from((Kind.TXT2IMG, Kind.IMG2IMG)))
    def create(self, num_images: int, kind: Kind) -> None:
        """A new generation, with an input picture where its kind has one."""
        given: dict[str, Any] = {}
        if kind is Kind.IMG2IMG:
            given = {"input_image": drawn_picture().data, "strength": 1.0}
        generation = create_generation(
            owner=self.owner,
            num_images=num_images,
            kind=kind,
            webhook_url="https://example.com/told",
            webhook_events=TOLD,
            **given,
        )
        self.lives[generation.id] = Life()

    @precondition(lambda self: self.lives)
    @rule(which=WHICH)
    def cancel(self, which: int) -> None:
        """At once what is queued; what runs is asked to stop; what has ended is refused."""
        generation, life = self._pick(which)
        if life.status in TERMINAL:
            with pytest.raises(GenerationEndedError, match=life.status):
                generation_cancel(generation=generation)
            return
        told = generation_cancel(generation=generation)
        if life.status is Status.QUEUED:
            life.status = Status.CANCELED
        life.cancel_requested = True
        assert told.status == life.status

    @precondition(lambda self: self.lives)
    @rule(which=WHICH)
    def delete(self, which: int) -> None:
        """Whatever it is doing."""
        generation, _ = self._pick(which)
        del self.lives[generation.id]
        generation_delete(generation=generation)

    @precondition(lambda self: 0 < len(self.lives) < AT_ONCE)
    @rule(which=WHICH)
    def retry(self, which: int) -> None:
        """A new one like one that has ended."""
        generation, life = self._pick(which)
        if life.status in ACTIVE:
            with pytest.raises(GenerationActiveError):
                generation_retry(generation=generation, owner=self.owner)
            return
        again = generation_retry(generation=generation, owner=self.owner)
        assert (again.seed, again.retry_of_id) == (generation.seed, generation.id)
        self.lives[again.id] = Life()

    # Workers

    @rule(target=claims, number=st.integers(0, WORKERS - 1))
    def claim(self, number: int) -> Any:
        """Something that is queued, if anything is."""
        queued = [pk for pk, life in self.lives.items() if life.status is Status.QUEUED]
        generation = attempts.generation_claim(worker=self.workers[number])
        if generation is None:
            assert not queued
            return multiple()
        assert generation.id in queued
        life = self.lives[generation.id]
        life.status, life.attempt, life.lease_over = Status.RUNNING, life.attempt + 1, False
        assert generation.attempt == life.attempt
        return generation

    @rule(claim=claims, step=st.integers(0, 4))
    def renew(self, claim: Generation, step: int) -> None:
        """Only the attempt that holds the lease hears of a cancel."""
        lease = attempt_renew(generation_id=claim.id, attempt=claim.attempt, step=step)
        life = self._held(claim)
        assert lease.held is (life is not None)
        if life is not None:
            life.lease_over = False
            assert lease.cancel_requested is life.cancel_requested

    @rule(claim=consumes(claims))
    def finish(self, claim: Generation) -> None:
        """With as many pictures as were asked for; that is the last thing a worker does with it."""
        with self._ends(claim, Status.SUCCEEDED) as own:
            own(succeed(copy.copy(claim), images=_pictures(claim)))

    @rule(claim=claims, how=st.sampled_from((Status.FAILED, Status.CANCELED, Status.QUEUED)))
    def give_up(self, claim: Generation, how: Status) -> None:
        """For a reason, for a cancel, or because the worker drains; what was canceled is not handed back."""
        life, handing_back = self._held(claim), how is Status.QUEUED
        if handing_back and life is not None and life.cancel_requested:
            how = Status.CANCELED
        with self._ends(claim, how) as own:
            if how is Status.FAILED:
                own(
                    attempts.attempt_fail(generation=copy.copy(claim), code=ErrorCode.TIMEOUT, detail="Slow.")
                )
            elif how is Status.CANCELED and not handing_back:
                own(attempts.attempt_cancel(generation=copy.copy(claim)))
            else:
                left = attempts.attempt_hand_back(generation=copy.copy(claim))
                assert left in (None, how)
                own(left is not None)

    @rule(claim=consumes(claims))
    def die_beside_its_files(self, claim: Generation) -> None:
        """The worker is killed between writing the files and saying so."""
        for picture in _pictures(claim):
            name = image_store(claim, picture)
            self.left_behind.add(self.media / name)

    # Time, the sweep, and what happens to Redis

    @precondition(lambda self: self.lives)
    @rule(which=WHICH)
    def lease_runs_out(self, which: int) -> None:
        """On the database's clock."""
        generation, life = self._pick(which)
        life.lease_over = life.status is Status.RUNNING
        _lease_end(generation.id)

    @rule(target=claims, claim=claims, number=st.integers(0, WORKERS - 1))
    def another_takes_over(self, claim: Generation, number: int) -> Any:
        """The worker of a claim was only asleep, and its lease went to another."""
        life = self._held(claim)
        if life is None:
            return multiple()
        life.lease_over = True
        _lease_end(claim.id)
        self.sweep()
        return self.claim(number)

    @rule()
    def sweep(self) -> None:
        """Takes back leases, and wakes at least one worker for each that waits."""
        sweep()
        for life in self.lives.values():
            if life.status is Status.RUNNING and life.lease_over:
                fate = Status.FAILED if life.attempt >= MAX_ATTEMPTS else Status.QUEUED
                life.status = Status.CANCELED if life.cancel_requested else fate
        assert queue_length() >= generations_claimable().count()

    @rule(what=st.sampled_from(("flush", "lose an entry", "tidy")))
    def happen(self, what: str) -> None:
        """Redis forgets everything; a worker dies right after it was woken; an hour passes."""
        if what == "flush":
            get_redis_connection("default").flushdb()
        elif what == "lose an entry":
            get_redis_connection("default").lpop(queue_get(GENERATIONS_QUEUE).key)
        else:
            self._tidy()

    def _tidy(self) -> None:
        """The sweep of files takes what dead workers left long ago, and nothing else."""
        long_ago = time.time() - 2 * ORPHAN_AGE.total_seconds()
        for path in self.left_behind:
            os.utime(path, (long_ago, long_ago))
        found = storage_reconcile(rows_too=True)
        assert {self.media / name for name in found.files} == self.left_behind
        assert not found.images
        assert not found.inputs
        self.left_behind.clear()

    # What always holds

    @invariant()
    def rows_are_as_they_should_be(self) -> None:
        """No row moved that should not have, and what has ended never changes."""
        rows = {row["id"]: row for row in Generation.objects.values()}
        assert {pk: (row["status"], row["attempt"]) for pk, row in rows.items()} == {
            pk: (life.status, life.attempt) for pk, life in self.lives.items()
        }
        for pk, life in self.lives.items():
            if life.status in TERMINAL:
                # A retry's original may be deleted.
                ended = {name: value for name, value in rows[pk].items() if name != "retry_of_id"}
                life.end = life.end or ended
                assert life.end == ended

    @invariant()
    def pictures_are_there_once(self) -> None:
        """As many as were asked for, under a row that succeeded; and no file without a row."""
        images = list(GeneratedImage.objects.select_related("generation"))
        succeeded = {pk for pk, life in self.lives.items() if life.status is Status.SUCCEEDED}
        expected = {
            (row.id, index)
            for row in Generation.objects.filter(pk__in=succeeded)
            for index in range(row.num_images)
        }
        assert sorted((image.generation_id, image.index) for image in images) == sorted(expected)
        named = {self.media / str(image.file.name) for image in images}
        inputs = Generation.objects.exclude(input_image="").values_list("input_image", flat=True)
        files = {path for path in self.media.rglob("*") if path.is_file()}
        assert files == named | {self.media / name for name in inputs} | self.left_behind

    @invariant()
    def what_is_told_is_what_the_row_says(self) -> None:
        """One message about the end in the outbox, none before; and no feed has another end."""
        told = sorted(
            (delivery.payload["data"]["job_id"], delivery.event)
            for delivery in WebhookDelivery.objects.filter(generation__isnull=False)
        )
        ended = {pk: life for pk, life in self.lives.items() if life.status in TERMINAL}
        assert told == sorted((str(pk), life.status) for pk, life in ended.items())
        pipe = get_redis_connection("default").pipeline()
        for pk in self.lives:
            pipe.xrevrange(stream_key(pk), count=1)
        for life, entries in zip(self.lives.values(), pipe.execute(), strict=True):
            for entry_id, fields in entries:
                texts = {name.decode(): value.decode() for name, value in fields.items()}
                kind = event_decode(entry_id.decode(), texts)["type"]
                assert kind not in TERMINAL_EVENTS or kind == life.status

    # Helpers

    def _pick(self, which: int) -> tuple[Generation, Life]:
        pk = list(self.lives)[which % len(self.lives)]
        return Generation.objects.get(pk=pk), self.lives[pk]

    def _held(self, claim: Generation) -> Life | None:
        """The life of a claim's generation, while the claim is the attempt that runs."""
        life = self.lives.get(claim.id)
        is_held = life is not None and life.status is Status.RUNNING and life.attempt == claim.attempt
        return life if is_held else None

    @contextmanager
    def _ends(self, claim: Generation, status: Status) -> Iterator[Any]:
        """Compares what a worker hears with what it should, and moves the model."""
        results: list[bool] = []
        yield results.append
        life = self._held(claim)
        assert results == [life is not None]
        if life is not None:
            life.status = status


@pytest.mark.long
@pytest.mark.django_db(transaction=True)
def test_whatever_happens_the_rules_hold(settings: Settings, tmp_path: Path) -> None:
    """Rows, files, entries, messages and feeds, after each of some thousand moves."""
    settings.MAX_ATTEMPTS = MAX_ATTEMPTS
    settings.LEASE_S = 3600  # leases run out where a move says so, on a slow machine too
    settings.MEDIA_ROOT = tmp_path / "media"
    settings.WORK_LIMIT = 0
    Lives.media = settings.MEDIA_ROOT
    run_state_machine_as_test(Lives, settings=BOUNDS)
