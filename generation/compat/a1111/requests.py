"""A1111's `txt2img` and `img2img` in the native fields."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from generation.choices import PromptSyntax
from generation.compat.a1111.canvas import CROP, FILL, LATENT, canvas_fit, canvas_read, hole_fill, mask_fit
from generation.compat.a1111.options import options_read
from generation.compat.a1111.params import LenientParams
from generation.compat.a1111.prompts import prompt_read
from generation.compat.a1111.samplers import sampler_fit, sampler_read
from generation.compat.a1111.scripts import scripts_read
from generation.compat.dialect import refuse
from generation.models import MAX_MASK_PADDING, MAX_SEED, A1111Options
from generation.pictures.fitting import side_near, size_follow, size_near
from generation.pictures.reading import Picture, Size, picture_made
from generation.requests.model_limits import MAX_STEPS, strength_suffices
from models_registry.family_facts import FAMILY_FACTS
from models_registry.models import Checkpoint
from models_registry.schedulers import sampler_and_schedule, step_limits
from models_registry.selectors import checkpoint_default

# A1111's names to the native ones.
FIELDS: Final[Mapping[str, str]] = {
    "negative_prompt": "negative_prompt",
    "seed": "seed",
    "steps": "num_inference_steps",
    "cfg_scale": "guidance_scale",
    "width": "width",
    "height": "height",
}
PREVIEW_EVERY: Final = 5
DEFAULT_STRENGTH: Final = 0.75
_MAX_SIDE: Final = 16384

# What nothing here follows: the values that ask for nothing, and what is said of any other.
_ONCE: Final = "There is no second pass; the picture has the size of the first."
_NO_SETTING: Final = "The sampler has no such setting here."
_NOT_FOLLOWED: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    "enable_hr": ((False,), _ONCE),
    "styles": (([], ["None"], [""]), "There are no styles."),
    "subseed_strength": ((0,), "There are no variations of a seed."),
    "seed_resize_from_h": ((0, -1), "Noise is drawn at the picture's size."),
    "seed_resize_from_w": ((0, -1), "Noise is drawn at the picture's size."),
    "restore_faces": ((False,), "Faces are not restored."),
    "tiling": ((False,), "Pictures do not tile."),
    "s_min_uncond": ((0,), _NO_SETTING),
    "s_churn": ((0,), _NO_SETTING),
    "s_tmin": ((0,), _NO_SETTING),
    "s_noise": ((1, 0), _NO_SETTING),
    "token_merging_ratio": ((0,), "Tokens are not merged."),
    "refiner_checkpoint": (("", "None"), "There is no refiner."),
    "infotext": (("",), "The fields alone are read."),
    "override_settings_restore_afterwards": ((True,), "They hold for this request; `options` keeps them."),
}
_NOT_FOLLOWED_IMG2IMG: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    "image_cfg_scale": ((1.5, 0), "Only models that follow instructions have it."),
    "initial_noise_multiplier": ((1, 0), "Noise is added as the sampler does it."),
    "include_init_images": ((False,), "They are not sent back."),
    "latent_mask": ((), "The mask itself is used."),
}
_NOT_FOLLOWED_MASK: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    **dict.fromkeys(
        ("mask_blur", "mask_blur_x", "mask_blur_y"),
        ((0,), "What is drawn blends into the rest over 4 pixels, all of them within the mask."),
    )
}
# Options of the second pass, of subseeds without strength, of scripts without a name, and of places to save to.
_SILENT: Final = (
    "hr_scale", "hr_upscaler", "hr_second_pass_steps", "hr_resize_x", "hr_resize_y", "hr_checkpoint_name",
    "hr_sampler_name", "hr_scheduler", "hr_prompt", "hr_negative_prompt", "hr_additional_modules",
    "firstphase_width", "firstphase_height", "refiner_switch_at", "subseed", "s_tmax", "save_images",
    "do_not_save_samples", "do_not_save_grid", "force_task_id", "comments", "do_not_reload_embeddings",
)  # fmt: skip
_SILENT_MASK: Final = (
    "mask_blur", "mask_blur_x", "mask_blur_y", "inpaint_full_res", "inpaint_full_res_padding", "mask_round",
    "inpainting_fill", "inpainting_mask_invert",
)  # fmt: skip


@dataclass(frozen=True)
class Drawing:
    """A request in the native fields, what is to be said of it, and whether the answer carries the pictures."""

    data: dict[str, Any]
    warnings: list[dict[str, Any]]
    errors: dict[str, Any]
    send_images: bool


def txt2img_read(body: Any, options: A1111Options) -> Drawing:
    """A drawing from text. Raises SamplerNotFoundError, and ValidationError for what is no object."""
    params = LenientParams(body)
    # Only the second pass follows it.
    params.take("denoising_strength")
    scripts_read(params, route="txt2img")
    data, checkpoint = _common(params, options)
    data |= _size(params, checkpoint, picture=None)
    return _end(params, data)


def img2img_read(body: Any, options: A1111Options) -> Drawing:
    """A drawing from a picture; the caller has seen that there is one. Raises as above, and FetchBusyError."""
    params = LenientParams(body)
    pictures, picture = params.take("init_images"), None
    with params.noted():
        if not isinstance(pictures, list) or len(pictures) != 1:
            refuse("init_images", "A list of exactly one picture is expected.")
        picture = canvas_read("init_images", pictures[0])
    factor = scripts_read(params, route="img2img")
    data, checkpoint = _common(params, options)
    given = params.take("mask")
    mask = None if given == "" else given
    part = mask is not None and params.flag("inpaint_full_res", default=True)
    data |= _size(params, checkpoint, picture=picture, factor=factor, as_picture=part)
    data["strength"] = _strength(params, checkpoint, data)
    data |= _pictures(params, picture, mask, (data["width"], data["height"]), part=part)
    params.not_followed(_NOT_FOLLOWED_IMG2IMG)
    return _end(params, data)


def _end(params: LenientParams, data: dict[str, Any]) -> Drawing:
    params.not_followed(_NOT_FOLLOWED)
    for name in _SILENT:
        params.take(name)
    send_images = params.flag("send_images", default=True)
    params.end()
    params.strict_check()
    return Drawing(data, params.warnings, params.errors, send_images)


def _common(params: LenientParams, options: A1111Options) -> tuple[dict[str, Any], Checkpoint]:
    """What both routes have but the size, and the checkpoint."""
    used = _settings(params, options)
    checkpoint = used.checkpoint or checkpoint_default()
    data: dict[str, Any] = {
        "model": checkpoint.id,
        "output_format": used.output_format,
        "preview_every": PREVIEW_EVERY,
        "prompt_syntax": (PromptSyntax.WEIGHTED if checkpoint.facts.weighted_prompts else PromptSyntax.PLAIN),
    }
    data |= prompt_read(params, owner=options.owner) | sampler_read(params)
    data["scheduler"] = sampler_fit(params, data["scheduler"], model=checkpoint.id)
    _eta(params, data["scheduler"])
    count, rounds = (params.number(name, low=1, high=100, default=1) for name in ("batch_size", "n_iter"))
    numbers = {
        "num_images": count * rounds,
        "seed": _seed(params),
        "num_inference_steps": _steps(params, data["scheduler"]),
        "guidance_scale": params.within(
            "cfg_scale", low=checkpoint.facts.min_guidance_scale, high=checkpoint.facts.max_guidance_scale
        ),
        "clip_skip": _clip_skip(params, used.clip_skip, checkpoint),
    }
    return data | {name: value for name, value in numbers.items() if value is not None}, checkpoint


def _settings(params: LenientParams, options: A1111Options) -> A1111Options:
    """The user's options with those of `override_settings` in their place."""
    override = params.inner("override_settings", params.take("override_settings", {}))
    used = options_read(override, options, must_exist=False)
    override.not_followed({"sd_vae": (("", "None", "Automatic"), "The model's own is used.")})
    override.end()
    return used


def _steps(params: LenientParams, scheduler: str) -> int | None:
    low, high = step_limits(scheduler, most=MAX_STEPS)
    if (steps := params.within("steps", low=0, high=high, whole=True)) is None:
        return None
    if steps < low:
        params.note("steps", f"Here it goes from {low} to {high}.", used=low)
    return max(low, int(steps))


def _seed(params: LenientParams) -> Any:
    seed = params.take("seed")
    if not isinstance(seed, int) or -1 <= seed <= MAX_SEED:
        return None if seed == "" else seed  # the native field says what is wrong with it
    used = seed % (MAX_SEED + 1)
    params.note("seed", f"Seeds go to {MAX_SEED}; it is taken modulo one more.", used=used)
    return used


def _clip_skip(params: LenientParams, clip_skip: int, checkpoint: Checkpoint) -> int | None:
    highest = FAMILY_FACTS[checkpoint.family].max_clip_skip
    if not highest or clip_skip <= highest:
        return clip_skip or None
    reason = f"{checkpoint.id} can leave out {highest} layers."
    params.note("CLIP_stop_at_last_layers", reason, used=highest + 1)
    return highest


def _size(
    params: LenientParams,
    checkpoint: Checkpoint,
    *,
    picture: Picture | None,
    factor: float | None = None,
    as_picture: bool = False,
) -> dict[str, int]:
    """Width and height that the checkpoint can draw, with a warning for each that was asked for otherwise.

    They are the picture's, `factor` times as large, or just so `as_picture`.
    """
    asked = [params.within(side, low=1, high=_MAX_SIDE, whole=True) for side in ("width", "height")]
    if picture and as_picture and asked not in ([None, None], [*picture.size]):
        reason = "What is masked is drawn at the size of the whole picture, which is the answer's too."
        params.note("inpaint_full_res", reason, used="{}x{}".format(*picture.size))
    limits = {"low": checkpoint.min_size, "high": checkpoint.max_size, "multiple": checkpoint.side_multiple}
    if picture and (factor or as_picture):
        asked = [round(side * (factor or 1)) for side in picture.size]
        used = size_follow((asked[0], asked[1]), width=None, height=None, **limits)
    elif None in asked:
        wide, tall = (side and side_near(side, **limits) for side in asked)
        if picture:
            used = size_follow(picture.size, width=wide, height=tall, **limits)
        else:
            used = wide or checkpoint.default_width, tall or checkpoint.default_height
    else:
        used = size_near((asked[0], asked[1]), **limits)
    reason = "{} takes multiples of {multiple} from {low} to {high} pixels; larger pictures keep their shape.".format(
        checkpoint.id, **limits
    )
    for name, side, drawn in zip(("width", "height"), asked, used, strict=True):
        if side not in (None, drawn):
            params.note(name, reason, used=drawn)
    return {"width": used[0], "height": used[1]}


def _strength(params: LenientParams, checkpoint: Checkpoint, data: Mapping[str, Any]) -> float:
    """How much of the picture may change; at least one step is drawn."""
    strength = params.within("denoising_strength", low=0, high=1)
    if strength is None:
        return DEFAULT_STRENGTH
    steps = data.get("num_inference_steps", checkpoint.default_steps)
    if strength_suffices(checkpoint, scheduler=data["scheduler"], steps=steps, strength=strength):
        return float(strength)
    used: float = min(1.0, 1.001 / steps)
    params.note("denoising_strength", "At least one step is drawn.", used=round(used, 4))
    return used


def _pictures(
    params: LenientParams, picture: Picture | None, mask: Any, size: Size, *, part: bool
) -> dict[str, Any]:
    """The picture, and the mask where there is one, as large as what is drawn; nothing where one cannot be read.

    With the padding around what is masked, where only that `part` is drawn.
    """
    mode = params.number("resize_mode", low=0, high=LATENT, default=0)
    if mode == LATENT:
        params.note("resize_mode", "The picture is resized, not its latents.", used=0)
    drawn, inverted, fill, padding = None, False, 0, 0
    if mask is not None:
        with params.noted():
            drawn = canvas_read("mask", mask)
        inverted = params.flag("inpainting_mask_invert")
        fill = params.number("inpainting_fill", low=0, high=3, default=0)
        if fill >= 2:
            reason = "Latents are not filled; the picture is."
            params.note("inpainting_fill", reason, used="original" if fill == 2 else "grey")
        padding = params.within("inpaint_full_res_padding", low=0, high=MAX_MASK_PADDING, whole=True) or 0
        params.not_followed(_NOT_FOLLOWED_MASK)
    for name in _SILENT_MASK:
        params.take(name)
    if picture is None:
        return {}
    if params.errors:  # nothing is drawn, and the native fields have no more to say of it
        return {"image": picture}
    image = canvas_fit(params, picture, size, mode=mode if mode in (CROP, FILL) else 0)
    if drawn is None:
        return {"image": image}
    hole = mask_fit(drawn, size, mode=mode, inverted=inverted)
    with image.decoded() as decoded:
        filled = picture_made(hole_fill(decoded, hole, fill=fill), animated=image.animated)
    files = {"image": filled, "mask_image": picture_made(hole, animated=drawn.animated)}
    if not part:
        return files
    # Pixels of the picture that was sent become those of what is drawn.
    padding = min(MAX_MASK_PADDING, round(padding * size[0] / picture.size[0]))
    return files | {"padding_mask_crop": padding}


def _eta(params: LenientParams, scheduler: str) -> None:
    """Noise added at each step: as the scheduler does it, 1 for ancestral samplers and 0 for the others."""
    eta = params.take("eta")
    own = 1 if sampler_and_schedule(scheduler)[0] in ("euler_a", "dpm2_a") else 0
    if eta is not None and eta != own:
        params.note("eta", "The sampler decides.")
