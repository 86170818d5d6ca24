"""Recorded steps of a denoiser; the card is doubled: what was recorded is worked out anew from the tensors it reads."""

import dataclasses
import gc
from collections.abc import Iterator
from typing import Any, ClassVar
from weakref import ref

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps
from PIL import ImageChops

from generation.engine import AdapterUse, Drawn, Engine, ModelRef
from generation.engine.compiling import Graphs
from generation.engine.cuda_graphs import MOST, CudaGraph, CudaGraphs
from generation.engine.drawing import Drawing
from generation.engine.joining import Call
from generation.engine.noise import scalars_brought, timesteps_on_host
from models_registry import builtin
from tests.support.batches import drawn, entry_of, quick

CPU = torch.device("cpu")


class OnCpu:
    """A recording: it answers into tensors of its own, from tensors of its own."""

    made: ClassVar[list["OnCpu"]] = []
    played: ClassVar[int] = 0

    def __init__(self, module: Any, call: Call, *, stream: Any, pool: Any) -> None:
        self.call = call.changed(torch.clone)
        self._module = ref(module)  # no recording of a card holds it either
        self.output = tuple(each.clone() for each in module(*self.call.arguments, **self.call.keywords))
        self.made.append(self)

    def play(self) -> None:
        OnCpu.played += 1
        answer = self._module()(*self.call.arguments, **self.call.keywords)
        for target, value in zip(self.output, answer, strict=True):
            target.copy_(value)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> CudaGraphs:
    monkeypatch.setattr("generation.engine.cuda_graphs.CudaGraph", OnCpu)
    monkeypatch.setattr(OnCpu, "made", [])
    monkeypatch.setattr(OnCpu, "played", 0)
    graphs = CudaGraphs(CPU)
    monkeypatch.setattr(graphs, "_stream", "a stream")
    monkeypatch.setattr(graphs, "_has_room", lambda: True)
    return graphs


class Doubling(torch.nn.Module):
    """Doubles, and counts how often it is called."""

    calls = 0

    def forward(self, value: torch.Tensor, **options: Any) -> tuple[torch.Tensor]:
        self.calls += 1
        return (value * 2 + options.get("more", 0),)


def call_of(*values: float, **keywords: Any) -> Call:
    return Call((torch.tensor(values),), {"return_dict": False, **keywords})


def numbers(output: Any) -> list[float]:
    return list(output[0].tolist())


def test_the_second_call_of_a_shape_is_recorded_and_later_ones_are_played(recorded: CudaGraphs) -> None:
    module = Doubling()
    answers = [recorded.run(module, call_of(value, value + 1)) for value in (1.0, 2.0, 3.0)]
    assert [numbers(answer) for answer in answers] == [[2.0, 4.0], [4.0, 6.0], [6.0, 8.0]]
    assert (recorded.count, OnCpu.played) == (1, 2)
    assert recorded.bytes == 4 * 4


@pytest.mark.parametrize("other", [call_of(1.0), call_of(1.0, 2.0, more=1), call_of(1.0, 2.0, more=True)])
def test_other_shapes_and_other_values_have_recordings_of_their_own(
    recorded: CudaGraphs, other: Call
) -> None:
    module = Doubling()
    for _ in range(2):
        recorded.run(module, call_of(1.0, 2.0, more=0))
        recorded.run(module, other)
    assert recorded.count == 2


def test_what_it_depends_on_beside_has_recordings_of_its_own(recorded: CudaGraphs) -> None:
    module = Doubling()
    for beside in ("one", "other", "one", "other"):
        recorded.run(module, call_of(1.0), beside=beside)
    assert recorded.count == 2


def test_what_is_neither_tensor_nor_plain_value_is_not_recorded(recorded: CudaGraphs) -> None:
    module = Doubling()
    for _ in range(3):
        recorded.run(module, call_of(1.0, residuals=[torch.zeros(1)]))
    assert (recorded.count, module.calls) == (0, 3)


def test_where_one_cannot_be_recorded_it_is_told_once_and_all_run_on(
    recorded: CudaGraphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr("generation.engine.cuda_graphs.CudaGraph", fail)
    told: list[str] = []
    recorded.on_refused = told.append
    module = Doubling()
    answers = [numbers(recorded.run(module, call_of(value))) for value in (1.0, 2.0, 3.0, 4.0)]
    assert answers == [[2.0], [4.0], [6.0], [8.0]]
    other = Doubling()
    for value in (1.0, 2.0, 3.0):
        assert numbers(recorded.run(other, call_of(value))) == [2 * value]
    assert told == ["Doubling: operation not permitted when stream is capturing"]


def test_where_memory_ends_recordings_go_first(recorded: CudaGraphs) -> None:
    class Large(Doubling):
        def forward(self, value: torch.Tensor, **options: Any) -> tuple[torch.Tensor]:
            if len(value) > 1 and recorded.count:
                raise torch.OutOfMemoryError
            return super().forward(value, **options)

    module = Large()
    for _ in range(2):
        recorded.run(module, call_of(1.0))
    assert recorded.count == 1
    assert numbers(recorded.run(module, call_of(1.0, 2.0))) == [2.0, 4.0]
    assert recorded.count == 0


def test_without_room_none_is_made(recorded: CudaGraphs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "_has_room", lambda: False)
    module = Doubling()
    for _ in range(3):
        recorded.run(module, call_of(1.0))
    assert (recorded.count, module.calls) == (0, 3)


def test_the_oldest_of_many_go_and_a_model_takes_its_own_along(recorded: CudaGraphs) -> None:
    module = Doubling()
    for count in range(1, MOST + 3):
        for _ in range(2):
            recorded.run(module, call_of(*[1.0] * count))
    assert recorded.count == MOST
    del module
    gc.collect()
    assert recorded.count == 0
    assert not recorded.drop()


def test_graphs_of_a_compiler_in_it_count_each_time_it_is_played() -> None:
    """Of the real one, without its card."""
    graph = CudaGraph.__new__(CudaGraph)
    graph.__dict__ |= {"_runs": 3, "_graph": type("Played", (), {"replay": lambda self: None})()}
    before = Graphs.runs
    graph.play()
    assert Graphs.runs - before == 3


# In the engine


def same(one: Drawn, other: Drawn) -> bool:
    first, second = one.images[0], other.images[0]
    assert first is not None
    assert second is not None
    return ImageChops.difference(first.convert("RGB"), second.convert("RGB")).getbbox() is None


@pytest.fixture
def model() -> ModelRef:
    return ModelRef("recorded", "recorded", "", builtin.WEIGHTS)


@pytest.fixture
def recording(recorded: CudaGraphs) -> Iterator[Engine]:
    engine = Engine(threads=1)
    engine.recorded = recorded
    engine.cache.on_room = recorded.drop
    yield engine
    engine.close()


def test_a_picture_is_the_same_with_and_without(recording: Engine, model: ModelRef) -> None:
    batch = quick(model, num_inference_steps=5)
    plain = drawn(recording, dataclasses.replace(batch, reproducible=True))
    assert OnCpu.played == 0
    assert same(drawn(recording, batch), plain)
    assert OnCpu.played == 4
    assert same(drawn(recording, batch), plain)
    assert OnCpu.played == 9


def test_an_adapter_has_its_own_and_one_that_comes_again_others(recording: Engine, model: ModelRef) -> None:
    use = AdapterUse("pastel", "0" * 64, builtin.ADAPTERS / "pastel.safetensors", 1.0)
    plain = quick(model, num_inference_steps=3)
    batches = [plain, dataclasses.replace(plain, adapters=(use,))]
    expected = [drawn(recording, dataclasses.replace(batch, reproducible=True)) for batch in batches]
    assert not same(*expected)
    for _ in range(2):
        for batch, before in zip(batches, expected, strict=True):
            assert same(drawn(recording, batch), before)
    assert len(OnCpu.made) == 2
    recording.detach(use.sha256)
    drawn(recording, batches[1])
    assert len(OnCpu.made) == 3


def test_a_model_that_needs_room_has_all_go(recording: Engine, model: ModelRef) -> None:
    drawn(recording, quick(model, num_inference_steps=3))
    assert recording.recorded is not None
    assert recording.recorded.count == 1
    recording.load(dataclasses.replace(model, id="another"))
    assert recording.recorded.count == 0


def test_a_model_with_hooks_is_not_recorded(
    recording: Engine, model: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording.load(model)
    monkeypatch.setattr(entry_of(recording, model), "quantized", {"unet": "torchao"})
    monkeypatch.setattr(Drawing, "_environment", lambda drawing, row: {})
    drawn(recording, quick(model, num_inference_steps=4))
    assert not OnCpu.made


# What samplers look up on the host


def test_numbers_of_the_host_come_to_the_device() -> None:
    meta = torch.device("meta")
    moment = scalars_brought(meta, torch.tensor(981))
    assert (moment.device, moment.dtype, moment.shape) == (meta, torch.int64, ())
    several = torch.tensor([1, 2])
    assert scalars_brought(meta, several) is several


def test_timesteps_stay_on_the_host() -> None:
    there, here = DDIMScheduler(), DDIMScheduler()
    timesteps_on_host(here)
    retrieve_timesteps(there, 4, "meta")
    assert there.timesteps.device.type == "meta"
    timesteps, count = retrieve_timesteps(here, 4, "cpu")
    assert (timesteps.tolist(), count) == (here.timesteps.tolist(), 4)
