"""A1111's names of samplers and schedule types, and the schedulers that they are here."""

from typing import Final

from models_registry.schedulers import SCHEDULERS, sampler_and_schedule

SAMPLERS: Final[dict[str, str]] = {
    "Automatic": "",
    "DPM++ 2M": "dpmpp_2m",
    "DPM++ SDE": "dpmpp_sde",
    "DPM++ 2M SDE": "dpmpp_2m_sde",
    "DPM++ 3M SDE": "dpmpp_3m_sde",
    "Euler a": "euler_a",
    "Euler": "euler",
    "LMS": "lms",
    "Heun": "heun",
    "DPM2": "dpm2",
    "DPM2 a": "dpm2_a",
    "DDIM": "ddim",
    "DDPM": "ddpm",
    "PLMS": "plms",
    "UniPC": "unipc",
    "LCM": "lcm",
    "TCD": "tcd",
}
# Schedule type -> its label, and the schedule that gives the same noise levels.
SCHEDULE_TYPES: Final[dict[str, tuple[str, str]]] = {
    "automatic": ("Automatic", ""),
    "uniform": ("Uniform", "linspace"),
    "karras": ("Karras", "karras"),
    "exponential": ("Exponential", "exponential"),
    "polyexponential": ("Polyexponential", "exponential"),  # with the rho of 1 that it has there
    "sgm_uniform": ("SGM Uniform", "trailing"),
    "simple": ("Simple", "trailing"),
    "normal": ("Normal", "linspace"),
    "ddim": ("DDIM", "leading"),
    "beta": ("Beta", "beta"),
}
# Where there is no counterpart.
OTHER_SCHEDULE_TYPES: Final = {"n/a": "automatic", "kl_optimal": "", "kl optimal": ""}


def sampler_named(name: str) -> tuple[str | None, str]:
    """Sampler and schedule that a name means, which may have a schedule's label behind it; None for an unknown one."""
    if name in SCHEDULERS:
        return sampler_and_schedule(name)
    known = {label.lower(): sampler for label, sampler in SAMPLERS.items()}
    if name.lower() in known:
        return known[name.lower()], ""
    for label, schedule in sorted(SCHEDULE_TYPES.values(), key=lambda pair: -len(pair[0])):
        shorter = name.lower().removesuffix(f" {label.lower()}")
        if shorter != name.lower() and shorter in known:
            return known[shorter], schedule
    return None, ""


def schedule_named(name: str) -> str | None:
    """The schedule that a schedule type's name or label means, "" for the sampler's own; None for an unknown one."""
    by_label = {label.lower(): kind for kind, (label, _) in SCHEDULE_TYPES.items()}
    kind = by_label.get(name.lower(), name.lower())
    kind = OTHER_SCHEDULE_TYPES.get(kind, kind)
    return SCHEDULE_TYPES[kind][1] if kind in SCHEDULE_TYPES else None


def sampler_labels(scheduler: str) -> tuple[str, str]:
    """A scheduler as A1111 names it: sampler and schedule type."""
    sampler, schedule = sampler_and_schedule(scheduler)
    samplers = {value: label for label, value in SAMPLERS.items()}
    types = {value: label for label, value in reversed(SCHEDULE_TYPES.values())}
    return samplers[sampler], types[schedule]
