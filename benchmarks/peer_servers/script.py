"""A script around diffusers: FastAPI, and a lock around the pipeline. `MODEL` names the folder, `PORT` the port."""

import io
import os
import threading

import torch
import uvicorn
from diffusers import DiffusionPipeline
from fastapi import FastAPI, Response

app = FastAPI()
pipeline = DiffusionPipeline.from_pretrained(os.environ["MODEL"], dtype=torch.float32)
pipeline.set_progress_bar_config(disable=True)
lock = threading.Lock()


@app.post("/generate")
def generate(body: dict) -> Response:
    """Draws one picture at a time."""
    with lock:
        image = pipeline(
            body["prompt"],
            width=body["width"],
            height=body["height"],
            num_inference_steps=body["steps"],
            guidance_scale=body["guidance_scale"],
            generator=torch.Generator().manual_seed(body["seed"]),
        ).images[0]
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return Response(buffer.getvalue(), media_type="image/png")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
