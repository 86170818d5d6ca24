"""Every kind, scheduler and option on each family's real pipeline class, with tiny random weights."""

import functools
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw

from generation.engine import Engine, EngineModelBroken, ModelRef
from models_registry.classes import folder_check
from models_registry.family_facts import FAMILY_FACTS, steps_to_run
from models_registry.schedulers import FLOW, step_limits
from tests.support.batches import SIDE, TinyModel, pixels, quick
from tests.support.tiny_checkpoints import TINY_FAMILIES

Stock = Callable[[str], DiffusionPipeline]
# Their number shares no factor with that of the kinds, so that all pairs come.
STEPS = (1, 3, 2, 21, 5)
# In diffusers' DPM2.
OF_DIFFUSERS = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")


def png(image: Image.Image) -> bytes:
    """A picture's file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


request = functools.partial(quick, num_inference_steps=4)


@pytest.fixture(scope="module")
def stock(tiny: TinyModel) -> Stock:
    """Diffusers' own pipelines of the tiny checkpoints, each loaded once."""

    @functools.cache
    def pipeline(family: str) -> DiffusionPipeline:
        loaded = DiffusionPipeline.from_pretrained(tiny(family).folder, use_safetensors=True)
        loaded.set_progress_bar_config(disable=True)
        return loaded

    return pipeline


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_it_draws_what_the_stock_pipeline_draws(
    engine: Engine, tiny: TinyModel, stock: Stock, family: str
) -> None:
    """Although its weights were read by hand and put in without a copy."""
    model = tiny(family)
    image = stock(family)(
        "a large red circle",
        width=SIDE,
        height=SIDE,
        num_inference_steps=4,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(7)],
    ).images[0]
    assert pixels(engine, request(model)) == hashlib.sha256(image.tobytes()).hexdigest()


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_image_to_image_starts_from_the_picture(engine: Engine, tiny: TinyModel, family: str) -> None:
    """As many steps as int(steps x strength), and another picture gives another result."""
    model = tiny(family)
    results = []
    for colour in ("red", "blue"):
        picture = png(Image.new("RGB", (SIDE, SIDE), colour))
        totals: set[int] = set()
        result = engine.run(
            request(model, kind="img2img", strength=0.5, image=picture),
            on_step=lambda step, total, totals=totals: totals.add(total),  # type: ignore[misc]
        )
        # The scheduler of Stable Diffusion 1.x, PNDM, does its second step twice.
        assert totals == {3 if family == "sd1" else 2}
        assert (result.pictures[0].width, result.pictures[0].height) == (SIDE, SIDE)
        results.append(result.pictures[0].pixel_sha256)
    assert results[0] != results[1]


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_inpainting_leaves_the_rest_as_it_was(engine: Engine, tiny: TinyModel, family: str) -> None:
    """To the pixel outside the mask; inside something else appears."""
    model = tiny(family)
    picture = Image.effect_noise((SIDE, SIDE), 80).convert("RGB")
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).rectangle((0, 0, SIDE // 2, SIDE), fill=255)
    batch = request(model, kind="inpaint", strength=1.0, image=png(picture), mask=png(mask))
    with Image.open(io.BytesIO(engine.run(batch).pictures[0].data)) as drawn:
        right = (SIDE // 2 + 1, 0, SIDE, SIDE)
        assert drawn.crop(right).tobytes() == picture.crop(right).tobytes()
        left = (0, 0, SIDE // 2, SIDE)
        assert drawn.crop(left).tobytes() != picture.crop(left).tobytes()


@OF_DIFFUSERS
@pytest.mark.parametrize("family", TINY_FAMILIES)
@pytest.mark.slow
def test_every_scheduler_draws_and_counts(engine: Engine, tiny: TinyModel, family: str) -> None:
    """With every kind and three numbers of steps, in one family or another; progress ends where it was to end.

    Nothing is left behind.
    """
    model = tiny(family)
    before = pixels(engine, request(model))
    kinds = ("txt2img", "img2img", "inpaint")
    pictures = {
        "image": png(Image.effect_noise((SIDE, SIDE), 80)),
        "mask": png(Image.new("L", (SIDE, SIDE), 255)),
    }
    for number, name in enumerate(FAMILY_FACTS[family].schedulers, start=TINY_FAMILIES.index(family)):
        # Three families have noise schedules, and each takes another third of these for a kind.
        for kind in kinds if name in FLOW and family == "sd3" else kinds[number % 3 :][:1]:
            inputs = {} if kind == "txt2img" else {"strength": 0.7, "image": pictures["image"]}
            inputs |= {"mask": pictures["mask"]} if kind == "inpaint" else {}
            least = step_limits(name, most=100)[0] if kind == "txt2img" else 2
            steps = max(least, STEPS[number % len(STEPS)])
            seen: list[tuple[int, int]] = []
            batch = request(
                model, scheduler=name, kind=kind, num_inference_steps=steps, guidance_scale=1.0, **inputs
            )
            result = engine.run(batch, on_step=lambda step, total, seen=seen: seen.append((step, total)))  # type: ignore[misc]
            total = steps_to_run(
                family=family, scheduler=name, num_inference_steps=steps, strength=batch.strength
            )
            assert seen == [(step, total) for step in range(1, total + 1)], (name, kind, steps)
            with Image.open(io.BytesIO(result.pictures[0].data)) as drawn:
                assert len(set(drawn.get_flattened_data())) > SIDE, (
                    name,
                    kind,
                )  # what is not a number is black
    assert pixels(engine, request(model)) == before


FLOW_SIGMAS = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}
LINSPACE = {"timestep_spacing": "linspace"}


@pytest.mark.slow
@OF_DIFFUSERS
@pytest.mark.parametrize(
    ("family", "name", "class_name", "options"),
    [
        ("sd1", "ddim", "DDIMScheduler", {"clip_sample": False}),
        ("sd1", "ddim_trailing", "DDIMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}),
        ("sd1", "ddpm", "DDPMScheduler", {"clip_sample": False}),
        ("sd1", "euler", "EulerDiscreteScheduler", {}),
        ("sd1", "euler_karras", "EulerDiscreteScheduler", {"use_karras_sigmas": True} | LINSPACE),
        ("sd1", "euler_trailing", "EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
        ("sd1", "euler_a", "EulerAncestralDiscreteScheduler", {}),
        ("sd1", "heun", "HeunDiscreteScheduler", {}),
        ("sd1", "lms_karras", "LMSDiscreteScheduler", {"use_karras_sigmas": True} | LINSPACE),
        ("sd1", "dpm2", "KDPM2DiscreteScheduler", {}),
        ("sd1", "dpm2_a", "KDPM2AncestralDiscreteScheduler", {}),
        ("sd1", "plms", "PNDMScheduler", {}),
        ("sd1", "dpmpp_2m_karras", "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
        (
            "sd1",
            "dpmpp_2m_sde_exponential",
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "sde-dpmsolver++", "use_exponential_sigmas": True},
        ),
        (
            "sd1",
            "dpmpp_3m_sde",
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
        ),
        (
            "sd1",
            "dpmpp_sde_karras",
            "DPMSolverSinglestepScheduler",
            {"algorithm_type": "sde-dpmsolver++", "lower_order_final": True, "use_karras_sigmas": True},
        ),
        ("sd1", "unipc_beta", "UniPCMultistepScheduler", {"use_beta_sigmas": True}),
        ("sd1", "lcm", "LCMScheduler", {"clip_sample": False}),
        ("sd1", "tcd", "TCDScheduler", {}),
        ("sd3", "euler_karras", "FlowMatchEulerDiscreteScheduler", {"use_karras_sigmas": True}),
        ("sd3", "heun", "FlowMatchHeunDiscreteScheduler", {"shift": 3.0}),
        ("sd3", "dpmpp_2m", "DPMSolverMultistepScheduler", FLOW_SIGMAS),
        ("sd3", "unipc", "UniPCMultistepScheduler", FLOW_SIGMAS),
    ],
)
def test_a_scheduler_draws_what_it_draws_by_hand(
    engine: Engine,
    tiny: TinyModel,
    stock: Stock,
    family: str,
    name: str,
    class_name: str,
    options: dict[str, object],
) -> None:
    """As somebody would set it in a script, in the stock pipeline."""
    pipeline = stock(family)
    own = pipeline.scheduler
    try:
        pipeline.scheduler = getattr(diffusers, class_name).from_config(own.config, **options)
        image = pipeline(
            "a large red circle",
            width=SIDE,
            height=SIDE,
            num_inference_steps=4,
            guidance_scale=4.0,
            generator=[torch.Generator().manual_seed(7)],
        ).images[0]
    finally:
        pipeline.scheduler = own
    assert (
        pixels(engine, request(tiny(family), scheduler=name)) == hashlib.sha256(image.tobytes()).hexdigest()
    )


@pytest.fixture(scope="module")
def stock_builtin(model: ModelRef) -> DiffusionPipeline:
    """Diffusers' own pipeline of the built-in checkpoint."""
    loaded = DiffusionPipeline.from_pretrained(model.folder, dtype=torch.float32, use_safetensors=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.mark.parametrize(
    ("name", "steps", "class_name", "options"),
    [
        ("", 4, "DDIMScheduler", {}),
        ("ddim", 4, "DDIMScheduler", {}),
        ("euler", 4, "EulerDiscreteScheduler", {}),
        ("euler_karras", 4, "EulerDiscreteScheduler", {"use_karras_sigmas": True} | LINSPACE),
        ("dpmpp_2m", 4, "DPMSolverMultistepScheduler", {}),
        ("unipc", 4, "UniPCMultistepScheduler", {}),
        ("dpmpp_2m_karras", 20, "DPMSolverMultistepScheduler", {"use_karras_sigmas": True} | LINSPACE),
        # From here on the first two levels are rounded to one timestep: looked up by it, the second was found.
        ("dpmpp_2m_karras", 21, "DPMSolverMultistepScheduler", {"use_karras_sigmas": True} | LINSPACE),
    ],
)
def test_a_scheduler_draws_the_same_by_hand_with_zero_terminal_signal(
    engine: Engine,
    model: ModelRef,
    stock_builtin: DiffusionPipeline,
    name: str,
    steps: int,
    class_name: str,
    options: dict[str, object],
) -> None:
    """As somebody would set it in a script, which tells the scheduler that it begins with its first step."""
    own = stock_builtin.scheduler
    scheduler = getattr(diffusers, class_name).from_config(own.config, **options)
    inner = scheduler.set_timesteps

    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        inner(*args, **kwargs)
        if steps == 21:
            scheduler.set_begin_index(0)

    scheduler.set_timesteps = set_timesteps
    try:
        stock_builtin.scheduler = scheduler
        image = stock_builtin(
            "a large red circle",
            width=SIDE,
            height=SIDE,
            num_inference_steps=steps,
            guidance_scale=4.0,
            generator=[torch.Generator().manual_seed(7)],
        ).images[0]
    finally:
        stock_builtin.scheduler = own
    batch = request(model, scheduler=name, num_inference_steps=steps)
    seen: list[int] = []
    result = engine.run(batch, on_step=lambda step, _: seen.append(step))
    assert seen == list(range(1, steps + 1))
    assert result.pictures[0].pixel_sha256 == hashlib.sha256(image.tobytes()).hexdigest()


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_clip_skip_changes_the_picture(engine: Engine, tiny: TinyModel, family: str) -> None:
    """The text is read a layer earlier."""
    model = tiny(family)
    assert pixels(engine, request(model, clip_skip=1)) != pixels(engine, request(model))


def test_an_option_that_a_pipeline_does_not_take_is_said(engine: Engine, tiny: TinyModel) -> None:
    """Instead of being dropped in silence."""
    from generation.engine.pipelines import call_arguments

    class Plain:
        def __call__(self, prompt: str) -> None: ...

    arguments, warnings = call_arguments(Plain(), request(tiny("sd1"), negative_prompt="blue", clip_skip=1))
    assert arguments == {"prompt": "a large red circle"}
    assert [warning["param"] for warning in warnings] == ["negative_prompt", "clip_skip"]


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_kinds_share_their_weights(engine: Engine, tiny: TinyModel, family: str) -> None:
    """No second copy is made; and a run has a scheduler of its own, so that it leaves nothing in the shared one."""
    model = tiny(family)
    image = png(Image.new("RGB", (SIDE, SIDE), "red"))
    engine.run(request(model, kind="img2img", strength=0.5, image=image))
    with engine.cache.borrow(model, while_waiting=lambda: None) as entry:
        other = entry.kinds["img2img"]
        assert other.vae is entry.pipeline.vae
        for scheduler in (other.scheduler, entry.pipeline.scheduler):
            assert getattr(scheduler, "num_inference_steps", None) is None  # as it was loaded


def test_a_missing_tensor_is_refused(engine: Engine, tiny: TinyModel, tmp_path: object) -> None:
    """The stock loader would fill it with noise and go on."""
    import shutil
    from pathlib import Path

    from safetensors.torch import load_file, save_file

    folder = Path(str(tmp_path)) / "holey"
    shutil.copytree(tiny("sd1").folder, folder)
    for part in ("unet", "text_encoder"):
        path = next((folder / part).glob("*.safetensors"))
        whole = load_file(path)
        save_file(dict(list(whole.items())[1:]), path, metadata={"format": "pt"})
        with pytest.raises(EngineModelBroken, match="lack 1 tensors"):
            engine.load(ModelRef(id=f"holey-{part}", repository="a/b", revision="", folder=folder))
        save_file(whole, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("model_index.json", {"tokenizer": ["transformers", "RagTokenizer"]}),
        ("model_index.json", {"tokenizer": ["transformers", "AutoTokenizer"]}),
        ("model_index.json", {"unet": ["diffusers", "DiffusionPipeline"]}),
        ("model_index.json", {"_class_name": ["pipeline", "Mine"]}),
        ("tokenizer/tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}),
        ("tokenizer/tokenizer_config.json", {"tokenizer_class": "RagTokenizer"}),
        ("text_encoder/config.json", {"auto_map": {"AutoModel": "evil.Evil"}}),
    ],
    ids=str,
)
def test_a_folder_that_names_other_classes_is_not_read(
    engine: Engine,
    tiny: TinyModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    change: dict[str, Any],
) -> None:
    """By our own list, before the libraries act on a name: none of them is asked for the class."""
    monkeypatch.setattr(engine.cache, "folder_check", folder_check)
    folder = tmp_path / "hostile"
    shutil.copytree(tiny("sd1").folder, folder)
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(EngineModelBroken, match=r"not supported|never run"):
        engine.load(ModelRef(id="hostile", repository="a/b", revision="", folder=folder))
