"""One set of weights, several kinds of work: text to image, image to image, inpainting, editing."""

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import diffusers
import numpy as np
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from generation.engine.cache_entry import CacheEntry
from generation.engine.errors import EngineError
from generation.engine.framing import opened
from generation.engine.specs import Batch

# By name: each imports every pipeline that diffusers has, a second of a start that draws without them.
_KINDS: Final = {"img2img": "AutoPipelineForImage2Image", "inpaint": "AutoPipelineForInpainting"}
_TILE_SIZES: Final = ("tile_sample_min_size", "tile_latent_min_size")
_LEAST_TILE_PIXELS: Final = 256
# So that a side that was divided and multiplied again is not rounded down to the multiple below it.
_BY_A_HAIR: Final = 1 + 1e-9

# What diffusers calls after each step, with pipeline, step, timestep and tensors.
AfterStep = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]


def pipeline_for(entry: CacheEntry, kind: str) -> Any:
    """The entry's pipeline for a kind; kinds share all weights. Raises EngineError where the model has no such kind."""
    if kind in ("txt2img", "edit"):
        return entry.pipeline
    if kind not in entry.kinds:
        try:
            made = getattr(diffusers, _KINDS[kind]).from_pipe(entry.pipeline)
        except ValueError as error:
            raise EngineError(f"{entry.model.id} cannot do {kind}.") from error
        made.set_progress_bar_config(disable=True)
        entry.kinds[kind] = made
    return entry.kinds[kind]


def call_arguments(pipeline: Any, batch: Batch) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A pipeline call's arguments for a batch, and a warning for each that this pipeline does not take."""
    arguments: dict[str, Any] = {
        "prompt": batch.prompt,
        "width": batch.width,
        "height": batch.height,
        "num_inference_steps": batch.num_inference_steps,
        # Kontext draws as many pixels as this says, in the shape that width and height have.
        "max_area": batch.width * batch.height,
        "num_images_per_prompt": batch.num_images,
        "output_type": "np",  # what the libraries make pictures of, before what is no number turns black
    }
    taken = inspect.signature(pipeline.__call__).parameters
    arguments |= _guidance(batch, taken)
    if batch.clip_skip is not None:
        arguments["clip_skip"] = batch.clip_skip
    if batch.kind in _KINDS:
        arguments["image"] = opened(batch.image, "RGB")
        arguments["strength"] = batch.strength
    if batch.kind == "edit":
        pictures = [opened(image, "RGB") for image in batch.images]
        arguments["image"] = pictures if len(pictures) > 1 else pictures[0]
    if batch.kind == "inpaint":
        arguments["mask_image"] = opened(batch.mask, "L")
    warnings = [
        {"param": name, "reason": "Has no effect with this model.", "used": None}
        for name in ("negative_prompt", "clip_skip", "guidance_rescale")
        if name in arguments and name not in taken
    ]
    # Width and height follow the picture where a pipeline does not ask for them.
    return {name: value for name, value in arguments.items() if name in taken}, warnings


def _guidance(batch: Batch, taken: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """What guidance and the negative prompt become in a call with these parameters."""
    arguments: dict[str, Any] = {"guidance_scale": batch.guidance_scale}
    if batch.guidance_rescale:
        arguments["guidance_rescale"] = batch.guidance_rescale
    if "true_cfg_scale" not in taken:
        return arguments | ({"negative_prompt": batch.negative_prompt} if batch.negative_prompt else {})
    scale = batch.true_cfg_scale
    if taken["guidance_scale"].default is None:  # not what this one weighs predictions by
        scale = arguments.pop("guidance_scale")
    if scale is None or scale <= 1:
        return arguments | {"true_cfg_scale": 1.0}
    # Without a negative prompt the scale would have no effect; the models were taught with a space in its place.
    return arguments | {"true_cfg_scale": scale, "negative_prompt": batch.negative_prompt or " "}


def size_keep(pipeline: Any, *, width: int, height: int) -> None:
    """Has a row's pipeline draw in the size that is asked for where it would bring each to a million pixels.

    HiDream's does: to the square of a side, as many cells of its autoencoder, that can be told.
    """
    if type(pipeline).__name__ == "HiDreamImagePipeline":
        side = math.sqrt(width * height) / pipeline.vae_scale_factor
        pipeline.default_sample_size = side * _BY_A_HAIR


def step_callback(pipeline: Any, after_step: AfterStep) -> dict[str, Any]:
    """The arguments that have a call tell of its steps; older pipelines only have the older way."""
    taken = inspect.signature(pipeline.__call__).parameters
    if "callback_on_step_end" in taken:
        return {"callback_on_step_end": after_step}

    def callback(step: int, timestep: Any, latents: Any) -> None:
        after_step(pipeline, step, timestep, {"latents": latents})

    return {"callback": callback}


def steps_of(pipeline: Any) -> int:
    """How many steps the call in progress has."""
    told: int | None = getattr(pipeline, "num_timesteps", None)
    return len(pipeline.scheduler.timesteps) if told is None else told


def pictures_of(pixels: Any) -> list[Image.Image]:
    """Decoded pixels (pictures x height x width x 3, 0 to 1) as pictures. Raises EngineError for what is no number."""
    if not np.isfinite(pixels).all():
        raise EngineError(
            "The picture came out as something that is no number: the model overflows in this number format. "
            "Another dtype on its row may help: bfloat16, or float32."
        )
    pictures: list[Image.Image] = VaeImageProcessor.numpy_to_pil(pixels)
    return pictures


@contextlib.contextmanager
def old_text_encoder_name(pipeline: Any) -> Iterator[None]:
    """Lets `clip_skip` work: for it, diffusers looks under a name that CLIP's text model no longer has in transformers.

    Only for the length of a call, and past the registration of submodules, since adapters go by their names.
    """
    encoder = getattr(pipeline, "text_encoder", None)
    if encoder is None or hasattr(encoder, "text_model"):
        yield
        return
    encoder.__dict__["text_model"] = encoder
    try:
        yield
    finally:
        del encoder.__dict__["text_model"]


@contextlib.contextmanager
def in_tiles(vae: Any, *, side: int) -> Iterator[None]:
    """Makes an autoencoder work in tiles and picture by picture, for the length of a block.

    `side` is the shorter one of the picture, in pixels: an autoencoder's own tiles are as large as its model draws.
    """
    own = {name: getattr(vae, name) for name in _TILE_SIZES if isinstance(vae, diffusers.AutoencoderKL)}
    if own:
        vae.tile_sample_min_size = min(own["tile_sample_min_size"], max(side // 2, _LEAST_TILE_PIXELS))
        scale = 2 ** (len(vae.config.block_out_channels) - 1)
        vae.tile_latent_min_size = vae.tile_sample_min_size // scale
    if isinstance(vae, diffusers.AutoencoderTiny):
        # It takes every autoencoder of its kind for one of 8 pixels a latent cell.
        vae.spatial_scale_factor = 2 ** (len(vae.config.decoder_block_out_channels) - 1)
        vae.tile_latent_min_size = vae.tile_sample_min_size // vae.spatial_scale_factor
    vae.enable_tiling()
    vae.enable_slicing()
    try:
        yield
    finally:
        vae.disable_tiling()
        vae.disable_slicing()
        for name, size in own.items():
            setattr(vae, name, size)
