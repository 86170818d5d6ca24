"""Ray Serve around diffusers, `BATCH` pictures at a time."""

import asyncio
import os

import ray
from drawing import BATCH, PORT, WAIT_S, Drawer
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(max_ongoing_requests=4 * BATCH)
class Drawing:
    """Draws what has come together within a moment, while the next requests come in."""

    def __init__(self) -> None:
        self.drawer = Drawer()

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT_S)
    async def draw(self, bodies: list[dict]) -> list[bytes]:
        """One call of the pipeline for all of them."""
        return await asyncio.to_thread(self.drawer.draw, bodies)

    async def __call__(self, request: Request) -> Response:
        """The file of one request."""
        return Response(await self.draw(await request.json()), media_type="image/png")


if __name__ == "__main__":
    ray.init(include_dashboard=False, num_cpus=os.cpu_count(), configure_logging=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(Drawing.bind(), route_prefix="/generate", blocking=True)
