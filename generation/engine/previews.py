"""Small pictures of what a run will show, without decoding: a linear map from latents to colours.

The map is fitted to the checkpoint's own autoencoder, once, from flat colours and a few soft patterns; so it needs no
table of known models. A preview takes a copy of the latents from the pipeline thread, and nothing else: whoever wants
to see it makes the picture, in a thread of its own.
"""

import base64
import contextlib
import io
import itertools
import math
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
_PATTERNS: Final = 16
_PATTERN_CELLS: Final = 4
# Of the latents' own variance: what flat and soft pictures do not tell apart has no say.
_RIDGE: Final = 1e-3
_VIDEO: Final = 5  # dimensions of latents with frames

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Preview:
    """Latents (pictures x channels x height x width) and the map that shows them."""

    latents: Matrix
    colours: Matrix

    def jpeg_base64(self) -> str:
        """The pictures side by side as one base64 JPEG of at most 20 kB."""
        count, channels, height, width = self.latents.shape
        flat = self.latents.transpose(1, 0, 2, 3).reshape(channels, -1)
        rgb = self.colours[:, :-1] @ flat + self.colours[:, -1:]
        pixels = (np.nan_to_num(rgb).clip(0, 1) * 255).astype(np.uint8)
        pictures = pixels.reshape(3, count, height, width).transpose(1, 2, 3, 0)
        columns = math.ceil(math.sqrt(count))
        sheet = Image.new("RGB", (columns * width, math.ceil(count / columns) * height))
        for index, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(picture), (index % columns * width, index // columns * height))
        scale = MAX_SIDE / max(sheet.size)
        size = round(sheet.width * scale), round(sheet.height * scale)
        image = sheet.resize(size, Image.Resampling.BICUBIC)
        for quality in (80, 60, 40, 20, 5):
            buffer = io.BytesIO()
            image.save(buffer, format="JPEG", quality=quality)
            if buffer.tell() <= MAX_JPEG_BYTES:
                break
        return base64.b64encode(buffer.getvalue()).decode("ascii")


def latents_spatial(pipeline: Any, latents: torch.Tensor, *, width: int, height: int) -> torch.Tensor:
    """A pipeline's latents as pictures x channels x height x width, whatever it packs them into."""
    sequence = len(("picture", "patch", "channel"))
    if latents.ndim == sequence and hasattr(pipeline, "_unpack_latents_with_ids"):
        # FLUX.2: patches in rows, of normalised numbers.
        side = pipeline.vae_scale_factor * 2
        grid = latents.permute(0, 2, 1).unflatten(2, (height // side, width // side))
        bn = pipeline.vae.bn
        mean, variance = (each.view(1, -1, 1, 1) for each in (bn.running_mean, bn.running_var))
        latents = pipeline._unpatchify_latents(  # noqa: SLF001 - the pipeline's own way back
            grid * (variance + pipeline.vae.config.batch_norm_eps).sqrt() + mean
        )
    elif latents.ndim == sequence:
        latents = pipeline._unpack_latents(latents, height, width, pipeline.vae_scale_factor)  # noqa: SLF001
    return latents[:, :, 0] if latents.ndim == _VIDEO else latents


def colours_fit(vae: Any) -> Matrix:
    """The map for an autoencoder: 3 x (channels + 1), the last column a constant; red, green, blue from 0 to 1."""
    patches = _patches()
    with _wide_enough(vae), torch.inference_mode():
        parameter = next(vae.parameters())
        pixels = (patches * 2 - 1).to(parameter.device, parameter.dtype)
        frames = hasattr(vae.config, "z_dim")  # one for films, of which a picture is a frame
        latents = _latents(vae.encode(pixels[:, :, None] if frames else pixels)).float().cpu()
    latents = _normalised(latents[:, :, 0] if frames else latents, vae.config)
    colours = torch.nn.functional.adaptive_avg_pool2d(patches, latents.shape[2:])
    return _ridge(*(np.nan_to_num(_columns(each), posinf=0, neginf=0) for each in (latents, colours)))


def _patches() -> torch.Tensor:
    """Flat colours, and soft patterns that always are the same ones: pictures x 3 x pixels x pixels, 0 to 1."""
    flat = torch.tensor(list(itertools.product(_LEVELS, repeat=3)))[:, :, None, None]
    size = (_PATCH_PIXELS, _PATCH_PIXELS)
    cells = torch.rand(
        _PATTERNS, 3, _PATTERN_CELLS, _PATTERN_CELLS, generator=torch.Generator().manual_seed(0)
    )
    soft = torch.nn.functional.interpolate(cells, size=size, mode="bicubic", align_corners=False)
    return torch.cat([flat.expand(-1, -1, *size), soft.clamp(0, 1)])


def _latents(encoded: Any) -> Any:
    """What an autoencoder's encoding is, whatever it calls it."""
    for name in ("latents", "latent"):
        if hasattr(encoded, name):
            return getattr(encoded, name)
    return encoded.latent_dist.mode()


def _normalised(latents: torch.Tensor, config: Any) -> torch.Tensor:
    """An autoencoder's numbers as denoisers are given them."""
    if getattr(config, "latents_mean", None) is not None:
        mean, std = (
            torch.tensor(value).view(1, -1, 1, 1) for value in (config.latents_mean, config.latents_std)
        )
        latents = (latents - mean) / std
    shift = getattr(config, "shift_factor", None) or 0.0
    return (latents - shift) * (getattr(config, "scaling_factor", None) or 1.0)


def _columns(values: torch.Tensor) -> npt.NDArray[np.float64]:
    """A row for each cell."""
    columns: npt.NDArray[np.float64] = values.movedim(1, -1).flatten(0, -2).double().numpy()
    return columns


def _ridge(seen: npt.NDArray[np.float64], colours: npt.NDArray[np.float64]) -> Matrix:
    """The map that fits best, of those with small numbers; the constant may be of any size."""
    mean, target = seen.mean(0), colours.mean(0)
    centred = seen - mean
    spread = centred.T @ centred
    penalty = _RIDGE * max(np.trace(spread) / len(spread), np.finfo(np.float32).tiny)
    weights = np.linalg.solve(spread + penalty * np.eye(len(spread)), centred.T @ (colours - target))
    fitted = np.concatenate([weights.T, (target - mean @ weights)[:, None]], axis=1)
    return np.ascontiguousarray(fitted, dtype=np.float32)


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
