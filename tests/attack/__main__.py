"""Runs every attack, four at once, and judges: no 500, no lost answer, memory, and the time that `/health` takes."""

import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.attack import addresses, bodies, files, pictures, sockets
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


def run(found: Target) -> list[str]:
    """Everything that went wrong, one sentence each."""
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

    cases = [case for family in FAMILIES for case in family.cases()]
    found.job_ends(found.job())
    with ThreadPoolExecutor(AT_ONCE) as pool:  # what is imported, and what the allocator keeps for such work
        list(pool.map(one, (case for case in bodies.cases() if case.sender == "user")))
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
    say(f"/health: p99 {watched.health_p99_s * 1000:.0f} ms of {len(watched.health_s)} questions")
    if not found.lives():
        wrong.append("the web process has ended")
    if watched.peak_bytes > MEMORY_LIMIT_BYTES:
        wrong.append(f"memory went over {MEMORY_LIMIT_BYTES >> 20} MiB")
    if after > KEPT * before:
        wrong.append(f"memory stayed at {after / before:.2f} of what it was")
    if watched.health_p99_s > HEALTH_P99_S:
        wrong.append(f"/health took {watched.health_p99_s * 1000:.0f} ms (p99)")
    return wrong


if __name__ == "__main__":
    with (
        tempfile.TemporaryDirectory() as folder,
        target(Path(folder)) as found,
        found.limited() as is_group,
    ):
        say(
            f"{MEMORY_LIMIT_BYTES >> 20} MiB for the web process, kept by {'a cgroup' if is_group else 'a watcher'}"
        )
        wrong = run(found)
    say("\n".join(wrong) or "Nothing got through.")
    sys.exit(bool(wrong))
