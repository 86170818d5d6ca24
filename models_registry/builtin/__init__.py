"""The model that ships with the project: where its files lie and which requests suit it. Imports no torch."""

from pathlib import Path
from typing import Final

WEIGHTS: Final = Path(__file__).resolve().parent / "weights"
ADAPTERS: Final = Path(__file__).resolve().parent / "adapters"

NATIVE_SIZE: Final = 512  # pixels, the side of a square picture
MIN_SIZE: Final = 256
MAX_SIZE: Final = 1024
SIZE_MULTIPLE: Final = 16  # one latent cell covers 16x16 pixels

DEFAULT_STEPS: Final = 8
DEFAULT_GUIDANCE: Final = 2.0
DEMO_PROMPT: Final = "a large yellow star left of a medium pink heart on a blue background"
