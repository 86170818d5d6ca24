"""A1111's prompts: the tags in them, of which some name LoRA, and weights, which are read as text."""

import math
import re
from typing import Any, Final

from django.contrib.auth.models import User

from generation.compat.a1111.params import LenientParams
from generation.compat.dialect import warning
from generation.requests.loras import MAX_NAME, MAX_SCALE, MIN_SCALE
from generation.requests.serializers import MAX_PROMPT_CHARACTERS
from loras.errors import LoraNotFoundError
from loras.selectors import lora_get

_TAG: Final = re.compile(r"<(\w+):([^<>]+)>")
_LORA_TAGS: Final = ("lora", "lyco")
_WEIGHTED: Final = re.compile(r"\([^()]*:\s*[0-9.]+\s*\)")
_MAX_SHOWN: Final = 100


def prompt_read(params: LenientParams, *, owner: User) -> dict[str, Any]:
    """The prompts, the first one without its tags, and the LoRA that these name.

    As in A1111, a tag that names nothing or cannot be read is left out; here that is a warning.
    """
    prompts = {"negative_prompt": params.take("negative_prompt", "")}
    prompt, plain = params.take("prompt", ""), params.flag("disable_extra_networks")
    if not isinstance(prompt, str) or len(prompt) > MAX_PROMPT_CHARACTERS:
        return prompts | {"prompt": prompt}  # the native field says what is wrong with it
    tags = _TAG.findall(prompt)
    prompt = _TAG.sub("", prompt).strip() if tags else prompt
    scales: dict[str, float] = {}
    for kind, text in [] if plain else tags:
        name, *words = text.split(":")
        if kind not in _LORA_TAGS:
            _say(params, f"There is nothing that <{kind[:_MAX_SHOWN]!a}:…> could name; it is left out.")
        elif (scale := _scale(params, name.strip(), words)) is not None and _is_there(params, name, owner):
            scales[name.strip()] = scale
    loras = [{"lora": name, "scale": scale} for name, scale in scales.items()]
    if _WEIGHTED.search(prompt):
        _say(params, "Weights in brackets are read as text.")
    return prompts | {"prompt": prompt, **({"loras": loras} if loras else {})}


def _say(params: LenientParams, reason: str, used: Any = None) -> None:
    if (said := warning("prompt", reason, used)) not in params.warnings:
        params.warnings.append(said)


def _scale(params: LenientParams, name: str, words: list[str]) -> float | None:
    """The strength in a tag, `<lora:name:text encoder:denoiser>` or by name (`te=`, `unet=`), moved to the bounds."""
    placed = [word for word in words if "=" not in word]
    named = dict(word.split("=", 1) for word in words if "=" in word)
    try:
        encoder = float(named.get("te", placed[0] if placed else 1.0))
        denoiser = float(named.get("unet", placed[1] if len(placed) > 1 else encoder))
    except ValueError:
        encoder = denoiser = math.nan
    if not (math.isfinite(encoder) and math.isfinite(denoiser)):
        _say(params, f"The strength of LoRA {name[:_MAX_SHOWN]!a} is no number; the tag is left out.")
        return None
    used = min(max(denoiser, MIN_SCALE), MAX_SCALE)
    if encoder != denoiser:
        _say(params, "A LoRA has one strength here, the denoiser's.", used)
    elif used != denoiser:
        _say(params, f"The strength of a LoRA goes from {MIN_SCALE:g} to {MAX_SCALE:g}.", used)
    return used


def _is_there(params: LenientParams, name: str, owner: User) -> bool:
    try:
        if len(name) <= MAX_NAME and "\0" not in name:
            lora_get(user=owner, name=name.strip())
            return True
    except LoraNotFoundError:
        pass
    _say(params, f"There is no LoRA {name.strip()[:_MAX_SHOWN]!a}; the tag is left out.")
    return False
