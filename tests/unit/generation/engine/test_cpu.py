"""Number formats by what the processor says of itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from generation.engine import Engine, ModelRef, cpu
from generation.engine.building import host_build
from generation.engine.loader import channels_last, dtype_for, host_read
from generation.engine.prepacking import PackedConv2d, PackedLinear
from models_registry.builtin import WEIGHTS
from tests.unit.generation.engine.test_engine import BatchMaker

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """No answer from another test's processor."""
    cpu.quick_bfloat16.cache_clear()
    yield
    cpu.quick_bfloat16.cache_clear()


def _pretend(monkeypatch: pytest.MonkeyPatch, folder: Path, flags: str, vendor: str = "GenuineIntel") -> None:
    path = folder / "cpuinfo"
    path.write_text(
        f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: amx_bf16 in a name says nothing\nflags\t\t: {flags}\n\n"
    )
    monkeypatch.setattr(cpu, "CPU_INFO", path)


@pytest.mark.parametrize(
    ("vendor", "flags", "allowed", "instructions"),
    [
        ("GenuineIntel", "fpu avx512f avx512_bf16 amx_bf16 amx_tile", "", "amx_bf16"),
        ("GenuineIntel", "fpu avx512f avx512_bf16", "", ""),
        ("GenuineIntel", "fpu amx_bf16", "AVX512_CORE_BF16", ""),
        ("GenuineIntel", "fpu amx_bf16", "AVX512_CORE_AMX", "amx_bf16"),
        ("AuthenticAMD", "fpu avx512f avx512_bf16", "", "avx512_bf16"),
        ("AuthenticAMD", "fpu avx512f avx512_bf16", "AVX512_CORE_BF16", "avx512_bf16"),
        ("AuthenticAMD", "fpu avx512f avx512_bf16", "AVX512_CORE", ""),
        ("AuthenticAMD", "fpu avx512f", "", ""),
    ],
)
def test_a_cpu_runs_in_bfloat16_where_it_is_quick_at_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, vendor: str, flags: str, allowed: str, instructions: str
) -> None:
    """And where oneDNN may use what makes it so."""
    _pretend(monkeypatch, tmp_path, flags, vendor)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    assert cpu.quick_bfloat16() == instructions
    assert dtype_for("auto", CPU) is (torch.bfloat16 if instructions else torch.float32)


@pytest.mark.parametrize("flags", ["amx_bf16", "avx2"])
def test_a_format_that_is_named_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str) -> None:
    """Whatever the processor has; half precision is slow on all of them."""
    _pretend(monkeypatch, tmp_path, flags)
    wanted = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float32}
    assert {name: dtype_for(name, CPU) for name in wanted} == wanted


def test_weights_are_packed_for_the_cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card's host may have tiles, too, and its half precision has the same layout."""
    monkeypatch.setattr("generation.engine.building.quick_bfloat16", lambda: "amx_bf16")
    host = host_read(ModelRef("builtin", "", "", WEIGHTS, dtype="bfloat16"), CPU)
    *_, pipeline = host_build(host, torch.device("meta"))  # any other device than the CPU
    assert not any(isinstance(layer, PackedConv2d | PackedLinear) for layer in pipeline.unet.modules())


def test_convolutions_of_half_precision_have_their_channels_last() -> None:
    """All of them, from the reading on; those of single precision are as they were."""
    assert channels_last(torch.float16)  # which only a card runs
    for dtype, layout in (("bfloat16", torch.channels_last), ("float32", torch.contiguous_format)):
        host = host_read(ModelRef("builtin", "", "", WEIGHTS, dtype=dtype), CPU)
        weights = [tensor for tensor in host.modules["unet"].tensors.values() if tensor.ndim == 4]
        assert weights
        assert all(tensor.is_contiguous(memory_format=layout) for tensor in weights)


def test_a_result_says_in_which_format_it_was_drawn(batch: BatchMaker, model: ModelRef) -> None:
    """For the receipt and the worker's row; the same format by another name loads nothing anew."""
    engine = Engine(threads=1)
    try:
        named = ModelRef(**{**vars(model), "dtype": "bfloat16"})
        environment = engine.run(batch(model=named, num_inference_steps=1)).environment
        assert (environment["dtype"], environment["memory_format"]) == ("bfloat16", "channels_last")
        assert environment["instruction_set"] == cpu.instruction_set(CPU)
        assert [(model.id, model.dtype) for model in engine.models()] == [("builtin", "bfloat16")]
        first = engine.cache.request(named)
        assert engine.cache.request(named) is first
        single = engine.run(
            batch(model=ModelRef(**{**vars(model), "dtype": "float32"}), num_inference_steps=1)
        )
        assert (single.environment["dtype"], single.environment["memory_format"]) == ("float32", "contiguous")
    finally:
        engine.close()
