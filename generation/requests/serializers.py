"""What a generation can ask for, in JSON or as a form."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any, cast

from django.conf import settings
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from generation.choices import Acceleration, Kind, OutputFormat, PromptSyntax
from generation.errors import ModelNeedsLibraryError, ModelTooLargeError
from generation.models import (
    DEFAULT_OUTPUT_QUALITY,
    MAX_EDIT_IMAGES,
    MAX_MASK_PADDING,
    MAX_PRIORITY,
    MAX_SEED,
)
from generation.queue.precedence import checkpoint_for
from generation.requests.job_options import WebhookEventsField, WebhookUrlField, job_options_check
from generation.requests.loras import MAX_LORAS, MAX_NAME, MAX_SCALE, MIN_SCALE, LoraUseIn, wishes_read
from generation.requests.model_limits import (
    MAX_STEPS,
    acceleration_check,
    limit_errors,
    picture_errors,
    size_used,
)
from generation.requests.picture_fields import (
    PictureField,
    PictureFileField,
    PictureFilesField,
    PicturesField,
)
from imagegen_project.common.errors import DomainError
from imagegen_project.common.serializers import FormListField, StrictSerializer, TextField
from models_registry.errors import ModelNotFoundError, ModelUnsupportedError
from models_registry.models import Checkpoint
from models_registry.pipeline_facts import TRUE_CFG
from models_registry.schedulers import SCHEDULERS
from models_registry.selectors import checkpoints_enabled

MAX_PROMPT_CHARACTERS = 32_000
MIN_GUIDANCE_SCALE, MAX_GUIDANCE_SCALE = 0.0, 20.0
MIN_TRUE_CFG_SCALE = 1.0
MAX_IMAGES = 10
DEFAULT_STRENGTH = {Kind.IMG2IMG: 0.8, Kind.INPAINT: 1.0}

# What a request of a kind brings.
PICTURES: dict[Kind, tuple[str, ...]] = {
    Kind.TXT2IMG: (),
    Kind.IMG2IMG: ("image",),
    Kind.INPAINT: ("image", "mask_image"),
    Kind.EDIT: ("images",),
}
# What only some kinds take.
_OF_KINDS = {"image", "mask_image", "images", "strength", "padding_mask_crop"}

# An error that means nothing where one of these could not be read.
_HANGS_ON: dict[str, set[str]] = {
    "kind": {"image", "mask_image", "images"},
    "image": {"kind", "mask_image", "images", "model", "model_id"},
    "images": {"kind", "image", "model", "model_id"},
    "mask_image": {"kind", "image"},
    "strength": {"kind", "image", "mask_image", "images", "num_inference_steps", "steps"},
    "padding_mask_crop": {"kind", "image", "mask_image", "images"},
    "webhook_events": {"webhook_url"},
    "lora_scale": {"lora_path"},
}


@contextmanager
def _noted(errors: dict[str, Any]) -> Iterator[None]:
    """Notes what is refused inside, by field; the first refusal of a field counts."""
    try:
        yield
    except serializers.ValidationError as error:
        for name, detail in cast(dict[str, Any], error.detail).items():
            errors.setdefault(name, detail)


def merge_alias(data: dict[str, Any], *, name: str, alias: str) -> None:
    """Moves an alias's value to its field. Raises ValidationError when both are given and differ."""
    if alias not in data:
        return
    value = data.pop(alias)
    if data.setdefault(name, value) != value:
        raise serializers.ValidationError({alias: f"Differs from {name}; give one of them."})


# What A1111, ComfyUI, OpenAI and diffusers call a field.
_ELSEWHERE = {
    "sampler": "scheduler",
    "sampler_name": "scheduler",
    "sampler_index": "scheduler",
    "cfg": "guidance_scale",
    "cfg_scale": "guidance_scale",
    "denoise": "strength",
    "denoising_strength": "strength",
    "init_image": "image",
    "init_images": "image",
    "mask": "mask_image",
    "n": "num_images",
    "n_iter": "num_images",
    "batch_size": "num_images",
    "num_images_per_prompt": "num_images",
    "size": "width",
    "checkpoint": "model",
    "response_format": "output_format",
    "quality": "output_quality",
    "lora": "loras",
    "callback_url": "webhook_url",
}


@extend_schema_field(OpenApiTypes.STR)
class LorasTextField(FormListField):
    """The list of LoRA, documented as the JSON text that stands for it in a form."""


class GenerationCreateIn(StrictSerializer):
    """What a generation can ask for. Everything but the prompt has a default, most of them the model's own.

    The context's `owner` is who asks; its `kinds` are those that the route makes, by default all; where
    `prompt_required` is false, the prompt may be empty.
    """

    elsewhere = _ELSEWHERE

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
    kind = serializers.ChoiceField(
        Kind.choices,
        required=False,
        help_text="Inferred: with `mask_image` inpaint, with `image` img2img (edit where the model does nothing else "
        "with it), with `images` edit.",
    )
    image = PictureField(
        required=False, help_text="PNG, JPEG or WebP to start from: base64, data URI or a form's file."
    )
    mask_image = PictureField(
        required=False, help_text="As large as `image`; what is white in it is drawn anew, the rest is kept."
    )
    images = PicturesField(
        required=False,
        min_length=1,
        max_length=MAX_EDIT_IMAGES,
        help_text="What to edit, as the prompt says: as many as the model takes. One may stand in `image`.",
    )
    strength = serializers.FloatField(
        max_value=1.0,
        required=False,
        help_text="How much of `image` may change, above 0 to 1; int(steps x strength) steps run.",
    )
    padding_mask_crop = serializers.IntegerField(
        min_value=0,
        max_value=MAX_MASK_PADDING,
        required=False,
        help_text="Draw only what is masked and so many pixels around it, at the whole size; the rest is kept.",
    )
    width = serializers.IntegerField(required=False, help_text="Pixels; the model's limits hold.")
    height = serializers.IntegerField(required=False, help_text="Pixels; the model's limits hold.")
    num_inference_steps = serializers.IntegerField(min_value=1, max_value=MAX_STEPS, required=False)
    steps = serializers.IntegerField(
        min_value=1, max_value=MAX_STEPS, required=False, help_text="The same as `num_inference_steps`."
    )
    guidance_scale = serializers.FloatField(
        min_value=MIN_GUIDANCE_SCALE, max_value=MAX_GUIDANCE_SCALE, required=False
    )
    true_cfg_scale = serializers.FloatField(
        min_value=MIN_TRUE_CFG_SCALE,
        max_value=MAX_GUIDANCE_SCALE,
        required=False,
        default=None,
        help_text="How strongly `negative_prompt` counts where `guidance_scale` is an input of the model (FLUX.1); "
        "1 is off. For Qwen-Image the same as `guidance_scale`.",
    )
    guidance_rescale = serializers.FloatField(
        min_value=0.0,
        max_value=1.0,
        required=False,
        default=0.0,
        help_text="How far to take back what guidance adds in contrast.",
    )
    prompt_syntax = serializers.ChoiceField(
        PromptSyntax.choices,
        required=False,
        default=PromptSyntax.PLAIN,
        help_text="`weighted`: `(words:1.3)` counts more, `[words]` less, `BREAK` begins a new chunk, and a prompt of "
        "any length is read, chunk by chunk.",
    )
    acceleration = serializers.ChoiceField(
        Acceleration.choices,
        required=False,
        default=Acceleration.NONE,
        help_text="`first_block_cache`: steps that bring little new are mostly left out: faster, at a small visible "
        "loss, where the model `takes` it. Such a generation shares its steps with no other job's.",
    )
    scheduler = serializers.ChoiceField(
        list(SCHEDULERS.items()),
        required=False,
        default="",
        allow_blank=True,
        help_text="Empty: the one that a LoRA was distilled for, else the model's own.",
    )
    clip_skip = serializers.IntegerField(
        min_value=0,
        required=False,
        default=None,
        help_text="Layers of the text encoder to leave out, from its end.",
    )
    seed = serializers.IntegerField(
        min_value=-1, max_value=MAX_SEED, required=False, default=-1, help_text="-1 draws one at random."
    )
    num_images = serializers.IntegerField(
        min_value=1,
        max_value=MAX_IMAGES,
        required=False,
        default=1,
        help_text="Picture i uses seed + i, wrapping.",
    )
    loras = FormListField(
        main="lora",
        child=LoraUseIn(),
        required=False,
        max_length=MAX_LORAS,
        help_text="LoRA, stacked.",
    )
    lora_path = serializers.CharField(
        max_length=MAX_NAME,
        required=False,
        help_text="One LoRA: id, name, or a repository of the Hub, which is downloaded when it is new.",
    )
    lora_scale = serializers.FloatField(
        min_value=MIN_SCALE, max_value=MAX_SCALE, required=False, help_text="How strongly `lora_path` counts."
    )
    output_format = serializers.ChoiceField(
        OutputFormat.choices, required=False, default=OutputFormat.PNG, help_text="Of the finished pictures."
    )
    output_quality = serializers.IntegerField(
        min_value=0,
        max_value=100,
        required=False,
        default=DEFAULT_OUTPUT_QUALITY,
        help_text="How well JPEG and WebP keep the picture; without effect on PNG.",
    )
    preview_every = serializers.IntegerField(
        min_value=0,
        max_value=MAX_STEPS,
        required=False,
        default=0,
        help_text="Steps between two previews in the feed; 0: none.",
    )
    timeout_s = serializers.IntegerField(
        min_value=1, required=False, help_text="Limit of the run, in seconds."
    )
    priority = serializers.IntegerField(
        min_value=-MAX_PRIORITY,
        max_value=MAX_PRIORITY,
        required=False,
        default=0,
        help_text="Higher ones run first; only staff may go above 0.",
    )
    device_class = serializers.CharField(
        required=False,
        allow_blank=True,
        default="",
        help_text="Only workers of this class may run it (see `capabilities`); empty: all of them.",
    )
    webhook_url = WebhookUrlField(
        required=False, allow_blank=True, default="", help_text="Where to post what becomes of it."
    )
    webhook_events = WebhookEventsField(
        required=False, help_text="Which events to post there; by default those that end it."
    )
    cancel_on_disconnect = serializers.BooleanField(
        required=False, default=False, help_text="Cancel it when the client that waits for it hangs up."
    )
    reproducible = serializers.BooleanField(
        required=False, default=False, help_text="Run alone, so that a replay can give the same pixels."
    )
    strict = serializers.BooleanField(
        required=False,
        default=False,
        help_text="Refuse (422) what would have to be adjusted, instead of warning.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.context.get("prompt_required", True):
            prompt = copy(cast(TextField, self.fields["prompt"]))  # all others share that
            prompt.required, prompt.allow_blank, prompt.default = False, True, ""
            self.fields.fields["prompt"] = prompt

    def form_choices(self) -> dict[str, list[tuple[str, str]]]:
        """The models that can be named, and the classes of workers."""
        return {
            "model": [(one.id, f"{one.name} ({one.id})") for one in checkpoints_enabled()],
            "device_class": [(name, name) for name in settings.DEVICE_CLASSES],
        }

    def validate_device_class(self, value: str) -> str:
        """One that there is. Raises ValidationError."""
        if value and value not in settings.DEVICE_CLASSES:
            known = ", ".join(settings.DEVICE_CLASSES) or "none"
            raise serializers.ValidationError(f"There is no such class of workers. Known: {known}.")
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Resolves aliases, the model, its defaults and the kind, and checks the model's limits."""
        if errors := self._complete(attrs, failed=()):
            raise serializers.ValidationError(errors)
        return attrs

    def further_errors(self, values: dict[str, Any], *, failed: Collection[str]) -> dict[str, Any]:
        """What is wrong with the fields that could be read beside those that could not, by field."""
        missing = {name: self.fields[name].default for name in failed if name in self.fields}
        defaults = {name: value for name, value in missing.items() if value is not serializers.empty}
        errors = self._complete(defaults | values, failed=failed)
        return {
            name: error for name, error in errors.items() if _HANGS_ON.get(name, set()).isdisjoint(failed)
        }

    def _complete(self, attrs: dict[str, Any], *, failed: Collection[str]) -> dict[str, Any]:
        """Resolves what the fields mean together; returns all that is wrong, by field.

        Raises a LoRA's own error, or that of `acceleration`, where nothing else is wrong.
        """
        errors: dict[str, Any] = {}
        with _noted(errors):
            merge_alias(attrs, name="model", alias="model_id")
        with _noted(errors):
            merge_alias(attrs, name="num_inference_steps", alias="steps")
        with _noted(errors):
            job_options_check(attrs, owner=self.context["owner"])
        checkpoint = None
        if {"model", "model_id"}.isdisjoint(failed):
            with _noted(errors):
                checkpoint = self._checkpoint(attrs.pop("model", None))
        with _noted(errors):
            attrs["kind"] = self._kind(attrs, checkpoint)
        if checkpoint is not None:
            with _noted(errors):
                self._complete_for(checkpoint, attrs, errors, failed)
        return errors

    def _complete_for(
        self, checkpoint: Checkpoint, attrs: dict[str, Any], errors: dict[str, Any], failed: Collection[str]
    ) -> None:
        """What hangs on the checkpoint: its defaults and limits, and the LoRA that fit it."""
        attrs["checkpoint"] = checkpoint
        if checkpoint.facts.guidance == TRUE_CFG and attrs["true_cfg_scale"] is not None:
            merge_alias(attrs, name="guidance_scale", alias="true_cfg_scale")
            attrs["true_cfg_scale"] = None
        attrs.setdefault("num_inference_steps", checkpoint.default_steps)
        attrs.setdefault("guidance_scale", checkpoint.default_guidance_scale)
        attrs.setdefault("timeout_s", min(settings.DEFAULT_TIMEOUT_S, settings.MAX_TIMEOUT_S))
        attrs.setdefault("padding_mask_crop", None)
        attrs.setdefault("strength", DEFAULT_STRENGTH.get(attrs["kind"]) if "kind" in attrs else None)
        errors_here = self._kind_errors(checkpoint, attrs) | limit_errors(checkpoint, attrs)
        for name, error in (errors_here | picture_errors(checkpoint, attrs)).items():
            errors.setdefault(name, error)
        try:
            acceleration_check(checkpoint, attrs["acceleration"])
            attrs["loras"] = wishes_read(attrs, owner=self.context["owner"], checkpoint=checkpoint)
        except DomainError as error:
            if not errors and not failed:
                raise
            errors.setdefault(error.param or "loras", serializers.ErrorDetail(error.detail, error.code))
        if not errors:
            attrs["width"], attrs["height"] = size_used(checkpoint, attrs)

    def _checkpoint(self, name: str | None) -> Checkpoint:
        try:
            return checkpoint_for(name=name)
        except (
            ModelNotFoundError,
            ModelUnsupportedError,
            ModelTooLargeError,
            ModelNeedsLibraryError,
        ) as error:
            field = (
                "model_id"
                if "model_id" in self.initial_data and "model" not in self.initial_data
                else "model"
            )
            raise serializers.ValidationError(
                {field: serializers.ErrorDetail(error.detail, error.code)}
            ) from error

    def _kind(self, attrs: dict[str, Any], checkpoint: Checkpoint | None) -> Kind:
        """The kind that was asked for, or the one that the pictures mean. Raises ValidationError where they clash."""
        kinds: tuple[Kind, ...] = self.context.get("kinds", tuple(Kind))
        makes = tuple(map(Kind, checkpoint.facts.kinds)) if checkpoint else tuple(Kind)
        kind = Kind(attrs["kind"]) if "kind" in attrs else _kind_meant(kinds, makes, attrs)
        if kind not in kinds:
            raise serializers.ValidationError({"kind": f"This route makes {' or '.join(kinds)}."})
        if kind is Kind.EDIT and "images" not in attrs and "image" in attrs:
            attrs["images"] = [attrs.pop("image")]
        pictures = PICTURES[kind]
        takes = {*pictures, *(("strength",) if kind in DEFAULT_STRENGTH else ())}
        takes |= {"padding_mask_crop"} if kind is Kind.INPAINT else set()
        missing = {name: f"Required for {kind}." for name in pictures if name not in attrs}
        if kind is Kind.EDIT and attrs.get("prompt") == "":
            missing["prompt"] = "Required for edit: it says what to change."
        surplus = _OF_KINDS & attrs.keys() - takes
        if missing or surplus:
            raise serializers.ValidationError(missing | dict.fromkeys(surplus, f"Has no place in {kind}."))
        return kind

    def _kind_errors(self, checkpoint: Checkpoint, attrs: dict[str, Any]) -> dict[str, str]:
        """What of the kind and its pictures the checkpoint cannot do, under the field that asked for it."""
        kind, facts = attrs.get("kind"), checkpoint.facts
        if kind is None:
            return {}
        if kind not in facts.kinds:
            given = ("kind", *PICTURES[kind][::-1], "image", "prompt")
            field = next(name for name in given if name in self.initial_data or name == "prompt")
            return {field: f"{checkpoint.id} makes {facts.makes}, and no {kind}."}
        if len(attrs.get("images", ())) > facts.max_images:
            return {"images": f"{checkpoint.id} edits {facts.max_images} at most."}
        return {}


class GenerationFormIn(GenerationCreateIn):
    """The same, documented as a multipart form."""

    image = PictureFileField(required=False, help_text="PNG, JPEG or WebP to start from.")
    mask_image = PictureFileField(
        required=False, help_text="As large as `image`; what is white in it is drawn anew, the rest is kept."
    )
    loras = LorasTextField(
        main="lora",
        child=LoraUseIn(),
        required=False,
        max_length=MAX_LORAS,
        help_text='LoRA, stacked, as JSON: `[{"lora": "outline", "scale": 0.8}]`.',
    )
    images = PictureFilesField(
        required=False,
        min_length=1,
        max_length=MAX_EDIT_IMAGES,
        help_text="What to edit, as the prompt says: as many as the model takes. One may stand in `image`.",
    )


def _kind_meant(kinds: tuple[Kind, ...], makes: tuple[Kind, ...], attrs: dict[str, Any]) -> Kind:
    """What a request's pictures ask of a route of these kinds, and of a model that makes those."""
    if kinds == (Kind.TXT2IMG,):
        return Kind.TXT2IMG
    if "mask_image" in attrs:
        return Kind.INPAINT
    edits = Kind.EDIT in kinds and Kind.EDIT in makes
    if "images" in attrs or (edits and Kind.IMG2IMG not in makes and "image" in attrs):
        return Kind.EDIT
    if edits and Kind.TXT2IMG not in makes:
        return Kind.EDIT
    return Kind.IMG2IMG if "image" in attrs or Kind.TXT2IMG not in kinds else Kind.TXT2IMG
