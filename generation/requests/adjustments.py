"""What has to be adjusted in a valid request, said instead of done in silence."""

from typing import Any, Final

from django.conf import settings

from generation.choices import PromptSyntax
from generation.errors import AdjustedError
from generation.pictures.fitting import edited_prepare, image_prepare, mask_prepare
from generation.requests.model_limits import MAX_STEPS
from models_registry.builtin.scenes import PALETTE, SHAPES
from models_registry.builtin.vocabulary import words_unread
from models_registry.choices import Family
from models_registry.family_facts import FAMILY_FACTS, drawn_size
from models_registry.pipeline_facts import ADDED, WITHOUT
from models_registry.schedulers import step_limits

_MAX_WORDS_NAMED: Final = 10
_MAX_WORD_CHARACTERS: Final = 30


def request_adjust(values: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The values to use and a warning for each that differs or has no effect; decoded pictures become files.

    Raises AdjustedError when the request was `strict` and something would have to be adjusted.
    """
    used = dict(values)
    warnings: list[dict[str, Any]] = []
    if used["timeout_s"] > settings.MAX_TIMEOUT_S:
        used["timeout_s"] = settings.MAX_TIMEOUT_S
        reason = f"This server allows {settings.MAX_TIMEOUT_S} s at most."
        warnings.append({"param": "timeout_s", "reason": reason, "used": settings.MAX_TIMEOUT_S})
    warnings += _guidance_warnings(used)
    if used["clip_skip"] is not None and not FAMILY_FACTS[used["checkpoint"].family].max_clip_skip:
        used["clip_skip"] = None
        reason = f"Has no effect with {used['checkpoint'].id}."
        warnings.append({"param": "clip_skip", "reason": reason, "used": None})
    if used["prompt_syntax"] != PromptSyntax.PLAIN and not used["checkpoint"].facts.weighted_prompts:
        used["prompt_syntax"] = PromptSyntax.PLAIN
        reason = f"Has no effect with {used['checkpoint'].id}: its prompts are read as they stand."
        warnings.append({"param": "prompt_syntax", "reason": reason, "used": PromptSyntax.PLAIN})
    warnings += _scheduler_warnings(used)
    warnings += _size_warnings(used)
    warnings += _pictures_prepare(used)
    warnings += _prompt_warnings(used)
    if used["strict"] and warnings:
        raise AdjustedError(warnings[0]["reason"], param=warnings[0]["param"], warnings=warnings)
    return used, warnings


def _prompt_warnings(used: dict[str, Any]) -> list[dict[str, Any]]:
    """Says which words the built-in model does not read: it has learned a few hundred."""
    if used["checkpoint"].family != Family.BUILTIN:
        return []
    words = [word[:_MAX_WORD_CHARACTERS] for word in words_unread(used["prompt"])]
    if not words:
        return []
    more = f" and {len(words) - _MAX_WORDS_NAMED} more" if len(words) > _MAX_WORDS_NAMED else ""
    reason = (
        f"{used['checkpoint'].id} draws {len(SHAPES)} shapes in {len(PALETTE)} colours. "
        f"It does not read: {', '.join(words[:_MAX_WORDS_NAMED])}{more}."
    )
    return [{"param": "prompt", "reason": reason, "used": None}]


def _guidance_warnings(used: dict[str, Any]) -> list[dict[str, Any]]:
    """Says what of guidance has no effect with this model, or at this scale; takes it out of what is used."""
    checkpoint = used["checkpoint"]
    facts = checkpoint.facts
    reasons: dict[str, str] = {}
    elsewhere = f"Has no effect with {checkpoint.id}."
    if facts.guidance == WITHOUT and used["guidance_scale"] != checkpoint.default_guidance_scale:
        reasons["guidance_scale"] = f"Has no effect with {checkpoint.id}, which draws without guidance."
        used["guidance_scale"] = checkpoint.default_guidance_scale
    if used["true_cfg_scale"] is not None and not facts.true_cfg_scale:
        reasons["true_cfg_scale"] = elsewhere
        used["true_cfg_scale"] = None
    if used["guidance_rescale"] and not facts.guidance_rescale:
        reasons["guidance_rescale"] = elsewhere
        used["guidance_rescale"] = 0.0
    off = 0.0 if facts.guidance == ADDED else 1.0
    if used["guidance_rescale"] and used["guidance_scale"] <= off:
        reasons["guidance_rescale"] = f"Has no effect at guidance_scale {off}, which turns guidance off."
    if used["negative_prompt"] and not facts.negative_prompt:
        reasons["negative_prompt"] = elsewhere
    elif used["negative_prompt"] and facts.true_cfg_scale and (used["true_cfg_scale"] or 1.0) == 1.0:
        reasons["negative_prompt"] = f"Has no effect with {checkpoint.id} unless true_cfg_scale is above 1."
    elif used["negative_prompt"] and not facts.true_cfg_scale and used["guidance_scale"] <= off:
        reasons["negative_prompt"] = f"Has no effect at guidance_scale {off}, which turns guidance off."
    return [{"param": name, "reason": reason, "used": None} for name, reason in reasons.items()]


def _scheduler_warnings(used: dict[str, Any]) -> list[dict[str, Any]]:
    """Puts in the scheduler that a LoRA was distilled for, where the request names none; the first such LoRA counts."""
    if used["scheduler"]:
        return []
    fitting = FAMILY_FACTS[used["checkpoint"].family].schedulers
    for wish in used["loras"]:
        told = wish.scheduler
        fewest, most = step_limits(told, most=MAX_STEPS)
        if wish.scale and told in fitting and fewest <= used["num_inference_steps"] <= most:
            used["scheduler"] = told
            reason = f"The LoRA {wish.name} was distilled for this one. Name another to draw with that."
            return [{"param": "scheduler", "reason": reason, "used": told}]
    return []


def _size_warnings(used: dict[str, Any]) -> list[dict[str, Any]]:
    """Says where a picture is drawn smaller than it was asked for, and enlarged."""
    checkpoint, size = used["checkpoint"], (used["width"], used["height"])
    drawn = drawn_size(family=checkpoint.family, size=size, multiple=checkpoint.side_multiple)
    if drawn is None:
        return []
    shown = "{}x{}".format(*drawn)
    reason = f"{checkpoint.id} draws well at this size and no larger: the picture is enlarged from it."
    return [{"param": "width" if size[0] == max(size) else "height", "reason": reason, "used": shown}]


def _pictures_prepare(used: dict[str, Any]) -> list[dict[str, Any]]:
    """Puts files that have the size of the generation in the place of the decoded pictures."""
    size = (used["width"], used["height"])
    warnings: list[dict[str, Any]] = []
    if image := used.pop("image", None):
        used["input_image"], said = image_prepare(image, size)
        warnings += said
    if mask := used.pop("mask_image", None):
        used["mask_image"], said = mask_prepare(mask, size)
        warnings += said
    for index, edited in enumerate(used.get("images", ())):
        most = used["checkpoint"].max_size
        used["images"][index], said = edited_prepare(edited, most=most, param=f"images.{index}")
        warnings += said
    return warnings
