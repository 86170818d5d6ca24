"""A migrated PostgreSQL cluster, made once per run: the suite's processes and services begin with copies of it."""

import shutil
import subprocess
import sys
from pathlib import Path

from imagegen_project.standalone import paths
from imagegen_project.standalone.folders import make_data_folder
from imagegen_project.standalone.servers import EmbeddedPostgres, server_child
from imagegen_project.standalone.supervisor import Supervisor
from tests.support.once import made_once, run_folder
from tests.support.service import REPOSITORY, environment


def cluster_copy(data_dir: Path) -> None:
    """Puts the migrated cluster, with its password, into a data folder without one; the first of a run makes it."""
    made = run_folder("migrated")
    made_once(made, lambda: _make(made))
    make_data_folder(data_dir)
    _password_copy(made, data_dir)
    # Owner and modes as they are: the server's user may be another one.
    subprocess.run(["cp", "-a", made / "postgres", data_dir / "postgres"], check=True)


def _make(data_dir: Path) -> None:
    """Migrates a new cluster, as `migrate` does in a process of its own, and stops its server.

    Without Django's checks, which import every view: tests of their own run them.
    """
    make_data_folder(data_dir)
    _password_copy(data_dir.parent, data_dir)
    postgres = EmbeddedPostgres(data_dir, durable=False)
    supervisor = Supervisor(report=sys.stderr.write)
    try:
        postgres.prepare()
        supervisor.start(server_child(postgres, data_dir))
        postgres.wait_ready()
        subprocess.run(
            [sys.executable, REPOSITORY / "manage.py", "migrate", "--skip-checks", "--verbosity", "0"],
            env=environment() | {"DATA_DIR": str(data_dir)},
            check=True,
        )
    finally:
        supervisor.stop_all()


def _password_copy(source: Path, target: Path) -> None:
    there, here = (paths.secret_file(folder, "postgres_password") for folder in (source, target))
    if not here.exists():
        here.parent.mkdir(mode=0o700, exist_ok=True)
        shutil.copy2(there, here)
