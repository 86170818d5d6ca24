"""One batch on one pipeline: warnings, the call, the second chance, the look of the safety filter."""

import dataclasses
import functools
import operator
import platform
from collections.abc import Callable
from importlib import metadata
from typing import Any, Final, Protocol, cast

import torch
from PIL import Image

from generation.engine import memory
from generation.engine.acceleration import accelerated
from generation.engine.cache import ModelCache
from generation.engine.cache_entry import CacheEntry
from generation.engine.cpu import instruction_set
from generation.engine.encoding import picture_encode
from generation.engine.errors import (
    EngineDeviceLost,
    EngineError,
    EngineOutOfMemory,
    EngineRefused,
    EngineStopped,
    EngineUnsafe,
)
from generation.engine.framing import framed, unframed
from generation.engine.loader import channels_last
from generation.engine.noise import noise_in_turn, timesteps_on_host
from generation.engine.pipelines import (
    call_arguments,
    in_tiles,
    old_text_encoder_name,
    pictures_of,
    pipeline_for,
    size_keep,
    step_callback,
    steps_of,
)
from generation.engine.predictions import steps_watch
from generation.engine.previews import Preview, colours_fit, latents_spatial
from generation.engine.prompts import prompt_warnings
from generation.engine.rows import Row, Rows, denoiser_name
from generation.engine.safety import SafetyFilter
from generation.engine.schedulers import scheduler_make
from generation.engine.specs import Batch, BatchResult, OnPreview, OnStep, OnWarning, ShouldStop
from generation.engine.stages import decode_by, decoding_bytes, encode_once
from generation.engine.weighted import encode_weighted

# What decodings beside each other may take each; larger ones come one after the other.
BESIDE_BYTES: Final = 1 << 30

_VERSIONED = ("diffusers", "transformers", "pillow")
_version = functools.cache(metadata.version)


def never_stop() -> str | None:
    """Has no reason to stop."""
    return None


def ignore(*_: Any) -> None:
    """Hears of something and does nothing."""


def stopper(should_stop: ShouldStop) -> Callable[[], None]:
    """Raises EngineStopped where there is a reason to stop."""

    def stop_if_asked() -> None:
        if reason := should_stop():
            raise EngineStopped(reason)

    return stop_if_asked


@dataclasses.dataclass(frozen=True)
class Listeners:
    """Who hears of a batch: that its first step begins, of each step, previews and warnings; and who may stop it."""

    on_drawing: Callable[[], None] = ignore
    on_step: OnStep = ignore
    on_preview: OnPreview = ignore
    on_warning: OnWarning = ignore
    should_stop: ShouldStop = never_stop


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A batch's pictures before they are files."""

    batch: Batch
    images: list[Image.Image | None]
    environment: dict[str, Any]
    memory_peak_mb: int
    safety: str
    warnings: list[dict[str, Any]]
    share: float
    joined: bool

    def result(self) -> BatchResult:
        """The same with its pictures as files. Needs no torch, so any thread may do it."""
        return BatchResult(
            pictures=[
                picture_encode(image, self.batch, index)
                for index, image in enumerate(self.images)
                if image is not None
            ],
            environment=self.environment,
            memory_peak_mb=self.memory_peak_mb,
            safety=self.safety,
            warnings=self.warnings,
            share=self.share,
            joined=self.joined,
        )


class Surroundings(Protocol):
    """What a drawing needs of the engine that it runs in."""

    device: torch.device
    cache: ModelCache
    safety: SafetyFilter


class Drawing:
    """One batch on one pipeline."""

    def __init__(
        self, engine: Surroundings, entry: CacheEntry, batch: Batch, listeners: Listeners, rows: Rows
    ) -> None:
        self.engine = engine
        self.entry = entry
        self.asked = batch
        self.batch = framed(batch)
        self.listeners = listeners
        self.stop_if_asked = stopper(listeners.should_stop)
        self.rows = rows
        self.pipeline: Any = None
        self.warnings: list[dict[str, Any]] = []
        self.sparing = False
        self.tiled = False

    def __call__(self, row: Row) -> Drawn:
        """Draws it as a row.

        Raises EngineStopped, EngineRefused, EngineUnsafe, EngineOutOfMemory, EngineDeviceLost or EngineError; after an
        unexpected error the model is `broken`, since nobody knows what state it is in.
        """
        try:
            images = unframed(self._with_second_chance(row), self.asked)
            verdicts = self._verdicts(images)
        except EngineError:
            raise
        except torch.OutOfMemoryError as error:
            self.entry.broken = True
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
            self.entry.broken = True
            raise EngineError(f"{type(error).__name__} in the pipeline") from error
        blocking = self.engine.safety.settings.mode == "block"
        blocked = [index for index, verdict in enumerate(verdicts) if verdict and blocking]
        if len(blocked) == len(images):
            raise EngineUnsafe("The safety filter blocked every picture.")
        said = [
            {"param": "num_images", "reason": f"The safety filter blocked picture {index}.", "used": None}
            for index in blocked
        ]
        return Drawn(
            batch=self.asked,
            images=[None if index in blocked else image for index, image in enumerate(images)],
            environment=self._environment(row),
            memory_peak_mb=memory.peak_mb(self.engine.device),
            safety=self._safety_word(verdicts),
            warnings=self.warnings + said,
            share=row.share,
            joined=row.joined,
        )

    def _with_second_chance(self, row: Row) -> list[Image.Image]:
        """The pictures; where memory does not suffice, drawn once more in the way that takes least."""
        self.stop_if_asked()
        shared = pipeline_for(self.entry, self.batch.kind)
        self.pipeline = self.rows.pipeline(shared)
        residency = self.entry.residency
        weighted = self.batch.prompt_syntax == "weighted"
        if weighted:
            encode_weighted(self.pipeline)
        encode_once(
            self.pipeline,
            self.entry.embeddings,
            beside=(
                type(shared).__name__,
                weighted,
                *((use.sha256, use.scale) for use in self.batch.adapters),
            ),
            before=residency.need_encoders if residency else ignore,
        )
        decode_by(self.pipeline, self._decode)
        if not weighted:  # which reads all of it
            prompts = {"prompt": self.batch.prompt, "negative_prompt": self.batch.negative_prompt}
            self._warn(prompt_warnings(self.entry.pipeline, **prompts))
        try:
            return self._draw(self.batch, self.batch.seeds)
        except torch.OutOfMemoryError:
            pass  # its traceback holds the tensors that have to go
        return cast(list[Image.Image], self.rows.alone(row, self._sparingly))

    def _sparingly(self) -> list[Image.Image]:
        self._have_device()
        self.sparing = True
        reason = (
            "Memory did not suffice: drawn one picture at a time and in tiles, which may show in the pixels."
        )
        self._warn([{"param": "num_images", "reason": reason, "used": 1}])
        vae = self.entry.pipeline.vae
        # SDXL's pipeline decodes in single precision, and leaves the autoencoder so where memory ends in the middle.
        vae.to(self.entry.vae_dtype)
        with in_tiles(vae, side=min(self.batch.width, self.batch.height)):
            return [
                image
                for seed in self.batch.seeds
                for image in self._draw(dataclasses.replace(self.batch, num_images=1), [seed])
            ]

    def _decode(self, decode: Callable[..., Any], latents: Any, *arguments: Any, **keywords: Any) -> Any:
        """Decodes; where memory does not suffice, once more with the device for itself, and in tiles."""
        residency = self.entry.residency
        pixels = self.batch.width * self.batch.height * len(latents)
        working = decoding_bytes(pixels=pixels, dtype=latents.dtype)
        if residency:
            residency.need((), working=working)
        beside = self.rows.do_aside if working <= BESIDE_BYTES else operator.call
        try:
            with memory.allocations_told():
                return beside(functools.partial(decode, latents, *arguments, **keywords))
        except torch.OutOfMemoryError:
            if self.tiled or self.sparing:
                raise
        self.rows.lanes_wait()  # whatever is decoded there is not to go on in tiles
        self._have_device()
        self.tiled = True
        reason = "Memory did not suffice to decode at once: decoded in tiles, which may show in the pixels."
        self._warn([{"param": "width", "reason": reason, "used": None}])
        with in_tiles(self.entry.pipeline.vae, side=min(self.batch.width, self.batch.height)):
            return decode(latents, *arguments, **keywords)

    def _have_device(self) -> None:
        """Frees the device of all that can come again."""
        if self.entry.residency:
            self.entry.residency.clear()
        self.engine.cache.drop_idle()

    def _warn(self, warnings: list[dict[str, Any]]) -> None:
        for warning in warnings:
            if warning in self.warnings:
                continue
            if self.batch.strict:
                raise EngineRefused(warning)
            self.warnings.append(warning)
            self.listeners.on_warning(warning)

    def _draw(self, batch: Batch, seeds: list[int]) -> list[Image.Image]:
        size_keep(self.pipeline, width=batch.width, height=batch.height)
        arguments, warnings = call_arguments(self.pipeline, batch)
        self._warn(warnings)
        self.pipeline.__dict__["scheduler"] = scheduler_make(
            batch.scheduler, self.entry.scheduler, from_start=batch.kind == "txt2img"
        )
        if self.engine.device.type == "cuda":
            noise_in_turn(self.pipeline.scheduler)
            if denoiser_name(self.entry.pipeline) == "unet":
                timesteps_on_host(self.pipeline.scheduler)
        if batch.preview_every:
            steps_watch(self.pipeline.scheduler, self._preview, every=batch.preview_every)
        # On the CPU in either case: a seed then means the same noise on every device.
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        self.listeners.on_drawing()
        with (
            torch.inference_mode(),
            old_text_encoder_name(self.pipeline),
            accelerated(self.entry.pipeline, batch.acceleration),
            memory.allocations_told(),
        ):
            told = step_callback(self.pipeline, self._after_step)
            output = self.pipeline(**arguments, generator=generators, **told)
        return pictures_of(output.images)

    def _preview(self, latents: torch.Tensor) -> None:
        """Shows latents of all pictures."""
        if self.entry.colours is None:
            self.entry.colours = colours_fit(self.entry.pipeline.vae)
        size = {"width": self.batch.width, "height": self.batch.height}
        shown = latents_spatial(self.pipeline, latents, **size).float().cpu().numpy()
        self.listeners.on_preview(Preview(shown.copy(), self.entry.colours))

    def _after_step(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        # Raising is the way out: the pipeline's own interrupt flag would still decode the picture.
        self.stop_if_asked()
        self.listeners.on_step(step + 1, steps_of(pipeline))
        return tensors

    def _verdicts(self, images: list[Image.Image]) -> list[bool | None]:
        """Whether each picture is unsafe; None where nobody looked."""
        safety = self.engine.safety
        if not safety.is_on:
            return [None] * len(images)
        verdicts = safety.unsafe(images, self.entry.pipeline)
        if verdicts is None and safety.settings.mode == "block":
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
        return "blocked" if self.engine.safety.settings.mode == "block" else "flagged"

    def _environment(self, row: Row) -> dict[str, Any]:
        """What the pixels depend on beside the request."""
        batch, entry, device = self.batch, self.entry, self.engine.device
        return {
            "device": memory.device_name(device),
            "dtype": entry.dtype,
            "stored_dtype": entry.stored_dtype,
            "quantized": entry.quantized or None,
            "vae_dtype": str(entry.vae_dtype).removeprefix("torch."),
            "decoded_in_tiles": self.tiled or self.sparing,
            "memory_format": (
                "channels_last" if channels_last(getattr(torch, entry.dtype)) else "contiguous"
            ),
            "instruction_set": instruction_set(device),
            "threads": torch.get_num_threads(),
            "batch_shape": [1 if self.sparing else batch.num_images, 3, batch.height, batch.width],
            # How many pictures of others shared its steps at the most, and whether they had begun before it.
            "batched_with": row.batched_with,
            "joined": row.joined,
            "compiled": row.compiled,
            # From that shape, where it is not the picture's own.
            "enlarged_by": "lanczos" if batch.drawn_size else None,
            "pipeline": type(self.pipeline).__name__,
            "scheduler": type(self.pipeline.scheduler).__name__,
            "weights_sha256": entry.weights_sha256,
            "python": platform.python_version(),
            "torch": torch.__version__,  # with the build, such as +cpu, which the package's metadata leaves out
            **{name: _version(name) for name in (*_VERSIONED, *sorted({*entry.quantized.values()}))},
        }
