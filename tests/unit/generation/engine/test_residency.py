"""Parts of a model that are on the device in turns, prompts that are read once, decoding that is tried again alone.

Without a GPU the device's copies are copies of the host's tensors, beside them in the same memory.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from generation.engine import AdapterUse, Engine, EngineRefused, ModelRef, residency
from generation.engine.cache_entry import CacheEntry
from generation.engine.planner import IN_BLOCKS, IN_FLOAT8, WITH_OFFLOAD
from generation.engine.stages import Embeddings
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

FAMILIES = ("sdxl", "sd3", "flux", "z-image")
# Each kind of denoiser and of text encoder; the others only where everything is tried.
IN_BLOCKS_FAMILIES = (
    *("sdxl", "flux", "qwen-image", "sana"),
    *(
        pytest.param(name, marks=pytest.mark.long)
        for name in ("sd1", "sd3", "flux2-klein", "z-image", "chroma", "pixart", "lumina2", "hidream")
    ),
)


@pytest.fixture
def small() -> Iterator[Callable[..., Engine]]:
    """Engines on a device that has not quite the memory for a model."""
    with engines() as make:

        def engine(model: ModelRef) -> Engine:
            made = make()
            memory = memory_tight(model, made.device)
            made.cache.memory = lambda: memory
            return made

        yield engine


def on_device(entry: CacheEntry, name: str) -> bool:
    """Whether a part's weights are copies, and not the host's own tensors."""
    assert entry.host is not None
    host = {tensor.data_ptr() for tensor in entry.host.modules[name].tensors.values()}
    return not any(tensor.data_ptr() in host for tensor in getattr(entry.pipeline, name).parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_in_turns_draw_the_same(
    engine: Engine, tiny: TinyModel, small: Callable[..., Engine], family: str
) -> None:
    """Encoders go before the denoiser comes; what is known of a prompt is not read again."""
    model, batch = tiny(family), quick(tiny(family))
    expected = pixels(engine, batch)
    tight = small(model)
    assert (tight.plan(model) or pytest.fail("no plan")).verdict == WITH_OFFLOAD
    denoiser = "unet" if family == "sdxl" else "transformer"
    seen: list[tuple[bool, bool]] = []
    reads: list[str] = []

    def look(step: int, of: int) -> None:
        entry = entry_of(tight, model)
        assert entry.host is not None
        encoders = [name for name in entry.host.modules if name.startswith("text_encoder")]
        seen.append((on_device(entry, denoiser), all(on_device(entry, name) for name in encoders)))

    drawn = tight.run(batch, on_step=look)
    assert drawn.pictures[0].pixel_sha256 == expected
    entry = entry_of(tight, model)
    assert seen == [(True, False)] * 2
    assert not on_device(entry, denoiser), "such pictures take more than its weights to decode"
    entry.pipeline.text_encoder.register_forward_pre_hook(lambda *_: reads.append("read"))
    assert pixels(tight, batch) == expected
    assert reads == []
    other = dataclasses.replace(batch, prompt="a blue square")
    assert pixels(tight, other) == pixels(engine, other) != expected
    assert reads


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes weights that are not on the device no numbers; the list has a word for each coming and going."""
    words: list[str] = []
    bring = residency._Weights.bring

    def come(weights: Any, device: torch.device) -> None:
        bring(weights, device)
        words.append("come")

    def go(weights: Any) -> None:
        with torch.inference_mode(mode=False):
            for tensor, data in weights._host:
                tensor.data = torch.full_like(data, torch.nan)
        weights.is_here = False
        words.append("go")

    monkeypatch.setattr(residency._Weights, "bring", come)
    monkeypatch.setattr(residency._Weights, "drop", go)
    return words


# Chroma's own import, in diffusers.
@pytest.mark.filterwarnings("ignore:.*FluxPosEmbed. is deprecated:FutureWarning")
@pytest.mark.parametrize("family", IN_BLOCKS_FAMILIES)
def test_blocks_in_turns_draw_the_same(
    engine: Engine, tiny: TinyModel, poisoned: list[str], family: str
) -> None:
    """Whatever is called is there when it is called, and no longer."""
    model = dataclasses.replace(tiny(family), dtype="float32", id=f"{family}-whole")
    batch = quick(model)
    expected = pixels(engine, batch)
    tight = Engine(threads=1)
    try:
        memory = memory_least(model, tight.device)
        tight.cache.memory = lambda: memory
        assert (tight.plan(model) or pytest.fail("no plan")).verdict == IN_BLOCKS
        tight.load(model)
        entry = entry_of(tight, model)
        assert entry.residency is not None
        for part in entry.residency._parts.values():
            for weights in (part._outside, *part._blocks):
                weights.drop()
        poisoned.clear()
        assert pixels(tight, batch) == expected
        assert poisoned.count("go") > 3, "nothing came and went"
        assert not any(block.is_here for part in entry.residency._parts.values() for block in part._blocks)
    finally:
        tight.close()


def test_as_many_blocks_stay_as_there_is_room_for() -> None:
    """Beside one that passes; with room for all of them, all."""
    module = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(8, 8)) for _ in range(4)))
    part = residency._Part(module, torch.device("cpu"), in_blocks=True)
    block = part.bytes // 4
    for room, there in ((block, 0), (2 * block, 1), (4 * block - 1, 2), (4 * block, 4)):
        part.bring(room=room)
        assert sum(each.is_here for each in part._blocks) == there
        assert part.held_bytes == there * block
        assert module(torch.zeros(1, 8)).shape == (1, 8)
        assert part.held_bytes == there * block, "what passed has gone"
        part.drop()
        assert part.held_bytes == 0


def test_a_block_goes_after_a_call_that_failed() -> None:
    module = torch.nn.Sequential(
        torch.nn.Sequential(torch.nn.Linear(8, 8)), torch.nn.Sequential(torch.nn.ReLU())
    )
    part = residency._Part(module, torch.device("cpu"), in_blocks=True)
    part.bring(room=0)
    with pytest.raises(RuntimeError):
        module(torch.zeros(1, 3))
    assert not part._blocks[0].is_here
    assert module(torch.zeros(1, 8)).shape == (1, 8)


def test_an_adapter_comes_with_its_block(engine: Engine, tiny: TinyModel, tmp_path: Path) -> None:
    """And stays there, being small."""
    model = dataclasses.replace(tiny("flux"), dtype="float32", id="flux-adapted")
    layer = "single_transformer_blocks.0.attn.to_q"
    batch = quick(model, num_inference_steps=1)
    before = pixels(engine, batch)
    out, inputs = entry_of(engine, model).pipeline.transformer.get_submodule(layer).weight.shape
    file = tmp_path / "lora.safetensors"
    file.write_bytes(safetensors(pair(f"transformer.{layer}", inputs, out)))
    use = AdapterUse("soft", hashlib.sha256(file.read_bytes()).hexdigest(), file, 1000.0)
    adapted = dataclasses.replace(batch, adapters=(use,))
    expected = pixels(engine, adapted)
    assert expected != before
    tight = Engine(threads=1)
    try:
        memory = memory_least(model, tight.device)
        tight.cache.memory = lambda: memory
        assert pixels(tight, adapted) == expected
        assert pixels(tight, batch) == before
    finally:
        tight.close()


def test_pictures_and_their_kinds_come_through_in_turns(
    engine: Engine, tiny: TinyModel, small: Callable[..., Engine]
) -> None:
    """The autoencoder stays: it reads pictures while the denoiser is away."""
    model = tiny("sdxl")
    picture = encoded(Image.effect_noise((SIDE, SIDE), 80).convert("RGB"))
    batch = quick(model, kind="img2img", image=picture, strength=1.0, num_images=2)
    assert pixels(small(model), batch) == pixels(engine, batch)


def test_a_prompt_is_read_once_and_for_all_that_it_depends_on(engine: Engine, tiny: TinyModel) -> None:
    """Prompt, negative prompt, clip_skip and guidance; a seed, steps and size are nothing to it."""
    model = tiny("sd1")
    engine.load(model)
    entry, reads = entry_of(engine, model), []
    entry.embeddings = Embeddings()
    handle = entry.pipeline.text_encoder.register_forward_pre_hook(lambda *_: reads.append("read"))
    try:
        pixels(engine, quick(model))
        first = len(reads)
        for changes in ({"seed": 8}, {"num_inference_steps": 1}, {"width": 128}):
            pixels(engine, quick(model, **changes))
        assert len(reads) == first
        for changes in ({"negative_prompt": "blue"}, {"clip_skip": 1}, {"prompt": "a square"}):
            before = len(reads)
            pixels(engine, quick(model, **changes))
            assert len(reads) > before, changes
    finally:
        handle.remove()


def test_prompts_that_were_not_asked_for_lately_go() -> None:
    """By bytes."""
    kept = Embeddings(limit_bytes=100)
    for key in ("a", "b"):
        kept.put(key, [torch.zeros(10)])
    assert kept.get("a") is not None
    kept.put("c", torch.zeros(10))
    assert ([key for key in "abc" if kept.get(key) is not None], kept.bytes) == (["a", "c"], 80)


def starve(monkeypatch: pytest.MonkeyPatch, vae: Any, *, times: int) -> list[bool]:
    """Lets an autoencoder's decoding run out of memory so many times; returns whether each was in tiles."""
    tries: list[bool] = []
    real = vae.decode

    def decode(*arguments: Any, **keywords: Any) -> Any:
        tries.append(vae.use_tiling)
        if len(tries) <= times:
            raise torch.OutOfMemoryError
        return real(*arguments, **keywords)

    monkeypatch.setattr(vae, "decode", decode)
    return tries


def test_out_of_memory_at_the_end_repeats_only_the_end(
    tiny: TinyModel, small: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In tiles, with nothing else on the device; and it is said."""
    model = tiny("sd3")
    tight = small(model)
    tight.load(model)
    entry, steps = entry_of(tight, model), []
    tries = starve(monkeypatch, entry.pipeline.vae, times=1)
    result = tight.run(quick(model), on_step=lambda *step: steps.append(step))
    assert (tries, steps) == ([False, True], [(1, 2), (2, 2)])
    assert entry.residency is not None
    assert entry.residency.held_bytes == 0
    assert [warning["param"] for warning in result.warnings] == ["width"]
    assert result.environment["decoded_in_tiles"] is True
    assert entry.pipeline.vae.use_tiling is False
    again = tight.run(quick(model))
    assert (again.environment["decoded_in_tiles"], again.warnings) == (False, [])


def test_a_part_that_finds_no_room_leaves_nothing_there(
    tiny: TinyModel, small: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes whole once there is room."""
    model = tiny("sdxl")
    tight = small(model)
    tight.load(model)
    entry, real, copies = entry_of(tight, model), torch.Tensor.to, []
    weights = list(entry.pipeline.text_encoder.parameters())
    before = [tensor.data_ptr() for tensor in weights]

    def to(tensor: torch.Tensor, *arguments: Any, copy: bool = False, **keywords: Any) -> torch.Tensor:
        copies.extend([tensor] if copy else [])
        if len(copies) == 3:
            raise torch.OutOfMemoryError
        return real(tensor, *arguments, copy=copy, **keywords)

    residency = entry.residency
    assert residency is not None
    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "to", to)
        with pytest.raises(torch.OutOfMemoryError):
            residency.need_encoders()
    assert [tensor.data_ptr() for tensor in weights] == before
    residency.need_encoders()
    assert on_device(entry, "text_encoder")


def test_a_second_chance_begins_with_the_device_for_itself(
    tiny: TinyModel, small: Callable[..., Engine]
) -> None:
    """Encoders that had room beside a step of the usual size may have none beside a larger one."""
    model = tiny("sdxl")
    tight = small(model)
    tight.load(model)
    entry, seen = entry_of(tight, model), []
    assert entry.residency is not None
    entry.residency._room = 1 << 40

    def look(*_: object) -> None:
        seen.append(on_device(entry, "text_encoder"))
        if len(seen) == 1:
            raise torch.OutOfMemoryError

    entry.pipeline.unet.register_forward_pre_hook(look)
    result = tight.run(quick(model))
    assert seen == [True, False, False]
    assert [warning["param"] for warning in result.warnings] == ["num_images"]


def test_whoever_is_strict_hears_of_tiles_before_they_show(
    engine: Engine, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("sd1")
    engine.load(model)
    starve(monkeypatch, entry_of(engine, model).pipeline.vae, times=1)
    with pytest.raises(EngineRefused, match="tiles"):
        engine.run(quick(model, strict=True))


def test_an_adapter_on_weights_in_eight_bits(engine: Engine, tiny: TinyModel, tmp_path: Path) -> None:
    """Its own weights keep their bits, and work on what its layer is widened to."""
    model = dataclasses.replace(tiny("flux"), dtype="float8", id="eight-adapted")
    batch = quick(model, num_inference_steps=1)
    before = pixels(engine, batch)
    layer = "single_transformer_blocks.0.attn.to_q"
    out, inputs = entry_of(engine, model).pipeline.transformer.get_submodule(layer).weight.shape
    file = tmp_path / "lora.safetensors"
    file.write_bytes(safetensors(pair(f"transformer.{layer}", inputs, out)))
    use = AdapterUse("soft", hashlib.sha256(file.read_bytes()).hexdigest(), file, 1000.0)
    assert pixels(engine, dataclasses.replace(batch, adapters=(use,))) != before
    adapted = entry_of(engine, model).pipeline.transformer.get_submodule(layer)
    assert adapted.base_layer.weight.dtype == torch.float8_e4m3fn
    assert {tensor.dtype for tensor in adapted.lora_A.parameters()} == {adapted.base_layer.compute_dtype}
    assert pixels(engine, batch) == before


def test_weights_in_eight_bits(engine: Engine, tiny: TinyModel, small: Callable[..., Engine]) -> None:
    """Where that is asked for: layers are widened as they are used; in turns they draw the same."""
    model = dataclasses.replace(tiny("flux"), dtype="float8", id="eight")
    exact = engine.run(quick(tiny("flux"))).pictures[0]
    result = engine.run(quick(model))
    entry = entry_of(engine, model)
    assert (entry.plan or pytest.fail("no plan")).verdict == IN_FLOAT8
    layer = entry.pipeline.transformer.transformer_blocks[0].attn.to_q.weight
    assert layer.dtype == torch.float8_e4m3fn
    assert entry.pipeline.text_encoder_2.dtype != torch.float8_e4m3fn
    assert result.environment["stored_dtype"] == "float8"
    assert result.pictures[0].pixel_sha256 != exact.pixel_sha256
    assert engine.run(quick(tiny("flux"))).environment["stored_dtype"] is None
    # Whoever replays it asks for the same again, and not for the numbers that it is widened to.
    assert entry.serves(dataclasses.replace(model, dtype="float8"))
    tight = small(model)
    assert pixels(tight, quick(model)) == result.pictures[0].pixel_sha256
    assert entry_of(tight, model).residency is not None
    tight.cache.drop_idle()
    assert pixels(tight, quick(model)) == result.pictures[0].pixel_sha256, "from host memory"
