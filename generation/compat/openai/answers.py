"""What OpenAI's clients are answered."""

import base64
from typing import Any, Final

from generation.models import Generation
from generation.pictures.files import image_read
from imagegen_project.common.context import base_url

# Nothing is counted in tokens here; typed clients expect the fields.
USAGE: Final = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "total_tokens": 0,
}


def images_body(generation: Generation, *, by_url: bool, quality: str) -> dict[str, Any]:
    """The answer about a generation that succeeded, and what of it is beyond OpenAI's."""
    data = [
        (
            {"url": image.signed_url(base=base_url.get())}
            if by_url
            else {"b64_json": base64.b64encode(image_read(image)).decode("ascii")}
        )
        for image in generation.images.all()
    ]
    return {
        "created": int(generation.created_at.timestamp()),
        "data": data,
        **image_facts(generation, quality=quality),
        "output_format": generation.output_format,
        "usage": USAGE,
        "job_id": str(generation.id),
        "seed": generation.seed,
        "warnings": generation.warnings,
    }


def image_facts(generation: Generation, *, quality: str) -> dict[str, str]:
    """What answers and events repeat of how the pictures were made."""
    return {
        "background": "opaque",
        "quality": quality,
        "size": f"{generation.width}x{generation.height}",
    }
