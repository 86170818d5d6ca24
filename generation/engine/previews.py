"""Small pictures of what a run has so far, without decoding: a linear map from latents to colours.

The map is fitted to the checkpoint's own autoencoder, once, from a few dozen flat colours; so it needs no table of
known models. A preview takes a copy of the latents from the pipeline thread, and nothing else: whoever wants to see it
makes the picture, in a thread of its own.
"""

import base64
import contextlib
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

MAX_JPEG_BYTES: Final = 15_000  # 20 kB in base64
MAX_SIDE: Final = 256
_PATCH_PIXELS: Final = 64
_LEVELS: Final = (0.0, 0.5, 1.0)

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Preview:
    """Latents (channels x height x width) and the map that shows them."""

    latents: Matrix
    colours: Matrix

    def jpeg_base64(self) -> str:
        """The picture as a base64 JPEG of at most 20 kB."""
        channels, height, width = self.latents.shape
        flat = self.latents.reshape(channels, -1)
        rgb = self.colours[:, :-1] @ flat + self.colours[:, -1:]
        pixels = (rgb.clip(0, 1) * 255).astype(np.uint8).reshape(3, height, width).transpose(1, 2, 0)
        image = Image.fromarray(pixels)
        scale = MAX_SIDE / max(image.size)
        image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
        for quality in (80, 60, 40, 20, 5):
            buffer = io.BytesIO()
            image.save(buffer, format="JPEG", quality=quality)
            if buffer.tell() <= MAX_JPEG_BYTES:
                break
        return base64.b64encode(buffer.getvalue()).decode("ascii")


def colours_fit(vae: Any) -> Matrix:
    """The map for an autoencoder: 3 x (channels + 1), the last column a constant; red, green, blue from 0 to 1."""
    colours = torch.tensor(list(itertools.product(_LEVELS, repeat=3)))
    patches = (colours * 2 - 1)[:, :, None, None].expand(-1, -1, _PATCH_PIXELS, _PATCH_PIXELS)
    with _wide_enough(vae), torch.inference_mode():
        parameter = next(vae.parameters())
        encoded = vae.encode(patches.to(parameter.device, parameter.dtype))
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    seen = ((latents - shift) * vae.config.scaling_factor).float().mean((2, 3)).cpu().numpy()
    seen = np.nan_to_num(seen)  # a preview may be wrong; it may not end the job
    with_one = np.concatenate([seen, np.ones((len(seen), 1), np.float32)], axis=1)
    fitted, *_ = np.linalg.lstsq(with_one, colours.numpy(), rcond=None)
    return np.ascontiguousarray(fitted.T, dtype=np.float32)


@contextlib.contextmanager
def _wide_enough(vae: Any) -> Iterator[None]:
    """Single precision for an autoencoder that says that half is too narrow for it, as SDXL's does."""
    upcast = next(vae.parameters()).dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
    if not upcast:
        yield
        return
    with torch.inference_mode(mode=False):
        vae.to(torch.float32)
    try:
        yield
    finally:
        with torch.inference_mode(mode=False):
            vae.to(torch.float16)
