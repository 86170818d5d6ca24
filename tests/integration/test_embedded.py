"""The embedded servers: closed to everybody without the password, and hard to break."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from imagegen_project.standalone import folders as embedded_folders
from imagegen_project.standalone import paths
from imagegen_project.standalone import servers as embedded
from imagegen_project.standalone.folders import EmbeddedError, FolderLock
from imagegen_project.standalone.servers import EmbeddedPostgres, EmbeddedRedis, server_child
from imagegen_project.standalone.supervisor import Supervisor

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")


class Servers:
    """Both embedded servers on one data folder."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.supervisor = Supervisor(report=print)
        self.postgres = EmbeddedPostgres(data_dir, durable=False)
        self.redis = EmbeddedRedis(data_dir)

    def start(self) -> None:
        embedded_folders.make_data_folder(self.data_dir)
        for server in (self.postgres, self.redis):
            server.prepare()
            self.supervisor.start(server_child(server, self.data_dir))
            server.wait_ready()

    def stop(self) -> None:
        self.supervisor.stop_all()

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def redis_client(self) -> "redis.Redis[str]":
        return redis.Redis.from_url(self.redis.url, decode_responses=True)

    def processes(self) -> list[psutil.Process]:
        """The two servers and everything they started."""
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # ended meanwhile
                if process.cwd() in {str(self.postgres.cluster), str(self.redis.folder)}:
                    found.append(process)
        return found


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Servers that tests read but do not stop."""
    pair = Servers(tmp_path_factory.mktemp("servers"))
    pair.start()
    yield pair
    pair.stop()


@pytest.fixture
def own_servers(tmp_path: Path) -> Iterator[Servers]:
    """Servers that a test may break."""
    pair = Servers(tmp_path / "data")
    pair.start()
    yield pair
    pair.stop()


@pytest.mark.parametrize("password", ["wrong", ""])
def test_postgres_refuses_without_the_password(servers: Servers, password: str) -> None:
    secret = paths.read_secret(servers.data_dir, "postgres_password")
    assert secret
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(servers.postgres.url.replace(secret, password))


def test_every_way_into_postgres_is_scram(servers: Servers) -> None:
    methods = {row[0] for row in servers.sql("SELECT auth_method FROM pg_hba_file_rules")}
    assert methods == {"scram-sha-256"}
    ((stored,),) = servers.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'")
    assert str(stored).startswith("SCRAM-SHA-256$")


@pytest.mark.parametrize("password", ["wrong", ""])
def test_redis_refuses_without_the_password(servers: Servers, password: str) -> None:
    secret = paths.read_secret(servers.data_dir, "redis_password")
    with (
        redis.Redis.from_url(servers.redis.url.replace(secret, password)) as client,
        pytest.raises((redis.AuthenticationError, redis.ResponseError)),
    ):
        client.get("anything")


def test_secrets_and_sockets_are_private(servers: Servers) -> None:
    files = [paths.secret_file(servers.data_dir, f"{name}_password") for name in ("postgres", "redis")]
    files.append(servers.redis.folder / "redis.conf")
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    folders = [paths.socket_folder(servers.data_dir, name) for name in ("postgres", "redis")]
    folders += [servers.redis.folder, servers.postgres.cluster, files[0].parent]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    for process in servers.processes():
        for secret_name in ("postgres_password", "redis_password"):
            assert paths.read_secret(servers.data_dir, secret_name) not in " ".join(process.cmdline())


def test_neither_server_listens_on_a_network(servers: Servers) -> None:
    processes = servers.processes()
    assert {"postgres", "redis-server"} <= {process.name() for process in processes}
    # On Linux a process's sockets are visible to root and to its own user, which we are.
    assert [one for process in processes for one in process.net_connections(kind="inet")] == []


def test_servers_do_not_inherit_the_environment(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for server in (servers.postgres, servers.redis):
        assert set(server.popen_options["env"]) == {"PATH", "LC_ALL"}


def test_restart_keeps_data(own_servers: Servers) -> None:
    own_servers.sql("CREATE TABLE kept AS SELECT 42 AS answer")
    own_servers.redis_client().set("kept", "42")
    own_servers.stop()
    own_servers.start()
    assert own_servers.sql("SELECT answer FROM kept") == [(42,)]
    assert own_servers.redis_client().get("kept") == "42"


def test_start_after_a_crash_whose_process_numbers_are_in_use_again(own_servers: Servers) -> None:
    own_servers.sql("CREATE TABLE kept AS SELECT 42 AS answer")
    pid_file = own_servers.postgres.cluster / "postmaster.pid"
    socket_lock = own_servers.postgres.socket_folder / ".s.PGSQL.5432.lock"
    for process in own_servers.processes():
        with suppress(psutil.NoSuchProcess):
            process.kill()
    own_servers.stop()
    for file in (pid_file, socket_lock):
        _number, rest = file.read_text().split("\n", 1)
        file.write_text(f"{os.getpid()}\n{rest}")
    own_servers.start()
    assert own_servers.sql("SELECT answer FROM kept") == [(42,)]


def test_servers_left_running_are_ended_by_the_next_start(own_servers: Servers) -> None:
    before = own_servers.processes()
    second = Servers(own_servers.data_dir)
    second.start()
    try:
        assert not any(
            process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in before
        )
        assert second.sql("SELECT 1") == [(1,)]
    finally:
        second.stop()


def test_interrupted_initialisation_is_started_over(tmp_path: Path) -> None:
    unfinished = tmp_path / "postgres.new"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18")
    server = EmbeddedPostgres(tmp_path, durable=False)
    server.prepare()
    assert (server.cluster / "global" / "pg_control").exists()
    assert not unfinished.exists()


def test_other_version_of_the_data_is_said(tmp_path: Path) -> None:
    paths.ensure_secret(tmp_path, "postgres_password")
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedError, match="made by PostgreSQL 17, and this is 18"):
        EmbeddedPostgres(tmp_path).prepare()


def test_lost_password_is_said(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    with pytest.raises(EmbeddedError, match="postgres_password is gone"):
        EmbeddedPostgres(tmp_path).prepare()


def test_a_server_that_never_answers_is_said(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match=r"Redis did not answer within 0\.2 s"):
        EmbeddedRedis(tmp_path).wait_ready(timeout=0.2)


def test_folder_is_used_by_one_at_a_time(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    assert embedded_folders.lock_holder(tmp_path) == os.getpid()
    with pytest.raises(EmbeddedError, match=f"process {os.getpid()}"):
        FolderLock(tmp_path)
    lock.release()
    assert embedded_folders.lock_holder(tmp_path) is None
    FolderLock(tmp_path).release()


def test_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedError, match=r"cannot be written .* --data-dir"):
        FolderLock(tmp_path / "file" / "data")


@pytest.mark.parametrize(
    ("kind", "variable"), [(EmbeddedPostgres, "DATABASE_URL"), (EmbeddedRedis, "REDIS_URL")]
)
def test_missing_wheel_names_the_variable_to_set(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: type[EmbeddedPostgres] | type[EmbeddedRedis],
    variable: str,
) -> None:
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EmbeddedError, match=variable):
        kind(tmp_path)


def test_long_path_falls_back_to_a_short_socket_folder() -> None:
    root = Path(tempfile.mkdtemp(prefix="imagegen-tests-"))
    pair = Servers(root / ("a long name " * 10) / "data")
    try:
        pair.start()
        assert pair.postgres.socket_folder.parent == Path(tempfile.gettempdir())
        assert stat.S_IMODE(pair.postgres.socket_folder.stat().st_mode) == 0o700
        assert pair.sql("SELECT current_database()") == [("imagegen",)]
        assert pair.redis_client().ping()
    finally:
        pair.stop()
        for folder in (
            root,
            *(paths.socket_folder(pair.data_dir, name) for name in ("postgres", "redis")),
        ):
            shutil.rmtree(folder)


@needs_root
def test_foreign_socket_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "guessed"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    with pytest.raises(EmbeddedError, match="belongs to another user"):
        embedded_folders.private_folder(folder)


@needs_root
def test_only_passage_is_opened_for_the_server_user_and_reported(tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    outer.mkdir(mode=0o700)
    server = EmbeddedPostgres(outer / "data", durable=False)
    embedded_folders.make_data_folder(outer / "data")
    server.prepare()
    assert stat.S_IMODE(outer.stat().st_mode) == 0o701
    assert f"{outer}: mode 0700 -> 0701" in server.widened
    server.prepare()
    assert server.widened == []


def test_programs_of_a_tight_umask_are_made_readable_and_reported(tmp_path: Path) -> None:
    """An installation by root under umask 077 can be run by the server user."""
    folder = tmp_path / "wheel"
    folder.mkdir(mode=0o700)
    for name, mode in (("program", 0o700), ("library", 0o600)):
        (folder / name).touch(mode=mode)
    assert embedded_folders.let_read(folder) == [f"{folder}: 3 files and folders made readable"]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes == {"wheel": 0o705, "program": 0o705, "library": 0o604}
    assert embedded_folders.let_read(folder) == []


def test_fast_shutdown_does_not_wait_for_clients(own_servers: Servers) -> None:
    with closing(psycopg.connect(own_servers.postgres.url)) as connection:
        connection.execute("SELECT 1")
        own_servers.stop()
        assert not (own_servers.postgres.cluster / "postmaster.pid").exists()
