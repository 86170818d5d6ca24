"""The engine alone, without Django or RQ: pixels, files, stops and failures."""

import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from generation.engine import (
    Batch,
    Engine,
    EngineError,
    EngineModelUnavailable,
    EngineOutOfMemory,
    EngineStopped,
    ModelRef,
)

BatchMaker = Callable[..., Batch]


def test_equal_requests_give_equal_bytes(engine: Engine, batch: BatchMaker) -> None:
    """And another seed other ones."""
    first, again = (engine.run(batch()).pictures[0] for _ in range(2))
    other = engine.run(batch(seed=8)).pictures[0]
    assert first.data == again.data
    assert first.pixel_sha256 != other.pixel_sha256


def test_reloading_the_model_changes_nothing(engine: Engine, batch: BatchMaker) -> None:
    """No state is left from earlier runs."""
    before = engine.run(batch()).pictures[0].data
    engine.unload()
    assert engine.resident == []
    assert engine.run(batch()).pictures[0].data == before
    assert engine.resident == ["builtin"]


def test_the_picture_is_as_asked_and_says_how_it_was_made(engine: Engine, batch: BatchMaker) -> None:
    """A PNG of the size, with prompt, seed and model inside, and nothing that changes from run to run."""
    request = batch(width=320, negative_prompt="blue", prompt="a red circle · groß")
    picture = engine.run(request).pictures[0]
    with Image.open(io.BytesIO(picture.data)) as image:
        image.load()
        assert (image.format, image.size) == ("PNG", (320, 256))
        assert hashlib.sha256(image.convert("RGB").tobytes()).hexdigest() == picture.pixel_sha256
        text = image.text  # type: ignore[attr-defined]  # a PNG has it
    made = json.loads(text["imagegen"])
    assert (made["prompt"], made["seed"], made["model"]) == ("a red circle · groß", 7, "builtin")
    assert text["parameters"].splitlines()[1] == "Negative prompt: blue"
    assert "Steps: 2, CFG scale: 4, Seed: 7, Size: 320x256, Model: builtin" in text["parameters"]
    assert set(text) == {"imagegen", "parameters"}


def test_picture_i_uses_seed_plus_i(engine: Engine, batch: BatchMaker) -> None:
    """Wrapping at 2**32, each with noise of its own."""
    result = engine.run(batch(num_images=2, seed=2**32 - 1))
    assert [picture.seed for picture in result.pictures] == [2**32 - 1, 0]
    assert result.pictures[0].pixel_sha256 != result.pictures[1].pixel_sha256
    assert result.environment["batch_shape"] == [2, 3, 256, 256]


def test_every_step_is_reported(engine: Engine, batch: BatchMaker) -> None:
    """From the first to the last."""
    steps: list[tuple[int, int]] = []
    engine.run(batch(num_inference_steps=3), on_step=lambda step, total: steps.append((step, total)))
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_a_stop_takes_effect_before_the_next_step(engine: Engine, batch: BatchMaker) -> None:
    """And the engine is as good as before."""
    steps: list[int] = []
    with pytest.raises(EngineStopped) as stopped:
        engine.run(
            batch(num_inference_steps=9),
            on_step=lambda step, total: steps.append(step),
            should_stop=lambda: "canceled" if len(steps) >= 2 else None,
        )
    assert (stopped.value.reason, steps) == ("canceled", [1, 2])
    assert engine.run(batch()).pictures


def test_the_environment_names_what_the_pixels_depend_on(engine: Engine, batch: BatchMaker) -> None:
    """For the receipt."""
    environment = engine.run(batch()).environment
    assert environment["torch"] == torch.__version__
    assert environment["pipeline"] == "StableDiffusionPipeline"
    assert len(environment["weights_sha256"]) == 64
    assert {"device", "dtype", "threads", "diffusers", "transformers"} <= set(environment)


def test_a_model_that_is_not_there_is_unavailable(engine: Engine, batch: BatchMaker, tmp_path: Path) -> None:
    """Also one with a broken file, and one that only exists as a pickle."""
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(EngineModelUnavailable):
            engine.load(ModelRef(id="gone", repository="a/b", revision="", folder=folder))
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(EngineModelUnavailable):
        engine.load(ModelRef(id="gone", repository="a/b", revision="", folder=tmp_path))


def test_a_pickle_is_never_loaded(engine: Engine, model: ModelRef, tmp_path: Path) -> None:
    """Weights that exist only as .bin count as missing."""
    import shutil

    folder = tmp_path / "pickled"
    shutil.copytree(model.folder, folder)
    weights = next((folder / "unet").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(EngineModelUnavailable):
        engine.load(ModelRef(id="pickled", repository="a/b", revision="", folder=folder))


def test_an_out_of_memory_is_named_and_survived(
    engine: Engine, batch: BatchMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next request works."""

    def exhausted(self: Engine, *args: object) -> None:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_draw", exhausted)
        with pytest.raises(EngineOutOfMemory):
            engine.run(batch())
    assert engine.run(batch()).pictures


def test_an_unexpected_error_drops_the_pipeline(engine: Engine, batch: BatchMaker) -> None:
    """Nobody knows what state it is in."""

    def broken(step: int, total_steps: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(EngineError, match="ZeroDivisionError"):
        engine.run(batch(), on_step=broken)
    assert engine.resident == []
    assert engine.run(batch()).pictures


def test_the_engine_needs_neither_django_nor_rq() -> None:
    """It works from a plain script."""
    code = "import sys, generation.engine; sys.exit(any(name in sys.modules for name in ('django', 'rq', 'channels')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
