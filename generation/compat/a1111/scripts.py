"""A1111's scripts: the one that there is a counterpart of, and the refusal of the others."""

from collections.abc import Mapping
from typing import Any, Final

from generation.compat.a1111.params import LenientParams

SD_UPSCALE: Final = "sd upscale"
SCRIPTS: Final[dict[str, list[str]]] = {"txt2img": [], "img2img": [SD_UPSCALE]}
_MAX_FACTOR: Final = 4.0
SCRIPT_INFO: Final[list[dict[str, Any]]] = [
    {
        "name": SD_UPSCALE,
        "is_alwayson": False,
        "is_img2img": True,
        "args": [
            {"label": "Info", "value": "", "minimum": None, "maximum": None, "step": None, "choices": None},
            {"label": "Tile overlap", "value": 64, "minimum": 0, "maximum": 256, "step": 16, "choices": None},
            {"label": "Upscaler", "value": "Lanczos", "minimum": None, "maximum": None, "step": None,
             "choices": ["Lanczos"]},
            {"label": "Scale factor", "value": 2.0, "minimum": 1.0, "maximum": _MAX_FACTOR, "step": 0.05,
             "choices": None},
        ],
    }
]  # fmt: skip
_SCALE_ARGUMENT: Final = 3
# Those that come with A1111, by their titles. What the first four show on its page follows no request of its API.
_ITS_PAGE: Final = "Only A1111's own page follows it; the fields of the request count."
_STOCK: Final[dict[str, str]] = {
    **dict.fromkeys(("seed", "sampler", "refiner", "comments", "extra options"), _ITS_PAGE),
    "hypertile": "Pictures are drawn whole.",
    "soft inpainting": "The mask's edge is sharp.",
}
# Words of extensions' units that leave them off.
_OFF_KEYS: Final = ("enabled", "enable", "ad_tab_enable")
_MODEL_KEYS: Final = ("ad_model", "model", "module")


def scripts_read(params: LenientParams, *, route: str) -> float | None:
    """How much larger the picture is to become; None without a script that says so.

    A script that would change the picture and that there is not is blamed, as A1111 does.
    """
    for name, unit in params.fields("alwayson_scripts").items():
        if _asks(unit.get("args") if isinstance(unit, Mapping) else unit):
            if reason := _STOCK.get(str(name).strip().lower()):
                params.note(f"alwayson_scripts.{name}", reason)
            else:
                reason = f"Always on script {str(name)[:100]!a} not found."
                params.blame("alwayson_scripts", reason, "script_not_found")
    name, arguments = params.take("script_name", ""), params.take("script_args", [])
    if not isinstance(name, str):
        params.blame("script_name", "Text is expected.")
        return None
    if name.strip().lower() in ("", "none"):
        return None
    if name.strip().lower() not in SCRIPTS[route]:
        known = ", ".join(SCRIPTS[route]) or "none"
        params.blame("script_name", f"Script {name[:100]!a} not found. Known: {known}.", "script_not_found")
        return None
    params.note("script_name", "The picture is drawn whole, not in tiles.")
    return _factor(params, arguments)


def _factor(params: LenientParams, arguments: Any) -> float:
    given = (
        arguments[_SCALE_ARGUMENT] if isinstance(arguments, list) and len(arguments) > _SCALE_ARGUMENT else 2
    )
    if isinstance(given, bool) or not isinstance(given, int | float) or not 1 <= given <= _MAX_FACTOR:
        params.blame("script_args", f"The fourth is how much larger: a number from 1 to {_MAX_FACTOR:g}.")
        return 1.0
    return float(given)


def _asks(arguments: Any) -> bool:
    """Whether a script's arguments ask for anything; with False as the first one it is off."""
    if isinstance(arguments, list):
        return bool(arguments) and arguments[0] is not False and any(map(_unit_asks, arguments))
    return _unit_asks(arguments)


def _unit_asks(unit: Any) -> bool:
    """The same of one unit, which is also off without a model where it has a place for one."""
    if not isinstance(unit, Mapping):
        return _is_something(unit)
    if any(unit.get(key) is False for key in _OFF_KEYS):
        return False
    return any(_is_something(unit[key]) for key in [key for key in _MODEL_KEYS if key in unit] or unit)


def _is_something(value: Any) -> bool:
    return value.strip().lower() not in ("", "none") if isinstance(value, str) else bool(value)
