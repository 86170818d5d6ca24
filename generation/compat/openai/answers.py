"""What OpenAI's clients are answered."""

import base64
from typing import Any

from rest_framework.request import Request

from generation.models import Generation
from generation.pictures.files import image_read
from imagegen_project.common.context import base_url


def _images_body(request: Request, generation: Generation, *, by_url: bool) -> dict[str, Any]:
    images = generation.images.all()
    data = [
        (
            {"url": image.signed_url(base=base_url.get())}
            if by_url
            else {"b64_json": base64.b64encode(image_read(image)).decode("ascii")}
        )
        for image in images
    ]
    return {
        "created": int(generation.created_at.timestamp()),
        "data": data,
        "background": "opaque",
        "output_format": generation.output_format,
        "size": f"{generation.width}x{generation.height}",
        "job_id": str(generation.id),
        "seed": generation.seed,
        "warnings": generation.warnings,
    }
