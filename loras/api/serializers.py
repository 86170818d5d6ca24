"""Requests and answers about LoRA."""

import re
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from imagegen_project.common.serializers import StrictSerializer, TextField
from loras.choices import KeyStyle
from loras.models import (
    MAX_NAME_CHARACTERS,
    MAX_TRIGGER_CHARACTERS,
    MAX_TRIGGER_WORDS,
    NAME_PATTERN,
    Lora,
)
from loras.selectors import holders_by_content
from models_registry.choices import Family
from models_registry.errors import ModelNotFoundError
from models_registry.selectors import checkpoint_get

REPOSITORY_PATTERN = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")
# Paths inside a repository, and git's names; no part of either starts with a dot.
_WEIGHT_NAME = r"^(?:[A-Za-z0-9_(+][A-Za-z0-9_()+,. -]*/)*[A-Za-z0-9_(+][A-Za-z0-9_()+,. -]*\.safetensors$"
_REVISION = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$"


class NameField(serializers.RegexField):
    """What a LoRA is to be called."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            NAME_PATTERN,
            max_length=MAX_NAME_CHARACTERS,
            help_text="Lower-case letters, digits, dots, dashes and underscores; yours are unique.",
            **options,
        )
        self.error_messages["invalid"] = "Lower-case letters, digits, dots, dashes and underscores only."


class LoraUploadIn(StrictSerializer):
    """A new LoRA's file, as `multipart/form-data`."""

    file = serializers.FileField(help_text="A LoRA in safetensors form.")
    name = NameField()
    trigger_words = TextField(
        required=False,
        allow_blank=True,
        default="",
        max_length=MAX_TRIGGER_WORDS * (MAX_TRIGGER_CHARACTERS + 2),
        help_text="What a prompt must say to bring it out, separated by commas.",
    )

    def validate_trigger_words(self, value: str) -> list[str]:
        """The words, each once. Raises ValidationError."""
        return trigger_words(value)


class LoraLoadIn(StrictSerializer):
    """Which file of the Hub to register and download."""

    lora_path = serializers.RegexField(REPOSITORY_PATTERN, help_text="The repository, such as org/name.")
    weight_name = serializers.RegexField(
        _WEIGHT_NAME,
        required=False,
        default="",
        max_length=255,
        help_text="The file in it; needed where the repository has several.",
    )
    revision = serializers.RegexField(
        _REVISION, required=False, default="", max_length=100, help_text="Branch, tag or commit."
    )
    name = NameField(required=False, default="")
    model_id = serializers.CharField(
        max_length=200, required=False, help_text="A model that it must fit, where that can be told already."
    )

    def validate_model_id(self, value: str) -> Any:
        """The checkpoint. Raises ValidationError."""
        try:
            return checkpoint_get(name=value)
        except ModelNotFoundError as error:
            raise serializers.ValidationError(error.detail, error.code) from error


def trigger_words(text: str) -> list[str]:
    """A list out of words separated by commas, each once. Raises ValidationError when it is too long."""
    words = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if len(words) > MAX_TRIGGER_WORDS or any(len(word) > MAX_TRIGGER_CHARACTERS for word in words):
        raise serializers.ValidationError(
            f"At most {MAX_TRIGGER_WORDS} of at most {MAX_TRIGGER_CHARACTERS} characters each."
        )
    return words


class LoraErrorOut(serializers.Serializer[Any]):
    """Why a LoRA is broken, or did not come when it was last asked for."""

    code = serializers.CharField(source="error_code")
    detail = serializers.CharField(source="error_detail")


class LoraOut(serializers.ModelSerializer[Lora]):
    """One LoRA: what it is, what it fits, and where its file stands."""

    owner = serializers.CharField(source="owner.username", read_only=True, allow_null=True, default=None)
    family = serializers.ChoiceField(choices=Family.choices, allow_blank=True, read_only=True)
    key_style = serializers.ChoiceField(choices=KeyStyle.choices, allow_blank=True, read_only=True)
    error = serializers.SerializerMethodField()
    workers = serializers.SerializerMethodField()
    url = serializers.SerializerMethodField()

    class Meta:
        model = Lora
        fields = (
            "id",
            "name",
            "owner",
            "shared",
            "enabled",
            "source",
            "repository",
            "weight_name",
            "revision",
            "family",
            "key_style",
            "rank",
            "alpha",
            "targets",
            "text_encoders",
            "trigger_words",
            "scheduler",
            "sha256",
            "size_bytes",
            "state",
            "error",
            "workers",
            "last_used_at",
            "created_at",
            "url",
        )
        read_only_fields = fields

    @extend_schema_field(LoraErrorOut(allow_null=True))
    def get_error(self, lora: Lora) -> dict[str, Any] | None:
        """Why it is broken, or did not come, or null."""
        return dict(LoraErrorOut(lora).data) if lora.error_code else None

    def get_workers(self, lora: Lora) -> list[str]:
        """The live workers that hold it."""
        holders = self.context["holders"] if "holders" in self.context else holders_by_content()
        found: list[str] = holders.get(lora.sha256, [])
        return found

    def get_url(self, lora: Lora) -> str:
        """Where the API serves it."""
        return lora_url(lora)


def lora_url(lora: Lora) -> str:
    """Where the API serves a LoRA."""
    return f"/api/v1/loras/{lora.id}"
