"""Adapters on every family's real pipeline class: attached, stacked, scaled, taken off."""

import contextlib
import dataclasses
import hashlib
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from generation.engine import (
    AdapterUse,
    Engine,
    EngineAdapterUnusable,
    EngineStopped,
    ModelRef,
    adapters,
)
from tests.support.batches import BatchMaker, TinyModel
from tests.support.lora_files import pair, safetensors

AdapterMaker = Callable[..., AdapterUse]
SIDE = 64
CLIP_TARGETS = ["q_proj", "v_proj"]
DENOISER_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def lora_tensors(model: ModelRef, *, seed: int, text: bool) -> dict[str, torch.Tensor]:
    """Random LoRA weights for a checkpoint, keyed as diffusers writes them."""
    pipeline = DiffusionPipeline.from_pretrained(model.folder, use_safetensors=True)
    denoiser = "unet" if getattr(pipeline, "unet", None) is not None else "transformer"
    parts = {denoiser: DENOISER_TARGETS} | ({"text_encoder": CLIP_TARGETS} if text else {})
    tensors = {}
    generator = torch.Generator().manual_seed(seed)
    for part, targets in parts.items():
        module = getattr(pipeline, part)
        module.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=targets))
        for key, tensor in get_peft_model_state_dict(module).items():
            shape = tensor.shape
            tensors[f"{part}.{key}"] = torch.randn(shape, generator=generator) * 0.5
    return tensors


@pytest.fixture(scope="session")
def adapter(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> AdapterMaker:
    """Makes the file of an adapter for a family."""
    folder: Path = tmp_path_factory.mktemp("adapters")

    def make(
        family: str, *, seed: int = 0, text: bool = False, kohya: bool = False, scale: float = 1.0
    ) -> AdapterUse:
        path = folder / f"{family}-{seed}-{text}-{kohya}.safetensors"
        if not path.exists():
            tensors = lora_tensors(tiny(family), seed=seed, text=text)
            save_file(convert_state_dict_to_kohya(tensors) if kohya else tensors, path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        return AdapterUse(path.stem, sha256, path, scale)

    return make


@pytest.fixture
def draw(engine: Engine, batch: BatchMaker, tiny: TinyModel) -> Callable[..., str]:
    """Draws with a family's checkpoint and these adapters; what the pixels hash to."""

    def hashed(family: str, *adapters: AdapterUse, **changes: Any) -> str:
        request = dataclasses.replace(
            batch(), model=tiny(family), width=SIDE, height=SIDE, adapters=adapters, **changes
        )
        return engine.run(request).pictures[0].pixel_sha256

    return hashed


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sd3"])
def test_an_adapter_changes_the_picture_and_leaves_no_trace(
    draw: Callable[..., str], adapter: AdapterMaker, engine: Engine, family: str
) -> None:
    """The bare model gives the same bytes before, between and after; a scale of 0 is no adapter."""
    bare = draw(family)
    one, two = adapter(family, seed=1), adapter(family, seed=2)
    with_one = draw(family, one)
    assert with_one != bare
    assert draw(family) == bare
    assert draw(family, dataclasses.replace(one, scale=0.0)) == bare
    assert draw(family, dataclasses.replace(one, scale=0.5)) not in {bare, with_one}
    assert draw(family, two) not in {bare, with_one}
    assert draw(family, one, two) not in {bare, with_one}
    assert draw(family, one) == with_one
    for use in (one, two):
        engine.detach(use.sha256)
    assert draw(family) == bare
    assert draw(family, one) == with_one


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_kohya_s_names_and_the_text_encoder_count_too(
    draw: Callable[..., str], adapter: AdapterMaker, family: str
) -> None:
    """The same weights under kohya's names draw the same; a text encoder's part changes the picture."""
    bare = draw(family)
    denoiser = draw(family, adapter(family, seed=3))
    assert draw(family, adapter(family, seed=3, kohya=True)) == denoiser
    with_text = draw(family, adapter(family, seed=3, text=True))
    assert with_text not in {bare, denoiser}
    assert draw(family) == bare


@pytest.mark.slow
def test_every_kind_draws_with_adapters(draw: Callable[..., str], adapter: AdapterMaker) -> None:
    """They sit on the weights that all kinds share."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), "red").save(buffer, format="PNG")
    changes = {"kind": "img2img", "strength": 0.75, "image": buffer.getvalue(), "num_inference_steps": 4}
    assert draw("sd1", adapter("sd1", seed=1), **changes) != draw("sd1", **changes)


@pytest.mark.slow
def test_the_least_recently_used_is_taken_off(
    draw: Callable[..., str], adapter: AdapterMaker, engine: Engine, tiny: TinyModel
) -> None:
    """Beyond the budget, and never one in use; what comes back draws as before."""
    uses = [adapter("sd1", seed=seed) for seed in (11, 12, 13)]
    first = [draw("sd1", use) for use in uses]
    with engine.cache.borrow(tiny("sd1"), while_waiting=lambda: None) as entry:
        assert entry.rack is not None
        rack = entry.rack
    rack.budget_bytes, before = 1, rack.budget_bytes
    try:
        assert draw("sd1", uses[0], uses[1])
        assert set(rack.held) == {uses[0].sha256, uses[1].sha256}
        assert [draw("sd1", use) for use in uses] == first
        assert rack.held == [uses[2].sha256]
    finally:
        rack.budget_bytes = before


def test_a_file_that_does_not_fit_leaves_the_engine_sound(
    draw: Callable[..., str], adapter: AdapterMaker, tmp_path: Path
) -> None:
    """One of another family, one that is gone, one that is no such file."""
    bare = draw("sd1")
    other = adapter("sdxl", seed=1)
    gone = AdapterUse("gone", "0" * 64, tmp_path / "gone.safetensors", 1.0)
    (tmp_path / "junk.safetensors").write_bytes(b"junk" * 100)
    junk = AdapterUse("junk", "1" * 64, tmp_path / "junk.safetensors", 1.0)
    for use in (other, gone, junk):
        with pytest.raises(EngineAdapterUnusable, match=use.name):
            draw("sd1", use)
        assert draw("sd1") == bare


def test_the_picture_says_which_adapters_it_was_made_with(
    engine: Engine, batch: BatchMaker, tiny: TinyModel, adapter: AdapterMaker
) -> None:
    """In A1111's form and by content."""
    from generation.engine.encoding import parameters_text, request_of

    use = adapter("sd1", seed=1, scale=0.8)
    request = dataclasses.replace(batch(), model=tiny("sd1"), adapters=(use,))
    assert parameters_text(request, 7).startswith(f"a large red circle <lora:{use.name}:0.8>")
    assert request_of(request)["loras"] == [{"lora": use.name, "sha256": use.sha256, "scale": 0.8}]


def resident(engine: Engine, model: ModelRef) -> Any:
    """The pipeline that is loaded, or None."""
    with engine.cache.borrow(model, while_waiting=lambda: None) as entry:
        return entry.pipeline


HOSTILE_SHAPES = {
    # peft would make layers of this rank on modules of their real width, for a file of a few kilobytes
    "narrow": lambda module: pair(f"unet.{module}", 1, 1, rank=1024),
    "wide": lambda module: pair(f"unet.{module}", 5000, 5000),
    "one side": lambda module: {
        f"unet.{module}.lora_A.weight": ("F16", (4, 16)),
        f"unet.{module}.lora_B.weight": ("F16", (17, 4)),
    },
    "kohya": lambda module: pair(f"lora_unet_{module.replace('.', '_')}", 1, 1, style="kohya", rank=1024),
    # and on every module whose name ends so
    "all modules": lambda module: pair("unet.to_q", 16, 16, rank=1024),
    "all in attention": lambda module: pair("unet.attn1.to_q", 16, 16, rank=1024),
}


@pytest.mark.parametrize("name", HOSTILE_SHAPES)
def test_what_would_take_gigabytes_is_refused_before_peft_sees_it(
    draw: Callable[..., str], engine: Engine, tiny: TinyModel, tmp_path: Path, name: str
) -> None:
    """And the model stays as it is: nobody waits for it to be loaded again."""
    bare = draw("sd1")
    pipeline = resident(engine, tiny("sd1"))
    module = next(path for path, _ in pipeline.unet.named_modules() if path.endswith("attn1.to_q"))
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(safetensors(HOSTILE_SHAPES[name](module)))
    use = AdapterUse("hostile", hashlib.sha256(path.read_bytes()).hexdigest(), path, 1.0)
    with pytest.raises(EngineAdapterUnusable, match="hostile cannot be put on this model"):
        draw("sd1", use)
    assert resident(engine, tiny("sd1")) is pipeline
    assert not any("lora" in path for path, _ in pipeline.unet.named_modules() if "hostile" in path)
    assert draw("sd1") == bare


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3"])
def test_attaching_keeps_to_the_job_s_deadline_and_cancel(
    draw: Callable[..., str],
    adapter: AdapterMaker,
    engine: Engine,
    batch: BatchMaker,
    tiny: TinyModel,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
) -> None:
    """In the middle of it, not only before and after; the next picture is the bare model's."""
    bare = draw(family)
    use = adapter(family, seed=21)
    engine.detach(use.sha256)
    monkeypatch.setattr(adapters, "ASK_EVERY_S", 0.0)
    inside = []
    steps: list[int] = []

    def should_stop() -> str | None:
        frames = traceback.extract_stack()
        inside.append(any("/peft/" in frame.filename for frame in frames))
        return "canceled" if sum(inside) > 20 else None

    request = dataclasses.replace(batch(), model=tiny(family), width=SIDE, height=SIDE, adapters=(use,))
    with pytest.raises(EngineStopped) as stopped:
        engine.run(request, should_stop=should_stop, on_step=lambda step, _: steps.append(step))
    assert (stopped.value.reason, steps, sum(inside)) == ("canceled", [], 21)
    assert draw(family) == bare
    assert draw(family, use) != bare
    with pytest.raises(EngineStopped):
        engine.attach(tiny(family), adapter(family, seed=22), should_stop=lambda: "too long")


def test_a_limit_leaves_the_profiler_as_it_was(draw: Callable[..., str], adapter: AdapterMaker) -> None:
    """Whoever measures goes on measuring."""
    seen: list[str] = []

    def profiler(frame: Any, event: str, argument: Any) -> None:
        seen.append(event)

    sys.setprofile(profiler)
    try:
        draw("sd1", adapter("sd1", seed=23))
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)


def test_what_is_attached_is_announced(
    engine: Engine, tiny: TinyModel, adapter: AdapterMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Once for each file, and not for one that was refused before."""
    told: list[str] = []

    @contextlib.contextmanager
    def note(use: AdapterUse) -> Iterator[None]:
        told.append(f"begin {use.name}")
        yield
        told.append(f"end {use.name}")

    other = Engine(threads=1)
    monkeypatch.setattr(other.cache, "around_attach", note)
    use = adapter("sd1", seed=24)
    for _ in range(2):
        other.attach(tiny("sd1"), use)
    assert told == [f"begin {use.name}", f"end {use.name}"]
    other.close()
