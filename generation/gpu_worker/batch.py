"""A generation's row as the engine's batch, and its result as a receipt."""

from dataclasses import fields

from django.conf import settings

from generation.engine import AdapterUse, Batch, BatchResult, EngineAdapterUnusable, ModelRef
from generation.engine.encoding import request_of
from generation.models import REQUEST_FIELDS, Generation, GenerationLora
from generation.pictures.files import input_read
from imagegen_project import __version__
from loras.choices import LoraState
from loras.files import lora_path
from loras.services import lora_mark_lost
from models_registry.family_facts import drawn_size
from models_registry.models import Checkpoint
from models_registry.selectors import checkpoint_folder, checkpoint_hash

# What of a request concerns the engine: the fields that its batch has too.
_SHARED = tuple(each.name for each in fields(Batch) if each.name in REQUEST_FIELDS)


def model_ref(checkpoint: Checkpoint, *, dtype: str = "") -> ModelRef:
    """A checkpoint as the engine knows it, to run in its own number format or in this one."""
    return ModelRef(
        id=checkpoint.id,
        repository=checkpoint.repository,
        revision=checkpoint.revision,
        folder=checkpoint_folder(checkpoint),
        dtype=dtype or checkpoint.dtype,
        variant=checkpoint.variant,
        short_hash=checkpoint_hash(checkpoint),
    )


def batch_default(checkpoint: Checkpoint) -> Batch:
    """What a checkpoint draws where a request says nothing."""
    return Batch(
        model=model_ref(checkpoint),
        prompt="",
        negative_prompt="",
        width=checkpoint.default_width,
        height=checkpoint.default_height,
        num_inference_steps=checkpoint.default_steps,
        guidance_scale=checkpoint.default_guidance_scale,
        seed=0,
    )


def _adapters(generation: Generation) -> tuple[AdapterUse, ...]:
    """The generation's adapters; notes which files they are. Raises EngineAdapterUnusable."""
    uses = []
    for use in generation.adapters.select_related("lora"):
        if use.lora is None:
            raise EngineAdapterUnusable(f"{use.name} was deleted.")
        if use.lora.state == LoraState.BROKEN:
            raise EngineAdapterUnusable(f"{use.name}: {use.lora.error_detail}")
        path = lora_path(use.lora)
        if not path.is_file():
            lora_mark_lost(lora=use.lora)
            raise EngineAdapterUnusable(f"The file of {use.name} is gone.")
        GenerationLora.objects.filter(pk=use.pk).update(sha256=use.lora.sha256)
        uses.append(AdapterUse(use.name, use.lora.sha256, path, use.scale))
    return tuple(uses)


def _dtype_before(generation: Generation) -> str:
    """The number format in which the original of a replay was drawn; "" for what is no replay."""
    receipt = generation.replay_of.receipt if generation.replay_of else None
    environment = (receipt or {}).get("environment", {})
    return str(environment.get("stored_dtype") or environment.get("dtype", ""))


def batch_of(generation: Generation) -> Batch:
    """The engine's batch for a generation. Raises EngineAdapterUnusable and what `input_read` does."""
    request = generation.request
    wanted = {name: getattr(request, name) for name in _SHARED}
    if settings.SAFETY_FILTER == "block":
        wanted["preview_every"] = 0  # what the filter has not seen is shown to nobody
    return Batch(
        model=model_ref(generation.checkpoint, dtype=_dtype_before(generation)),
        image=input_read(generation.input_image) if generation.input_image else None,
        mask=input_read(generation.mask_image) if generation.mask_image else None,
        images=tuple(input_read(name) for name in generation.input_images),
        adapters=_adapters(generation),
        software=f"imagegen {__version__}",
        drawn_size=drawn_size(
            family=generation.checkpoint.family,
            size=(request.width, request.height),
            multiple=generation.checkpoint.side_multiple,
        ),
        **wanted,
    )


def receipt_make(batch: Batch, result: BatchResult, checkpoint: Checkpoint) -> dict[str, object]:
    """Everything needed to run it again."""
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
