"""What a step predicts is the picture that is in the noise, for every scheduler and every kind of prediction."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from generation.engine.predictions import predicted, steps_watch
from generation.engine.schedulers import FLOW_SAMPLERS, SAMPLERS, scheduler_make
from tests.support.tiny_checkpoints import NOISE

PICTURE = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
GRAIN = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def noisy(scheduler: Any, moment: Any, signal: torch.Tensor) -> torch.Tensor:
    """The picture with that moment's noise, as this scheduler writes it."""
    if hasattr(scheduler, "sigmas") and not hasattr(scheduler, "convert_model_output"):
        return PICTURE + ((1 - signal) / signal) ** 0.5 * GRAIN
    return signal**0.5 * PICTURE + (1 - signal) ** 0.5 * GRAIN


# DPM2 of diffusers.
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ["", *SAMPLERS])
def test_of_a_diffusion(name: str, kind: str) -> None:
    """A denoiser that sees all the noise leaves the picture."""
    if (name, kind) == ("lms", "sample"):
        pytest.skip("diffusers has no such thing")
    own = DDIMScheduler(**NOISE, prediction_type=kind, clip_sample=False)
    scheduler = scheduler_make(name, own, from_start=True)
    scheduler.set_timesteps(10)
    moment = scheduler.timesteps[0]
    signal = scheduler.alphas_cumprod[int(moment)]
    output = {
        "epsilon": GRAIN,
        "v_prediction": signal**0.5 * GRAIN - (1 - signal) ** 0.5 * PICTURE,
        "sample": PICTURE,
    }[kind]
    seen = predicted(scheduler, output, moment, noisy(scheduler, moment, signal))
    assert torch.allclose(seen, PICTURE, atol=0.02)


@pytest.mark.parametrize("name", ["", *FLOW_SAMPLERS])
def test_of_a_flow(name: str) -> None:
    scheduler = scheduler_make(name, FlowMatchEulerDiscreteScheduler(shift=3.0), from_start=True)
    scheduler.set_timesteps(10)
    moment = scheduler.timesteps[0]
    level = moment / 1000
    sample = (1 - level) * PICTURE + level * GRAIN
    assert torch.allclose(predicted(scheduler, GRAIN - PICTURE, moment, sample), PICTURE, atol=0.02)


@pytest.mark.filterwarnings("ignore:.*dpmsolver and sde-dpmsolver.*is deprecated:FutureWarning")
def test_of_the_older_solver() -> None:
    """Which works on noise, and not on pictures."""
    scheduler = DPMSolverMultistepScheduler(
        **NOISE, algorithm_type="dpmsolver", final_sigmas_type="sigma_min"
    )
    scheduler.set_timesteps(10)
    signal = scheduler.alphas_cumprod[int(scheduler.timesteps[0])]
    sample = signal**0.5 * PICTURE + (1 - signal) ** 0.5 * GRAIN
    assert torch.allclose(predicted(scheduler, GRAIN, scheduler.timesteps[0], sample), PICTURE, atol=0.05)


def test_watching_changes_no_step() -> None:
    """Nor does whoever hears of it, and fails."""
    plain = scheduler_make("dpmpp_2m", DDIMScheduler(**NOISE), from_start=True)
    watched = scheduler_make("dpmpp_2m", DDIMScheduler(**NOISE), from_start=True)
    heard: list[torch.Tensor] = []

    def hear(latents: torch.Tensor) -> None:
        heard.append(latents)
        raise KeyError

    steps_watch(watched, hear, every=2)
    for scheduler in (plain, watched):
        scheduler.set_timesteps(5)
    ends = []
    for scheduler in (plain, watched):
        latents = GRAIN
        for moment in scheduler.timesteps:
            latents = scheduler.step(latents * 0.1, moment, latents, return_dict=False)[0]
        ends.append(latents)
    assert torch.equal(*ends)
    assert len(heard) == 3
