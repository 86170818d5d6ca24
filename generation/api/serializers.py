"""Requests and answers of the native API."""

import base64
from typing import Any

from django.conf import settings
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from generation.models import MAX_SEED, GeneratedImage, Generation, WorkerCommand
from generation.selectors import error_of, generation_url, image_url
from imagegen_project.common.serializers import StrictSerializer, TextField
from models_registry.errors import ModelNotFoundError
from models_registry.models import Checkpoint
from models_registry.selectors import checkpoint_default, checkpoint_get

MAX_PROMPT_CHARACTERS = 4000


def _merge_alias(data: dict[str, Any], *, name: str, alias: str) -> None:
    """Moves an alias's value to its field. Raises ValidationError when both are given and differ."""
    if alias not in data:
        return
    value = data.pop(alias)
    if data.setdefault(name, value) != value:
        raise serializers.ValidationError({alias: f"Differs from {name}; give one of them."})


class GenerationCreateIn(StrictSerializer):
    """What a generation can ask for. Everything but the prompt has a default, most of them the model's own."""

    prompt = TextField(max_length=MAX_PROMPT_CHARACTERS, help_text="What to draw.")
    negative_prompt = TextField(
        max_length=MAX_PROMPT_CHARACTERS,
        required=False,
        allow_blank=True,
        default="",
        help_text="What to avoid.",
    )
    model = serializers.CharField(max_length=200, required=False, help_text="Registry id or repository name.")
    model_id = serializers.CharField(max_length=200, required=False, help_text="The same as `model`.")
    width = serializers.IntegerField(required=False, help_text="Pixels; the model's limits hold.")
    height = serializers.IntegerField(required=False, help_text="Pixels; the model's limits hold.")
    num_inference_steps = serializers.IntegerField(min_value=1, max_value=100, required=False)
    steps = serializers.IntegerField(
        min_value=1, max_value=100, required=False, help_text="The same as `num_inference_steps`."
    )
    guidance_scale = serializers.FloatField(min_value=1.0, max_value=20.0, required=False)
    seed = serializers.IntegerField(
        min_value=-1, max_value=MAX_SEED, required=False, default=-1, help_text="-1 draws one at random."
    )
    num_images = serializers.IntegerField(
        min_value=1, max_value=8, required=False, default=1, help_text="Picture i uses seed + i, wrapping."
    )
    timeout_s = serializers.IntegerField(
        min_value=1, required=False, help_text="Limit of the run, in seconds."
    )
    reproducible = serializers.BooleanField(
        required=False, default=False, help_text="Run alone, so that a replay can give the same pixels."
    )
    strict = serializers.BooleanField(
        required=False,
        default=False,
        help_text="Refuse (422) what would have to be adjusted, instead of warning.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Resolves aliases, the model and its defaults, and checks the model's limits."""
        _merge_alias(attrs, name="model", alias="model_id")
        _merge_alias(attrs, name="num_inference_steps", alias="steps")
        checkpoint = self._checkpoint(attrs.pop("model", None))
        attrs["checkpoint"] = checkpoint
        attrs.setdefault("width", checkpoint.default_width)
        attrs.setdefault("height", checkpoint.default_height)
        attrs.setdefault("num_inference_steps", checkpoint.default_steps)
        attrs.setdefault("guidance_scale", checkpoint.default_guidance_scale)
        attrs.setdefault("timeout_s", min(settings.DEFAULT_TIMEOUT_S, settings.MAX_TIMEOUT_S))
        errors = {
            side: message for side in ("width", "height") if (message := _size_error(checkpoint, attrs[side]))
        }
        if errors:
            raise serializers.ValidationError(errors)
        return attrs

    def _checkpoint(self, name: str | None) -> Checkpoint:
        try:
            return checkpoint_get(name=name) if name is not None else checkpoint_default()
        except ModelNotFoundError as error:
            field = (
                "model_id"
                if "model_id" in self.initial_data and "model" not in self.initial_data
                else "model"
            )
            raise serializers.ValidationError(
                {field: serializers.ErrorDetail(error.detail, error.code)}
            ) from error


def _size_error(checkpoint: Checkpoint, pixels: int) -> str | None:
    if not checkpoint.min_size <= pixels <= checkpoint.max_size:
        return f"{checkpoint.id} takes {checkpoint.min_size} to {checkpoint.max_size} pixels."
    if pixels % checkpoint.size_multiple:
        return f"{checkpoint.id} takes multiples of {checkpoint.size_multiple} pixels."
    return None


class WarningOut(serializers.Serializer[Any]):
    """Something that was adjusted or has no effect."""

    param = serializers.CharField()
    reason = serializers.CharField()
    used = serializers.JSONField(allow_null=True)


class ErrorOut(serializers.Serializer[Any]):
    """Why a generation failed."""

    code = serializers.CharField()
    detail = serializers.CharField()


class ImageOut(serializers.ModelSerializer[GeneratedImage]):
    """One finished picture."""

    url = serializers.SerializerMethodField(help_text="Its bytes, for those who may see the generation.")

    class Meta:
        model = GeneratedImage
        fields = (
            "index",
            "seed",
            "width",
            "height",
            "content_type",
            "size_bytes",
            "sha256",
            "pixel_sha256",
            "url",
        )
        read_only_fields = fields

    def get_url(self, image: GeneratedImage) -> str:
        """The path under which the API serves it."""
        return image_url(image)


class GenerationOut(serializers.ModelSerializer[Generation]):
    """A generation as it stands."""

    model = serializers.CharField(source="checkpoint_id", read_only=True)
    owner = serializers.CharField(source="owner.username", read_only=True)
    percent = serializers.SerializerMethodField()
    images = ImageOut(many=True, read_only=True)
    error = serializers.SerializerMethodField()
    warnings = WarningOut(many=True, read_only=True)
    cancel_requested = serializers.SerializerMethodField()
    urls = serializers.SerializerMethodField()

    class Meta:
        model = Generation
        fields = (
            "id",
            "kind",
            "status",
            "owner",
            "model",
            "prompt",
            "negative_prompt",
            "width",
            "height",
            "num_inference_steps",
            "guidance_scale",
            "seed",
            "num_images",
            "timeout_s",
            "reproducible",
            "retry_of",
            "replay_of",
            "pixels_match",
            "attempt",
            "step",
            "total_steps",
            "percent",
            "cancel_requested",
            "images",
            "error",
            "warnings",
            "safety_filter_result",
            "queue_ms",
            "latency_ms",
            "vram_peak_mb",
            "created_at",
            "started_at",
            "finished_at",
            "urls",
        )
        read_only_fields = fields

    def get_percent(self, generation: Generation) -> float:
        """How far it is, 0 to 100."""
        return round(100 * generation.step / generation.total_steps, 1)

    @extend_schema_field(ErrorOut(allow_null=True))
    def get_error(self, generation: Generation) -> dict[str, Any] | None:
        """Why it failed, or null."""
        return error_of(generation)

    def get_cancel_requested(self, generation: Generation) -> bool:
        """Whether a cancel has been asked for."""
        return generation.cancel_requested_at is not None

    def get_urls(self, generation: Generation) -> dict[str, str]:
        """Where to go from here."""
        base = generation_url(generation.id)
        return {
            "self": base,
            "cancel": f"{base}/cancel",
            "receipt": f"{base}/receipt",
            "feed": f"/ws/generations/{generation.id}/",
        }


class ImageDataOut(ImageOut):
    """One finished picture, with its bytes."""

    b64_json = serializers.SerializerMethodField(help_text="The file, base64.")

    class Meta(ImageOut.Meta):
        fields = (*ImageOut.Meta.fields, "b64_json")  # type: ignore[assignment]  # one more than the base has

    def get_b64_json(self, image: GeneratedImage) -> str:
        """The file, base64."""
        return base64.b64encode(image.read()).decode("ascii")


class GenerationResultOut(GenerationOut):
    """A generation that succeeded, with its pictures as base64."""

    images = ImageDataOut(many=True, read_only=True)


class ReceiptOut(serializers.Serializer[Any]):
    """Everything needed to run a generation again."""

    job_id = serializers.UUIDField()
    kind = serializers.CharField()
    request = serializers.JSONField(help_text="The request with every default and the seed resolved.")
    model = serializers.JSONField(
        help_text="Checkpoint id, repository, commit, family, dtype, weights' SHA-256."
    )
    environment = serializers.JSONField(help_text="Versions, device, threads, batch shape.")
    timings = serializers.JSONField()
    images = ImageOut(many=True)


class ModelCommandIn(StrictSerializer):
    """Which model to load or unload."""

    model = serializers.CharField(max_length=200, required=False)
    model_id = serializers.CharField(max_length=200, required=False, help_text="The same as `model`.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Resolves the checkpoint."""
        _merge_alias(attrs, name="model", alias="model_id")
        if "model" not in attrs:
            raise serializers.ValidationError({"model": "This field is required."})
        return {"checkpoint": checkpoint_get(name=attrs["model"])}


class WorkerCommandOut(serializers.ModelSerializer[WorkerCommand]):
    """An order to a GPU worker."""

    model = serializers.CharField(source="checkpoint_id", read_only=True)
    worker = serializers.CharField(source="worker.name", read_only=True)

    class Meta:
        model = WorkerCommand
        fields = ("id", "kind", "model", "worker", "status", "detail", "created_at", "finished_at")
        read_only_fields = fields
