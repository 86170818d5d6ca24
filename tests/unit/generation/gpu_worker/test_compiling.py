"""A worker that compiles its default model before it is ready."""

import logging
from unittest.mock import patch

import pytest
from pytest_django import Settings

from imagegen_project import env

env.configure_torch_process()

from generation.choices import Status, WorkerStatus  # noqa: E402
from generation.engine import Engine, compiling  # noqa: E402
from generation.gpu_worker.runtime import GpuRuntime  # noqa: E402
from generation.models import Generation  # noqa: E402
from tests.support.compilers import without_kernels  # noqa: E402
from tests.support.factories import GenerationMaker  # noqa: E402
from tests.support.service import wait_for  # noqa: E402

pytestmark = [pytest.mark.long, pytest.mark.django_db(transaction=True)]


def test_a_model_that_could_not_be_compiled_is_warned_of(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With the compiler that is missing, else with what torch says; never as one that was compiled."""
    settings.TORCH_THREADS = 1
    settings.COMPILE_MODELS = True
    caplog.set_level(logging.INFO, logger="generation.gpu_worker.runtime")
    with without_kernels(), patch.object(compiling, "BACKEND", "no-such-backend"):
        for compiler, reason in (("sh", "no-such-backend"), ("no-such-compiler", "no-such-compiler")):
            monkeypatch.setenv("CXX", compiler)
            monkeypatch.setenv("CC", compiler)
            caplog.clear()
            runtime = GpuRuntime(name="compiler")
            runtime.start()
            runtime.close()
            [said] = [record for record in caplog.records if "compiled" in record.message]
            assert (said.levelname, said.message) == ("WARNING", "default model not compiled")
            assert reason in vars(said)["reason"]


def test_the_first_job_finds_the_default_model_compiled(
    make: GenerationMaker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile the worker loads; its receipt says that it was compiled."""
    settings.TORCH_THREADS = 1
    settings.COMPILE_MODELS = True
    statuses: list[WorkerStatus] = []
    inner = Engine.compile

    def compile_watched(engine: Engine, batch: object) -> int:
        statuses.append(runtime.status())
        return inner(engine, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "compile", compile_watched)
    with without_kernels():
        runtime = GpuRuntime(name="compiler")
        job = make()
        runtime.start()
        wait_for(lambda: Generation.objects.get(pk=job.pk).status == Status.SUCCEEDED, "the picture")
        runtime.close()
    assert statuses == [WorkerStatus.LOADING]
    receipt = Generation.objects.get(pk=job.pk).receipt
    assert receipt is not None
    assert receipt["environment"]["compiled"] is True
