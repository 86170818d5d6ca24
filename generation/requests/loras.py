"""Which LoRA a generation asks for."""

from typing import Any

from django.contrib.auth.models import User
from rest_framework import serializers

from generation.lora_uses import LoraWish
from imagegen_project.common.serializers import StrictSerializer
from loras.api.serializers import REPOSITORY_PATTERN
from loras.choices import LoraState
from loras.errors import LoraNotFoundError
from loras.models import Lora
from loras.selectors import lora_get
from loras.services import lora_check_fits
from models_registry.models import Checkpoint

MAX_LORAS = 8
MIN_SCALE, MAX_SCALE, DEFAULT_SCALE = 0.0, 2.0, 1.0
MAX_NAME = 200


class LoraUseIn(StrictSerializer):
    """One LoRA and how strongly it counts."""

    lora = serializers.CharField(
        max_length=MAX_NAME, help_text="Its id, its name, or the repository it came from."
    )
    scale = serializers.FloatField(
        min_value=MIN_SCALE, max_value=MAX_SCALE, required=False, default=DEFAULT_SCALE
    )


def wishes_read(attrs: dict[str, Any], *, owner: User, checkpoint: Checkpoint) -> list[LoraWish]:
    """Takes `loras`, `lora_path` and `lora_scale` out of a request. Raises ValidationError, or the LoRA's own error.

    `lora_path` may also name a repository that is not registered yet; `loras` may not.
    """
    uses: list[dict[str, Any]] = attrs.pop("loras", [])
    path, scale = attrs.pop("lora_path", ""), attrs.pop("lora_scale", None)
    if scale is not None and not path:
        raise serializers.ValidationError({"lora_scale": "Has no place without lora_path."})
    wishes = [
        LoraWish(use["scale"], lora=_find(owner, checkpoint, use["lora"], f"loras.{index}.lora"))
        for index, use in enumerate(uses)
    ]
    if path:
        wishes.append(_path_wish(owner, checkpoint, path, DEFAULT_SCALE if scale is None else scale))
    if len(wishes) > MAX_LORAS:
        raise serializers.ValidationError({"loras": f"At most {MAX_LORAS}."})
    named = [wish.lora.pk if wish.lora else wish.repository for wish in wishes]
    if len(set(named)) < len(named):
        raise serializers.ValidationError({"loras": "Names a LoRA twice; give it once, with one scale."})
    return wishes


def _path_wish(owner: User, checkpoint: Checkpoint, path: str, scale: float) -> LoraWish:
    try:
        return LoraWish(scale, lora=_find(owner, checkpoint, path, "lora_path"))
    except serializers.ValidationError:
        if not REPOSITORY_PATTERN.fullmatch(path):
            raise
        return LoraWish(scale, repository=path)


def _find(owner: User, checkpoint: Checkpoint, name: str, param: str) -> Lora:
    try:
        lora = lora_get(user=owner, name=name)
        # One that is still on its way is waited for; whether it fits is seen when it is there.
        if lora.family or lora.state == LoraState.BROKEN or not lora.enabled:
            lora_check_fits(lora=lora, checkpoint=checkpoint, param=param)
    except LoraNotFoundError as error:
        raise serializers.ValidationError(
            {param: serializers.ErrorDetail(error.detail, error.code)}
        ) from error
    return lora
