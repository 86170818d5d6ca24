"""A1111's samplers and schedule types, and the schedulers that they are here."""

from typing import Final

from generation.compat.dialect import Params, refuse, warning
from imagegen_project.common.errors import DomainError
from models_registry.errors import ModelNotFoundError
from models_registry.family_facts import FAMILY_FACTS
from models_registry.schedulers import SCHEDULERS, SCHEDULES, sampler_and_schedule, scheduler_name
from models_registry.selectors import checkpoint_default, checkpoint_get

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
_OTHER_SCHEDULE_TYPES: Final = {"n/a": "automatic", "kl_optimal": "", "kl optimal": ""}


class SamplerNotFoundError(DomainError):
    """404, as A1111 answers it."""

    code = "sampler_not_found"
    http_status = 404
    title = "There is no such sampler"


def sampler_read(params: Params) -> dict[str, str]:
    """The scheduler that sampler and schedule type name together; without either, the model's own."""
    index = params.take("sampler_index")
    name = params.take("sampler_name") or index or "Automatic"
    schedule = _schedule(params)
    if not isinstance(name, str):
        refuse("sampler_name", "Text is expected.")
    sampler, named = _named(name)
    if sampler is None:
        raise SamplerNotFoundError(f"Sampler not found. Known: {', '.join(SAMPLERS)}.")
    if named and schedule not in ("", named):
        params.warnings.append(warning("scheduler", "The sampler's name says another one.", used=named))
    scheduler = scheduler_name(sampler, named or schedule) if sampler else ""
    if scheduler not in ("", *SCHEDULERS) or (schedule and not sampler):
        params.warnings.append(warning("scheduler", f"{name} cannot follow it.", used=None))
        scheduler = sampler
    return {"scheduler": scheduler}


def _named(name: str) -> tuple[str | None, str]:
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


def _schedule(params: Params) -> str:
    """The schedule that the schedule type means, by its name or its label; "" for the sampler's own."""
    given = params.take("scheduler") or "automatic"
    by_label = {label.lower(): name for name, (label, _) in SCHEDULE_TYPES.items()}
    name = by_label.get(given.lower(), given.lower()) if isinstance(given, str) else None
    name = _OTHER_SCHEDULE_TYPES.get(name or "", name)
    if name not in SCHEDULE_TYPES:
        params.warnings.append(warning("scheduler", "Not known here; the sampler's own is used.", used=None))
        return ""
    return SCHEDULE_TYPES[name][1]


def sampler_fit(params: Params, scheduler: str, *, model: str | None) -> str:
    """The nearest scheduler that fits the request's model: itself, the sampler on another schedule, the model's own.

    What changes is a warning. An unknown model is left to the native field, which refuses it.
    """
    try:
        checkpoint = checkpoint_get(name=model) if model else checkpoint_default()
    except ModelNotFoundError:
        return scheduler
    fitting = FAMILY_FACTS[checkpoint.family].schedulers
    if scheduler in ("", *fitting):
        return scheduler
    sampler, schedule = sampler_and_schedule(scheduler)
    same_sampler = (scheduler_name(sampler, other) for other in ("", *SCHEDULES))
    used = next((name for name in same_sampler if name in fitting), "")
    field = "scheduler" if used and schedule else "sampler_name"
    params.warnings.append(warning(field, f"{scheduler} does not fit {checkpoint.id}.", used=used or None))
    return used


def sampler_labels(scheduler: str) -> tuple[str, str]:
    """A scheduler as A1111 names it: sampler and schedule type."""
    sampler, schedule = sampler_and_schedule(scheduler)
    samplers = {value: label for label, value in SAMPLERS.items()}
    types = {value: label for label, value in reversed(SCHEDULE_TYPES.values())}
    return samplers[sampler], types[schedule]
