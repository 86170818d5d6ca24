"""Requests and answers of the native API."""

import base64
from collections.abc import Collection
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from generation.choices import Phase, ReplayVerdict, Status
from generation.models import REQUEST_FIELDS, GeneratedImage, Generation, GenerationLora
from generation.pictures.files import image_read
from generation.queue.standing import queue_standing
from imagegen_project.common.context import base_url
from imagegen_project.common.serializers import BoundedListField, RowSerializer, StrictSerializer
from models_registry.schedulers import SCHEDULERS

MAX_DELETED = 100


class WarningOut(serializers.Serializer[Any]):
    """Something that was adjusted or has no effect."""

    param = serializers.CharField()
    reason = serializers.CharField()
    used = serializers.JSONField(allow_null=True)


class ErrorOut(serializers.Serializer[Any]):
    """Why a generation failed."""

    code = serializers.CharField()
    detail = serializers.CharField()


class ImageOut(RowSerializer[GeneratedImage]):
    """One finished picture."""

    url = serializers.SerializerMethodField(help_text="Opens without a token until it expires.")

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
        """Its signed address; without `expires` and `signature` the same with a token."""
        return image.signed_url(base=base_url.get())


class GenerationLoraOut(RowSerializer[GenerationLora]):
    """One LoRA of a generation."""

    lora = serializers.UUIDField(source="lora_id", read_only=True, allow_null=True)

    class Meta:
        model = GenerationLora
        fields = ("lora", "name", "sha256", "scale")
        read_only_fields = fields


class UrlsOut(serializers.Serializer[Any]):
    """Absolute addresses, for requests with a token or a session; those that the state does not allow are left out.

    Those of pictures open without either for a while, as `images[].url` does.
    """

    self = serializers.URLField()
    events = serializers.URLField(help_text="Its feed as server-sent events.")
    feed = serializers.URLField(help_text="Its feed as a WebSocket.")
    input = serializers.URLField(required=False)
    mask = serializers.URLField(required=False)
    inputs = serializers.ListField(child=serializers.URLField(), required=False, help_text="Of an edit.")
    cancel = serializers.URLField(required=False, help_text="Until it has ended.")
    retry = serializers.URLField(required=False, help_text="Once it has ended.")
    replay = serializers.URLField(required=False, help_text="Once it succeeded, as the following.")
    result = serializers.URLField(required=False)
    receipt = serializers.URLField(required=False)
    shares = serializers.URLField(required=False)
    images = serializers.ListField(child=serializers.URLField(), required=False)


class GenerationOut(RowSerializer[Generation]):
    """A generation as it stands."""

    model = serializers.CharField(source="checkpoint_id", read_only=True)
    owner = serializers.CharField(source="owner.username", read_only=True)
    scheduler = serializers.ChoiceField(choices=list(SCHEDULERS.items()), allow_blank=True, read_only=True)
    phase = serializers.ChoiceField(
        choices=Phase.choices, read_only=True, allow_null=True, help_text="Null once it has ended."
    )
    replay_verdict = serializers.ChoiceField(
        choices=ReplayVerdict.choices,
        allow_blank=True,
        read_only=True,
        help_text="How a replay's pictures compare with its original's; empty where there is nothing to compare.",
    )
    percent = serializers.SerializerMethodField()
    images = ImageOut(source="pictures", many=True, read_only=True)
    loras = GenerationLoraOut(source="lora_uses", many=True, read_only=True)
    error = serializers.SerializerMethodField()
    warnings = WarningOut(many=True, read_only=True)
    cancel_requested = serializers.SerializerMethodField()
    urls = serializers.SerializerMethodField(help_text="Where to go from here, as far as its state allows.")

    class Meta:
        model = Generation
        fields = (
            "id",
            "kind",
            "status",
            "owner",
            "model",
            *(name for name in REQUEST_FIELDS if name not in ("checkpoint", "kind")),
            "loras",
            "retry_of",
            "replay_of",
            "replay_verdict",
            "replay_difference",
            "pixels_match",
            "attempt",
            "attempt_log",
            "phase",
            "step",
            "total_steps",
            "percent",
            "cancel_requested",
            "favorite",
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

    def __init__(self, *args: Any, fields: Collection[str] | None = None, **kwargs: Any) -> None:
        """With `fields`, only those of a row."""
        super().__init__(*args, **kwargs)
        if fields is not None:
            for name in self.fields.keys() - set(fields):
                del self.fields[name]

    def get_percent(self, generation: Generation) -> float:
        """How far it is, 0 to 100."""
        return round(100 * generation.step / generation.total_steps, 1)

    @extend_schema_field(ErrorOut(allow_null=True))
    def get_error(self, generation: Generation) -> dict[str, Any] | None:
        """Why it failed, or null."""
        return generation.error

    def get_cancel_requested(self, generation: Generation) -> bool:
        """Whether a cancel has been asked for."""
        return generation.cancel_requested_at is not None

    @extend_schema_field(UrlsOut)
    def get_urls(self, generation: Generation) -> dict[str, Any]:
        """Where to go from here, as far as its state allows."""
        site = base_url.get()
        base = f"{site}{generation.get_absolute_url()}"
        socket = f"{site.replace('http', 'ws', 1)}/ws/generations/{generation.id}/"
        urls: dict[str, Any] = {"self": base, "events": f"{base}/events", "feed": socket}
        given = (("input", generation.input_image), ("mask", generation.mask_image))
        urls |= {part: f"{base}/{part}" for part, name in given if name}
        if generation.input_images:
            urls["inputs"] = [f"{base}/inputs/{index}" for index in range(len(generation.input_images))]
        ways = ["retry" if generation.is_terminal else "cancel"]
        if generation.status == Status.SUCCEEDED:
            ways += ["replay", "result", "receipt", "shares"]
            urls["images"] = [image.signed_url(base=site) for image in generation.pictures]
        return urls | {name: f"{base}/{name}" for name in ways}


class GenerationMarkIn(StrictSerializer):
    """What can be changed of a generation."""

    favorite = serializers.BooleanField(help_text="Whether it is one of its owner's favorites.")


class GenerationsDeleteIn(StrictSerializer):
    """Which generations go."""

    ids = BoundedListField(child=serializers.UUIDField(), allow_empty=False, max_length=MAX_DELETED)


class GenerationsDeletedOut(serializers.Serializer[Any]):
    """What was done about each."""

    deleted = serializers.ListField(child=serializers.UUIDField())
    not_found = serializers.ListField(child=serializers.UUIDField(), help_text="Gone before, or not yours.")


class GenerationDetailOut(GenerationOut):
    """A generation as it stands, and where in the queue; lists leave that out, since each row would cost queries."""

    queue_position = serializers.IntegerField(
        read_only=True, allow_null=True, help_text="1 is next; null once it is not queued."
    )
    estimated_start_at = serializers.DateTimeField(
        read_only=True, allow_null=True, help_text="By measured speeds; null where they do not say."
    )

    class Meta(GenerationOut.Meta):
        fields = (*GenerationOut.Meta.fields, "queue_position", "estimated_start_at")

    def to_representation(self, instance: Generation) -> dict[str, Any]:
        """The row, and its standing."""
        shown: dict[str, Any] = super().to_representation(instance)
        if standing := instance.standing or queue_standing(instance):
            starts_at = self.fields["estimated_start_at"].to_representation(standing.starts_at)
            shown |= {"queue_position": standing.position, "estimated_start_at": starts_at}
        return shown


class ImageDataOut(ImageOut):
    """One finished picture, with its bytes."""

    b64_json = serializers.SerializerMethodField(help_text="The file, base64.")

    class Meta(ImageOut.Meta):
        fields = (*ImageOut.Meta.fields, "b64_json")  # type: ignore[assignment]  # one more than the base has

    def get_b64_json(self, image: GeneratedImage) -> str:
        """The file, base64."""
        return base64.b64encode(image_read(image)).decode("ascii")


class GenerationResultOut(GenerationOut):
    """A generation that succeeded, with its pictures as base64."""

    images = ImageDataOut(many=True, read_only=True)


class ReceiptOut(serializers.Serializer[Any]):
    """Everything needed to run a generation again."""

    job_id = serializers.UUIDField()
    kind = serializers.CharField()
    request = serializers.JSONField(help_text="The request with every default and the seed resolved.")
    model = serializers.JSONField(help_text="Model id, repository, commit, family, dtype, weights' SHA-256.")
    environment = serializers.JSONField(help_text="Versions, device, threads, batch shape.")
    timings = serializers.JSONField()
    images = ImageOut(many=True)
