"""The schedulers that requests may name: a sampler, and maybe, behind it, the schedule of its noise levels.

Names only, for processes without torch; the engine makes the schedulers (`generation/engine/schedulers.py`).
"""

from typing import Final

SAMPLERS: Final[dict[str, str]] = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "euler": "Euler",
    "euler_a": "Euler ancestral",
    "heun": "Heun",
    "lms": "LMS",
    "dpm2": "DPM2",
    "dpm2_a": "DPM2 ancestral",
    "plms": "PLMS",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "unipc": "UniPC",
    "lcm": "LCM",
    "tcd": "TCD",
}
# Three place the levels themselves, three say at which timesteps they are taken.
_SIGMAS: Final[dict[str, str]] = {"karras": "Karras", "exponential": "exponential", "beta": "beta"}
_SPACINGS: Final[dict[str, str]] = {"trailing": "trailing", "leading": "leading", "linspace": "linspace"}
SCHEDULES: Final[dict[str, str]] = _SIGMAS | _SPACINGS
# What diffusers' classes take; both for those that are not listed.
_SCHEDULES_OF: Final[dict[str, dict[str, str]]] = {
    **dict.fromkeys(("ddim", "ddpm", "euler_a", "plms"), _SPACINGS),
    "dpmpp_sde": _SIGMAS,
    "lcm": {},
    "tcd": {},
}


def scheduler_name(sampler: str, schedule: str = "") -> str:
    """The name of a sampler on a schedule; without one, on that of the checkpoint's own scheduler."""
    return f"{sampler}_{schedule}" if schedule else sampler


def sampler_and_schedule(scheduler: str) -> tuple[str, str]:
    """The two parts of a name, the second empty where it has one only."""
    sampler, _, schedule = scheduler.rpartition("_")
    return (sampler, schedule) if schedule in SCHEDULES else (scheduler, "")


# Name -> label, sampler by sampler.
SCHEDULERS: Final[dict[str, str]] = {
    scheduler_name(sampler, schedule): f"{SAMPLERS[sampler]} {label}".rstrip()
    for sampler in SAMPLERS
    for schedule, label in ({"": ""} | _SCHEDULES_OF.get(sampler, SCHEDULES)).items()
}

# For checkpoints that predict noise or velocity.
DIFFUSION: Final = tuple(SCHEDULERS)
# The same with zero terminal signal. Their first level is so high that `beta` puts nearly all steps there, and that
# steps of second order overshoot on a schedule that leaves it in one stride.
_OVERSHOOT: Final = (
    *("heun", "heun_trailing", "heun_linspace"),
    *("dpm2_a_karras", "dpm2_a_exponential", "dpm2_a_linspace"),
)
ZERO_SIGNAL: Final = tuple(
    name for name in DIFFUSION if not name.endswith("_beta") and name not in _OVERSHOOT
)
# For flow-matching ones.
FLOW: Final = (
    "euler",
    "euler_karras",
    "euler_exponential",
    "euler_beta",
    "heun",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "dpmpp_sde",
    "unipc",
)

# Of those that their models were distilled from; diffusers refuses more.
_MAX_STEPS: Final[dict[str, int]] = {"lcm": 50, "tcd": 50}
# One step would begin at the end, where there is no noise left.
_AT_LEAST_TWO: Final = (
    "lms_karras",
    *(name for name in SCHEDULERS if name.endswith(("_leading", "_linspace"))),
)
# They look at the picture again before each step but the last is done.
_TWICE: Final = ("heun", "dpm2", "dpm2_a")


def step_limits(scheduler: str, *, most: int) -> tuple[int, int]:
    """How few and how many steps a scheduler can be asked for, where a request may ask for `most`."""
    return 2 if scheduler in _AT_LEAST_TWO else 1, min(most, _MAX_STEPS.get(scheduler, most))


def evaluations(scheduler: str, *, num_inference_steps: int, run: int) -> int:
    """How often the denoiser is called where the last `run` of the steps run: what progress counts."""
    sampler, _ = sampler_and_schedule(scheduler)
    if sampler in _TWICE:
        return 2 * run - 1
    # PLMS does its second step twice.
    return run + 1 if sampler == "plms" and num_inference_steps > 1 else run
