"""The engine: keeps a pipeline warm and draws batches with it. Knows neither Django nor RQ.

    from generation.engine import Batch, Engine, ModelRef
    engine = Engine()
    result = engine.run(Batch(model=ModelRef(...), prompt="a red circle", ...))

Not thread-safe: one thread, the pipeline thread, calls everything but `resident`.
"""

import gc
import platform
from importlib.metadata import version
from typing import Any

import torch

from generation.engine import memory
from generation.engine.errors import EngineError, EngineOutOfMemory, EngineStopped
from generation.engine.loader import class_name, device_of_choice, dtype_for, pipeline_load, weights_sha256
from generation.engine.pictures import picture_encode
from generation.engine.specs import Batch, BatchResult, ModelRef, OnStep, ShouldStop

_VERSIONED = ("diffusers", "transformers", "pillow")


def _never_stop() -> str | None:
    return None


def _ignore_step(step: int, total_steps: int) -> None:
    pass


class Engine:
    """One device and the pipeline that is resident on it."""

    def __init__(self, *, threads: int = 0) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.device = device_of_choice()
        self._model: ModelRef | None = None
        self._pipeline: Any = None
        self._weights_sha256 = ""

    @property
    def resident(self) -> list[str]:
        """Ids of the checkpoints that are ready to run."""
        model = self._model
        return [model.id] if model else []

    def load(self, model: ModelRef) -> None:
        """Makes a checkpoint resident; at once when it already is. Raises EngineModelUnavailable, EngineOutOfMemory."""
        if self._model == model:
            return
        self.unload()
        try:
            self._pipeline = pipeline_load(model, self.device)
        except torch.OutOfMemoryError as error:
            self.unload()
            raise EngineOutOfMemory(f"{model.id} does not fit into the device's memory.") from error
        self._weights_sha256 = weights_sha256(model.folder)
        self._model = model

    def unload(self) -> None:
        """Frees the device of the resident checkpoint."""
        self._model = None
        self._pipeline = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def run(
        self, batch: Batch, *, on_step: OnStep = _ignore_step, should_stop: ShouldStop = _never_stop
    ) -> BatchResult:
        """Draws a batch, loading its checkpoint first where needed.

        `on_step` hears of each step; `should_stop` is asked before the first and after each. Raises EngineStopped with
        its reason, EngineModelUnavailable, EngineOutOfMemory or EngineError; after an unexpected error the pipeline is
        dropped, since nobody knows what state it is in.
        """
        self.load(batch.model)
        memory.peak_reset(self.device)
        try:
            images = self._draw(batch, on_step, should_stop)
        except EngineStopped:
            raise
        except torch.OutOfMemoryError as error:
            self.unload()
            raise EngineOutOfMemory(
                "The device ran out of memory; try a smaller picture or fewer at once."
            ) from error
        except Exception as error:
            self.unload()
            raise EngineError(f"{type(error).__name__} in the pipeline") from error
        return BatchResult(
            pictures=[
                picture_encode(image, batch, seed) for image, seed in zip(images, batch.seeds, strict=True)
            ],
            environment=self._environment(batch),
            memory_peak_mb=memory.peak_mb(self.device),
        )

    def _draw(self, batch: Batch, on_step: OnStep, should_stop: ShouldStop) -> list[Any]:
        def stop_if_asked() -> None:
            if reason := should_stop():
                raise EngineStopped(reason)

        def after_step(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            # Raising is the way out: the pipeline's own interrupt flag would still decode the picture.
            stop_if_asked()
            on_step(step + 1, batch.num_inference_steps)
            return tensors

        stop_if_asked()
        # On the CPU in either case: a seed then means the same noise on every device.
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in batch.seeds]
        with torch.inference_mode():
            output = self._pipeline(
                prompt=batch.prompt,
                negative_prompt=batch.negative_prompt or None,
                width=batch.width,
                height=batch.height,
                num_inference_steps=batch.num_inference_steps,
                guidance_scale=batch.guidance_scale,
                num_images_per_prompt=batch.num_images,
                generator=generators,
                callback_on_step_end=after_step,
                output_type="pil",
            )
        images: list[Any] = output.images
        return images

    def _environment(self, batch: Batch) -> dict[str, Any]:
        """What the pixels depend on beside the request."""
        return {
            "device": memory.device_name(self.device),
            "dtype": str(dtype_for(batch.model.dtype, self.device)).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "batch_shape": [batch.num_images, 3, batch.height, batch.width],
            "pipeline": class_name(batch.model.folder),
            "weights_sha256": self._weights_sha256,
            "python": platform.python_version(),
            "torch": torch.__version__,  # with the build, such as +cpu, which the package's metadata leaves out
            **{name: version(name) for name in _VERSIONED},
        }
