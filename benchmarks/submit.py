"""Measures creation under a full table: `python -m benchmarks.submit [--rows N] [--seconds S] [--json FILE]`.

Starts `standalone` in a throw-away folder, halts its GPU worker, fills the table with generations that have ended (half
of them are the asking user's) and one picture each, and lets clients create for a while, with limits that none of them
reaches, then turn pages of their list, and read one generation, its picture and the list of models. Prints, as a
Markdown table, requests per second, latencies, and what each part of the service spends on one request in CPU
milliseconds; unlike rates and latencies, those hardly depend on what else the machine does. Writes JSON with `--json`,
and a plot of the latencies beside it.
"""

import argparse
import itertools
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from tqdm import tqdm

from benchmarks.load import machine, say, write
from benchmarks.plots import plot_shares
from benchmarks.scale import QUICK
from imagegen_project.standalone import paths
from tests.support.service import Service

GENERATIONS, PICTURES = "generation_generation", "generation_generatedimage"
# Every limit is read for each creation, and none is reached.
LIMITS = {
    "MAX_QUEUED": "1000000",
    "MAX_QUEUED_PER_USER": "1000000",
    "WORK_LIMIT": "1000000000",
    "THROTTLE_MODELS": "0",
    "STORAGE_QUOTA_MB": "100000",
}
# What belongs to which part of the service, by a word of its command line.
PARTS = {"web process": "daphne", "PostgreSQL": "postgres", "Redis": "redis"}


def columns(connection: "psycopg.Connection[Any]", table: str) -> list[str]:
    """A table's columns."""
    found = connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_name = %s ORDER BY ordinal_position",
        [table],
    )
    return [name for (name,) in found]


def multiply(
    connection: "psycopg.Connection[Any]", table: str, rows: int, special: dict[str, sql.Composable]
) -> None:
    """Inserts copies of the table's first row, numbered `n`; `special` says which columns differ."""
    names = columns(connection, table)
    insert = sql.SQL(
        "INSERT INTO {table} ({names}) SELECT {values}"
        " FROM (SELECT * FROM {table} LIMIT 1) one, generate_series(1, {rows}) n"
    ).format(
        table=sql.Identifier(table),
        names=sql.SQL(", ").join(map(sql.Identifier, names)),
        values=sql.SQL(", ").join(special.get(name, sql.Identifier(name)) for name in names),
        rows=sql.Literal(rows),
    )
    connection.execute(insert)


def fill(service: Service, rows: int) -> None:
    """Makes so many ended generations with a picture each of the one that is there; every second one is another's."""
    with psycopg.connect(paths.database_url(service.data_dir), autocommit=True) as connection:
        connection.execute(
            "INSERT INTO auth_user (password, is_superuser, username, first_name, last_name, email, is_staff,"
            " is_active, date_joined) VALUES ('!', false, 'another', '', '', '', false, true, now())"
        )
        another = sql.SQL("(SELECT id FROM auth_user WHERE username = 'another')")
        number = sql.SQL("lpad(to_hex(n), 32, '0')::uuid")
        multiply(
            connection,
            GENERATIONS,
            rows,
            {
                "id": number,
                "owner_id": sql.SQL("CASE WHEN mod(n, 2) = 0 THEN owner_id ELSE {} END").format(another),
            },
        )
        multiply(
            connection,
            PICTURES,
            rows,
            {"id": number, "generation_id": number, "file": sql.SQL("format('gone/%s.png', n)")},
        )
        connection.execute("VACUUM ANALYZE")


def cpu_seconds(service: Service) -> dict[str, float]:
    """What each part has spent so far."""
    spent = dict.fromkeys(PARTS, 0.0)
    for process in service.family():
        words = " ".join(process.cmdline()) or process.name()
        for part, word in PARTS.items():
            if word in words:
                times = process.cpu_times()
                spent[part] += times.user + times.system
    return spent


def hammer(ask: Callable[[], None], *, clients: int, seconds: float) -> tuple[float, list[float]]:
    """Requests per second, and each request's milliseconds: so many clients, each asking again at once."""
    taken: list[float] = []
    until = time.perf_counter() + seconds
    lock = threading.Lock()

    def one(_: int) -> None:
        while time.perf_counter() < until:
            began = time.perf_counter()
            ask()
            with lock:
                taken.append((time.perf_counter() - began) * 1000)

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(one, range(clients)))
    return len(taken) / (time.perf_counter() - began), taken


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000, help="ended generations (default: 200000)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement (default: 10)")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = machine() | {"rows": options.rows, "requests": {}}
    with tempfile.TemporaryDirectory(prefix="imagegen-submit-") as folder:
        service = Service(Path(folder) / "data", **LIMITS)
        try:
            service.wait_ready()
            http = service.client()
            first = http.post("/api/v1/generate/txt2img", json=QUICK).raise_for_status().json()["id"]
            fill(service, options.rows)
            worker = next(process for process in service.family() if "gpu_worker" in process.cmdline())
            worker.send_signal(signal.SIGSTOP)
            numbers = itertools.count()
            latencies: dict[str, list[float]] = {}

            def create() -> None:
                body = QUICK | {"seed": next(numbers)}
                http.post("/api/v1/generations", json=body).raise_for_status()

            def page() -> None:
                http.get("/api/v1/generations", params={"limit": 50}).raise_for_status()

            def read(address: str) -> Callable[[], None]:
                return lambda: http.get(address).raise_for_status() and None

            asks = {
                "POST generations": create,
                "GET generations, 50 rows": page,
                "GET generations/<id>": read(f"/api/v1/generations/{first}"),
                "GET generations/<id>/images/0": read(f"/api/v1/generations/{first}/images/0"),
                "GET models": read("/api/v1/models"),
            }
            say(f"| request | per second | p50, p99 | {', '.join(f'CPU ms {part}' for part in PARTS)} |")
            say("| --- | --- | --- | --- |")
            for name, ask in tqdm(asks.items(), file=sys.stderr):
                hammer(ask, clients=2, seconds=1.0)
                before = cpu_seconds(service)
                rate, taken = hammer(ask, clients=options.clients, seconds=options.seconds)
                spent = {
                    part: (seconds - before[part]) * 1000 / len(taken)
                    for part, seconds in cpu_seconds(service).items()
                }
                p50, p99 = statistics.median(taken), statistics.quantiles(taken, n=100)[98]
                found["requests"][name] = {"per_s": rate, "p50_ms": p50, "p99_ms": p99, "cpu_ms": spent}
                latencies[name] = taken
                parts = ", ".join(f"{each:.1f}" for each in spent.values())
                say(f"| {name} | {rate:.0f} | {p50:.0f} ms, {p99:.0f} ms | {parts} |")
            worker.send_signal(signal.SIGCONT)
        finally:
            service.end(signal.SIGTERM)
    write(options.json, found)
    title = f"Latency, {options.clients} clients, {options.rows} rows"
    plot_shares(options.json, title=title, unit="milliseconds", values=latencies)
    say(f"\n{found['cpu']}, {found['cores']} cores; load {os.getloadavg()[0]:.1f}; {options.rows} rows")


if __name__ == "__main__":
    main()
