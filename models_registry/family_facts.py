"""What holds for a family of checkpoints."""

from dataclasses import dataclass
from typing import Final

from models_registry import schedulers
from models_registry.choices import Family

# Their pipelines start at a moment of the flow; the others at a whole step.
_FLOW_FAMILIES = (Family.SD3, Family.FLUX, Family.QWEN_IMAGE, Family.Z_IMAGE)


def steps_to_run(*, family: str, scheduler: str, num_inference_steps: int, strength: float | None) -> int:
    """How often the denoiser will run: some schedulers call it twice a step.

    With a `strength` only the steps of that last part run, rounded as the family's pipeline does.
    """
    run = num_inference_steps
    if strength is not None:
        part = num_inference_steps * strength
        run -= (
            int(num_inference_steps - part) if family in _FLOW_FAMILIES else num_inference_steps - int(part)
        )
    return schedulers.evaluations(scheduler, num_inference_steps=num_inference_steps, run=run)


# Those that call the denoiser once per step: PixArt's pipeline tells of nothing in between. Its first level is so high
# that `beta` puts nearly all steps where there is only noise, and what is drawn is flat or overshoots.
_PIXART: Final = tuple(
    name
    for name in schedulers.DIFFUSION
    if schedulers.evaluations(name, num_inference_steps=2, run=2) == 2 and not name.endswith("_beta")
)


@dataclass(frozen=True)
class FamilyFacts:
    """What a request may ask of a family beside its checkpoint's own scheduler.

    `schedulers` are names that fit; `max_clip_skip` is how many layers of the text encoder may be left out, 0 where
    that is not supported. A picture whose longer side is above `native_max_side` pixels is drawn that large and
    enlarged; None where the checkpoints draw all the sizes that their rows allow.
    """

    schedulers: tuple[str, ...]
    max_clip_skip: int
    native_max_side: int | None = None


# clip_skip: one layer less than the text encoder has, the last being the one that is always used.
FAMILY_FACTS: Final[dict[str, FamilyFacts]] = {
    Family.BUILTIN: FamilyFacts(schedulers.ZERO_SIGNAL, max_clip_skip=2, native_max_side=640),
    Family.SD1: FamilyFacts(schedulers.DIFFUSION, max_clip_skip=11),
    Family.SD2: FamilyFacts(schedulers.DIFFUSION, max_clip_skip=22),
    Family.SDXL: FamilyFacts(schedulers.DIFFUSION, max_clip_skip=10),
    Family.SD3: FamilyFacts(schedulers.FLOW, max_clip_skip=0),
    Family.FLUX: FamilyFacts(schedulers.FLOW, max_clip_skip=0),
    **dict.fromkeys(
        (Family.FLUX2, Family.QWEN_IMAGE, Family.Z_IMAGE, Family.CHROMA, Family.LUMINA2),
        FamilyFacts(schedulers.FLOW, max_clip_skip=0),
    ),
    Family.PIXART: FamilyFacts(_PIXART, max_clip_skip=0),
    Family.SANA: FamilyFacts((), max_clip_skip=0),
    Family.OTHER: FamilyFacts((), max_clip_skip=0),
}


def drawn_size(*, family: str, size: tuple[int, int], multiple: int) -> tuple[int, int] | None:
    """The width and height that a picture of that size is drawn at and enlarged from; None where it is not enlarged."""
    most, longer = FAMILY_FACTS[family].native_max_side, max(size)
    if most is None or longer <= most:
        return None
    width, height = (max(multiple, round(side * most / longer / multiple) * multiple) for side in size)
    return width, height
