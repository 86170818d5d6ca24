"""Several users draw while everything that can die dies; afterwards nothing is lost and nothing is there twice.

`python -m tests.chaos.storm --jobs 300 --users 5 --minutes 10` is the long form; `test_storm.py` runs a short one.
"""

import argparse
import hashlib
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

from generation.choices import ReplayVerdict
from generation.pictures.comparing import pictures_compare
from tests.chaos.fleet import ENDS, PATIENCE_S, Client, Fleet, fleet
from tests.chaos.follower import Followed, Followers

TRANSITIONS = (
    "accepted",
    "claiming",
    "claimed",
    "step",
    "drawn",
    "storing",
    "written",
    "moved",
    "committed",
    "canceling",
    "taking_back",
)
WORKERS = 2
RECOVERY_S = 30.0
# A file without a row is left over when it is that old.
ORPHAN_AGE_S = 3600
LOOK_EVERY_S = 0.5
CANCEL_SHARE = 0.15
PAUSE_S = 2.0
# Of a death, whenever a process comes to a transition, once each has had its certain one.
CHANCE = "0.005"
SAY_EVERY_S = 10.0
# Few different requests: equal ones must draw what a replay would call exact or close, however often they were
# interrupted. A step that several share may round other last bits than one alone.
REQUESTS: tuple[dict[str, Any], ...] = tuple(
    {"prompt": f"a {colour} circle", "seed": seed, "num_images": 1 + seed % 2, "steps": 2 + seed % 3}
    for seed, colour in enumerate(("red", "green", "blue", "yellow"))
)
# Long enough to be canceled while it runs.
LONG: dict[str, Any] = {"prompt": "a slow square", "seed": 9, "num_images": 1, "steps": 40}

_ROWS = """
    SELECT id, status, attempt, started_at, num_images, seed, prompt, num_inference_steps, attempt_log,
           finished_at, cancel_requested_at
    FROM generation_generation
"""
_IMAGES = "SELECT generation_id, index, file, sha256, seed, pixel_sha256 FROM generation_generatedimage"


@dataclass(frozen=True)
class Row:
    """A generation in the database."""

    id: UUID
    status: str
    attempt: int
    started_at: Any
    num_images: int
    seed: int
    prompt: str
    num_inference_steps: int
    attempt_log: list[dict[str, Any]]
    finished_at: Any
    cancel_requested_at: Any


@dataclass
class Storm:
    """One run: what was asked for, what was answered, and what is wrong."""

    fleet: Fleet
    jobs: int
    minutes: float
    created: set[str] = field(default_factory=set)
    canceled: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    deaths: list[tuple[str, float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.followers = Followers(self.fleet.url)

    def run(self) -> None:
        """The storm, the calm behind it, and the look around."""
        self.fleet.arm(*TRANSITIONS)
        with ThreadPoolExecutor(len(self.fleet.clients) + 1) as pool:
            raging = pool.submit(self._rage)
            users = [pool.submit(self._use, number) for number in range(len(self.fleet.clients))]
            for busy in (*users, raging):
                busy.result()
        self._settle()
        followed = self.followers.results()
        self.followers.close()
        self._inspect(followed)

    # While it lasts

    def _use(self, number: int) -> None:
        """One user: creates generations, some of them long, and cancels some of all."""
        client, chosen = self.fleet.clients[number], random.Random(number)
        share = range(number, self.jobs, len(self.fleet.clients))
        pause = 60 * self.minutes / max(1, len(share))
        for index in share:
            is_long = index % 10 == 0
            job_id = self._create(client, LONG if is_long else REQUESTS[index % len(REQUESTS)])
            if is_long:
                client.wait(job_id, "running", *ENDS)
                self._cancel(client, job_id)
            elif chosen.random() < CANCEL_SHARE:
                time.sleep(chosen.random())
                self._cancel(client, job_id)
            time.sleep(2 * chosen.random() * pause)

    def _create(self, client: Client, fields: dict[str, Any]) -> str:
        job_id = client.create(uuid4().hex, **fields)
        self.created.add(job_id)
        self.followers.follow(job_id, client.headers)
        return job_id

    def _cancel(self, client: Client, job_id: str) -> None:
        self.canceled[job_id] = client.cancel(job_id)

    def _disasters(self) -> Sequence[Callable[[], str]]:
        """What happens beside the failpoints."""
        hurt = self.fleet
        return (
            hurt.kill_web,
            hurt.flush_redis,
            hurt.restart_postgres,
            hurt.kill_redis,
            hurt.crash_postgres,
            hurt.kill_worker,
            hurt.fill_disk,
            hurt.freeze_disk,
        )

    def _rage(self) -> None:
        """Each disaster once, until somebody has died at every transition; then any of them while there is time."""
        disasters = self._disasters()
        deadline = time.monotonic() + 60 * self.minutes
        for disaster in disasters:
            self._happen(disaster)
        self._provoke()
        if time.monotonic() < deadline:
            self.fleet.arm(*TRANSITIONS, chance=CHANCE)
        while time.monotonic() < deadline:
            self._happen(random.choice(disasters))
        self.fleet.disarm()

    def _happen(self, disaster: Callable[[], str]) -> None:
        """One disaster, a while after the one before."""
        time.sleep((PAUSE_S + self.minutes) * (0.5 + random.random()))
        self._note(disaster())

    def _provoke(self) -> None:
        """Gives all workers something to draw and something to cancel, until nobody has a death ahead."""
        client = self.fleet.clients[0]
        began = time.monotonic()
        while self.fleet.armed() and time.monotonic() - began < PATIENCE_S:
            *quick, long = (self._create(client, fields) for fields in (*REQUESTS[:WORKERS], LONG))
            client.wait(long, "running", *ENDS)
            self._cancel(client, long)
            for job_id in (*quick, long):
                client.wait(job_id)

    def _note(self, happened: str) -> None:
        rows = Counter(row.status for row in self._rows_or_none())
        for name, at, _ in self.fleet.deaths()[len(self.deaths) :]:
            happened += f", died at {name} {time.time() - at:.0f} s ago"
        self.deaths = self.fleet.deaths()
        _say(f"{time.monotonic() - self.began:6.1f} s  {happened}; {dict(rows)}")

    def _rows(self) -> list[Row]:
        return [Row(*values) for values in self.fleet.service.sql(_ROWS)]

    def _rows_or_none(self) -> list[Row]:
        try:
            return self._rows()
        except Exception:  # noqa: BLE001 - PostgreSQL is one of those that die here
            return []

    def _settle(self) -> None:
        """Waits until every generation has ended."""
        self._note("calm")
        deadline = time.monotonic() + PATIENCE_S + self.jobs
        said = time.monotonic()
        while any(row.status not in ENDS for row in self._rows_or_none()) or not self._rows_or_none():
            if time.monotonic() - said > SAY_EVERY_S:
                said = time.monotonic()
                self._note("waiting")
            if time.monotonic() > deadline:
                self.wrong.append("not everything ended")
                return
            time.sleep(LOOK_EVERY_S)
        self._note("everything ended")

    # Afterwards

    def _inspect(self, followed: list[Followed]) -> None:
        rows = {str(row.id): row for row in self._rows()}
        self.deaths = self.fleet.deaths()
        self._check(rows.keys() == self.created, "a row for every request, and no other")
        self._check(not self.fleet.armed(), f"somebody died at every transition, not at {self.fleet.armed()}")
        self._check(500 not in self.fleet.answers, f"no answer is a bare 500: {self.fleet.answers}")
        for row in rows.values():
            self._inspect_row(row)
        for seen in followed:
            self._inspect_feed(seen, rows[seen.job_id])
        self._tidy(rows)
        self._inspect_pictures(rows)
        self._measure(rows, followed)

    def _check(self, holds: object, what: str) -> None:
        if not holds:
            self.wrong.append(what)

    def _inspect_row(self, row: Row) -> None:
        told_status, told = self.canceled.get(str(row.id), (0, {}))
        if not told_status:
            self._check(row.status == "succeeded", f"{row.id} was not canceled and is {row.status}")
        elif told_status == 200:
            late = told["status"] == "running" and row.status == "succeeded"
            self._check(row.status == "canceled" or late, f"{row.id} is {row.status}, told {told['status']}")
        else:
            self._check(
                told_status == 409 and row.status in told["detail"],
                f"{row.id} is {row.status}, told {told_status}: {told}",
            )
        attempts = [entry["attempt"] for entry in row.attempt_log]
        expected = list(range(1, row.attempt + 1))
        self._check(
            attempts in (expected, expected[:-1]), f"{row.id}: {row.attempt} attempts, log {attempts}"
        )

    def _inspect_feed(self, seen: Followed, row: Row) -> None:
        self._check(seen.end == row.status, f"{row.id} is {row.status}, its feed ended with {seen.end}")
        grows = all(before < after for before, after in pairwise(seen.seqs))
        self._check(grows, f"{row.id}: numbers of its feed went back: {seen.seqs}")

    def _tidy(self, rows: dict[str, Row]) -> None:
        """Lets the sweep look for what lost attempts left behind, an hour later."""
        media = self.fleet.service.data_dir / "media"
        long_ago = time.time() - 2 * ORPHAN_AGE_S
        for path in (
            path for path in media.rglob("*") if path.is_file()
        ):  # also those that were being written
            os.utime(path, (long_ago, long_ago))
        said = self.fleet.manage("sweep", "--files").splitlines()
        for line in said[:-1]:
            if "/" not in line:  # how often it mended something
                continue
            *_, job_id, file = line.partition(":")[0].split("/")
            lost = [entry["attempt"] for entry in rows[job_id].attempt_log]
            self._check(int(file.partition("-")[0]) in lost, f"the sweep took what nobody had lost: {line}")
        _say(said[-1])

    def _inspect_pictures(self, rows: dict[str, Row]) -> None:
        media = self.fleet.service.data_dir / "media"
        pictures: dict[str, list[tuple[Any, ...]]] = {job_id: [] for job_id in rows}
        named = set()
        for generation_id, *image in self.fleet.service.sql(_IMAGES):
            pictures[str(generation_id)].append(tuple(image))
        drawn: dict[tuple[str, int], dict[tuple[str, ...], list[bytes]]] = {}
        for job_id, row in rows.items():
            images = sorted(pictures[job_id])
            files: list[bytes] = []
            expected = range(row.num_images if row.status == "succeeded" else 0)
            self._check([image[0] for image in images] == list(expected), f"{job_id}: pictures {images}")
            for index, name, sha256, seed, _ in images:
                named.add(name)
                self._check(seed == row.seed + index, f"{name} was drawn with {seed}")
                path = media / name
                data = path.read_bytes() if path.is_file() else b""
                self._check(hashlib.sha256(data).hexdigest() == sha256, f"{name} is not what its row says")
                files.append(data)
            if images:
                ways = drawn.setdefault((row.prompt, row.num_inference_steps), {})
                ways[tuple(image[4] for image in images)] = files
        for request, ways in drawn.items():
            first, *others = ways.values()
            for other in others:
                found = pictures_compare(first, other)
                self._check(
                    found.verdict == ReplayVerdict.CLOSE, f"{request} was drawn in ways that differ: {found}"
                )
        there = {str(path.relative_to(media)) for path in media.rglob("*") if path.is_file()}
        self._check(there == named, f"left over: {sorted(there - named)}, missing: {sorted(named - there)}")

    def _measure(self, rows: dict[str, Row], followed: list[Followed]) -> None:
        """How long each job waited, from its worker's death to its next start that is known."""
        died = {str(pid): at for _, at, pid in self.deaths}
        for seen in followed:
            row = rows[seen.job_id]
            starts = {
                event["attempt"]: _seconds(event["at"]) for event in seen.events if event["type"] == "started"
            }
            if row.started_at is not None:
                starts[row.attempt] = row.started_at.timestamp()
            for entry in row.attempt_log:
                death = died.get(entry["worker"].rpartition("-")[2])
                later = [start for attempt, start in starts.items() if attempt > entry["attempt"]]
                if death is not None and later:
                    self.recoveries.append(min(later) - death)

    def report(self) -> str:
        """What happened, in a few lines."""
        deaths = Counter(name for name, _, _ in self.deaths)
        worst = max(self.recoveries, default=0.0)
        lines = [
            f"{len(self.created)} generations of {len(self.fleet.clients)} users, {len(self.canceled)} cancels",
            f"deaths: {dict(deaths)}",
            f"answers (0: none): {dict(sorted(self.fleet.answers.items()))}",
            f"recoveries: {len(self.recoveries)}, longest {worst:.1f} s, bar {RECOVERY_S:.0f} s (lease 5 s)",
            *(f"WRONG: {what}" for what in self.wrong),
        ]
        return "\n".join(lines)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _say(line: str) -> None:
    """At once, also into a pipe: a storm lasts for minutes."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def storm(*, jobs: int, users: int, minutes: float) -> Storm:
    """Runs one, on a service of its own."""
    variables = {"MAX_ATTEMPTS": "50", "SLOW_STEP_S": "0.2", "TORCH_THREADS": "1", "WORK_LIMIT": "0"}
    with fleet(workers=WORKERS, users=users, **variables) as running:
        run = Storm(running, jobs, minutes)
        run.run()
        return run


def main() -> int:
    """The command line; 1 where something was wrong or took too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--users", type=int, default=5)
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="of disasters; more until all have happened"
    )
    options = parser.parse_args()
    run = storm(jobs=options.jobs, users=options.users, minutes=options.minutes)
    _say(run.report())
    return int(bool(run.wrong) or max(run.recoveries, default=0.0) > RECOVERY_S)


if __name__ == "__main__":
    sys.exit(main())
