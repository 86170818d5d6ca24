"""What a generation asks for, on its way from the door to the worker."""

from dataclasses import dataclass, field, fields
from typing import Any, Final

from generation.choices import Acceleration, Kind, OutputFormat, PromptSyntax
from models_registry.family_facts import steps_to_run
from models_registry.models import Checkpoint

# Of JPEG and WebP, from 0 to 100.
DEFAULT_OUTPUT_QUALITY: Final = 95


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """What one generation asks for, every default resolved.

    Each field is the column of that name, and where the engine's `Batch` has a field of that name, it arrives there.
    So a new field stands here, in the model with its migration, in the serializer, and where it is used.
    """

    # What is drawn
    checkpoint: Checkpoint
    kind: str = Kind.TXT2IMG
    prompt: str
    negative_prompt: str = ""
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    true_cfg_scale: float | None = None
    guidance_rescale: float = 0.0
    prompt_syntax: str = PromptSyntax.PLAIN
    acceleration: str = Acceleration.NONE
    scheduler: str = ""
    clip_skip: int | None = None
    strength: float | None = None
    padding_mask_crop: int | None = None
    seed: int
    num_images: int = 1
    output_format: str = OutputFormat.PNG
    output_quality: int = DEFAULT_OUTPUT_QUALITY
    preview_every: int = 0
    strict: bool = False
    reproducible: bool = False
    # How the job is run
    timeout_s: int
    priority: int = 0
    device_class: str = ""
    webhook_url: str = ""
    webhook_events: list[str] = field(default_factory=list)
    cancel_on_disconnect: bool = False

    def columns(self) -> dict[str, Any]:
        """The values of a new row, by column."""
        return {name: getattr(self, name) for name in REQUEST_FIELDS} | {"total_steps": self.total_steps}

    @property
    def total_steps(self) -> int:
        """How often the denoiser will run."""
        return steps_to_run(
            family=self.checkpoint.family,
            scheduler=self.scheduler,
            num_inference_steps=self.num_inference_steps,
            strength=self.strength,
        )


REQUEST_FIELDS: Final = tuple(each.name for each in fields(GenerationRequest))
