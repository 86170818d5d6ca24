"""The engine: keeps models warm and draws batches with them. Knows neither Django nor RQ.

    from generation.engine import Batch, Engine, ModelRef
    engine = Engine()
    result = engine.run(Batch(model=ModelRef(...), prompt="a red circle", ...))

One thread, the pipeline thread, calls everything but `load_beside`, `prefetch`, `models` and `resident`.
"""

import contextlib
import dataclasses
import platform
from collections.abc import Callable
from concurrent.futures import Future
from importlib.metadata import version
from typing import Any, cast

import torch
from PIL import Image

from generation.engine import memory
from generation.engine.adapters import AdapterRack
from generation.engine.cache import CacheEntry, ModelCache
from generation.engine.encoding import picture_encode
from generation.engine.errors import (
    EngineDeviceLost,
    EngineError,
    EngineOutOfMemory,
    EngineRefused,
    EngineStopped,
    EngineUnsafe,
)
from generation.engine.loader import device_of_choice
from generation.engine.pipelines import (
    call_arguments,
    in_tiles,
    old_text_encoder_name,
    outside_kept,
    pictures_of,
    pipeline_for,
    step_callback,
    steps_of,
)
from generation.engine.previews import Preview, colours_fit
from generation.engine.prompts import prompt_warnings
from generation.engine.safety import SafetyFilter, SafetySettings
from generation.engine.schedulers import scheduler_make
from generation.engine.specs import (
    AdapterUse,
    Batch,
    BatchResult,
    CachedModel,
    ModelRef,
    OnPreview,
    OnStep,
    OnWarning,
    ShouldStop,
)

_VERSIONED = ("diffusers", "transformers", "pillow")


def _never_stop() -> str | None:
    return None


def _ignore_drawing() -> None:
    pass


def _ignore_step(step: int, total_steps: int) -> None:
    pass


def _ignore_preview(preview: Preview) -> None:
    pass


def _ignore_warning(warning: dict[str, Any]) -> None:
    pass


class Engine:
    """One device and the models on it. Budgets are in MiB, 0 for automatic ones."""

    def __init__(
        self,
        *,
        threads: int = 0,
        resident_mb: int = 0,
        warm_mb: int = 0,
        adapters_mb: int = 1024,
        safety: SafetySettings | None = None,
    ) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.device = device_of_choice()
        self.safety = SafetyFilter(safety or SafetySettings(), self.device)
        resident_bytes, warm_bytes = memory.budgets_bytes(
            self.device, resident_mb=resident_mb, warm_mb=warm_mb
        )
        self.cache = ModelCache(
            self.device,
            resident_bytes=resident_bytes,
            warm_bytes=warm_bytes,
            adapter_bytes=adapters_mb * memory.MIB,
            with_checker=self.safety.is_on and self.safety.settings.classifier is None,
        )
        self._canary = memory.LeakCanary(self.device)

    @property
    def resident(self) -> list[str]:
        """Ids of the checkpoints that are ready to run, most recently used first."""
        return [model.id for model in self.models() if model.tier == "resident"]

    def models(self) -> list[CachedModel]:
        """What the cache holds, most recently used first."""
        return self.cache.models()

    def load_beside(self, model: ModelRef) -> Future[None]:
        """Makes a checkpoint resident beside whatever runs; the future ends when it is, or with an EngineError.

        Needs the pipeline thread's help: a running batch gives it between steps, `build_waiting` at other times.
        """
        return self.cache.load_beside(model)

    def prefetch(self, model: ModelRef) -> None:
        """Starts reading a checkpoint into host memory, for a batch that comes soon."""
        self.cache.request(model)

    def build_waiting(self) -> None:
        """Finishes what `load_beside` was asked for and has been read."""
        while self.cache.advance():
            pass

    def load(self, model: ModelRef, *, should_stop: ShouldStop = _never_stop) -> None:
        """Makes a checkpoint resident; at once when it already is. Raises EngineModelUnavailable, EngineOutOfMemory."""
        with self.cache.borrow(model, while_waiting=_stopper(should_stop)):
            pass

    def unload(self, model_id: str) -> bool:
        """Frees device and host memory of a checkpoint; False when it was not there."""
        return self.cache.drop(model_id)

    def attach(self, model: ModelRef, use: AdapterUse, *, should_stop: ShouldStop = _never_stop) -> None:
        """Puts an adapter on a model before a batch needs it.

        Raises EngineStopped, EngineAdapterUnusable, EngineModelUnavailable.
        """
        stop_if_asked = _stopper(should_stop)
        with (
            self.cache.borrow(model, while_waiting=stop_if_asked) as entry,
            cast(AdapterRack, entry.rack).applied([use], stop_if_asked=stop_if_asked),
        ):
            pass

    def detach(self, sha256: str) -> None:
        """Takes an adapter off every model that it is attached to."""
        self.cache.detach(sha256)

    def leaks(self) -> memory.CanaryReport:
        """What is allocated beyond the cache, compared with the first look."""
        return self._canary.look(self.cache.held_bytes())

    def close(self) -> None:
        """Ends the engine's threads."""
        self.cache.close()

    def run(
        self,
        batch: Batch,
        *,
        on_drawing: Callable[[], None] = _ignore_drawing,
        on_step: OnStep = _ignore_step,
        on_preview: OnPreview = _ignore_preview,
        on_warning: OnWarning = _ignore_warning,
        should_stop: ShouldStop = _never_stop,
    ) -> BatchResult:
        """Draws a batch, loading its checkpoint first where needed.

        `on_drawing` hears that the model is there and the first step begins, `on_step` of each step, `on_preview` of
        what the picture looks like, `on_warning` of what a client should know before the first; `should_stop` is asked
        before the first and after each. Out of memory, it frees what is idle and tries once more, one picture at a time
        and in tiles. Raises EngineStopped with its reason, EngineRefused, EngineUnsafe, EngineModelUnavailable,
        EngineAdapterUnusable, EngineOutOfMemory or EngineError; after an unexpected error the model is dropped, since
        nobody knows what state it is in, but not where the pipeline only refused what it was asked for.
        """
        stop_if_asked = _stopper(should_stop)
        with self.cache.borrow(batch.model, while_waiting=stop_if_asked) as entry:
            memory.peak_reset(self.device)
            listeners = _Listeners(on_drawing, on_step, on_preview, on_warning)
            draw = _Drawing(self, entry, _as_drawn(batch), listeners, stop_if_asked)
            try:
                images = _enlarged(draw.with_second_chance(), batch)
                verdicts = self._verdicts(images, entry.pipeline)
            except EngineError:
                raise
            except torch.OutOfMemoryError as error:
                entry.broken = True
                raise EngineOutOfMemory(
                    "The device ran out of memory twice, the second time drawing one picture at a time and in tiles; "
                    "try a smaller size or fewer pictures."
                ) from error
            except torch.AcceleratorError as error:
                raise EngineDeviceLost(f"The device failed: {error}") from error
            except (ValueError, TypeError) as error:
                # So pipelines refuse what they are asked for; the model is as it was.
                raise EngineError(f"The pipeline refused it: {error}") from error
            except Exception as error:
                entry.broken = True
                raise EngineError(f"{type(error).__name__} in the pipeline") from error
            environment = self._environment(entry, draw)
            pictures = [
                picture_encode(image, batch, index)
                for index, image in enumerate(images)
                if not (verdicts[index] and self.safety.settings.mode == "block")
            ]
        if not pictures:
            raise EngineUnsafe("The safety filter blocked every picture.")
        return BatchResult(
            pictures=pictures,
            environment=environment,
            memory_peak_mb=memory.peak_mb(self.device),
            safety=self._safety_word(verdicts),
            warnings=draw.warnings
            + [
                {"param": "num_images", "reason": f"The safety filter blocked picture {index}.", "used": None}
                for index, verdict in enumerate(verdicts)
                if verdict and self.safety.settings.mode == "block"
            ],
        )

    def _verdicts(self, images: list[Image.Image], pipeline: Any) -> list[bool | None]:
        """Whether each picture is unsafe; None where nobody looked."""
        if not self.safety.is_on:
            return [None] * len(images)
        verdicts = self.safety.unsafe(images, pipeline)
        if verdicts is None and self.safety.settings.mode == "block":
            raise EngineUnsafe(
                "SAFETY_FILTER=block, but there is nothing to look at pictures with: this model ships no checker. "
                "Name a classifier in SAFETY_MODEL."
            )
        return list(verdicts) if verdicts is not None else [None] * len(images)

    def _safety_word(self, verdicts: list[bool | None]) -> str:
        if None in verdicts:
            return "not_checked"
        if not any(verdicts):
            return "passed"
        return "blocked" if self.safety.settings.mode == "block" else "flagged"

    def _environment(self, entry: CacheEntry, draw: "_Drawing") -> dict[str, Any]:
        """What the pixels depend on beside the request."""
        batch = draw.batch
        return {
            "device": memory.device_name(self.device),
            "dtype": entry.dtype,
            "threads": torch.get_num_threads(),
            "batch_shape": [1 if draw.sparing else batch.num_images, 3, batch.height, batch.width],
            # From that shape, where it is not the picture's own.
            "enlarged_by": "lanczos" if batch.drawn_size else None,
            "pipeline": type(draw.pipeline).__name__,
            "scheduler": type(draw.pipeline.scheduler).__name__,
            "weights_sha256": entry.weights_sha256,
            "python": platform.python_version(),
            "torch": torch.__version__,  # with the build, such as +cpu, which the package's metadata leaves out
            **{name: version(name) for name in _VERSIONED},
        }


def _as_drawn(batch: Batch) -> Batch:
    """The batch at the size at which it is drawn."""
    if batch.drawn_size is None:
        return batch
    width, height = batch.drawn_size
    return dataclasses.replace(batch, width=width, height=height)


def _enlarged(images: list[Image.Image], batch: Batch) -> list[Image.Image]:
    """The pictures at the size that was asked for."""
    if batch.drawn_size is None:
        return images
    return [image.resize((batch.width, batch.height), Image.Resampling.LANCZOS) for image in images]


def _stopper(should_stop: ShouldStop) -> Callable[[], None]:
    def stop_if_asked() -> None:
        if reason := should_stop():
            raise EngineStopped(reason)

    return stop_if_asked


@dataclasses.dataclass(frozen=True)
class _Listeners:
    on_drawing: Callable[[], None]
    on_step: OnStep
    on_preview: OnPreview
    on_warning: OnWarning


class _Drawing:
    """One batch on one pipeline."""

    def __init__(
        self,
        engine: Engine,
        entry: CacheEntry,
        batch: Batch,
        listeners: _Listeners,
        stop_if_asked: Callable[[], None],
    ) -> None:
        self.engine = engine
        self.entry = entry
        self.batch = batch
        self.listeners = listeners
        self.stop_if_asked = stop_if_asked
        self.pipeline = pipeline_for(entry, batch.kind)
        self.warnings: list[dict[str, Any]] = []
        self.sparing = False

    def with_second_chance(self) -> list[Image.Image]:
        """The pictures; where memory does not suffice, drawn once more in the way that takes least."""
        self.stop_if_asked()
        self._warn(
            prompt_warnings(
                self.entry.pipeline, prompt=self.batch.prompt, negative_prompt=self.batch.negative_prompt
            )
        )
        try:
            return self._draw(self.batch, self.batch.seeds)
        except torch.OutOfMemoryError:
            pass  # its traceback holds the tensors that have to go
        self.engine.cache.drop_idle()
        self.sparing = True
        reason = (
            "Memory did not suffice: drawn one picture at a time and in tiles, which may show in the pixels."
        )
        self._warn([{"param": "num_images", "reason": reason, "used": 1}])
        vae = self.pipeline.vae
        # SDXL's pipeline decodes in single precision, and leaves the autoencoder so where memory ends in the middle.
        vae.to(getattr(torch, self.entry.dtype))
        with in_tiles(vae, side=min(self.batch.width, self.batch.height)):
            return [
                image
                for seed in self.batch.seeds
                for image in self._draw(dataclasses.replace(self.batch, num_images=1), [seed])
            ]

    def _warn(self, warnings: list[dict[str, Any]]) -> None:
        for warning in warnings:
            if warning in self.warnings:
                continue
            if self.batch.strict:
                raise EngineRefused(warning)
            self.warnings.append(warning)
            self.listeners.on_warning(warning)

    def _draw(self, batch: Batch, seeds: list[int]) -> list[Image.Image]:
        with cast(AdapterRack, self.entry.rack).applied(batch.adapters, stop_if_asked=self.stop_if_asked):
            return self._draw_bare(batch, seeds)

    def _draw_bare(self, batch: Batch, seeds: list[int]) -> list[Image.Image]:
        arguments, warnings = call_arguments(self.pipeline, batch)
        self._warn(warnings)
        self.pipeline.scheduler = scheduler_make(
            batch.scheduler, self.entry.scheduler, from_start=batch.kind == "txt2img"
        )
        # On the CPU in either case: a seed then means the same noise on every device.
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        self.listeners.on_drawing()
        with torch.inference_mode(), old_text_encoder_name(self.pipeline), memory.allocations_told():
            told = step_callback(self.pipeline, self._after_step)
            output = self.pipeline(**arguments, generator=generators, **told)
        return outside_kept(pictures_of(output.images), batch)

    def _preview(self, latents: torch.Tensor) -> None:
        """Of the first picture; transformers that work on sequences have no latents that could be shown."""
        if latents.ndim != len(("batch", "channels", "height", "width")):
            return
        if self.entry.colours is None:
            self.entry.colours = colours_fit(self.pipeline.vae)
        self.listeners.on_preview(Preview(latents[0].float().cpu().numpy().copy(), self.entry.colours))

    def _after_step(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        # Raising is the way out: the pipeline's own interrupt flag would still decode the picture.
        self.stop_if_asked()
        if self.batch.preview_every and step % self.batch.preview_every == 0:
            # A preview may fail; it may not end the job.
            with contextlib.suppress(Exception):
                self._preview(tensors["latents"])
        self.listeners.on_step(step + 1, steps_of(pipeline))
        self.engine.cache.advance()
        return tensors
