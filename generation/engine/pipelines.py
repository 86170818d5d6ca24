"""One set of weights, several kinds of work: text to image, image to image, inpainting."""

import contextlib
import inspect
import io
from collections.abc import Iterator
from typing import Any, Final

from diffusers import AutoencoderKL, AutoencoderTiny, AutoPipelineForImage2Image, AutoPipelineForInpainting
from PIL import Image, ImageChops, ImageFilter

from generation.engine.cache import CacheEntry
from generation.engine.errors import EngineError
from generation.engine.specs import Batch

_KINDS: Final = {"img2img": AutoPipelineForImage2Image, "inpaint": AutoPipelineForInpainting}
# Blends the edge of what was repainted into what was there, within the mask.
_FEATHER_PIXELS: Final = 4
_TILE_SIZES: Final = ("tile_sample_min_size", "tile_latent_min_size")
_LEAST_TILE_PIXELS: Final = 256


def pipeline_for(entry: CacheEntry, kind: str) -> Any:
    """The entry's pipeline for a kind; kinds share all weights. Raises EngineError where the model has no such kind."""
    if kind == "txt2img":
        return entry.pipeline
    if kind not in entry.kinds:
        try:
            made = _KINDS[kind].from_pipe(entry.pipeline)
        except ValueError as error:
            raise EngineError(f"{entry.model.id} cannot do {kind}.") from error
        made.set_progress_bar_config(disable=True)
        entry.kinds[kind] = made
    return entry.kinds[kind]


def _opened(data: bytes | None, mode: str) -> Image.Image:
    with Image.open(io.BytesIO(data or b"")) as image:
        return image.convert(mode)


def call_arguments(pipeline: Any, batch: Batch) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A pipeline call's arguments for a batch, and a warning for each that this pipeline does not take."""
    arguments: dict[str, Any] = {
        "prompt": batch.prompt,
        "width": batch.width,
        "height": batch.height,
        "num_inference_steps": batch.num_inference_steps,
        "guidance_scale": batch.guidance_scale,
        "num_images_per_prompt": batch.num_images,
        "output_type": "pil",
    }
    if batch.negative_prompt:
        arguments["negative_prompt"] = batch.negative_prompt
    if batch.clip_skip is not None:
        arguments["clip_skip"] = batch.clip_skip
    if batch.kind != "txt2img":
        arguments["image"] = _opened(batch.image, "RGB")
        arguments["strength"] = batch.strength
    if batch.kind == "inpaint":
        arguments["mask_image"] = _opened(batch.mask, "L")
    taken = inspect.signature(pipeline.__call__).parameters
    warnings = [
        {"param": name, "reason": "Has no effect with this model.", "used": None}
        for name in ("negative_prompt", "clip_skip")
        if name in arguments and name not in taken
    ]
    # Width and height follow the picture where a pipeline does not ask for them.
    return {name: value for name, value in arguments.items() if name in taken}, warnings


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
    own = {name: getattr(vae, name) for name in _TILE_SIZES if isinstance(vae, AutoencoderKL)}
    if own:
        vae.tile_sample_min_size = min(own["tile_sample_min_size"], max(side // 2, _LEAST_TILE_PIXELS))
        scale = 2 ** (len(vae.config.block_out_channels) - 1)
        vae.tile_latent_min_size = vae.tile_sample_min_size // scale
    if isinstance(vae, AutoencoderTiny):
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


def outside_kept(images: list[Image.Image], batch: Batch) -> list[Image.Image]:
    """Inpainted pictures with every pixel outside the mask exactly as it was; decoding alone would change them all."""
    if batch.kind != "inpaint":
        return images
    original, mask = _opened(batch.image, "RGB"), _opened(batch.mask, "L")
    soft = ImageChops.darker(mask, mask.filter(ImageFilter.GaussianBlur(_FEATHER_PIXELS)))
    return [Image.composite(image.convert("RGB"), original, soft) for image in images]
