"""Pictures as files: PNG, with what made them inside and nothing that changes from run to run."""

import hashlib
import io
import json

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from generation.engine.specs import Batch, Picture


def parameters_text(batch: Batch, seed: int) -> str:
    """The parameters in the form that A1111's tools read."""
    lines = [batch.prompt]
    if batch.negative_prompt:
        lines.append(f"Negative prompt: {batch.negative_prompt}")
    lines.append(
        f"Steps: {batch.num_inference_steps}, CFG scale: {batch.guidance_scale:g}, Seed: {seed}, "
        f"Size: {batch.width}x{batch.height}, Model: {batch.model.id}"
    )
    return "\n".join(lines)


def _metadata(batch: Batch, seed: int) -> PngInfo:
    """No ids, no times: equal requests give equal bytes."""
    info = PngInfo()
    info.add_itxt("parameters", parameters_text(batch, seed))
    info.add_itxt(
        "imagegen",
        json.dumps(
            {
                "prompt": batch.prompt,
                "negative_prompt": batch.negative_prompt,
                "seed": seed,
                "model": batch.model.id,
                "repository": batch.model.repository,
                "revision": batch.model.revision,
                "num_inference_steps": batch.num_inference_steps,
                "guidance_scale": batch.guidance_scale,
                "width": batch.width,
                "height": batch.height,
            },
            sort_keys=True,
        ),
    )
    return info


def picture_encode(image: Image.Image, batch: Batch, seed: int) -> Picture:
    """A finished picture as PNG."""
    rgb = image.convert("RGB")
    buffer = io.BytesIO()
    rgb.save(buffer, format="PNG", pnginfo=_metadata(batch, seed))
    return Picture(
        data=buffer.getvalue(),
        pixel_sha256=hashlib.sha256(rgb.tobytes()).hexdigest(),
        width=rgb.width,
        height=rgb.height,
        seed=seed,
    )
