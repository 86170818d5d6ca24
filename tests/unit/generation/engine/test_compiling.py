"""Compiled blocks.

torch's compiler first looks at what is run, and then has kernels made of it. The second takes a C++ compiler minutes,
and is left out where time counts.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from generation.engine import Batch, Engine, ModelRef
from generation.engine.compiling import Graphs
from tests.support.batches import TinyModel, drawn, entry_of, quick
from tests.support.compilers import without_kernels
from tests.support.tiny_checkpoints import tiny_checkpoint_copy

PROGRAM = """
import json, sys
from importlib import import_module
from pathlib import Path
from imagegen_project import env
env.configure_torch_process()
import_module("torch._dynamo")
from generation.engine import Engine, ModelRef
from tests.support.batches import quick
from tests.unit.generation.engine.test_compiling import looks
engine = Engine(threads=1, compiles=True)
model = ModelRef("tiny", "tiny", "", Path(sys.argv[1]), dtype="float32")
"""
LOOKS = PROGRAM + "print(json.dumps(looks(engine, model)))"
COMPILES = PROGRAM + "print(json.dumps([engine.compile(quick(model)), engine.compile_problem]))"


@pytest.fixture
def compiler() -> Iterator[Engine]:
    """An engine that compiles, but for the making of kernels."""
    with without_kernels():
        engine = Engine(threads=1, compiles=True)
        yield engine
        engine.close()


def look(engine: Engine, batch: Batch) -> tuple[bool, int, str]:
    """Whether a picture was drawn with graphs, how many were made meanwhile, and what its pixels hash to."""
    made = Graphs.made
    result = drawn(engine, batch)
    assert result.images[0] is not None
    pixels = hashlib.sha256(result.images[0].tobytes()).hexdigest()
    return result.environment["compiled"], Graphs.made - made, pixels


def looks(engine: Engine, model: ModelRef) -> dict[str, tuple[bool, int, str]]:
    """The same of a model's pictures before it is compiled, and of several kinds of them after that."""
    batch = quick(model)
    before = look(engine, batch)
    assert engine.compile(batch) > 0
    seen = {
        "before": before,
        "after": look(engine, batch),
        "larger": look(engine, dataclasses.replace(batch, width=96, height=128)),
        "several": look(engine, dataclasses.replace(batch, num_images=3)),
        "unguided": look(engine, dataclasses.replace(batch, guidance_scale=1.0)),
        "reproducible": look(engine, dataclasses.replace(batch, reproducible=True)),
    }
    engine.unload_idle()
    return seen | {"loaded again": look(engine, batch)}


def judge(seen: dict[str, Any]) -> None:
    """Graphs were made for all of them at once, and not used where they are not wanted."""
    assert [name for name, (compiled, _, _) in seen.items() if not compiled] == ["before", "reproducible"]
    assert {made for _, made, _ in seen.values()} == {0}
    assert seen["reproducible"][2] == seen["before"][2]
    assert seen["loaded again"][2] == seen["after"][2]


@pytest.mark.slow
def test_graphs_are_made_while_a_model_warms_up_and_at_no_other_time(
    compiler: Engine, tiny: TinyModel
) -> None:
    """They fit any size and number of pictures; what they do not fit is drawn without them, at once."""
    model = dataclasses.replace(tiny("sd1"), dtype="float32")
    seen = looks(compiler, model)
    judge(seen)
    unet = entry_of(compiler, model).pipeline.unet
    layer = unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1
    layer.to_q = torch.nn.Sequential(layer.to_q, torch.nn.Tanh())  # as adapters wrap layers
    _, made, changed = look(compiler, quick(model))
    assert made == 0
    assert changed == look(compiler, quick(model, reproducible=True))[2] != seen["before"][2]


@pytest.mark.long
def test_graphs_are_left_alone_where_blocks_are_left_out(compiler: Engine, tiny: TinyModel) -> None:
    """They would not see the hooks of an acceleration."""
    model = dataclasses.replace(tiny("flux"), dtype="float32")
    many = quick(model, num_inference_steps=8, acceleration="first_block_cache")
    before = look(compiler, many)
    compiler.compile(quick(model))
    assert look(compiler, many) == before


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler")
def test_kernels_are_made_of_graphs(tmp_path: Path) -> None:
    """In a process of its own that imports as a worker does, and kept on disk for the next one; nothing elsewhere."""
    judge(run(LOOKS, tmp_path))
    assert list((tmp_path / "compiled").rglob("*.so"))
    assert not list((tmp_path / "temporary").rglob("*torchinductor*"))


@pytest.mark.long
def test_a_compiler_that_there_is_not_is_named(tmp_path: Path) -> None:
    made, problem = run(COMPILES, tmp_path, CXX="no-such-compiler")
    assert made == 0
    assert "no-such-compiler" in problem


def run(program: str, folder: Path, **variables: str) -> Any:
    """What a program prints at last that draws with a tiny model; the folder is its data folder."""
    model = tiny_checkpoint_copy("sd1", folder / "sd1")
    (folder / "temporary").mkdir()
    own = {"DATA_DIR": str(folder), "TMPDIR": str(folder / "temporary")}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TORCHINDUCTOR_")}
    done = subprocess.run(
        [sys.executable, "-c", program, str(model)],
        env=inherited | own | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
