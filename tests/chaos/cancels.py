"""Cancels: soon, of nothing else, and as the client was told.

`python -m tests.chaos.cancels` is the long form; `test_cancels.py` runs a short one.
"""

import argparse
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.chaos.fleet import ENDS, Client, Fleet, fleet
from tests.chaos.follower import Followers

WORKERS = 2
STEPS = 100
SLOW_STEP_S = 0.25
BAR_S = 1.0
SLOW = {"prompt": "a slow square", "steps": STEPS}
BESIDE = SLOW | {"steps": 40}
# Long enough that most cancels come while it draws.
QUICK = {"steps": 8}


@dataclass
class Cancels:
    """What was measured, and what is wrong."""

    fleet: Fleet
    seconds: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def slow(self, times: int) -> None:
        """Cancels a job of 100 slow steps; beside it one runs, and behind it one waits, both somebody else's."""
        mine, neighbour = self.fleet.clients[0], self.fleet.clients[1]
        beside = ""
        neighbours: list[str] = []
        for number in range(times):
            if not beside or neighbour.get(beside)["status"] in ENDS:
                beside = neighbour.create(f"beside-{number}", **BESIDE)
                neighbours.append(beside)
                neighbour.wait(beside, "running", *ENDS)
            job_id = mine.create(f"slow-{number}", **SLOW)
            mine.wait(job_id, "running", *ENDS)
            neighbours.append(neighbour.create(f"behind-{number}"))
            time.sleep(random.random())
            self._measure(mine, job_id)
        for job_id in neighbours:
            body = neighbour.wait(job_id)
            whole = (body["status"], body["attempt"], body["cancel_requested"]) == ("succeeded", 1, False)
            self._check(whole, f"the neighbour {job_id} is {body['status']} after {body['attempt']} attempts")

    def _measure(self, client: Client, job_id: str) -> None:
        before = client.get(job_id)["step"]
        asked = time.time()
        told_status, told = client.cancel(job_id)
        self._check(told_status == 200 and told["cancel_requested"], f"{job_id}: {told_status} {told}")
        body = client.wait(job_id)
        self._check(body["status"] == "canceled", f"{job_id} is {body['status']}")
        self._check(not body["images"], f"{job_id} was canceled and has pictures")
        # One machine, one clock.
        self.seconds.append(datetime.fromisoformat(body["finished_at"]).timestamp() - asked)
        self.steps.append(body["step"] - before)

    def race(self, times: int) -> None:
        """Cancels quick jobs at any moment of their lives."""
        client = self.fleet.clients[0]
        followers = Followers(self.fleet.url)
        told: dict[str, tuple[int, dict[str, Any]]] = {}
        longest = self._lifetime(client)
        try:
            for number in range(times):
                job_id = client.create(f"race-{number}", **QUICK)
                followers.follow(job_id, client.headers)
                time.sleep(random.random() * longest)
                told[job_id] = client.cancel(job_id)
            ends = {seen.job_id: seen.end for seen in followers.results()}
        finally:
            followers.close()
        for job_id, (status, answer) in told.items():
            body = client.wait(job_id)
            self._check(
                ends[job_id] == body["status"], f"{job_id} is {body['status']}, its feed {ends[job_id]}"
            )
            self._check(
                bool(body["images"]) is (body["status"] == "succeeded"), f"{job_id}: {body['images']}"
            )
            said = answer["status"] if status == 200 else "ended"
            # A cancel that was taken while the job ran may come too late.
            fits = {
                "canceled": body["status"] == "canceled",
                "running": body["status"] in ("canceled", "succeeded") and body["cancel_requested"],
                "ended": status == 409 and body["status"] == "succeeded" and "succeeded" in answer["detail"],
            }
            self._check(fits.get(said), f"{job_id} is {body['status']}, told {status} {answer}")
            self.outcomes[f"told {said}, {body['status']}"] += 1

    def _lifetime(self, client: Client) -> float:
        """How long a quick job takes from its creation to its end, and a little more, in seconds."""
        body = client.wait(client.create("race-lifetime", **QUICK))
        created, ended = (datetime.fromisoformat(body[name]) for name in ("created_at", "finished_at"))
        return 1.3 * (ended - created).total_seconds()

    def _check(self, holds: object, what: str) -> None:
        if not holds:
            self.wrong.append(what)

    def report(self) -> str:
        """What was measured, in a few lines."""
        bar = max(BAR_S, SLOW_STEP_S)
        late = sum(seconds > bar for seconds in self.seconds)
        return "\n".join(
            [
                f"{len(self.seconds)} cancels of slow jobs: longest {max(self.seconds):.2f} s and "
                f"{max(self.steps)} steps of {SLOW_STEP_S} s or more; {late} over {bar:g} s",
                f"races: {dict(self.outcomes)}",
                *(f"WRONG: {what}" for what in self.wrong),
            ]
        )


def cancels(*, slow: int, races: int) -> Cancels:
    """Runs both parts, on a service of its own."""
    variables = {"SLOW_STEP_S": str(SLOW_STEP_S), "TORCH_THREADS": "1", "WORK_LIMIT": "0"}
    with fleet(workers=WORKERS, users=2, **variables) as running:
        run = Cancels(running)
        run.slow(slow)
        run.race(races)
        return run


def main() -> int:
    """The command line; 1 where something was wrong or took too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slow", type=int, default=100, help="cancels of slow jobs")
    parser.add_argument("--races", type=int, default=200, help="cancels at any moment of quick ones")
    options = parser.parse_args()
    run = cancels(slow=options.slow, races=options.races)
    sys.stdout.write(f"{run.report()}\n")
    return int(bool(run.wrong) or max(run.seconds) > max(BAR_S, SLOW_STEP_S))


if __name__ == "__main__":
    sys.exit(main())
