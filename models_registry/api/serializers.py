"""How checkpoints look to clients."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from models_registry.choices import DownloadProblem
from models_registry.family_facts import FAMILY_FACTS
from models_registry.models import Checkpoint
from models_registry.pipeline_facts import GUIDANCE_WORDS


class ModelLimitsOut(serializers.Serializer[Any]):
    """What a request may ask of a model."""

    min_size = serializers.IntegerField()
    max_size = serializers.IntegerField()
    size_multiple = serializers.IntegerField(source="side_multiple")
    max_clip_skip = serializers.SerializerMethodField(help_text="0 where clip_skip has no effect.")
    schedulers = serializers.SerializerMethodField(help_text="Beside the model's own, which is the default.")
    min_guidance_scale = serializers.FloatField(source="facts.min_guidance_scale")
    max_guidance_scale = serializers.FloatField(source="facts.max_guidance_scale")
    max_edit_images = serializers.IntegerField(source="facts.max_images", help_text="0: it edits none.")
    max_prompt_tokens = serializers.IntegerField(source="facts.max_prompt_tokens")

    def get_max_clip_skip(self, checkpoint: Checkpoint) -> int:
        """Its family's."""
        return FAMILY_FACTS[checkpoint.family].max_clip_skip

    @extend_schema_field(serializers.ListField(child=serializers.CharField()))
    def get_schedulers(self, checkpoint: Checkpoint) -> list[str]:
        """Its family's."""
        return list(FAMILY_FACTS[checkpoint.family].schedulers)


class ModelTakesOut(serializers.Serializer[Any]):
    """Which fields of a request have an effect with a model."""

    guidance = serializers.ChoiceField(
        choices=GUIDANCE_WORDS,
        help_text="What `guidance_scale` is. `classifier_free`, `true_cfg`: off at 1. `added`: off at 0. "
        "`embedded`: an input of the model. `none`: of no effect.",
    )
    negative_prompt = serializers.BooleanField()
    true_cfg_scale = serializers.BooleanField()
    guidance_rescale = serializers.BooleanField()
    weighted_prompts = serializers.BooleanField(help_text="`prompt_syntax` may be `weighted`.")
    first_block_cache = serializers.BooleanField(help_text="`acceleration` may be `first_block_cache`.")
    loras = serializers.BooleanField()


class ModelDefaultsOut(serializers.Serializer[Any]):
    """What a model does when a request is silent."""

    width = serializers.IntegerField(source="default_width")
    height = serializers.IntegerField(source="default_height")
    num_inference_steps = serializers.IntegerField(source="default_steps")
    guidance_scale = serializers.FloatField(source="default_guidance_scale")


class ModelErrorOut(serializers.Serializer[Any]):
    """Why a model is broken, or did not come when it was last asked for."""

    code = serializers.ChoiceField(choices=DownloadProblem.choices, source="error_code")
    detail = serializers.CharField(source="error_detail")


class ModelOut(serializers.ModelSerializer[Checkpoint]):
    """One model: OpenAI's four fields (`id, object, created, owned_by`), then what it is, allows and defaults to.

    The context has the `default_id`.
    """

    object = serializers.CharField(default="model", read_only=True)
    created = serializers.SerializerMethodField()
    owned_by = serializers.SerializerMethodField()
    kinds = serializers.ListField(child=serializers.CharField(), source="facts.kinds", read_only=True)
    takes = ModelTakesOut(source="facts", read_only=True)
    limits = ModelLimitsOut(source="*", read_only=True)
    defaults = ModelDefaultsOut(source="*", read_only=True)
    is_default = serializers.SerializerMethodField(help_text="It draws where a request names no model.")
    percent = serializers.FloatField(read_only=True, help_text="How much of it is on disk.")
    error = serializers.SerializerMethodField()

    class Meta:
        model = Checkpoint
        fields = (
            "id",
            "object",
            "created",
            "owned_by",
            "name",
            "repository",
            "revision",
            "variant",
            "family",
            "pipeline",
            "kinds",
            "takes",
            "licence",
            "gated",
            "is_default",
            "state",
            "percent",
            "size_bytes",
            "downloaded_bytes",
            "error",
            "limits",
            "defaults",
        )
        read_only_fields = fields

    @extend_schema_field(serializers.IntegerField())
    def get_created(self, checkpoint: Checkpoint) -> int:
        """Seconds since 1970 at which the row was made."""
        return int(checkpoint.created_at.timestamp())

    def get_owned_by(self, checkpoint: Checkpoint) -> str:
        """The organisation in front of the repository's name."""
        return checkpoint.repository.partition("/")[0]

    def get_is_default(self, checkpoint: Checkpoint) -> bool:
        """Whether it is what `DEFAULT_MODEL_ID`, the registry or, where neither says so, the service chooses."""
        return bool(checkpoint.pk == self.context["default_id"])

    @extend_schema_field(ModelErrorOut(allow_null=True))
    def get_error(self, checkpoint: Checkpoint) -> Any:
        """Why it is broken, or did not come, or null."""
        return ModelErrorOut(checkpoint).data if checkpoint.error_code else None
