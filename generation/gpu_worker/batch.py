"""A generation's row as the engine's batch, and its result as a receipt."""

from django.conf import settings
from django.core.files.storage import default_storage

from generation.engine import AdapterUse, Batch, BatchResult, EngineAdapterUnusable, ModelRef
from generation.engine.encoding import request_of
from generation.models import Generation, GenerationLora
from loras.files import lora_path
from loras.services import lora_mark_lost
from models_registry.models import Checkpoint
from models_registry.selectors import checkpoint_folder


def model_ref(checkpoint: Checkpoint) -> ModelRef:
    """A checkpoint as the engine knows it."""
    return ModelRef(
        id=checkpoint.id,
        repository=checkpoint.repository,
        revision=checkpoint.revision,
        folder=checkpoint_folder(checkpoint),
        dtype=checkpoint.dtype,
        variant=checkpoint.variant,
    )


def _stored(name: str) -> bytes | None:
    """An input picture's file; None where the generation has none. Raises OSError when the storage has lost it."""
    if not name:
        return None
    with default_storage.open(name) as file:
        data: bytes = file.read()
    return data


def _adapters(generation: Generation) -> tuple[AdapterUse, ...]:
    """The generation's adapters; notes which files they are. Raises EngineAdapterUnusable."""
    uses = []
    for use in generation.adapters.select_related("lora"):
        if use.lora is None:
            raise EngineAdapterUnusable(f"{use.name} was deleted.")
        path = lora_path(use.lora)
        if not path.is_file():
            lora_mark_lost(lora=use.lora)
            raise EngineAdapterUnusable(f"The file of {use.name} is gone.")
        GenerationLora.objects.filter(pk=use.pk).update(sha256=use.lora.sha256)
        uses.append(AdapterUse(use.name, use.lora.sha256, path, use.scale))
    return tuple(uses)


def _batch(generation: Generation) -> Batch:
    return Batch(
        model=model_ref(generation.checkpoint),
        prompt=generation.prompt,
        negative_prompt=generation.negative_prompt,
        width=generation.width,
        height=generation.height,
        num_inference_steps=generation.num_inference_steps,
        guidance_scale=generation.guidance_scale,
        seed=generation.seed,
        num_images=generation.num_images,
        kind=generation.kind,
        scheduler=generation.scheduler,
        clip_skip=generation.clip_skip,
        strength=generation.strength,
        image=_stored(generation.input_image),
        mask=_stored(generation.mask_image),
        adapters=_adapters(generation),
        output_format=generation.output_format,
        strict=generation.strict,
        # What the filter has not seen is shown to nobody.
        preview_every=0 if settings.SAFETY_FILTER == "block" else generation.preview_every,
    )


def _receipt(batch: Batch, result: BatchResult, checkpoint: Checkpoint) -> dict[str, object]:
    environment = dict(result.environment)
    return {
        "request": request_of(batch),
        "model": {
            "id": checkpoint.id,
            "repository": checkpoint.repository,
            "revision": checkpoint.revision,
            "family": checkpoint.family,
            "weights_sha256": environment.pop("weights_sha256"),
        },
        "environment": environment,
    }
