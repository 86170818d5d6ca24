"""`manage.py standalone`: the whole service on one machine, with nothing installed but this project."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from imagegen_project import __version__, env
from imagegen_project.cli.exits import CliError
from imagegen_project.common.commands import positive
from imagegen_project.standalone import addresses, paths
from imagegen_project.standalone import service as standalone
from imagegen_project.standalone.folders import EmbeddedError, FolderLock, lock_holder
from imagegen_project.standalone.service import StandaloneError
from imagegen_project.standalone.supervisor import Gate, StopRequestedError, Supervisor

if TYPE_CHECKING:
    from imagegen_project.cli.client import ServiceClient

_READY_TIMEOUT_S = 300.0
_READY_POLL_S = 0.25
_INTERRUPTED_EXIT_STATUS = 130


class Command(BaseCommand):
    """Starts PostgreSQL, Redis, the web server and the workers, and stops them together.

    The workers come first, since they import for seconds; what this process needs is imported meanwhile, and Django set
    up.
    """

    help = (
        "Runs the whole service on this machine: embedded PostgreSQL and Redis (unless DATABASE_URL and REDIS_URL "
        "are set), the web server, GPU workers and the task worker. Ctrl-C stops everything. With --once it makes "
        "one picture and ends."
    )
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Declares the options."""
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
        parser.add_argument(
            "--port", type=int, help="port to listen on (default 8000; with --once a free one)"
        )
        parser.add_argument("--data-dir", help="where everything is kept (default: the variable DATA_DIR)")
        parser.add_argument("--workers", type=positive, default=1, help="number of GPU workers (default 1)")
        parser.add_argument("--stop", action="store_true", help="stop the service that uses the data folder")
        parser.add_argument("--once", metavar="PROMPT", help="make one picture, then end")
        parser.add_argument(
            "--out", type=Path, default=Path("out.png"), help="with --once: the file to write"
        )
        parser.add_argument("--model", default="", help="with --once: the model (default: the service's)")
        parser.add_argument("--seed", type=int, default=-1, help="with --once: the seed (default: random)")

    def handle(self, **options: Any) -> None:
        """Runs until stopped, or until the one picture is made. Raises CommandError."""
        if options["stop"]:
            self._say(standalone.stop_other(env.DATA_DIR))
            return
        if options["once"] is not None and lock_holder(env.DATA_DIR):
            self._once_on_running(options)
            return
        supervisor = Supervisor(
            report=self._complain,
            log_max_bytes=int(env.LOG_MAX_MB * 1024 * 1024),
            log_keep=env.LOG_KEEP,
        )
        lock: FolderLock | None = None
        try:
            with supervisor.signals():
                try:
                    self._check(options)
                    lock = FolderLock(env.DATA_DIR)
                    # Behind the lock: the service of this folder, which may have the port, is named by its folder.
                    options["port"] = standalone.port_claim(options["host"], options["port"])
                    self._run(supervisor, options)
                finally:
                    supervisor.stop_all()
                    if lock is not None:
                        lock.release()
        except StopRequestedError as stopped:
            self.stderr.write("Stopped.")
            if options["once"] is not None:
                raise CommandError(
                    "stopped before the picture was made", returncode=_INTERRUPTED_EXIT_STATUS
                ) from stopped
        except (EmbeddedError, StandaloneError, CliError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()

    def _complain(self, text: str) -> None:
        self.stderr.write(self.style.ERROR(text))

    def _check(self, options: dict[str, Any]) -> None:
        """Fails early, before anything is started, on what can be known now."""
        if options["data_dir"] and Path(options["data_dir"]).resolve() != env.DATA_DIR:
            raise StandaloneError(
                "--data-dir works through manage.py only: set the variable DATA_DIR instead."
            )
        once = options["once"] is not None
        if options["port"] is None:
            options["port"] = 0 if once else 8000
        if once:
            self._check_out(options["out"])

    def _check_out(self, out: Path) -> None:
        folder = out.resolve().parent
        if not folder.is_dir():
            raise StandaloneError(f"There is no folder {folder} to write {out.name} into.")

    def _run(self, supervisor: Supervisor, options: dict[str, Any]) -> None:
        began = time.monotonic()
        self._say(f"imagegen {__version__}, data in {env.DATA_DIR}")
        addresses.address_file(env.DATA_DIR).unlink(missing_ok=True)  # one that a crash left behind
        logs = standalone.make_folders(env.DATA_DIR)
        gate = Gate()
        for child in standalone.worker_children(workers=options["workers"], gate=gate, logs=logs):
            supervisor.start(child)
        self._start_servers(supervisor, logs)
        token = self._prepare_database()
        host, port = options["host"], options["port"]
        supervisor.start(standalone.web_child(host=host, port=port, logs=logs))
        gate.open()
        self._say(f"  web server and workers started; first answers take a few seconds (logs: {logs})")
        self._await_ready(supervisor, host, port)
        for child in standalone.background_children(logs=logs):
            supervisor.start(child)
        for line in standalone.ready_lines(time.monotonic() - began):
            self._say(line)
        if options["once"] is None:
            note = addresses.address_file(env.DATA_DIR)
            note.write_text(addresses.base_url(host, port), encoding="ascii")
            self._welcome(host, port)
            supervisor.run()
            note.unlink(missing_ok=True)
            self._say("Stopping ...")
        else:
            from imagegen_project.cli.client import ServiceClient

            client = ServiceClient(
                url=addresses.base_url(host, port),
                token=token,
                host=addresses.own_host(port),
                pause=supervisor.pause,
            )
            self._once(client, options)

    def _start_servers(self, supervisor: Supervisor, logs: Path) -> None:
        from imagegen_project.cli.manage import django_setup
        from imagegen_project.standalone import outside
        from imagegen_project.standalone.servers import EmbeddedPostgres, EmbeddedRedis, server_child

        servers: list[EmbeddedPostgres | EmbeddedRedis] = []
        if env.DATABASE_URL:
            outside.check_database(env.DATABASE_URL)
        else:
            servers.append(EmbeddedPostgres(env.DATA_DIR))
        if env.REDIS_URL:
            outside.check_redis(env.REDIS_URL)
        else:
            servers.append(EmbeddedRedis(env.DATA_DIR))
        began = time.monotonic()
        for server in servers:
            server.prepare()
            supervisor.start(server_child(server, logs))
        django_setup()
        for server in servers:
            try:
                server.wait_ready(pause=supervisor.pause)
            except EmbeddedError as error:
                raise EmbeddedError(f"{error} Its log ends: {supervisor.last_words(server.name)}") from error
            self._say(f"  {server.name} ready ({time.monotonic() - began:.1f} s)")
            for line in getattr(server, "widened", []):
                self._say(f"    opened for the system user that runs it: {line}")

    def _prepare_database(self) -> str:
        """Migrates (which seeds the registry) and makes the local account; returns its token."""
        from django.core.management import call_command
        from django.db import connection
        from django.db.migrations.executor import MigrationExecutor

        from imagegen_project.standalone.account import close_database, local_account

        began = time.monotonic()
        try:
            executor = MigrationExecutor(connection)
            # Where all are applied, what `migrate` does beside (permissions, content types) is done, too.
            if executor.migration_plan(executor.loader.graph.leaf_nodes()):
                call_command("migrate", interactive=False, verbosity=0)
            token = local_account(env.DATA_DIR)
        finally:
            # From here on this process only watches its children.
            close_database()
        self._say(f"  database up to date ({time.monotonic() - began:.1f} s)")
        return token

    def _await_ready(self, supervisor: Supervisor, host: str, port: int) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not standalone.is_ready(host, port):
            if time.monotonic() > deadline:
                raise StandaloneError(
                    f"The service was not ready within {_READY_TIMEOUT_S:.0f} s; the logs end: "
                    f"web: {supervisor.last_words('web')!r}, worker: {supervisor.last_words('gpu-worker')!r}"
                )
            supervisor.pause(_READY_POLL_S)

    def _welcome(self, host: str, port: int) -> None:
        from imagegen_project.auth.tickets import LINK_TTL_S
        from imagegen_project.standalone.account import LOCAL_USER, sign_in_path

        base_url = addresses.base_url(host, port)
        password_file = paths.secret_file(env.DATA_DIR, "admin_password")
        self._say("")
        self._say(f"Open this page, which signs you in (once, within {LINK_TTL_S // 60} minutes):")
        self._say(f"    {base_url}{sign_in_path()}")
        self._say("")
        self._say(f"Later sign in as {LOCAL_USER}, with the password in {password_file}.")
        self._say("Or make a picture (circle.png) from another terminal:")
        self._say("")
        self._say(standalone.curl_example(base_url, env.DATA_DIR))
        self._say("")
        if addresses.reachable_host(host) != host:
            self._say(
                f"Other machines reach it by names listed in ALLOWED_HOSTS (now {', '.join(env.ALLOWED_HOSTS)})."
            )
        self._say("Ctrl-C stops everything.")

    def _once_on_running(self, options: dict[str, Any]) -> None:
        """Has the picture drawn by the service that uses the data folder. Raises CommandError."""
        try:
            self._check_out(options["out"])
            self._once(self._running_client(), options)
        except KeyboardInterrupt:
            raise CommandError(
                "stopped before the picture was made", returncode=_INTERRUPTED_EXIT_STATUS
            ) from None
        except (CliError, StandaloneError) as error:
            raise CommandError(str(error)) from error

    def _running_client(self) -> "ServiceClient":
        """A client of the service that uses the data folder. Raises StandaloneError while it is not ready."""
        from imagegen_project.cli.client import ServiceClient

        url = addresses.address_read(env.DATA_DIR)
        if not url:
            raise StandaloneError(
                f"Another imagegen (process {lock_holder(env.DATA_DIR)}) uses the data folder {env.DATA_DIR}, and is "
                "not ready: wait until it is, stop it, or choose another folder with --data-dir."
            )
        self._say(f"Drawn by the service that runs at {url}.")
        host = addresses.own_host(urlsplit(url).port or 80)
        return ServiceClient(url=url, token=addresses.token_read(env.DATA_DIR), host=host)

    def _once(self, client: "ServiceClient", options: dict[str, Any]) -> None:
        from imagegen_project.cli.drawing import picture_draw

        request = {"prompt": options["once"], "seed": options["seed"]}
        if options["model"]:
            request["model"] = options["model"]
        generation = picture_draw(client, request, options["out"])
        self._say(f"{options['out']} (seed {generation['seed']}, model {generation['model']})")
