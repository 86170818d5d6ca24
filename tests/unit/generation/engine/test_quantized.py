"""Quantized weights, as far as no library is needed for it: their names, their bytes, and what is said without one."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from generation.engine import Engine, EngineModelBroken, EngineModelUnavailable, ModelRef
from generation.engine.loader import dtype_for, host_read
from generation.engine.planner import NEEDS_LIBRARY
from generation.engine.quantized import method_of, quantized_names, torchao_join, weight_of
from generation.engine.sizes import weights_look
from tests.support.batches import TinyModel, quick

FOUR_BITS = {"quant_method": "bitsandbytes", "load_in_4bit": True}


@pytest.fixture
def marked(tiny: TinyModel, tmp_path: Path) -> ModelRef:
    """A checkpoint that says of its denoiser that it is quantized."""
    folder = tmp_path / "marked"
    shutil.copytree(tiny("flux").folder, folder)
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": FOUR_BITS}))
    return ModelRef(id="marked", repository="a/b", revision="", folder=folder)


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("blocks.0.to_q.weight", "blocks.0.to_q.weight"),
        ("blocks.0.to_q.bias", "blocks.0.to_q.bias"),
        ("scale_shift_table", "scale_shift_table"),
        ("blocks.0.to_q.weight.absmax", "blocks.0.to_q.weight"),
        ("blocks.0.to_q.weight.quant_state.bitsandbytes__nf4", "blocks.0.to_q.weight"),
        ("blocks.0.to_out.0.SCB", "blocks.0.to_out.0.weight"),
        ("blocks.0.to_out.0.weight_format", "blocks.0.to_out.0.weight"),
        ("blocks.0.to_q._weight_qdata", "blocks.0.to_q.weight"),
        ("blocks.0.to_q._weight_scale_and_zero", "blocks.0.to_q.weight"),
        ("blocks.0.to_q._weight_act_per_tensor_scale", "blocks.0.to_q.weight"),
        ("blocks.0.experts._gate_up_proj_scale", "blocks.0.experts.gate_up_proj"),
    ],
)
def test_what_belongs_to_a_weight_is_told_by_its_name(name: str, weight: str) -> None:
    assert weight_of(name) == weight


def test_what_is_not_quantized_stays_apart() -> None:
    """Also a weight that is packed into a format of real numbers; biases and norms are cast as ever."""
    packed = {"a.weight", "a.weight.absmax", "b.weight", "b.SCB", "c._weight_qdata", "c._weight_scale"}
    assert quantized_names(packed | {"a.bias", "norm.weight"}) == packed


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({"quantization_config": {"quant_method": "torchao"}}, "torchao"),
        ({"quantization_config": {"load_in_8bit": True}}, "bitsandbytes"),
        ({"quantization_config": None}, ""),
        ({}, ""),
        ([], ""),
    ],
    ids=str,
)
def test_a_configuration_says_who_quantized(config: Any, method: str) -> None:
    assert method_of(config) == method


def test_its_bytes_are_those_of_its_files(marked: ModelRef, tiny: TinyModel, engine: Engine) -> None:
    """Of the parts that are quantized; the others' are those of the format that they run in."""
    path = next((marked.folder / "transformer").glob("*.safetensors"))
    with path.open("rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    sizes = weights_look(marked, torch.device("cpu")).sizes()
    assert sizes["transformer"] == path.stat().st_size - header
    plain = weights_look(tiny("flux"), torch.device("cpu"))
    assert sizes["vae"] == plain.numbers["vae"] * dtype_for("auto", torch.device("cpu")).itemsize


def test_what_torchao_quantized_runs_in_its_format() -> None:
    """Where the row does not name another."""
    cpu = torch.device("cpu")
    assert dtype_for("auto", cpu, quantized=["torchao"]) == torch.bfloat16
    assert dtype_for("float32", cpu, quantized=["torchao"]) == torch.float32
    assert dtype_for("auto", cpu, quantized=["bitsandbytes"]) == dtype_for("auto", cpu)


def test_a_library_that_is_not_there_is_the_hosts_fault(
    marked: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And never the files': they are not taken out of service for the other workers."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr("generation.engine.loader.load_file", lambda path: pytest.fail("it was read"))
    with pytest.raises(EngineModelUnavailable, match="pip install bitsandbytes") as raised:
        host_read(marked, torch.device("cpu"))
    assert not isinstance(raised.value, EngineModelBroken)


def test_no_other_library_is_imported_by_the_name_that_a_file_gives(marked: ModelRef) -> None:
    """Also where nobody looked at the folder before."""
    config = marked.folder / "transformer" / "config.json"
    named = {"quantization_config": {"quant_method": "antigravity"}}
    config.write_text(json.dumps(json.loads(config.read_text()) | named))
    with pytest.raises(EngineModelBroken, match="what 'antigravity' quantized is not read here"):
        host_read(marked, torch.device("cpu"))
    assert "antigravity" not in sys.modules


def test_a_plan_says_which_library_is_lacking(marked: ModelRef, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is read, in the words of the registry."""
    monkeypatch.setattr("generation.engine.cache.host_read", lambda *_, **__: pytest.fail("it was read"))
    engine = Engine(threads=1)
    try:
        engine.cache.lacks = lambda folder: f"{folder.name} needs a library."
        plan = engine.plan(marked)
        assert plan is not None
        assert (plan.verdict, plan.reason) == (NEEDS_LIBRARY, "marked needs a library.")
        with pytest.raises(EngineModelUnavailable, match="marked needs a library"):
            engine.run(quick(marked))
    finally:
        engine.close()


def test_files_without_torchaos_metadata_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its library is asked for the layout; without one there is nothing to ask."""
    support: Any = type(sys)("torchao.prototype.safetensors.safetensors_support")
    support.unflatten_tensor_state_dict = lambda tensors, metadata: pytest.fail("it was asked")
    for name in ("torchao", "torchao.prototype", "torchao.prototype.safetensors", support.__name__):
        monkeypatch.setitem(sys.modules, name, support)
    with pytest.raises(ValueError, match="do not say how torchao's weights lie"):
        torchao_join({"a.weight": torch.ones(1)}, {})
