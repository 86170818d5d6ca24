"""A worker that compiles its default model before it is ready."""

import pytest
from pytest_django import Settings

from imagegen_project import env

env.configure_torch_process()

from generation.choices import Status, WorkerStatus  # noqa: E402
from generation.engine import Engine  # noqa: E402
from generation.gpu_worker.runtime import GpuRuntime  # noqa: E402
from generation.models import Generation  # noqa: E402
from tests.support.compilers import without_kernels  # noqa: E402
from tests.support.factories import GenerationMaker  # noqa: E402
from tests.support.service import wait_for  # noqa: E402

pytestmark = [pytest.mark.long, pytest.mark.django_db(transaction=True)]


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
