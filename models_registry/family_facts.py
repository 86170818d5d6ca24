"""What holds for a family of checkpoints."""

from dataclasses import dataclass
from typing import Final

from models_registry.choices import Family

# Their pipelines start at a moment of the flow; the others at a whole step.
_FLOW_FAMILIES = (Family.SD3, Family.FLUX)


def steps_to_run(*, family: str, num_inference_steps: int, strength: float | None) -> int:
    """How many denoising steps will run: those of the last `strength` part, rounded as the family's pipeline does."""
    if strength is None:
        return num_inference_steps
    part = num_inference_steps * strength
    return num_inference_steps - int(num_inference_steps - part) if family in _FLOW_FAMILIES else int(part)


@dataclass(frozen=True)
class FamilyFacts:
    """What a request may ask of a family beside its checkpoint's own scheduler.

    `schedulers` are names that fit; `max_clip_skip` is how many layers of the text encoder may be left out, 0 where
    that is not supported.
    """

    schedulers: tuple[str, ...]
    max_clip_skip: int


# For noise-predicting checkpoints; a flow-matching one has one scheduler, and another would draw noise.
_DIFFUSION: Final = (
    "ddim",
    "ddpm",
    "euler",
    "euler_a",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "dpmpp_2m_sde",
    "unipc",
    "lcm",
)


# clip_skip: one layer less than the text encoder has, the last being the one that is always used.
FAMILY_FACTS: Final[dict[str, FamilyFacts]] = {
    Family.BUILTIN: FamilyFacts(_DIFFUSION, max_clip_skip=2),
    Family.SD1: FamilyFacts(_DIFFUSION, max_clip_skip=11),
    Family.SD2: FamilyFacts(_DIFFUSION, max_clip_skip=22),
    Family.SDXL: FamilyFacts(_DIFFUSION, max_clip_skip=10),
    Family.SD3: FamilyFacts(("euler",), max_clip_skip=0),
    Family.FLUX: FamilyFacts(("euler",), max_clip_skip=0),
    Family.OTHER: FamilyFacts((), max_clip_skip=0),
}
