"""A1111's `txt2img` and `img2img` in the native fields."""

import re
from collections.abc import Mapping
from typing import Any, Final

from rest_framework import serializers

from generation.choices import OutputFormat
from generation.compat.a1111.samplers import sampler_fit, sampler_read
from generation.compat.dialect import Params, refuse, warning
from generation.models import A1111Options
from generation.requests.loras import MAX_NAME
from generation.requests.serializers import MAX_PROMPT_CHARACTERS
from imagegen_project.common.serializers import TextField
from models_registry.schedulers import sampler_and_schedule

# A1111's names to the native ones.
FIELDS: Final[Mapping[str, str]] = {
    "negative_prompt": "negative_prompt",
    "seed": "seed",
    "steps": "num_inference_steps",
    "cfg_scale": "guidance_scale",
    "width": "width",
    "height": "height",
}
SAMPLES_FORMATS: Final[dict[str, str]] = {
    "png": OutputFormat.PNG,
    "jpg": OutputFormat.JPEG,
    "jpeg": OutputFormat.JPEG,
    "webp": OutputFormat.WEBP,
}
PREVIEW_EVERY: Final = 5
MAX_CLIP_STOP: Final = 12

# What clients always send, with the values that ask for nothing that is missing here.
_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "enable_hr": (False,),
    "styles": ([],),
    "subseed_strength": (0,),
    "seed_resize_from_h": (0, -1),
    "seed_resize_from_w": (0, -1),
    "restore_faces": (False,),
    "tiling": (False,),
    "s_min_uncond": (0,),
    "s_churn": (0,),
    "s_tmin": (0,),
    "s_noise": (1, 0),
    "refiner_checkpoint": ("", "None"),
    "disable_extra_networks": (False,),
    "script_name": ("", "None"),
    "script_args": ([],),
    "alwayson_scripts": ({},),
    "infotext": ("",),
}
_NEUTRAL_IMG2IMG: Final[Mapping[str, tuple[Any, ...]]] = {
    "resize_mode": (0, 1),
    "image_cfg_scale": (1.5, 0),
    "inpainting_fill": (0, 1),
    "inpaint_full_res_padding": (0, 32),
    "inpainting_mask_invert": (0, False),
    "initial_noise_multiplier": (1,),
    "mask_round": (True, False),
    "latent_mask": (),
    "include_init_images": (False,),
}
# Options of the second pass, which `enable_hr` refuses, of subseeds without strength, and of places to save to.
_UNUSED: Final = (
    "hr_scale", "hr_upscaler", "hr_second_pass_steps", "hr_resize_x", "hr_resize_y", "hr_checkpoint_name",
    "hr_sampler_name", "hr_scheduler", "hr_prompt", "hr_negative_prompt", "hr_additional_modules",
    "firstphase_width", "firstphase_height", "refiner_switch_at", "subseed", "s_tmax", "save_images",
    "do_not_save_samples", "do_not_save_grid", "force_task_id", "comments",
)  # fmt: skip
_LORA = re.compile(r"<lora:([^:<>]+)((?::[^:<>]*)*)>")
_WEIGHTED = re.compile(r"\([^()]*:\s*[0-9.]+\s*\)")


def txt2img_read(body: Any, options: A1111Options) -> tuple[dict[str, Any], list[dict[str, Any]], bool]:
    """The native fields, warnings, and whether the answer carries the pictures. Raises ValidationError."""
    params = Params(body)
    # Only the second pass follows it.
    params.take("denoising_strength")
    return _read(params, {}, options)


def img2img_read(body: Any, options: A1111Options) -> tuple[dict[str, Any], list[dict[str, Any]], bool]:
    """The same from a picture; the caller has seen that there is one. Raises ValidationError."""
    params = Params(body)
    pictures = params.take("init_images")
    if not isinstance(pictures, list) or len(pictures) != 1:
        refuse("init_images", "A list of exactly one picture is expected.")
    data = {"image": pictures[0], "strength": params.take("denoising_strength", 0.75)}
    mask = params.take("mask")
    if mask is not None:
        data["mask_image"] = mask
        _mask_warnings(params)
    for name in ("mask_blur", "mask_blur_x", "mask_blur_y", "inpaint_full_res"):
        params.take(name)
    params.neutral(_NEUTRAL_IMG2IMG)
    return _read(params, data, options)


def _mask_warnings(params: Params) -> None:
    """What a mask cannot have here."""
    for name in ("mask_blur", "mask_blur_x", "mask_blur_y"):
        params.without_effect(name, "The mask's edge is sharp.", silent=(0,))
    params.without_effect("inpaint_full_res", "The whole picture is drawn.", silent=(False, 0))


def _read(
    params: Params, data: dict[str, Any], options: A1111Options
) -> tuple[dict[str, Any], list[dict[str, Any]], bool]:
    data |= params.rename(FIELDS) | sampler_read(params) | _prompt(params)
    count, rounds = (params.number(name, low=1, high=100, default=1) for name in ("batch_size", "n_iter"))
    data["num_images"] = count * rounds
    data |= _settings(params, options) | {"preview_every": PREVIEW_EVERY}
    data["scheduler"] = sampler_fit(params, data["scheduler"], model=data.get("model"))
    _eta(params, data["scheduler"])
    params.neutral(_NEUTRAL)
    for name in _UNUSED:
        params.take(name)
    send_images = params.flag("send_images", default=True)
    params.end()
    return data, params.warnings, send_images


def _prompt(params: Params) -> dict[str, Any]:
    """The prompt without its `<lora:name:scale>` tags, and what these ask for."""
    prompt = params.take("prompt", "")
    if not isinstance(prompt, str) or len(prompt) > MAX_PROMPT_CHARACTERS:
        return {"prompt": prompt}  # the native field says what is wrong with it
    loras = [{"lora": name.strip(), "scale": _scale(tail)} for name, tail in _LORA.findall(prompt)]
    prompt = _LORA.sub("", prompt).strip() if loras else prompt
    if _WEIGHTED.search(prompt):
        params.warnings.append(warning("prompt", "Weights in brackets are read as text."))
    return {"prompt": prompt, **({"loras": loras} if loras else {})}


def _scale(tail: str) -> float:
    """The strength in a tag: one number, or the same one for text encoder and denoiser."""
    numbers = set(tail.split(":")[1:] or ["1"])
    try:
        (number,) = numbers
        return float(number)
    except ValueError:
        refuse("prompt", f"A tag's strength must be one number: <lora:name{tail}>.", "invalid_lora_tag")


def _eta(params: Params, scheduler: str) -> None:
    """Noise added at each step: as the scheduler does it, 1 for ancestral samplers and 0 for the others."""
    eta = params.take("eta")
    if eta not in (None, 0, 1):
        refuse("eta", "Not supported here; only 0 or 1 is accepted.", "unsupported")
    if eta is not None and (eta == 1) != (sampler_and_schedule(scheduler)[0] in ("euler_a", "dpm2_a")):
        params.warnings.append(warning("eta", "The sampler decides.", used=None))


def _settings(params: Params, options: A1111Options) -> dict[str, Any]:
    """What the user's options and `override_settings` say about model, clip skip and format."""
    override = Params(params.take("override_settings", {}), below="override_settings.")
    used = options_read(override, options)
    override.end()
    if not params.flag("override_settings_restore_afterwards", default=True) and used is not options:
        refuse("override_settings_restore_afterwards", "Set `options` to keep them.", "unsupported")
    settings: dict[str, Any] = {"output_format": used.output_format}
    if used.checkpoint_id:
        settings["model"] = used.checkpoint_id
    if used.clip_skip:
        settings["clip_skip"] = used.clip_skip
    return settings


def options_read(params: Params, present: A1111Options) -> A1111Options:
    """The present options with what is given in their place; the same object where nothing is. Raises ValidationError.

    A checkpoint is only named here: whether there is one is seen where it is used.
    """
    given: dict[str, Any] = {}
    if (model := params.take("sd_model_checkpoint")) is not None:
        try:
            given["checkpoint_id"] = TextField(max_length=MAX_NAME).run_validation(model)
        except serializers.ValidationError as error:
            raise serializers.ValidationError({"sd_model_checkpoint": error.detail}) from error
    if (stop := params.number("CLIP_stop_at_last_layers", low=0, high=MAX_CLIP_STOP, default=0)) > 0:
        given["clip_skip"] = stop - 1
    if name := params.choice("samples_format", ("", *SAMPLES_FORMATS), ""):
        given["output_format"] = SAMPLES_FORMATS[name]
    if not given:
        return present
    values = {"checkpoint_id": present.checkpoint_id, "clip_skip": present.clip_skip}
    values["output_format"] = present.output_format
    return A1111Options(owner_id=present.owner_id, **values | given)
