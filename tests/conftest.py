"""Fixtures of the whole suite: real PostgreSQL and Redis, from wheels, in a throw-away folder.

`DATABASE_URL` and `REDIS_URL` replace them, for instance where a wheel does not exist for the platform.
"""

import gc
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import settings
from django.db import connection
from django.test import TransactionTestCase
from pytest_django import DjangoDbBlocker

from imagegen_project import env
from imagegen_project.standalone.folders import FolderLock
from imagegen_project.standalone.paths import DATABASE_NAME
from imagegen_project.standalone.servers import EmbeddedPostgres, EmbeddedRedis, server_child
from imagegen_project.standalone.supervisor import Supervisor
from tests.support.clusters import cluster_copy
from tests.support.database import MigratedDatabase
from tests.support.groups import GroupScheduling, place_of

REPOSITORY = Path(__file__).resolve().parent.parent
# As a plugin its services are one each for all folders; each `conftest.py` that imports them would start its own.
# While modules are imported nothing of them becomes garbage, and the collector would look through them again and again.
gc.disable()
pytest_plugins = [
    "tests.support.buckets",
    "tests.support.engines",
    "tests.support.live",
    "tests.support.registry",
]


def pytest_unconfigure() -> None:
    """Deletes the throw-away folder, also after a run that started no server or was interrupted."""
    shutil.rmtree(env.DATA_DIR, ignore_errors=True)


def pytest_collection_finish() -> None:
    """What is imported by now stays: the collector need not look through all of torch again, at each swap of models.

    Of what tests make it looks rarely: each seven hundred objects, which is Python's own way, take a tenth of a run.
    """
    gc.freeze()
    gc.set_threshold(20_000)
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of a group stay together, and those that take longest begin first."""
    items.sort(key=lambda item: place_of(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    """How the tests are shared out among several processes."""
    return GroupScheduling(config, log)


@pytest.fixture(scope="session")
def embedded_server() -> Iterator[Callable[[EmbeddedPostgres | EmbeddedRedis], None]]:
    """Starts embedded servers, and stops them when the run ends, however it ends."""
    data_dir = env.DATA_DIR
    lock = FolderLock(data_dir)
    logs = data_dir / "logs"
    logs.mkdir(exist_ok=True)
    supervisor = Supervisor(report=sys.stderr.write)

    def start(server: EmbeddedPostgres | EmbeddedRedis) -> None:
        server.prepare()
        supervisor.start(server_child(server, logs))
        server.wait_ready()

    try:
        yield start
    finally:
        supervisor.stop_all()
        lock.release()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None,
    embedded_server: Callable[[EmbeddedPostgres | EmbeddedRedis], None],
) -> None:
    """PostgreSQL stands before pytest-django makes its test database, as a copy of one that is migrated."""
    if not env.DATABASE_URL:
        cluster_copy(env.DATA_DIR)
        embedded_server(EmbeddedPostgres(env.DATA_DIR, durable=False))
        database = connection.settings_dict
        database["TEST"] |= {"TEMPLATE": DATABASE_NAME, "MIGRATE": False}


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Every test finds what the migrations made: one that commits puts back what it changed, and flushes nothing."""
    with django_db_blocker.unblock():
        migrated = MigratedDatabase()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", lambda case: migrated.restore())
        yield


@pytest.fixture(scope="session")
def redis_client(
    embedded_server: Callable[[EmbeddedPostgres | EmbeddedRedis], None],
) -> Iterator["redis.Redis[Any]"]:
    """The Redis of the suite."""
    if not env.REDIS_URL:
        embedded_server(EmbeddedRedis(env.DATA_DIR))
    with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=10) as client:
        yield client


@pytest.fixture
def empty_redis(redis_client: "redis.Redis[Any]") -> Iterator["redis.Redis[Any]"]:
    """The Redis of the suite, which the test finds empty; tests that use the database get it anyway."""
    yield redis_client
    redis_client.flushdb()


@pytest.fixture(autouse=True)
def _redis_beside_the_database(request: pytest.FixtureRequest) -> None:
    """What writes rows tells Redis of them. A pure test asks for neither, and starts no server."""
    uses_database = {"db", "transactional_db"} & set(request.fixturenames)
    if uses_database or request.node.get_closest_marker("django_db"):
        request.getfixturevalue("empty_redis")
