"""Which scheduler a request of A1111's asks for."""

from generation.compat.dialect import Params, warning
from generation.requests.a1111_words import SAMPLERS, sampler_named, schedule_named
from imagegen_project.common.errors import DomainError
from models_registry.errors import ModelNotFoundError
from models_registry.family_facts import FAMILY_FACTS
from models_registry.schedulers import SCHEDULERS, SCHEDULES, sampler_and_schedule, scheduler_name
from models_registry.selectors import checkpoint_default, checkpoint_get


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
        params.blame("sampler_name", "Text is expected.")
        return {"scheduler": ""}
    sampler, named = sampler_named(name)
    if sampler is None:
        raise SamplerNotFoundError(f"Sampler not found. Known: {', '.join(SAMPLERS)}.")
    if named and schedule not in ("", named):
        params.warnings.append(warning("scheduler", "The sampler's name says another one.", used=named))
    scheduler = scheduler_name(sampler, named or schedule) if sampler else ""
    if scheduler not in ("", *SCHEDULERS) or (schedule and not sampler):
        params.warnings.append(warning("scheduler", f"{name} cannot follow it.", used=None))
        scheduler = sampler
    return {"scheduler": scheduler}


def _schedule(params: Params) -> str:
    """The schedule that the schedule type means, by its name or its label; "" for the sampler's own."""
    given = params.take("scheduler") or "automatic"
    schedule = schedule_named(given) if isinstance(given, str) else None
    if schedule is None:
        params.warnings.append(warning("scheduler", "Not known here; the sampler's own is used.", used=None))
    return schedule or ""


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
