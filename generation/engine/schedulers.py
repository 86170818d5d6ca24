"""Schedulers by name: a sampler, and maybe, behind it, the schedule of its noise levels.

`dpmpp_2m_karras` is the sampler `dpmpp_2m` on the schedule `karras`. Each run has a scheduler of its own, so that none
carries state from one job into the next; it is a copy, since making one may take a third of a second (`dpm2`).
"""

import copy
import functools
import inspect
import math
from typing import Any, Final

import diffusers
import torch

from generation.engine.errors import EngineError

# Sampler -> diffusers' class and what is set beside the checkpoint's own configuration.
SAMPLERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}),
    "dpmpp_3m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}),
    "dpmpp_sde": (
        "DPMSolverSinglestepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 2, "lower_order_final": True},
    ),
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 2}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
}
_FLOW_SIGMAS: Final = {
    "use_flow_sigmas": True,
    "prediction_type": "flow_prediction",
    "use_dynamic_shifting": False,  # the shift is put in from outside
}
# The same for checkpoints that were trained on a flow from noise to picture.
FLOW_SAMPLERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "heun": ("FlowMatchHeunDiscreteScheduler", {}),
    **{
        name: (class_name, changes | _FLOW_SIGMAS)
        for name, (class_name, changes) in SAMPLERS.items()
        if name in ("dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_sde", "unipc")
    },
}
# Schedule -> the setting that makes it. A sampler alone keeps the spacing that the checkpoint's own scheduler has.
SCHEDULES: Final[dict[str, tuple[str, Any]]] = {
    "karras": ("use_karras_sigmas", True),
    "exponential": ("use_exponential_sigmas", True),
    "beta": ("use_beta_sigmas", True),
    "trailing": ("timestep_spacing", "trailing"),
    "leading": ("timestep_spacing", "leading"),
    "linspace": ("timestep_spacing", "linspace"),
}
# Whatever the checkpoint's own scheduler does: a name means the same for each of them.
_OFF: Final = dict.fromkeys(
    ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"), False
)
_RANGE: Final = {"sigma_min", "sigma_max"}
# What diffusers puts in the place of a signal of zero, so that the first noise level is not infinite.
_LEAST_SIGNAL: Final = 2.0**-24


def scheduler_make(name: str, own: Any, *, from_start: bool) -> Any:
    """A fresh scheduler of this name with the configuration of a checkpoint's `own` one; "" is a fresh copy of that.

    What the checkpoint was trained with stays: prediction type, noise levels, zero terminal signal, shift of the flow.
    `from_start` is for pipelines that begin with pure noise: they leave it to the scheduler to find its first step by
    the timestep, which fails where rounding makes the first two equal. Raises EngineError where the name does not fit.
    """
    scheduler = copy.deepcopy(_prototype(name, own))
    if type(own).__name__.startswith("FlowMatch") and type(scheduler) is not type(own):
        _follow_flow(scheduler, own)
    if scheduler.config.get("shift_terminal"):
        _stretch_between(scheduler)
    if from_start and hasattr(scheduler, "set_begin_index"):
        _begin_at_start(scheduler)
    return scheduler


@functools.lru_cache(maxsize=64)
def _prototype(name: str, own: Any) -> Any:
    """A scheduler that never runs. Raises EngineError where the name does not fit."""
    if not name:
        return type(own).from_config(own.config)
    flow = type(own).__name__.startswith("FlowMatch")
    sampler, _, schedule = name.rpartition("_")
    if schedule not in SCHEDULES:
        sampler, schedule = name, ""
    class_name, changes = (FLOW_SAMPLERS if flow else SAMPLERS).get(sampler, ("", {}))
    kind = getattr(diffusers, class_name, None)
    setting, value = SCHEDULES.get(schedule, ("", None))
    taken = inspect.signature(kind.__init__).parameters if kind else {}
    if kind is None or (schedule and (setting not in taken or changes.get("use_flow_sigmas"))):
        raise EngineError(f"The scheduler {name} does not fit this model.")
    defaults = own.config.get("_use_default_values", ())
    config = {key: value for key, value in own.config.items() if key not in defaults} | _OFF
    config |= {"flow_shift": own.config.shift} if flow else _levels(own, taken)
    if schedule:
        # Some classes take the range of their sigmas from timesteps that they space first.
        config |= {"timestep_spacing": "linspace"} | {setting: value}
    config |= changes
    known = taken.keys() | (_RANGE if _OFF.keys() & taken.keys() else set())
    return kind.from_config({key: value for key, value in config.items() if key in known})


def _levels(own: Any, taken: Any) -> dict[str, Any]:
    """The checkpoint's noise levels, in words that every class understands."""
    signal = own.alphas_cumprod.clone()
    levels: dict[str, Any] = {"clip_sample": own.config.get("clip_sample", False)}  # latents have no bounds
    if own.config.get("rescale_betas_zero_snr"):
        signal[-1] = _LEAST_SIGNAL
        if "rescale_betas_zero_snr" not in taken:
            before = torch.cat([torch.ones(1), signal[:-1]])
            levels["trained_betas"] = (1 - signal / before).tolist()
    # One step, too, begins at the highest of them.
    noise = ((1 - signal) / signal) ** 0.5
    return levels | {"sigma_min": noise[0].item(), "sigma_max": noise[-1].item()}


def _follow_flow(scheduler: Any, own: Any) -> None:
    """Lets pipelines of flow models use a scheduler that they were not written for, in place.

    They hand in levels and a shift for the picture's size, as their own scheduler takes them. The levels are those
    that every flow scheduler begins with; the shift goes where this one keeps it. And they add noise by another name.
    """
    inner = scheduler.set_timesteps
    shift_name = "flow_shift" if "flow_shift" in scheduler.config else "shift"

    def set_timesteps(
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
    ) -> None:
        if mu is not None and own.config.use_dynamic_shifting:
            linear = own.config.time_shift_type == "linear"
            scheduler.register_to_config(**{shift_name: mu if linear else math.exp(mu)})
        inner(num_inference_steps if sigmas is None else len(sigmas), device=device)

    scheduler.set_timesteps = set_timesteps
    if not hasattr(scheduler, "scale_noise"):
        scheduler.scale_noise = lambda sample, timestep, noise: scheduler.add_noise(sample, noise, timestep)


def _stretch_between(scheduler: Any) -> None:
    """Leaves one level where it is, at the start, in place.

    Diffusers moves the last level to where the model was trained to end and spreads the others between it and the
    first, by their distances from that. Where the last is the first, this divides zero by zero.
    """
    inner = scheduler.stretch_shift_to_terminal
    scheduler.stretch_shift_to_terminal = lambda levels: inner(levels) if len(levels) > 1 else levels


def _begin_at_start(scheduler: Any) -> None:
    inner = scheduler.set_timesteps

    @functools.wraps(inner)  # pipelines look at what it takes
    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        inner(*args, **kwargs)
        scheduler.set_begin_index(0)

    scheduler.set_timesteps = set_timesteps
