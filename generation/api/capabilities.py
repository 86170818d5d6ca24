"""What this server can do, for clients that ask before they request."""

from typing import Any

from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from generation.choices import QUALITY_STEPS, Kind, OutputFormat
from generation.pictures.reading import MAX_PICTURE_BYTES, MAX_PICTURE_PIXELS, PICTURE_FORMATS
from generation.requests.model_limits import MAX_STEPS
from generation.requests.serializers import (
    MAX_GUIDANCE_SCALE,
    MAX_IMAGES,
    MAX_PROMPT_CHARACTERS,
    MIN_GUIDANCE_SCALE,
)
from models_registry.family_facts import FAMILY_FACTS
from models_registry.pipeline_facts import PIPELINES
from models_registry.selectors import checkpoints_enabled


class LimitsOut(serializers.Serializer[Any]):
    """What every request keeps to, whatever its model."""

    max_body_bytes = serializers.IntegerField()
    max_picture_bytes = serializers.IntegerField()
    max_picture_pixels = serializers.IntegerField()
    picture_formats = serializers.ListField(child=serializers.CharField())
    max_prompt_characters = serializers.IntegerField()
    max_num_inference_steps = serializers.IntegerField()
    min_guidance_scale = serializers.FloatField()
    max_guidance_scale = serializers.FloatField()
    max_num_images = serializers.IntegerField()
    max_timeout_s = serializers.IntegerField()
    max_wait_s = serializers.IntegerField()


class FamilyOut(serializers.Serializer[Any]):
    """What models of one family take."""

    schedulers = serializers.ListField(child=serializers.CharField(), help_text="Beside the model's own.")
    max_clip_skip = serializers.IntegerField(help_text="0: `clip_skip` has no effect.")


class PipelineOut(serializers.Serializer[Any]):
    """What models of one pipeline class do."""

    family = serializers.CharField(help_text="Empty where the model says it.")
    kinds = serializers.ListField(child=serializers.CharField())
    guidance = serializers.CharField()
    negative_prompt = serializers.BooleanField()
    true_cfg_scale = serializers.BooleanField()
    guidance_rescale = serializers.BooleanField()
    weighted_prompts = serializers.BooleanField(help_text="`prompt_syntax` may be `weighted`.")
    first_block_cache = serializers.BooleanField(help_text="`acceleration` may be `first_block_cache`.")
    loras = serializers.BooleanField()
    max_images = serializers.IntegerField(help_text="Of an edit.")
    size_multiple = serializers.IntegerField()
    max_prompt_tokens = serializers.IntegerField()


class CapabilitiesOut(serializers.Serializer[Any]):
    """Kinds, models, families, formats, limits, features and dialects."""

    kinds = serializers.ListField(child=serializers.CharField())
    models = serializers.ListField(child=serializers.CharField(), help_text="Ids; details at `models`.")
    families = serializers.DictField(child=FamilyOut())
    pipelines = serializers.DictField(child=PipelineOut(), help_text="diffusers' classes that can be loaded.")
    output_formats = serializers.ListField(child=serializers.CharField())
    quality_steps = serializers.DictField(
        child=serializers.FloatField(),
        help_text="OpenAI's `quality`: so many times the model's own number of steps.",
    )
    device_classes = serializers.ListField(
        child=serializers.CharField(), help_text="What a generation may name in `device_class`."
    )
    limits = LimitsOut()
    features = serializers.ListField(child=serializers.CharField())
    dialects = serializers.ListField(child=serializers.CharField())


def _capabilities() -> dict[str, Any]:
    return {
        "kinds": Kind.values,
        "models": checkpoints_enabled().values_list("id", flat=True),
        "families": FAMILY_FACTS,
        "pipelines": PIPELINES,
        "output_formats": OutputFormat.values,
        "quality_steps": QUALITY_STEPS,
        "device_classes": settings.DEVICE_CLASSES,
        "limits": {
            "max_body_bytes": settings.MAX_BODY_BYTES,
            "max_picture_bytes": MAX_PICTURE_BYTES,
            "max_picture_pixels": MAX_PICTURE_PIXELS,
            "picture_formats": [name.lower() for name in PICTURE_FORMATS],
            "max_prompt_characters": MAX_PROMPT_CHARACTERS,
            "max_num_inference_steps": MAX_STEPS,
            "min_guidance_scale": MIN_GUIDANCE_SCALE,
            "max_guidance_scale": MAX_GUIDANCE_SCALE,
            "max_num_images": MAX_IMAGES,
            "max_timeout_s": settings.MAX_TIMEOUT_S,
            "max_wait_s": settings.WAIT_LIMIT_S,
        },
        "features": [
            "idempotency",
            "multipart",
            "prefer",
            "priority",
            "receipts",
            "replay",
            "retry",
            "sockets",
            "sse",
            "strict",
            "webhooks",
        ],
        "dialects": ["native", "openai", "huggingface", "a1111"],
    }


class CapabilitiesView(APIView):
    """What this server can do."""

    @extend_schema(operation_id="capabilities", responses=CapabilitiesOut)
    def get(self, request: Request) -> Response:
        """Kinds, models, families, formats, limits, features and dialects."""
        return Response(CapabilitiesOut(_capabilities()).data)
