"""The families with a transformer, and inpainting models: each on its real pipeline class, with tiny random weights."""

import dataclasses
import functools
import hashlib
import io
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.flux import pipeline_flux_kontext
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from PIL import Image
from transformers import T5EncoderModel

from generation.engine import (
    AdapterUse,
    Batch,
    Engine,
    EngineError,
    EngineModelBroken,
    EngineModelUnavailable,
    EngineOutOfMemory,
    EngineStopped,
    ModelRef,
    acceleration,
)
from generation.engine.loader import _kept_single, _type_of, dtype_for, load_error
from generation.engine.memory import allocations_told
from generation.engine.planner import Memory
from generation.engine.processors import PictureProcessor
from generation.engine.sizes import weights_look
from models_registry.family_facts import FAMILY_FACTS, steps_to_run
from models_registry.pipeline_facts import IMG2IMG, INPAINT, PIPELINES, PipelineFacts, pipeline_facts
from tests.support.batches import SIDE, TinyModel, pixels, quick
from tests.support.lora_files import pair, safetensors, scalar
from tests.support.pictures import encoded
from tests.support.tiny_checkpoints import TINY_MODELS

# Chroma's own import, in diffusers.
pytestmark = pytest.mark.filterwarnings("ignore:.*FluxPosEmbed. is deprecated:FutureWarning")

Stock = Callable[[str], Any]
PICTURE = Image.effect_noise((SIDE, SIDE), 80).convert("RGB")
MASK = Image.new("L", (SIDE, SIDE), 255)
CLASSES = {
    "sdxl-inpaint": "StableDiffusionXLInpaintPipeline",
    "flux": "FluxPipeline",
    "flux-schnell": "FluxPipeline",
    "flux-kontext": "FluxKontextPipeline",
    "flux2-klein": "Flux2KleinPipeline",
    "qwen-image": "QwenImagePipeline",
    "qwen-image-edit": "QwenImageEditPipeline",
    "qwen-image-edit-plus": "QwenImageEditPlusPipeline",
    "z-image": "ZImagePipeline",
    "chroma": "ChromaPipeline",
    "sana": "SanaPipeline",
    "pixart": "PixArtSigmaPipeline",
    "lumina2": "Lumina2Pipeline",
    "hidream": "HiDreamImagePipeline",
}
# What somebody writes who calls diffusers by hand, beside prompt, size, steps and generator.
BY_HAND: dict[str, dict[str, Any]] = {
    "sdxl-inpaint": {"guidance_scale": 4.0, "image": PICTURE, "mask_image": MASK, "strength": 1.0},
    "flux-schnell": {},
    "flux-kontext": {"guidance_scale": 4.0, "image": PICTURE, "max_area": SIDE * SIDE},
    "qwen-image": {"true_cfg_scale": 4.0, "negative_prompt": " "},
    "qwen-image-edit": {"true_cfg_scale": 4.0, "negative_prompt": " ", "image": PICTURE},
    "qwen-image-edit-plus": {"true_cfg_scale": 4.0, "negative_prompt": " ", "image": [PICTURE, PICTURE]},
}


@pytest.fixture(autouse=True)
def _small_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Editing pipelines bring every picture to a million pixels: here to a few thousand, whoever calls them."""
    monkeypatch.setattr(pipeline_flux_kontext, "PREFERRED_KONTEXT_RESOLUTIONS", [(SIDE, SIDE)])
    for module in (pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus):
        real = module.calculate_dimensions
        monkeypatch.setattr(
            module, "calculate_dimensions", lambda area, ratio, real=real: real(area // 64, ratio)
        )


@pytest.fixture(scope="module")
def stock(tiny: TinyModel) -> Stock:
    """Diffusers' own pipelines of the tiny checkpoints, each loaded once."""

    @functools.cache
    def pipeline(name: str) -> Any:
        folder = tiny(name).folder
        parts = {}
        if (folder / "processor").is_dir():  # whose own class needs torchvision
            parts["processor"] = PictureProcessor.from_pretrained(folder / "processor")
        loaded = DiffusionPipeline.from_pretrained(folder, use_safetensors=True, **parts)
        loaded.set_progress_bar_config(disable=True)
        if name == "hidream":  # by hand, too, it draws a million pixels unless this is said
            loaded.default_sample_size = SIDE // 8
        return loaded

    return pipeline


def facts_of(name: str) -> PipelineFacts:
    """What the table says of a tiny checkpoint."""
    return pipeline_facts(pipeline=CLASSES[name], family="", distilled=name == "flux-schnell")


def request(model: ModelRef, name: str, **changes: Any) -> Batch:
    """A quick request of the first kind that the model does."""
    kind = changes.get("kind") or ("edit" if "edit" in facts_of(name).kinds else facts_of(name).kinds[0])
    inputs: dict[str, Any] = {}
    if kind == "edit":
        inputs["images"] = (encoded(PICTURE),) * (2 if name == "qwen-image-edit-plus" else 1)
    if kind in (IMG2IMG, INPAINT):
        inputs |= {"image": encoded(PICTURE), "strength": 1.0}
    if kind == INPAINT:
        inputs["mask"] = encoded(MASK)
    if name == "flux2-klein" and "kind" not in changes:
        kind, inputs = "txt2img", {}
    return quick(model, **{"kind": kind} | inputs | changes)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY_MODELS)
def test_it_draws_what_the_stock_pipeline_draws(
    engine: Engine, tiny: TinyModel, stock: Stock, name: str
) -> None:
    """To the pixel, called by hand with the same values; and hears of each step."""
    seen: list[tuple[int, int]] = []
    result = engine.run(request(tiny(name), name), on_step=lambda *step: seen.append(step))
    image = stock(name)(
        prompt="a large red circle",
        width=SIDE,
        height=SIDE,
        num_inference_steps=2,
        generator=[torch.Generator().manual_seed(7)],
        **BY_HAND.get(name, {"guidance_scale": 4.0}),
    ).images[0]
    assert result.pictures[0].pixel_sha256 == hashlib.sha256(image.tobytes()).hexdigest()
    assert (result.pictures[0].width, result.pictures[0].height) == (SIDE, SIDE)
    assert seen == [(1, 2), (2, 2)]
    assert result.warnings == []


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY_MODELS)
def test_fields_have_the_effect_that_the_table_says(
    engine: Engine, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Another guidance scale, negative prompt or acceleration gives other pixels, or the same, or is refused."""
    facts, model = facts_of(name), tiny(name)
    base = request(model, name, num_inference_steps=1)
    drawn = pixels(engine, base)
    other = dataclasses.replace(base, guidance_scale=2.0)
    assert (pixels(engine, other) != drawn) == (facts.guidance != "none")
    negative = dataclasses.replace(base, negative_prompt="blue", true_cfg_scale=2.0)
    if not facts.true_cfg_scale:
        negative = dataclasses.replace(negative, true_cfg_scale=None)
    assert (pixels(engine, negative) != drawn) == facts.negative_prompt
    swift = dataclasses.replace(base, num_inference_steps=3, acceleration="first_block_cache")
    if facts.first_block_cache:
        monkeypatch.setattr(acceleration, "THRESHOLD", math.inf)  # two of three steps
        assert pixels(engine, swift) != pixels(engine, dataclasses.replace(swift, acceleration="none"))
    else:
        with pytest.raises(EngineError):
            engine.run(swift)
    if facts.guidance != "embedded":
        off = dataclasses.replace(base, guidance_scale=0.0 if facts.guidance == "added" else 1.0)
        told = dataclasses.replace(off, negative_prompt="blue")
        assert pixels(engine, off) == pixels(engine, told)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in TINY_MODELS
        for kind in PIPELINES[CLASSES[name]].kinds
        if kind in (IMG2IMG, INPAINT) and name not in ("sdxl-inpaint", "flux-schnell")
    ],
)
def test_it_starts_from_a_picture(engine: Engine, tiny: TinyModel, name: str, kind: str) -> None:
    """As many steps as were counted on."""
    batch = request(tiny(name), name, kind=kind, strength=0.5, num_inference_steps=2)
    seen: list[int] = []
    result = engine.run(batch, on_step=lambda step, total: seen.append(total))
    family = PIPELINES[CLASSES[name]].family
    total = steps_to_run(family=family, scheduler="", num_inference_steps=2, strength=0.5)
    assert seen == [total] * total
    assert (result.pictures[0].width, result.pictures[0].height) == (SIDE, SIDE)


@pytest.mark.slow
def test_flux2_edits_pictures(engine: Engine, tiny: TinyModel, stock: Stock) -> None:
    """Several at once; what they show counts."""
    model = tiny("flux2-klein")
    batch = request(model, "flux2-klein", kind="edit", images=(encoded(PICTURE),) * 2)
    image = stock("flux2-klein")(
        prompt="a large red circle",
        image=[PICTURE, PICTURE],
        width=SIDE,
        height=SIDE,
        num_inference_steps=2,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(7)],
    ).images[0]
    assert pixels(engine, batch) == hashlib.sha256(image.tobytes()).hexdigest()
    one = dataclasses.replace(batch, images=(encoded(Image.new("RGB", (SIDE, SIDE), "red")),))
    assert pixels(engine, one) != pixels(engine, batch)


# DPM2 of diffusers.
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
@pytest.mark.parametrize(
    "name", ["flux", "flux2-klein", "qwen-image", "z-image", "chroma", "lumina2", "pixart"]
)
@pytest.mark.slow
def test_every_scheduler_fits(engine: Engine, tiny: TinyModel, name: str) -> None:
    """Of those that the family's table lists; each draws, and counts its steps."""
    family = PIPELINES[CLASSES[name]].family
    names = FAMILY_FACTS[family].schedulers
    for scheduler in names if family != "pixart" else names[::9]:
        batch = request(tiny(name), name, scheduler=scheduler, num_inference_steps=3, guidance_scale=1.0)
        seen: list[tuple[int, int]] = []
        engine.run(batch, on_step=lambda *step, seen=seen: seen.append(step))  # type: ignore[misc]
        total = steps_to_run(family=family, scheduler=scheduler, num_inference_steps=3, strength=None)
        assert seen == [(step, total) for step in range(1, total + 1)], scheduler


LORAS = [
    ("flux", "transformer.single_transformer_blocks.0.attn.to_q", "peft", ()),
    ("chroma", "transformer.single_transformer_blocks.0.attn.to_q", "peft", ()),
    ("flux2-klein", "transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj", "peft", ()),
    ("qwen-image", "transformer.transformer_blocks.0.attn.to_q", "peft", ()),
    ("qwen-image", "diffusion_model.transformer_blocks.0.attn.to_q", "peft", ()),
    ("qwen-image", "transformer_blocks.0.attn.to_q", "kohya", ("alpha",)),
    ("z-image", "transformer.layers.0.attention.to_q", "peft", ()),
    ("z-image", "diffusion_model.layers.0.attention.to_q", "kohya", ()),
    ("lumina2", "transformer.layers.0.attn.to_q", "peft", ()),
]


@pytest.mark.parametrize(("name", "path", "style", "beside"), LORAS, ids=str)
def test_a_lora_changes_the_picture(
    engine: Engine, tiny: TinyModel, tmp_path: Path, name: str, path: str, style: str, beside: tuple[str, ...]
) -> None:
    """In every way of naming that is let through; afterwards the model draws as before."""
    model = tiny(name)
    batch = request(model, name, num_inference_steps=1)
    before = pixels(engine, batch)
    with engine.cache.borrow(model, while_waiting=lambda: None) as entry:
        rest = path.removeprefix("transformer.").removeprefix("diffusion_model.")
        out, inputs = entry.pipeline.transformer.get_submodule(rest).weight.shape
    tensors = pair(path, inputs, out, style=style) | {f"{path}.{end}": scalar(4) for end in beside}
    tensors = {
        key: ("F32", value[1], np.full(value[1] or (1,), 0.5, "<f4").tobytes())
        for key, value in tensors.items()
    }
    file = tmp_path / "lora.safetensors"
    file.write_bytes(safetensors(tensors))
    use = AdapterUse("soft", hashlib.sha256(file.read_bytes()).hexdigest(), file, 1.0)
    assert pixels(engine, dataclasses.replace(batch, adapters=(use,))) != before
    assert pixels(engine, batch) == before


# Other trainers' names of one block's queries, keys and values together, with what stands behind them.
JOINED = {
    "flux": (
        ("double_blocks.0.processor.qkv_lora1", "down", "up"),
        ("diffusion_model.double_blocks.0.img_attn.qkv", "lora_down", "lora_up"),
        ("lora_unet_double_blocks_0_img_attn_qkv", "lora_down", "lora_up"),
    ),
    "flux2-klein": (
        ("diffusion_model.double_blocks.0.img_attn.qkv", "lora_A", "lora_B"),
        ("base_model.model.double_blocks.0.img_attn.qkv", "lora_A", "lora_B"),
        ("lora_unet_double_blocks_0_img_attn_qkv", "lora_down", "lora_up"),
    ),
}


@pytest.mark.parametrize("name", JOINED)
def test_loras_of_other_trainers_mean_the_same(
    engine: Engine, tiny: TinyModel, tmp_path: Path, name: str
) -> None:
    """They draw what the same weights in diffusers' names do."""
    model = tiny(name)
    batch = request(model, name, num_inference_steps=1)
    with engine.cache.borrow(model, while_waiting=lambda: None) as entry:
        width, inputs = entry.pipeline.transformer.transformer_blocks[0].attn.to_q.weight.shape
    down = np.full((4, inputs), 0.5, "<f4")
    ups = [np.full((width, 4), value, "<f4") for value in (0.5, 0.25, -0.5)]

    def tensor(values: Any) -> Any:
        return ("F32", values.shape, values.tobytes())

    def drawn(title: str, tensors: Any) -> str:
        file = tmp_path / f"{title}.safetensors"
        file.write_bytes(safetensors(tensors))
        use = AdapterUse(title, hashlib.sha256(file.read_bytes()).hexdigest(), file, 1.0)
        return pixels(engine, dataclasses.replace(batch, adapters=(use,)))

    block = "transformer_blocks.0.attn.to_"
    ours, trained, flat = {}, {}, block.replace(".", "_")
    for letter, up in zip("qkv", ups, strict=True):
        ours |= {
            f"transformer.{block}{letter}.lora_A.weight": tensor(down),
            f"transformer.{block}{letter}.lora_B.weight": tensor(up),
        }
        trained |= {
            f"lora_transformer_{flat}{letter}.lora_down.weight": tensor(down),
            f"lora_transformer_{flat}{letter}.lora_up.weight": tensor(up),
            f"lora_transformer_{flat}{letter}.alpha": scalar(4, "F32"),
        }
    expected = drawn("ours", ours)
    assert expected != pixels(engine, batch)
    for number, (path, first, second) in enumerate(JOINED[name]):
        joined = {
            f"{path}.{first}.weight": tensor(down),
            f"{path}.{second}.weight": tensor(np.concatenate(ups)),
        }
        assert drawn(f"joined-{number}", joined) == expected, path
    if name == "flux":
        assert drawn("onetrainer", trained) == expected


def test_rescaled_guidance_changes_the_picture(engine: Engine, tiny: TinyModel) -> None:
    """Where the table says so; elsewhere it is said that it has no effect."""
    for name, family in (("sd1", True), ("sdxl", True), ("z-image", False)):
        batch = request(tiny(name), name, kind="txt2img", num_inference_steps=1)
        plain = engine.run(batch)
        result = engine.run(dataclasses.replace(batch, guidance_rescale=0.7))
        assert (result.pictures[0].pixel_sha256 != plain.pictures[0].pixel_sha256) == family, name
        assert [warning["param"] for warning in result.warnings] == ([] if family else ["guidance_rescale"])


def test_an_older_pipeline_can_be_canceled(engine: Engine, tiny: TinyModel) -> None:
    """PixArt takes the callback of today and never calls it."""
    seen: list[int] = []
    batch = request(tiny("pixart"), "pixart", num_inference_steps=4)
    with pytest.raises(EngineStopped):
        engine.run(
            batch,
            on_step=lambda step, total: seen.append(step),
            should_stop=lambda: "canceled" if len(seen) >= 2 else None,
        )
    assert seen == [1, 2]


def test_a_refusal_leaves_the_model_where_it_is(engine: Engine, tiny: TinyModel) -> None:
    """The pipeline's own words are handed on; reading tens of gigabytes again would be nobody's gain."""
    model = tiny("z-image")
    with pytest.raises(EngineError, match="Height must be divisible by 16"):
        engine.run(request(model, "z-image", height=72))
    assert model.id in engine.resident


def test_a_picture_that_is_no_number_fails(
    engine: Engine, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of coming out black; the model stays."""
    model = tiny("z-image")
    engine.load(model)
    with engine.cache.borrow(model, while_waiting=lambda: None) as entry:
        weight = entry.pipeline.vae.decoder.conv_out.bias
    kept = weight.detach().clone()
    try:
        with torch.inference_mode(mode=False):
            weight.data.fill_(float("nan"))
        with pytest.raises(EngineError, match="no number"):
            engine.run(request(model, "z-image"))
    finally:
        weight.data.copy_(kept)
    assert model.id in engine.resident


def test_a_broken_preview_ends_no_job(
    engine: Engine, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a warning that cannot be worked out."""

    def fail(*arguments: Any) -> Any:
        raise KeyError

    monkeypatch.setattr("generation.engine.drawing.colours_fit", fail)
    monkeypatch.setattr("generation.engine.prompts._limit", fail)
    model = tiny("lumina2")
    with engine.cache.borrow(model, while_waiting=lambda: None) as entry:
        entry.colours = None
    assert engine.run(request(model, "lumina2", preview_every=1)).pictures


def test_memory_that_a_library_could_not_get_is_memory(engine: Engine) -> None:
    """cuBLAS and cuDNN say so in words of their own; everything else stays what it is."""
    for words in ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"):
        with pytest.raises(torch.OutOfMemoryError), allocations_told():
            raise RuntimeError(words)
    with pytest.raises(RuntimeError, match="shapes"), allocations_told():
        raise RuntimeError("shapes do not match")


@pytest.mark.parametrize(
    ("name", "components", "card", "expected"),
    [
        ("auto", ("unet", "vae"), "new", torch.float16),
        ("auto", ("transformer", "vae"), "new", torch.bfloat16),
        ("auto", ("transformer", "vae"), "old", torch.float16),
        ("float32", ("transformer",), "new", torch.float32),
        ("bfloat16", ("unet",), "new", torch.bfloat16),
    ],
)
def test_the_number_format_follows_model_and_card(
    monkeypatch: pytest.MonkeyPatch, name: str, components: tuple[str, ...], card: str, expected: Any
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: card == "new")
    assert dtype_for(name, torch.device("cuda"), components=components) == expected
    monkeypatch.setattr("generation.engine.loader.quick_bfloat16", lambda: "")
    of_a_cpu = torch.bfloat16 if name == "bfloat16" else torch.float32
    assert dtype_for(name, torch.device("cpu"), components=components) == of_a_cpu


def test_single_precision_is_kept_where_the_libraries_keep_it() -> None:
    """In bfloat16 too where diffusers means both halves; T5 means float16 alone."""
    for dtype, wo in ((torch.float16, ("wo",)), (torch.bfloat16, ()), (torch.float32, ())):
        assert _kept_single(T5EncoderModel, dtype) == wo
    kept = _kept_single(diffusers.AutoencoderDC, torch.bfloat16)
    assert set(kept) == set(diffusers.AutoencoderDC._keep_in_fp32_modules or ())


def test_too_large_a_model_is_refused_before_it_is_read(
    engine: Engine, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time, by the headers of its files, which say what it takes to the byte."""
    model = dataclasses.replace(tiny("lumina2"), id="large")
    engine.load(model)
    (held,) = [cached.bytes for cached in engine.models() if cached.id == "large"]
    looked = weights_look(model, engine.device)
    assert sum(looked.sizes().values()) == held
    engine.unload("large")
    monkeypatch.setattr(engine.cache, "memory", lambda: Memory(held - 1, held * 9, shared=True))
    monkeypatch.setattr("generation.engine.loader.load_file", lambda path: pytest.fail("it was read"))
    for _ in range(2):
        with pytest.raises(EngineOutOfMemory, match="Its weights take"):
            engine.load(model)


def test_an_unreadable_folder_is_judged_by_its_reading(
    engine: Engine, tiny: TinyModel, tmp_path: Path
) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(tiny("lumina2").folder, folder)
    next((folder / "vae").glob("*.safetensors")).write_bytes(b"cut")
    with pytest.raises(EngineModelBroken):
        engine.load(ModelRef(id="cut", repository="a/b", revision="", folder=folder))


def test_a_missing_library_is_the_hosts_fault(tiny: TinyModel) -> None:
    """Files that another host can load stay in service."""
    said = ValueError(
        "`tiktoken` is required to read a `tiktoken` file. Install it with `pip install tiktoken`."
    )
    error = load_error(said, tiny("chroma"), "Its files cannot be loaded")
    assert type(error) is EngineModelUnavailable


def test_a_tokenizer_may_come_as_sentencepiece_alone(engine: Engine, tiny: TinyModel, tmp_path: Path) -> None:
    """As older T5 and Gemma repositories have it."""
    pieces = pytest.importorskip("sentencepiece")
    folder = tmp_path / "pieces"
    shutil.copytree(tiny("chroma").folder, folder)
    (folder / "tokenizer" / "tokenizer.json").unlink()
    model = io.BytesIO()
    pieces.SentencePieceTrainer.train(
        sentence_iterator=iter(["a large red circle and a blue star"] * 20),
        model_writer=model,
        vocab_size=28,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer" / "spiece.model").write_bytes(model.getvalue())
    engine.load(ModelRef(id="pieces", repository="a/b", revision="", folder=folder))
    assert engine.unload("pieces")


def test_older_names_of_classes_are_understood() -> None:
    """Of the safety filter's processor, in the indexes of Stable Diffusion 1.x."""
    found = _type_of(diffusers.StableDiffusionPipeline, ["transformers", "CLIPFeatureExtractor"])
    assert found.__name__.startswith("CLIPImageProcessor")
