"""Shows how prompts are searched: `python -m benchmarks.search [--rows N]`.

Starts an embedded PostgreSQL in a throw-away folder, fills it with generations (200,000, half of them one user's), and
prints PostgreSQL's plan and time of what `GET /api/v1/generations?q=` asks: for a common word, a rare one, one that
there is not, the beginning of one, two together, and the favorites. Nothing leaves this machine.
"""

import argparse
import os
import sys
from typing import Final

os.environ["DJANGO_SETTINGS_MODULE"] = "imagegen_project.settings_test"  # noqa: TID251 - a folder of its own

import django

django.setup()

from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection

from generation.api.filters import GenerationFilter
from generation.models import Generation
from generation.selectors import generations_visible
from imagegen_project import env
from imagegen_project.standalone.servers import EmbeddedPostgres, server_child
from imagegen_project.standalone.supervisor import Supervisor
from models_registry.models import Checkpoint

PAGE: Final = 21
COLOURS = "ARRAY['red','green','blue','yellow','orange','purple','black','white']"
SHAPES = "ARRAY['circle','square','star','ring','cross','heart','triangle','diamond']"
QUESTIONS = {
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
    )  # fmt: skip
    table = Generation._meta.db_table  # noqa: SLF001 - Django's own interface
    words = f"({COLOURS})[1 + mod(n, 8)], ({SHAPES})[1 + mod(n / 8, 8)], n"
    prompt = f"format('a large %%s %%s on a white background, word%%s', {words})"
    special = {
        "id": "lpad(to_hex(n), 32, '0')::uuid",
        "prompt": prompt,
        "owner_id": f"CASE WHEN mod(n, 2) = 0 THEN {users[0].pk} ELSE {users[1].pk} + mod(n, 99) END",
        "favorite": "mod(n, 500) = 0",
    }
    columns = [field.column for field in Generation._meta.concrete_fields]  # noqa: SLF001
    values = ", ".join(special.get(column, f'"{column}"') for column in columns)
    names = ", ".join(f'"{column}"' for column in columns)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({names}) SELECT {values} FROM {table}, generate_series(1, %s) n WHERE id = %s",  # noqa: S608
            [rows, original.pk],
        )
        cursor.execute(f"VACUUM ANALYZE {table}")
    return users[0]


def main() -> None:
    """Fills, asks, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000, help="how many generations (default: 200000)")
    rows = parser.parse_args().rows
    (env.DATA_DIR / "logs").mkdir()
    supervisor = Supervisor(report=sys.stderr.write)
    server = EmbeddedPostgres(env.DATA_DIR, durable=False)
    try:
        server.prepare()
        supervisor.start(server_child(server, env.DATA_DIR / "logs"))
        server.wait_ready()
        call_command("migrate", verbosity=0)
        owner = fill(rows)
        for name, query in QUESTIONS.items():
            found = GenerationFilter(query, queryset=generations_visible(owner)).qs.order_by("-id")[:PAGE]
            plan = found.explain(analyze=True, buffers=True)
            sys.stdout.write(f"## {name}: {query}, {rows} rows\n\n{plan}\n\n")
    finally:
        connection.close()
        connection.close_pool()  # type: ignore[attr-defined]
        supervisor.stop_all()


if __name__ == "__main__":
    main()
