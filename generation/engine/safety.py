"""Looking at finished pictures before anybody else does."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from generation.engine.errors import EngineError


@dataclass(frozen=True)
class SafetySettings:
    """`mode` is `off`, `flag` or `block`. `classifier` is a folder with a transformers image classifier.

    A picture is unsafe when the probabilities of the `labels` (compared in lower case) add up to `threshold` or more.
    Without a classifier, the checker that a checkpoint ships is asked.
    """

    mode: str = "off"
    classifier: Path | None = None
    labels: tuple[str, ...] = ("nsfw",)
    threshold: float = 0.5


class SafetyFilter:
    """Says of each picture whether it is unsafe; loads its classifier when it first has to."""

    def __init__(self, settings: SafetySettings, device: torch.device) -> None:
        self.settings = settings
        self.device = device
        self._classifier: Any = None
        self._processor: Any = None

    @property
    def is_on(self) -> bool:
        """Whether pictures are looked at."""
        return self.settings.mode != "off"

    def unsafe(self, images: list[Image.Image], pipeline: Any) -> list[bool] | None:
        """Each picture's verdict; None when there is nothing to ask. Raises EngineError for a broken classifier."""
        if self.settings.classifier is not None:
            return self._classify(images)
        checker = getattr(pipeline, "picture_checker", None)
        processor = getattr(pipeline, "feature_extractor", None)
        if checker is None or processor is None:
            return None
        pixels = processor(images=images, return_tensors="pt").pixel_values.to(self.device)
        with torch.inference_mode():
            # The checker blackens unsafe pictures in the array it gets; the pictures themselves are not given to it.
            _, verdicts = checker(
                images=torch.zeros(len(images), 1, 1, 3).numpy(), clip_input=pixels.to(checker.dtype)
            )
        return [bool(verdict) for verdict in verdicts]

    def unload(self) -> None:
        """Lets the classifier go; it is loaded again when it has to look."""
        self._classifier = self._processor = None

    def _classify(self, images: list[Image.Image]) -> list[bool]:
        try:
            self._load()
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise EngineError("The safety classifier cannot be loaded.") from error
        pixels = self._processor(images=images, return_tensors="pt").pixel_values.to(self.device)
        with torch.inference_mode():
            chances = self._classifier(pixels).logits.float().softmax(-1)
        names = self._classifier.config.id2label
        columns = [index for index, name in names.items() if name.lower() in self.settings.labels]
        return [bool(row[columns].sum() >= self.settings.threshold) for row in chances]

    def _load(self) -> None:
        if self._classifier is not None:
            return

        folder = self.settings.classifier
        self._processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        classifier = transformers.AutoModelForImageClassification.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, dtype=torch.float32
        )
        known = {name.lower() for name in classifier.config.id2label.values()}
        if not known & set(self.settings.labels):
            raise EngineError(
                f"The safety classifier knows {', '.join(sorted(known))}: none of the unsafe labels."
            )
        self._classifier = classifier.eval().to(self.device)
