"""The model that ships with the project: where its files lie and which requests suit it. Imports no torch."""

from pathlib import Path
from typing import Any, Final

WEIGHTS: Final = Path(__file__).resolve().parent / "weights"
ADAPTERS: Final = Path(__file__).resolve().parent / "adapters"

NATIVE_SIZE: Final = 512  # pixels, the side of a square picture
MIN_SIZE: Final = 256
MAX_SIZE: Final = 1024
SIZE_MULTIPLE: Final = 16  # one latent cell covers 16x16 pixels

DEFAULT_STEPS: Final = 20
DEFAULT_GUIDANCE: Final = 2.0
DEMO_PROMPT: Final = "a large yellow star left of a medium pink heart on a blue background"


def set_tile_sizes(vae: Any, *, tile: int = NATIVE_SIZE) -> None:
    """Make the autoencoder's tiling work: diffusers' AutoencoderTiny assumes 8 pixels a latent cell, whatever it has.

    Call it before `enable_tiling`; `tile` is the tiles' side in pixels, a multiple of 128.
    """
    vae.spatial_scale_factor = SIZE_MULTIPLE
    vae.tile_sample_min_size = tile
    vae.tile_latent_min_size = tile // SIZE_MULTIPLE
