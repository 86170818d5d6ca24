"""LitServe around diffusers. `BATCH` pictures at a time; with `BEST=1` in bfloat16, channels last, PNG level 1."""

import io
import os

import litserve
import torch
from diffusers import DiffusionPipeline
from fastapi import Response

BATCH, BEST = int(os.environ["BATCH"]), os.environ.get("BEST") == "1"


class Drawing(litserve.LitAPI):
    """Draws what has come together within a moment; the steps and the size are the first one's."""

    def setup(self, device: str) -> None:
        """Loads the model."""
        self.pipeline = DiffusionPipeline.from_pretrained(
            os.environ["MODEL"], dtype=torch.bfloat16 if BEST else torch.float32
        )
        self.pipeline.set_progress_bar_config(disable=True)
        if BEST:
            self.pipeline.unet.to(memory_format=torch.channels_last)
            self.pipeline.vae.to(memory_format=torch.channels_last)

    def decode_request(self, request: dict) -> dict:
        """The body as it is."""
        return request

    def batch(self, inputs: list[dict]) -> list[dict]:
        """A list of bodies."""
        return list(inputs)

    def unbatch(self, output: list) -> list:
        """A list of pictures."""
        return output

    def predict(self, bodies: list[dict] | dict) -> list:
        """One call of the pipeline for all of them."""
        several = bodies if isinstance(bodies, list) else [bodies]
        first = several[0]
        images = self.pipeline(
            [body["prompt"] for body in several],
            width=first["width"],
            height=first["height"],
            num_inference_steps=first["steps"],
            guidance_scale=first["guidance_scale"],
            generator=[torch.Generator().manual_seed(body["seed"]) for body in several],
        ).images
        return images if isinstance(bodies, list) else images[0]

    def encode_response(self, output: object) -> Response:
        """A PNG."""
        buffer = io.BytesIO()
        output.save(buffer, format="PNG", **({"compress_level": 1} if BEST else {}))
        return Response(buffer.getvalue(), media_type="image/png")


if __name__ == "__main__":
    api = Drawing(max_batch_size=BATCH, batch_timeout=0.05 if BATCH > 1 else 0.0, api_path="/generate")
    server = litserve.LitServer(api, accelerator="cpu", timeout=900)
    server.run(
        host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False, log_level="warning"
    )
