"""BentoML around diffusers, `BATCH` pictures at a time."""

import os
import sys
from pathlib import Path
from typing import Annotated

import bentoml
from bentoml.validators import ContentType
from drawing import BATCH, LONGEST_S, PORT, Drawer


@bentoml.service(workers=1, traffic={"timeout": LONGEST_S})
class Drawing:
    """Draws what has come together; how long it waits for others, BentoML learns."""

    def __init__(self) -> None:
        self.drawer = Drawer()

    @bentoml.api(batchable=True, max_batch_size=BATCH, max_latency_ms=LONGEST_S * 1000)
    def draw(self, bodies: list[dict]) -> list[bytes]:
        """One call of the pipeline for all of them."""
        return self.drawer.draw(bodies)


@bentoml.service(workers=1, traffic={"timeout": LONGEST_S})
class Front:
    """Takes one request at a time, which what batches does not."""

    drawing = bentoml.depends(Drawing)

    @bentoml.api(route="/generate")
    async def generate(
        self, prompt: str, seed: int, steps: int, width: int, height: int, guidance_scale: float
    ) -> Annotated[bytes, ContentType("image/png")]:
        """The file of one request."""
        body = {
            "prompt": prompt,
            "seed": seed,
            "steps": steps,
            "width": width,
            "height": height,
            "guidance_scale": guidance_scale,
        }
        return (await self.drawing.to_async.draw([body]))[0]


if __name__ == "__main__":
    folder = str(Path(__file__).parent)
    arguments = ["-m", "bentoml", "serve", "bento:Front", "--host", "127.0.0.1", "--port", str(PORT)]
    os.execv(sys.executable, [sys.executable, *arguments, "--working-dir", folder])
