"""A worker without work lets its models go, and draws again when there is work."""

from collections.abc import Iterator

import pytest
from pytest_django import Settings

from imagegen_project import env

env.configure_torch_process()

from generation.choices import Status  # noqa: E402
from generation.gpu_worker.runtime import GpuRuntime  # noqa: E402
from generation.models import Worker  # noqa: E402
from tests.support.factories import GenerationMaker  # noqa: E402
from tests.support.service import wait_for  # noqa: E402

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def runtime(settings: Settings) -> Iterator[GpuRuntime]:
    """A worker's threads around a real engine."""
    settings.TORCH_THREADS = 1
    settings.MODEL_IDLE_UNLOAD_S = 0
    made = GpuRuntime(name="idler")
    made.start()
    yield made
    made.close()


def held() -> list[str]:
    """The models that the worker's row says that it has, in whatever tier."""
    return [model["id"] for model in Worker.objects.get(name="idler").cached_models]


def test_models_go_when_nobody_asks_for_anything(
    runtime: GpuRuntime, make: GenerationMaker, settings: Settings
) -> None:
    """By default they stay; with a limit they go from device and host, and the next job brings its own back."""
    wait_for(lambda: runtime.engine.resident == ["builtin"], "the default model's load")
    runtime.look_ahead(queued=False)
    runtime._pipeline.submit(int).result()
    assert runtime.engine.resident == ["builtin"], "0 is never"
    settings.MODEL_IDLE_UNLOAD_S = 0.01
    wait_for(lambda: not runtime.engine.models(), "the unload")
    wait_for(lambda: held() == [], "the row to say so")
    assert Worker.objects.get(name="idler").resident_models == []
    settings.MODEL_IDLE_UNLOAD_S = 3600
    job = make()
    wait_for(lambda: type(job).objects.get(pk=job.pk).status == Status.SUCCEEDED, "the picture")
    assert runtime.engine.resident == ["builtin"]


def test_models_in_use_or_on_their_way_stay(runtime: GpuRuntime, settings: Settings) -> None:
    """The limit may have run out in the middle of whatever began meanwhile."""
    wait_for(lambda: runtime.engine.resident == ["builtin"], "the default model's load")
    (entry,) = runtime.engine.cache._entries.values()
    with runtime.engine.cache.borrow(entry.model, while_waiting=lambda: None):
        assert runtime.engine.unload_idle() == []
    settings.MODEL_IDLE_UNLOAD_S = 3600
    runtime._pipeline.submit(runtime._unload_idle).result()
    assert runtime.engine.resident == ["builtin"], "something came between the look and its turn"
