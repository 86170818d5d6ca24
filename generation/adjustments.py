"""What has to be adjusted in a valid request, said instead of done in silence."""

from typing import Any

from django.conf import settings

from generation.errors import AdjustedError


def request_adjust(values: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The values to use and a warning for each that differs or has no effect.

    Raises AdjustedError when the request was `strict` and something would have to be adjusted.
    """
    used = dict(values)
    strict = used.pop("strict")
    warnings: list[dict[str, Any]] = []
    if used["timeout_s"] > settings.MAX_TIMEOUT_S:
        used["timeout_s"] = settings.MAX_TIMEOUT_S
        reason = f"This server allows {settings.MAX_TIMEOUT_S} s at most."
        warnings.append({"param": "timeout_s", "reason": reason, "used": settings.MAX_TIMEOUT_S})
    if used["negative_prompt"] and used["guidance_scale"] == 1.0:
        reason = "Has no effect at guidance_scale 1.0, which turns guidance off."
        warnings.append({"param": "negative_prompt", "reason": reason, "used": None})
    if strict and warnings:
        raise AdjustedError(warnings[0]["reason"], param=warnings[0]["param"], warnings=warnings)
    return used, warnings
