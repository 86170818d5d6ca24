"""Models as they stand on the workers, and orders about them."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from generation.choices import ErrorCode, Fit
from generation.models import WorkerCommand
from generation.orders import order_body
from generation.requests.serializers import merge_alias
from imagegen_project.common.serializers import StrictSerializer
from models_registry.api.serializers import ModelOut
from models_registry.models import Checkpoint
from models_registry.selectors import checkpoint_get, checkpoints_enabled


class ModelOnWorkerOut(serializers.Serializer[Any]):
    """Where one live worker has a model: `resident` on its device, `warm` in host memory, `loading`, else `cold`."""

    worker = serializers.CharField(help_text="Its name; a number for whoever is not logged in.")
    tier = serializers.CharField()
    bytes = serializers.IntegerField(help_text="Of weights.")
    fit = serializers.ChoiceField(
        choices=Fit.choices,
        allow_null=True,
        help_text="How it fits into the worker's memory: at once, in turns (its text encoders and its denoiser), with "
        "the denoiser's weights in eight bits, or not at all; null until the worker has its files.",
    )
    fit_reason = serializers.CharField(help_text="Why.")


class ModelWithWorkersOut(ModelOut):
    """One model, and where each live worker has it."""

    workers = serializers.SerializerMethodField()

    class Meta(ModelOut.Meta):
        fields = (*ModelOut.Meta.fields, "workers")  # type: ignore[assignment]  # one more than the base has
        read_only_fields = fields  # type: ignore[assignment]

    @extend_schema_field(ModelOnWorkerOut(many=True))
    def get_workers(self, checkpoint: Checkpoint) -> list[dict[str, Any]]:
        """One entry a live worker."""
        return [
            {
                "worker": name,
                **_place(worker.cached_models, checkpoint.id),
                **_fit(worker.model_plans.get(checkpoint.id)),
            }
            for name, worker in self.context["workers"]
        ]


def _place(cached: list[dict[str, Any]], model_id: str) -> dict[str, Any]:
    found = next((model for model in cached if model["id"] == model_id), {"tier": "cold", "bytes": 0})
    return {"tier": found["tier"], "bytes": found["bytes"]}


def _fit(plan: dict[str, str] | None) -> dict[str, str | None]:
    return {"fit": plan["verdict"] if plan else None, "fit_reason": plan["reason"] if plan else ""}


class ModelListOut(serializers.Serializer[Any]):
    """OpenAI's list shape."""

    object = serializers.CharField(default="list")
    data = ModelWithWorkersOut(many=True)  # type: ignore[assignment]  # OpenAI's name for it


class OrderIn(StrictSerializer):
    """Which model to load or unload, and where."""

    model = serializers.CharField(max_length=200, required=False, help_text="Registry id or repository name.")
    model_id = serializers.CharField(max_length=200, required=False, help_text="The same as `model`.")
    workers = serializers.ChoiceField(
        choices=("one", "all"),
        required=False,
        default="one",
        help_text="`one`: the worker with most free memory (an unload: one that holds the model). `all`: every one.",
    )

    def form_choices(self) -> dict[str, list[tuple[str, str]]]:
        """The models that can be named."""
        return {"model": [(one.id, f"{one.name} ({one.id})") for one in checkpoints_enabled()]}

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Resolves the checkpoint."""
        merge_alias(attrs, name="model", alias="model_id")
        if "model" not in attrs:
            raise serializers.ValidationError({"model": "This field is required."})
        return {
            "checkpoint": checkpoint_get(name=attrs["model"]),
            "everywhere": attrs["workers"] == "all",
        }


class WorkerCommandOut(serializers.ModelSerializer[WorkerCommand]):
    """An order's part for one GPU worker."""

    worker = serializers.CharField(source="worker.name", read_only=True)
    error_code = serializers.ChoiceField(choices=ErrorCode.choices, allow_blank=True, read_only=True)

    class Meta:
        model = WorkerCommand
        fields = ("id", "worker", "status", "error_code", "detail", "created_at", "finished_at")
        read_only_fields = fields


class OrderOut(serializers.Serializer[Any]):
    """An order to GPU workers."""

    id = serializers.UUIDField()
    kind = serializers.CharField()
    model = serializers.CharField(allow_null=True)
    lora = serializers.UUIDField(allow_null=True)
    status = serializers.CharField(help_text="`failed` as soon as one part has, `succeeded` when all have.")
    commands = WorkerCommandOut(many=True)


def order_out(commands: list[WorkerCommand]) -> dict[str, Any]:
    """An order as clients see it."""
    return dict(OrderOut(order_body(commands)).data)
