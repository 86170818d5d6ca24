"""What a checkpoint allows of a request, beyond what its kind of pipeline does."""

from typing import Any

from generation.choices import Acceleration
from generation.errors import AccelerationUnsupportedError
from generation.pictures.fitting import size_follow
from models_registry.family_facts import FAMILY_FACTS, steps_to_run
from models_registry.models import Checkpoint
from models_registry.schedulers import step_limits

MAX_STEPS = 100


def limit_errors(checkpoint: Checkpoint, attrs: dict[str, Any]) -> dict[str, str]:
    """What the checkpoint does not allow, by field."""
    facts = FAMILY_FACTS[checkpoint.family]
    errors: dict[str, str] = {
        side: message
        for side in ("width", "height")
        if side in attrs and (message := _size_error(checkpoint, attrs[side]))
    }
    if attrs["scheduler"] and attrs["scheduler"] not in facts.schedulers:
        fitting = ", ".join(facts.schedulers) or "only its own: leave this out"
        errors["scheduler"] = f"{attrs['scheduler']} does not fit {checkpoint.id}. Fitting: {fitting}."
    low, high = checkpoint.facts.min_guidance_scale, checkpoint.facts.max_guidance_scale
    if not low <= attrs["guidance_scale"] <= high:
        errors["guidance_scale"] = f"{checkpoint.id} takes {low:g} to {high:g}."
    if not checkpoint.facts.loras and (attrs.get("loras") or attrs.get("lora_path")):
        errors["loras" if attrs.get("loras") else "lora_path"] = f"{checkpoint.id} takes no LoRA."
    if facts.max_clip_skip and (attrs["clip_skip"] or 0) > facts.max_clip_skip:
        errors["clip_skip"] = f"{checkpoint.id} can leave out {facts.max_clip_skip} layers at most."
    fewest, most = step_limits(attrs["scheduler"], most=MAX_STEPS)
    if not fewest <= attrs["num_inference_steps"] <= most:
        errors["num_inference_steps"] = f"The scheduler {attrs['scheduler']} takes {fewest} to {most} steps."
    return errors


def acceleration_check(checkpoint: Checkpoint, acceleration: str) -> None:
    """Whether the checkpoint can be drawn with so. Raises AccelerationUnsupportedError."""
    if acceleration == Acceleration.FIRST_BLOCK_CACHE and not checkpoint.facts.first_block_cache:
        raise AccelerationUnsupportedError(
            f"{checkpoint.id} cannot be drawn with first_block_cache: leave acceleration out. "
            "`takes.first_block_cache` of GET /api/v1/models says which models can.",
            param="acceleration",
        )


def _size_error(checkpoint: Checkpoint, pixels: int) -> str | None:
    low, high = checkpoint.min_size, checkpoint.max_size
    if not low <= pixels <= high:
        return f"{checkpoint.id} takes {low} to {high} pixels."
    multiple = checkpoint.side_multiple
    if pixels % multiple:
        lower = pixels - pixels % multiple
        near = [side for side in (lower, lower + multiple) if low <= side <= high]
        fitting = " or ".join(map(str, near))
        return f"{checkpoint.id} takes multiples of {multiple} pixels: {fitting}."
    return None


def strength_suffices(checkpoint: Checkpoint, *, scheduler: str, steps: int, strength: float) -> bool:
    """Whether at least one step runs, as the checkpoint's pipeline rounds."""
    # Beside another field's error any number comes here, also one that is too large to be rounded.
    return (
        strength > 0
        and steps_to_run(
            family=checkpoint.family,
            scheduler=scheduler,
            num_inference_steps=steps,
            strength=min(strength, 1.0),
        )
        >= 1
    )


def picture_errors(checkpoint: Checkpoint, attrs: dict[str, Any]) -> dict[str, str]:
    """What is wrong with strength and mask beside the picture, by field."""
    errors = {}
    strength, steps = attrs["strength"], attrs["num_inference_steps"]
    if strength is not None and not strength_suffices(
        checkpoint, scheduler=attrs["scheduler"], steps=steps, strength=strength
    ):
        errors["strength"] = f"No step would run: {strength:g} of {steps}."
    if {"image", "mask_image"} <= attrs.keys() and attrs["mask_image"].size != attrs["image"].size:
        sizes = "{}x{}, and the image {}x{}".format(*attrs["mask_image"].size, *attrs["image"].size)
        errors["mask_image"] = f"Must be as large as the image; it has {sizes}."
    return errors


def size_used(checkpoint: Checkpoint, attrs: dict[str, Any]) -> tuple[int, int]:
    """Width and height: as asked for, else the input picture's within the model's limits, else the model's."""
    width, height = attrs.get("width"), attrs.get("height")
    first = attrs["image"] if "image" in attrs else next(iter(attrs.get("images", ())), None)
    if first is None or (width and height):
        return width or checkpoint.default_width, height or checkpoint.default_height
    return size_follow(
        first.size,
        width=width,
        height=height,
        low=checkpoint.min_size,
        high=checkpoint.max_size,
        multiple=checkpoint.side_multiple,
    )
