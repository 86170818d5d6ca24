"""What the servers share that draw in batches: one call of diffusers' pipeline for several requests.

`MODEL` names the folder; with `BEST=1` it draws in bfloat16 with channels last, and its files have PNG level 1.
"""

import io
import os

import torch
from diffusers import DiffusionPipeline

BATCH, PORT = int(os.environ["BATCH"]), int(os.environ["PORT"])
BEST = os.environ.get("BEST") == "1"
# How long a request waits for others, in seconds.
WAIT_S = 0.05
LONGEST_S = 900


class Drawer:
    """The pipeline."""

    def __init__(self) -> None:
        torch.set_num_threads(os.cpu_count() or 1)  # servers that start processes for it may leave it one
        self.pipeline = DiffusionPipeline.from_pretrained(
            os.environ["MODEL"], dtype=torch.bfloat16 if BEST else torch.float32
        )
        self.pipeline.set_progress_bar_config(disable=True)
        if BEST:
            self.pipeline.unet.to(memory_format=torch.channels_last)
            self.pipeline.vae.to(memory_format=torch.channels_last)

    def draw(self, bodies: list[dict]) -> list[bytes]:
        """PNG files, one per body; the steps and the size are the first one's."""
        first = bodies[0]
        images = self.pipeline(
            [body["prompt"] for body in bodies],
            width=first["width"],
            height=first["height"],
            num_inference_steps=first["steps"],
            guidance_scale=first["guidance_scale"],
            generator=[torch.Generator().manual_seed(body["seed"]) for body in bodies],
        ).images
        return [self._file(image) for image in images]

    def _file(self, image: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", **({"compress_level": 1} if BEST else {}))
        return buffer.getvalue()
