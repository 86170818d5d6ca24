"""What a picture's file says of how it was made, as fields of a request that makes it again."""

import json
import re
from typing import Any, Final

from django.contrib.auth.models import User
from rest_framework import serializers

from generation.choices import Acceleration, PromptSyntax
from generation.pictures.infotext import FileTexts, infotext_parse
from generation.requests.a1111_words import sampler_named, schedule_named
from generation.requests.serializers import PICTURES, GenerationCreateIn
from loras.errors import LoraNotFoundError
from loras.selectors import lora_get
from models_registry.errors import ModelNotFoundError
from models_registry.schedulers import SCHEDULERS, scheduler_name
from models_registry.selectors import checkpoint_get

_LORA: Final = re.compile(r"<lora:([^:<>]{1,200}):([0-9.]{1,10})>")
# The names of A1111's parameters that are fields as they are.
_A1111_FIELDS: Final = {
    "Prompt": "prompt",
    "Negative prompt": "negative_prompt",
    "Steps": "num_inference_steps",
    "CFG scale": "guidance_scale",
    "Seed": "seed",
    "Size-1": "width",
    "Size-2": "height",
    "Model": "model",
    "Denoising strength": "strength",
}
_RECEIPT_FIELDS: Final = (
    *("prompt", "negative_prompt", "width", "height", "num_inference_steps", "guidance_scale", "scheduler"),
    *("clip_skip", "strength", "padding_mask_crop", "seed", "output_format", "model", "loras"),
)
# Fields that not every model takes, whose zero asks for nothing.
_IF_ANY: Final = ("true_cfg_scale", "guidance_rescale")
Warnings = list[dict[str, Any]]


def png_info(texts: FileTexts, *, owner: User) -> dict[str, Any]:
    """Whose notes the file has, the fields that they mean, what a request `needs` beside, and what was left out."""
    warnings: Warnings = []
    receipt = _receipt(texts.receipt)
    if receipt is not None:
        notes_of: str | None = "imagegen"
        given = {name: receipt[name] for name in _RECEIPT_FIELDS if receipt.get(name) not in (None, "")}
        given |= {name: receipt[name] for name in _IF_ANY if receipt.get(name)}
        if receipt.get("prompt_syntax") == PromptSyntax.WEIGHTED:
            given["prompt_syntax"] = PromptSyntax.WEIGHTED
        if receipt.get("acceleration") not in (None, Acceleration.NONE):
            given["acceleration"] = receipt["acceleration"]
        needs = list(PICTURES.get(receipt.get("kind", ""), ()))
    else:
        given = _from_a1111(texts.parameters, warnings)
        notes_of = "a1111" if given else None
        needs = ["image"] if "strength" in given else []
    fields = _checked(given, owner, warnings)
    return {
        "notes_of": notes_of,
        "parameters": texts.parameters,
        "request": fields,
        "needs": needs,
        "warnings": warnings,
    }


def _receipt(text: str) -> dict[str, Any] | None:
    """The service's own JSON; None where the text is not that."""
    try:
        receipt = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if (
        not isinstance(receipt, dict)
        or "prompt" not in receipt
        or not isinstance(receipt.get("kind", ""), str)
    ):
        return None
    return receipt


def _from_a1111(text: str, warnings: Warnings) -> dict[str, Any]:
    told = infotext_parse(text)
    given: dict[str, Any] = {field: told[name] for name, field in _A1111_FIELDS.items() if told.get(name)}
    if loras := _LORA.findall(given.get("prompt", "")):
        given["loras"] = [{"lora": name, "scale": scale} for name, scale in loras]
        given["prompt"] = _LORA.sub("", given["prompt"]).strip()
    layers = told.get("Clip skip", "1")  # A1111 counts the last layer as 1
    if layers != "1":
        given["clip_skip"] = int(layers) - 1 if re.fullmatch(r"[0-9]{1,3}", layers) else layers
    if sampler := told.get("Sampler"):
        scheduler = _scheduler(sampler, told.get("Schedule type", "Automatic"))
        if scheduler is None:
            _warn(warnings, "scheduler", f"{sampler[:100]} is not known here.")
        elif scheduler:
            given["scheduler"] = scheduler
    return given


def _scheduler(sampler: str, schedule: str) -> str | None:
    """The scheduler that A1111's words mean, "" for the model's own; None where there is none."""
    known, named = sampler_named(sampler)
    if known is None:
        return None
    scheduler = scheduler_name(known, named or schedule_named(schedule) or "") if known else ""
    return scheduler if scheduler in ("", *SCHEDULERS) else known


def _checked(given: dict[str, Any], owner: User, warnings: Warnings) -> dict[str, Any]:
    """The fields that a request may have with these values; a warning for each other one."""
    known = GenerationCreateIn(context={"owner": owner}).fields
    fields: dict[str, Any] = {}
    for name, value in given.items():
        if name == "loras":
            continue
        try:
            fields[name] = known[name].run_validation(value)
        except serializers.ValidationError:
            _warn(warnings, name, "What the file says is no value that is taken here.")
    try:
        if "model" in fields:
            fields["model"] = checkpoint_get(name=fields["model"]).id
    except ModelNotFoundError:
        _warn(warnings, "model", f"There is no model {fields.pop('model')} here.")
    if loras := _loras(given.get("loras"), owner, warnings):
        fields["loras"] = loras
    return fields


def _loras(given: Any, owner: User, warnings: Warnings) -> list[dict[str, Any]]:
    uses = [use for use in given if isinstance(use, dict)] if isinstance(given, list) else []
    field = GenerationCreateIn(context={"owner": owner}).fields["loras"]
    found = []
    for use in uses:
        try:
            (used,) = field.run_validation([{"lora": use.get("lora"), "scale": use.get("scale", 1.0)}])
            lora_get(user=owner, name=used["lora"])
        except serializers.ValidationError:
            _warn(warnings, "loras", "What the file says is no value that is taken here.")
        except LoraNotFoundError:
            _warn(warnings, "loras", f"There is no LoRA {used['lora']} here.")
        else:
            found.append(dict(used))
    return found


def _warn(warnings: Warnings, param: str, reason: str) -> None:
    warnings.append({"param": param, "reason": reason, "used": None})
