"""The step cache: it leaves blocks out and nothing behind, whatever ends a call, and is the stock pipelines' own."""

import dataclasses
import functools
import hashlib
import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers import CacheMixin, CogView4Transformer2DModel, DiffusionPipeline, FirstBlockCacheConfig
from diffusers.pipelines.flux import pipeline_flux_kontext
from PIL import Image

from generation.engine import AdapterUse, Batch, Engine, EngineError, Listeners, acceleration, residency
from generation.engine.acceleration import accelerated
from models_registry.pipeline_facts import PIPELINES
from tests.support.batches import (
    SIDE,
    TinyModel,
    engines,
    entry_of,
    memory_least,
    memory_tight,
    pixels,
    quick,
)
from tests.support.lora_files import pair, safetensors
from tests.support.pictures import encoded

STEPS = 4
PICTURE = encoded(Image.effect_noise((SIDE, SIDE), 80).convert("RGB"))
MASK = encoded(Image.new("L", (SIDE, SIDE), 255))
# Denoisers that take caches, but not this one.
WITHOUT = {"Flux2Transformer2DModel", "ChromaTransformer2DModel"}

fast = functools.partial(quick, num_inference_steps=STEPS, acceleration="first_block_cache")


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of the steps of random weights differ by less than this, none by less than real ones do.

    Kontext brings every picture to a million pixels: here to a few thousand.
    """
    monkeypatch.setattr(acceleration, "THRESHOLD", 0.3)
    monkeypatch.setattr(pipeline_flux_kontext, "PREFERRED_KONTEXT_RESOLUTIONS", [(SIDE, SIDE)])


def denoiser_of(engine: Engine, batch: Batch) -> Any:
    """The transformer of a resident model."""
    return entry_of(engine, batch.model).pipeline.transformer


@contextmanager
def calls_counted(denoiser: Any) -> Iterator[list[str]]:
    """The classes of the layers that read a block's text or picture, one for each call."""
    called: list[str] = []
    layers = [layer for layer in denoiser.modules() if type(layer).__name__.endswith("Attention")]
    handles = [layer.register_forward_pre_hook(lambda *_: called.append("attention")) for layer in layers]
    yield called
    for handle in handles:
        handle.remove()


def is_bare(denoiser: Any) -> bool:
    """Whether nothing of a cache is left on a denoiser."""
    hooks = [getattr(module, "_diffusers_hook", None) for module in denoiser.modules()]
    left = {name for hook in hooks if hook is not None for name in hook.hooks} - {"layerwise_casting"}
    return not left and not denoiser.is_cache_enabled


def stock(name: str, tiny: TinyModel, **arguments: Any) -> str:
    """What diffusers' own pipeline draws with the cache, called by hand."""
    pipeline = DiffusionPipeline.from_pretrained(tiny(name).folder, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=acceleration.THRESHOLD))
    image = pipeline(
        prompt="a large red circle",
        width=SIDE,
        height=SIDE,
        num_inference_steps=STEPS,
        generator=[torch.Generator().manual_seed(7)],
        **arguments,
    ).images[0]
    return hashlib.sha256(image.tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "arguments", "changes"),
    [
        (
            "flux",
            {"guidance_scale": 4.0, "true_cfg_scale": 2.0, "negative_prompt": "blue"},
            {"true_cfg_scale": 2.0, "negative_prompt": "blue"},
        ),
        ("qwen-image", {"true_cfg_scale": 4.0, "negative_prompt": " "}, {}),
    ],
    ids=["flux", "qwen-image"],
)
def test_it_is_the_stock_pipelines_cache(
    engine: Engine, tiny: TinyModel, name: str, arguments: dict[str, Any], changes: dict[str, Any]
) -> None:
    """To the pixel, with two predictions a step too; blocks are left out, and it is another picture than without."""
    batch = fast(tiny(name), **changes)
    plain = dataclasses.replace(batch, acceleration="none")
    before = pixels(engine, plain)
    denoiser = denoiser_of(engine, batch)
    with calls_counted(denoiser) as whole:
        assert pixels(engine, plain) == before
    with calls_counted(denoiser) as called:
        result = engine.run(batch)
    assert len(called) < len(whole)
    drawn = result.pictures[0].pixel_sha256
    assert drawn == stock(name, tiny, **arguments) != before
    assert result.environment["batched_with"] == 0
    assert is_bare(denoiser)
    assert pixels(engine, plain) == before
    assert pixels(engine, batch) == drawn, "nothing is kept from call to call"


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("flux", {"kind": "img2img", "image": PICTURE, "strength": 1.0}),
        ("flux", {"kind": "inpaint", "image": PICTURE, "mask": MASK, "strength": 1.0}),
        ("flux-kontext", {"kind": "edit", "images": (PICTURE,)}),
    ],
    ids=["img2img", "inpaint", "edit"],
)
def test_pictures_to_start_from_and_to_edit(
    engine: Engine, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch, name: str, inputs: dict[str, Any]
) -> None:
    """Whose pipelines do not tell the calls with the negative prompt from the others: each has its own cache here."""
    monkeypatch.setattr(acceleration, "THRESHOLD", math.inf)  # all steps but the first
    batch = fast(tiny(name), **inputs, true_cfg_scale=2.0, negative_prompt="blue")
    plain = dataclasses.replace(batch, acceleration="none")
    before = pixels(engine, plain)
    denoiser = denoiser_of(engine, batch)
    with calls_counted(denoiser) as called:
        drawn = pixels(engine, batch)
    blocks = len(denoiser.transformer_blocks) + len(denoiser.single_transformer_blocks)
    # The first block at each call, the others once for each prompt.
    assert len(called) == 2 * STEPS + 2 * (blocks - 1)
    assert drawn != before
    assert is_bare(denoiser)
    assert pixels(engine, plain) == before


def ends() -> dict[str, Callable[[], str | None]]:
    """Ways for a call to end in the middle."""

    def fail() -> str | None:
        raise RuntimeError

    def starve() -> str | None:
        raise torch.OutOfMemoryError

    return {"canceled": lambda: "canceled", "failed": fail, "out of memory": starve}


@pytest.mark.parametrize("how", ends())
def test_what_ends_in_the_middle_leaves_nothing(engine: Engine, tiny: TinyModel, how: str) -> None:
    """Canceled, failed, or without memory, when it is drawn again: the next ones draw as if it had not been."""
    batch = fast(tiny("flux"))
    plain = dataclasses.replace(batch, acceleration="none")
    before, expected = pixels(engine, plain), pixels(engine, batch)
    denoiser = denoiser_of(engine, batch)
    steps: list[str] = []

    def look() -> str | None:
        if denoiser.is_cache_enabled:
            steps.append("step")
        return ends()[how]() if len(steps) == STEPS // 2 else None

    if how == "out of memory":
        assert engine.run(batch, should_stop=look).pictures[0].pixel_sha256 == expected
    else:
        with pytest.raises(EngineError):
            engine.run(batch, should_stop=look)
    assert len(steps) >= STEPS // 2
    assert is_bare(denoiser)
    assert pixels(engine, plain) == before
    assert pixels(engine, batch) == expected


def test_a_sheet_that_closes_in_the_middle_leaves_nothing(engine: Engine, tiny: TinyModel) -> None:
    """And while it is open it takes nobody else, nor does another sheet take an accelerated one."""
    batch = fast(tiny("flux"))
    plain = dataclasses.replace(batch, acceleration="none")
    before = pixels(engine, plain)
    denoiser = denoiser_of(engine, batch)
    with engine.drawing(batch) as sheet:
        assert not sheet.takes(batch)
        assert not sheet.takes(plain)
        sheet.add(batch, Listeners())
        for _ in range(STEPS // 2):
            assert list(sheet.step()) == []
        assert denoiser.is_cache_enabled
    assert is_bare(denoiser)
    with engine.drawing(plain) as sheet:
        assert sheet.takes(plain)
        assert not sheet.takes(batch)
    assert pixels(engine, plain) == before


@pytest.mark.parametrize("memory", [memory_tight, memory_least])
def test_parts_and_blocks_in_turns_draw_the_same(
    engine: Engine, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch, memory: Any
) -> None:
    """A block that is left out does not come."""
    batch = fast(tiny("flux"))
    expected = pixels(engine, batch)
    with engines() as make:
        small = make()
        room = memory(batch.model, small.device)
        small.cache.memory = lambda: room
        assert pixels(small, batch) == expected
        assert entry_of(small, batch.model).residency is not None
        denoiser = denoiser_of(small, batch)
        assert is_bare(denoiser)
        came: list[Any] = []
        bring = residency._Weights.bring

        def come(weights: Any, device: torch.device) -> None:
            came.append(weights.module)
            bring(weights, device)

        monkeypatch.setattr(residency._Weights, "bring", come)
        with calls_counted(denoiser) as called:
            assert pixels(small, batch) == expected
        last = denoiser.single_transformer_blocks[0]
        if memory is memory_least:
            assert came.count(last) == len(called) - STEPS < STEPS, "as often as it was called"


def test_eight_bits_and_adapters(engine: Engine, tiny: TinyModel, tmp_path: Path) -> None:
    """Layers are widened as before, and a LoRA counts."""
    model = dataclasses.replace(tiny("flux"), dtype="float8", id="eight-fast")
    batch = fast(model)
    plain = dataclasses.replace(batch, acceleration="none")
    before, drawn = pixels(engine, plain), pixels(engine, batch)
    assert drawn != before
    denoiser = denoiser_of(engine, batch)
    layer = "single_transformer_blocks.0.attn.to_q"
    out, inputs = denoiser.get_submodule(layer).weight.shape
    file = tmp_path / "lora.safetensors"
    file.write_bytes(safetensors(pair(f"transformer.{layer}", inputs, out)))
    use = AdapterUse("soft", hashlib.sha256(file.read_bytes()).hexdigest(), file, 1000.0)
    assert pixels(engine, dataclasses.replace(batch, adapters=(use,))) != drawn
    assert is_bare(denoiser)
    assert denoiser.transformer_blocks[0].attn.to_q.weight.dtype == torch.float8_e4m3fn
    assert (pixels(engine, plain), pixels(engine, batch)) == (before, drawn)


def test_cogview4s_denoiser_takes_it() -> None:
    """Of which there is no tiny checkpoint: by hand, as its pipeline calls it."""
    torch.manual_seed(0)
    denoiser = CogView4Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=16,
        time_embed_dim=8,
        condition_dim=4,
        rope_axes_dim=(16, 16),
    )
    sizes = dict.fromkeys(("original_size", "target_size"), torch.tensor([[64.0, 64.0]]))
    prompts = torch.randn(1, 4, 16), torch.randn(1, 4, 16)
    latents = torch.randn(1, 4, 8, 8)
    pipeline = SimpleNamespace(transformer=denoiser)
    with (
        torch.inference_mode(),
        accelerated(pipeline, "first_block_cache"),
        calls_counted(denoiser) as called,
    ):
        for timestep in (900, 899):
            for prompt in prompts:
                denoiser(
                    hidden_states=latents,
                    encoder_hidden_states=prompt,
                    timestep=torch.tensor([timestep]),
                    crop_coords=torch.zeros(1, 2),
                    **sizes,
                )
    assert len(called) == 2 * 2 + 2 * 1
    assert is_bare(denoiser)


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_classes_that_take_it_have_denoisers_that_do(name: str) -> None:
    """By the installed classes; those that take caches and not this one are tried with their tiny checkpoints."""
    parts = inspect.signature(getattr(diffusers, name).__init__).parameters
    denoiser = parts["transformer"].annotation if "transformer" in parts else parts["unet"].annotation
    takes_caches = inspect.isclass(denoiser) and issubclass(denoiser, CacheMixin)
    assert PIPELINES[name].first_block_cache == (takes_caches and denoiser.__name__ not in WITHOUT)
