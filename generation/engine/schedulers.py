"""Schedulers by name. Each is made anew for every run, so that none carries state from one job into the next."""

from typing import Any, Final

import diffusers

# Name -> diffusers' class and what is set beside the checkpoint's own configuration.
SCHEDULERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "use_karras_sigmas": False},
    ),
    "dpmpp_2m_karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
    ),
    "dpmpp_2m_sde": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": False},
    ),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}
_FLOW: Final = "FlowMatchEulerDiscreteScheduler"


def scheduler_make(name: str, own: Any) -> Any:
    """A fresh scheduler of this name with the configuration of a checkpoint's `own` one; "" is a fresh copy of that.

    What the checkpoint was trained with stays: prediction type, noise schedule, zero terminal signal, spacing. A
    flow-matching checkpoint knows one scheduler, its own, which is its "euler".
    """
    own_class = type(own)
    if not name or own_class.__name__ == _FLOW:
        return own_class.from_config(own.config)
    class_name, changes = SCHEDULERS[name]
    return getattr(diffusers, class_name).from_config(own.config, **changes)
