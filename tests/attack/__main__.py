"""Runs every attack, four at once, and judges: no 500, no lost answer, memory, and the time that `/health` takes."""

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

from tests.attack import addresses, bodies, files, hub, pictures, receivers, sockets
from tests.attack.cases import Case
from tests.attack.target import MEMORY_LIMIT_BYTES, Target, target

AT_ONCE = 4
HEALTH_P99_S = 0.25
KEPT = 1.1
BUSY = (503, 507)  # said in words, with Retry-After
BROKEN_SOCKET = 1011  # how a socket ends whose application failed
FAMILIES = (bodies, pictures, files, sockets, addresses)


def say(text: str) -> None:
    """To whoever runs this."""
    sys.stdout.write(f"{text}\n")


def run(found: Target, cases: Sequence[Case], *, warm_up: Sequence[Case]) -> list[str]:
    """Everything that went wrong, one sentence each. What is done once for ever is done by the warm-up."""
    wrong: list[str] = []
    answers: dict[str, Counter[int]] = {}

    def one(case: Case) -> None:
        name = f"{case.family}: {case.name} by {case.sender or 'nobody'}"
        try:
            status = case.send(found)
        except Exception as error:  # noqa: BLE001 - every kind of failure is one to tell
            wrong.append(f"{name}: no answer ({error!r})")
            return
        answers.setdefault(case.family, Counter())[status] += 1
        if status == BROKEN_SOCKET or (500 <= status < 1000 and status not in BUSY):
            wrong.append(f"{name}: {status}")

    found.job_ends(found.job())
    with ThreadPoolExecutor(AT_ONCE) as pool:  # what is imported, and what the allocator keeps for such work
        list(pool.map(one, warm_up))
    answers.clear()
    before, job = found.resident(), found.job()
    began = time.monotonic()
    with found.watched() as seen, ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, cases))
    found.job_ends(job)
    [watched] = seen
    after = found.resident()
    say(f"{len(cases)} attacks in {time.monotonic() - began:.0f} s")
    for family, counted in answers.items():
        say(f"  {family}: {dict(sorted(counted.items()))}")
    say(f"memory: {before >> 20} MiB before, {watched.peak_bytes >> 20} at most, {after >> 20} after")
    say(f"the workers beside: {watched.workers_peak_bytes >> 20} MiB at most")
    took = f"p99 {watched.health_p99_s * 1000:.0f} ms of {len(watched.health_s)} questions"
    say(f"/health: {took}; load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores")
    if not found.lives():
        wrong.append("a process has ended")
    if max(watched.peak_bytes, watched.workers_peak_bytes) > MEMORY_LIMIT_BYTES:
        wrong.append(f"memory went over {MEMORY_LIMIT_BYTES >> 20} MiB")
    if after > KEPT * before:
        wrong.append(f"memory stayed at {after / before:.2f} of what it was")
    if watched.health_p99_s > HEALTH_P99_S:
        wrong.append(f"/health took {watched.health_p99_s * 1000:.0f} ms (p99)")
    return wrong


def of_senders(folder: Path) -> list[str]:
    """What people send, and what the Hub answers."""
    with (
        closing(hub.AttackingHub()) as double,
        target(folder, HF_ENDPOINT=double.url) as found,
        found.limited() as is_group,
    ):
        keeper = "a cgroup" if is_group else "a watcher"
        say(f"{MEMORY_LIMIT_BYTES >> 20} MiB for the web process, kept by {keeper}")
        cases = [case for family in FAMILIES for case in family.cases()]
        often = [case for case in bodies.cases() if case.sender == "user"]
        return run(found, [*hub.cases(double), *cases], warm_up=often)


def of_receivers(folder: Path) -> list[str]:
    """What those answer to whom webhooks go, on a service that may reach them; other users' messages arrive."""
    variables = {"WEBHOOK_ALLOW_PRIVATE": "true", "WEBHOOK_TIMEOUT_S": "3", "WEBHOOK_MAX_ATTEMPTS": "1"}
    with receivers.attacking() as attackers, target(folder, **variables) as found, found.limited():
        taken = Case("receiver", "taken", "bystander", partial(receivers.send, "", attackers, "bystander"))
        cases = [case for attack in receivers.cases(attackers) for case in (attack, taken)]
        wrong = run(found, cases, warm_up=[taken])
        delivered = found.service.sql(
            "SELECT count(*) FROM generation_webhookdelivery WHERE status = 'delivered'"
        )
        if delivered[0][0] < len(receivers.ANSWERS):
            wrong.append(f"only {delivered[0][0]} messages of others arrived")
        return wrong


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        wrong = of_senders(Path(folder) / "senders") + of_receivers(Path(folder) / "receivers")
    say("\n".join(wrong) or "Nothing got through.")
    sys.exit(bool(wrong))
