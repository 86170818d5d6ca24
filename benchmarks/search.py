"""Shows how generations are found: `python -m benchmarks.search [--rows N] [--json FILE]`.

Starts an embedded PostgreSQL in a throw-away folder, fills it with generations (200,000, half of them one user's) that
have a picture each, and prints PostgreSQL's plan and time of what the API asks: of searches (a common word, a rare one,
one that there is not, the beginning of one, two together), of pages of the list (the first, a later one, favorites,
one status, one model, a staff's), and of one generation and its pictures; at the end a Markdown table with the indexes
that each uses. Nothing leaves this machine.
"""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any, Final

os.environ["DJANGO_SETTINGS_MODULE"] = "imagegen_project.settings_test"  # noqa: TID251 - a folder of its own

import django

django.setup()

from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.db.models import Model, QuerySet
from django.utils import timezone

from benchmarks.load import machine, say, write
from benchmarks.plots import plot_bars
from generation.api.filters import GenerationFilter
from generation.choices import Status
from generation.models import GeneratedImage, Generation
from generation.queue.precedence import QUEUE_ORDER
from generation.selectors import generations_visible
from imagegen_project import env
from imagegen_project.standalone.servers import EmbeddedPostgres, server_child
from imagegen_project.standalone.supervisor import Supervisor
from models_registry.models import Checkpoint

PAGE: Final = 21
_TIME: Final = re.compile(r"(?:Planning|Execution) Time: ([0-9.]+) ms")
_INDEX: Final = re.compile(r"(?:Index(?: Only)? Scan(?: Backward)? using|Bitmap Index Scan on) (\w+)")
COLOURS = "ARRAY['red','green','blue','yellow','orange','purple','black','white']"
SHAPES = "ARRAY['circle','square','star','ring','cross','heart','triangle','diamond']"
QUESTIONS: dict[str, dict[str, str]] = {
    "the first page": {},
    "one status": {"status": "queued"},
    "one model": {"model": "builtin"},
    "a common word": {"q": "circle"},
    "a rare word": {"q": "word4711"},
    "a word that there is not": {"q": "zebra"},
    "the beginning of a word": {"q": "word47"},
    "two words": {"q": "purple heart"},
    "favorites": {"favorite": "true"},
}


def fill(rows: int) -> User:
    """Stores so many generations, every second one the returned user's; copies of one, but for prompt and owner."""
    users = [User.objects.create_user(f"user-{number}") for number in range(100)]
    original = Generation.objects.create(
        owner=users[0], checkpoint=Checkpoint.objects.get(id="builtin"), prompt="a", width=256, height=256,
        num_inference_steps=4, guidance_scale=4.0, timeout_s=60, seed=7, total_steps=4,
        status=Status.CANCELED, finished_at=timezone.now(),
    )  # fmt: skip
    GeneratedImage.objects.create(
        generation=original, index=0, file="gone.png", size_bytes=1, sha256="0", pixel_sha256="0", width=256,
        height=256, seed=7,
    )  # fmt: skip
    words = f"({COLOURS})[1 + mod(n, 8)], ({SHAPES})[1 + mod(n / 8, 8)], n"
    prompt = f"format('a large %%s %%s on a white background, word%%s', {words})"
    special = {
        "id": "lpad(to_hex(n), 32, '0')::uuid",
        "prompt": prompt,
        "owner_id": f"CASE WHEN mod(n, 2) = 0 THEN {users[0].pk} ELSE {users[1].pk} + mod(n, 99) END",
        "favorite": "mod(n, 500) = 0",
        "status": "CASE WHEN mod(n, 1000) = 0 THEN 'queued' ELSE status END",
        "finished_at": "CASE WHEN mod(n, 1000) > 0 THEN finished_at END",
    }
    multiply(Generation, rows, special)
    multiply(GeneratedImage, rows, dict.fromkeys(("id", "generation_id"), special["id"]))
    return users[0]


def multiply(model: type[Model], rows: int, special: dict[str, str]) -> None:
    """Stores so many copies of a table's first row, numbered `n`; `special` says which columns differ."""
    table = model._meta.db_table  # noqa: SLF001 - Django's own interface
    columns = [field.column for field in model._meta.concrete_fields]  # noqa: SLF001
    values = ", ".join(special.get(column, f'"{column}"') for column in columns)
    names = ", ".join(f'"{column}"' for column in columns)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({names}) SELECT {values}"  # noqa: S608 - names of columns and numbers
            f" FROM (SELECT * FROM {table} LIMIT 1) one, generate_series(1, %s) n",
            [rows],
        )
        cursor.execute(f"VACUUM ANALYZE {table}")


def asked(owner: User, staff: User) -> dict[str, QuerySet[Any]]:
    """What the API asks for, by what a client wants."""

    def page(user: User, query: dict[str, str]) -> QuerySet[Generation]:
        return GenerationFilter(query, queryset=generations_visible(user)).qs.order_by("-id")[:PAGE]

    newest = generations_visible(owner).order_by("-id")
    later = newest[10_000:10_001].get().pk
    shown = list(newest.values_list("pk", flat=True)[:PAGE])
    pages = {name: page(owner, query) for name, query in QUESTIONS.items()}
    return pages | {
        "the first page of a member of staff": page(staff, {}),
        "a page after 10,000 others": newest.filter(pk__lt=later)[:PAGE],
        "the pictures of a page": GeneratedImage.objects.filter(generation__in=shown),
        "one generation": newest.filter(pk=later),
        "what waits": Generation.objects.filter(status=Status.QUEUED).order_by(*QUEUE_ORDER)[:PAGE],
        "what its owner gave for pictures": Generation.objects.filter(owner=owner, input_bytes__gt=0)
        .order_by()
        .values("input_bytes"),
    }


def main() -> None:
    """Fills, asks, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000, help="how many generations (default: 200000)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = machine() | {"rows": options.rows, "plans": {}}
    (env.DATA_DIR / "logs").mkdir()
    supervisor = Supervisor(report=sys.stderr.write)
    server = EmbeddedPostgres(env.DATA_DIR, durable=False)
    try:
        server.prepare()
        supervisor.start(server_child(server, env.DATA_DIR / "logs"))
        server.wait_ready()
        call_command("migrate", verbosity=0)
        owner = fill(options.rows)
        staff = User.objects.create_user("staff", is_staff=True)
        for name, rows in asked(owner, staff).items():
            plan = rows.explain(analyze=True, buffers=True)
            say(f"## {name}, {options.rows} rows\n\n{plan}\n")
            times = [float(each) for each in _TIME.findall(plan)]
            found["plans"][name] = {"ms": sum(times), "indexes": sorted(set(_INDEX.findall(plan)))}
        say("| what is asked | ms | indexes |\n| --- | --- | --- |")
        for name, facts in found["plans"].items():
            say(f"| {name} | {facts['ms']:.1f} | {', '.join(facts['indexes'])} |")
        write(options.json, found)
        values = {name: [facts["ms"]] for name, facts in found["plans"].items()}
        title = f"Time of queries, {options.rows} rows"
        plot_bars(options.json, title=title, unit="milliseconds", values=values)
    finally:
        connection.close()
        connection.close_pool()  # type: ignore[attr-defined]
        supervisor.stop_all()


if __name__ == "__main__":
    main()
