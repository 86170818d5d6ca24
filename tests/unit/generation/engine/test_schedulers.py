"""Schedulers: alone, against a denoiser that knows the answer, and in each family's real pipeline."""

import inspect
import itertools
import math
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, Final

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    PNDMScheduler,
)

from generation.engine import EngineError
from generation.engine.schedulers import FLOW_SAMPLERS, SAMPLERS, SCHEDULES, scheduler_make
from models_registry import schedulers
from models_registry.family_facts import FAMILY_FACTS
from tests.support.tiny_checkpoints import NOISE

STEPS: Final = (1, 2, 5, 20, 21, 30, 50, 100)
# The own scheduler of each family's checkpoints; those of FLUX.2, Z-Image and Chroma make levels as one of these does.
OWN: Final[dict[str, Any]] = {
    "sd1": PNDMScheduler(**NOISE, skip_prk_steps=True, steps_offset=1),
    "sd2": DDIMScheduler(
        **NOISE, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction"
    ),
    "sdxl": EulerDiscreteScheduler(**NOISE, steps_offset=1, timestep_spacing="leading"),
    "builtin": DDIMScheduler(
        **NOISE,
        clip_sample=False,
        steps_offset=1,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    ),
    "sd3": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "flux": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    "flux-schnell": FlowMatchEulerDiscreteScheduler(shift=1.0),
    "qwen-image": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
    "sana": DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    ),
    "lumina2": FlowMatchEulerDiscreteScheduler(shift=6.0),
    "pixart": DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02),
}
# The same betas, of which the named schedules make the same levels: it is tested that they do.
AS_SD1: Final = ("sd2", "sdxl")
# In diffusers' DPM2.
OF_DIFFUSERS = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
MU: Final = 1.15  # of a FLUX picture of 1024x1024
# What the "pictures" are: numbers of this mean and spread.
MEAN, SPREAD, COUNT = 0.3, 0.5, 1024


def names_of(family: str) -> tuple[str, ...]:
    """The checkpoint's own scheduler, which is "", and those that fit the family.

    Of families whose noise levels are SD1's only those that do not name a schedule: the rest is SD1's.
    """
    facts = FAMILY_FACTS.get(family) or FAMILY_FACTS[family.partition("-")[0]]
    fitting = [name for name in facts.schedulers if family not in AS_SD1 or name in SAMPLERS]
    return ("", *fitting)


def steps_of(name: str, family: str) -> list[int]:
    """The numbers of steps that a scheduler can be asked for, all or some of them.

    All where it is cheap. Named schedules of PixArt have one each, from name to name another; those that do slow
    arithmetic at every step have 50 steps at most, and 21 with a named schedule.
    """
    low, high = schedulers.step_limits(name, most=100)
    if name.startswith(("lms", "dpm2")):
        high = 50 if name in SAMPLERS else 21
    steps = [number for number in STEPS if low <= number <= high]
    if name and name not in SAMPLERS and family == "pixart":
        return [steps[schedulers.DIFFUSION.index(name) % len(steps)]]
    return steps


def without_training(set_timesteps: Callable[..., None]) -> Callable[..., None]:
    """Sets two steps where as many are asked for as there were in training."""

    @wraps(set_timesteps)
    def fewer(scheduler: Any, number: int, *args: Any, **kwargs: Any) -> None:
        set_timesteps(
            scheduler, number if number < scheduler.config.num_train_timesteps else 2, *args, **kwargs
        )

    return fewer


@cache
def made(name: str, family: str) -> Any:
    """The family's scheduler of this name; `set_timesteps` makes it new.

    As DPM2 is made, it computes a step for each of training, for a third of a second, of which no run sees anything.
    """
    with pytest.MonkeyPatch.context() as patch:
        for kind in (KDPM2DiscreteScheduler, KDPM2AncestralDiscreteScheduler):
            patch.setattr(kind, "set_timesteps", without_training(kind.set_timesteps))
        return scheduler_make(name, OWN[family], from_start=True)


@cache
def log_noise(family: str) -> list[float]:
    """The logarithm of noise over signal at each timestep that the family was trained on."""
    signal = OWN[family].alphas_cumprod.double().clamp(min=2.0**-24)
    return [math.log((1 - value) / value) / 2 for value in signal.tolist()]


def best_answer(family: str, timestep: float) -> tuple[float, float]:
    """Slope and offset of what a perfect denoiser answers at a timestep, for pictures of the mean and spread."""
    prediction = OWN[family].config.get("prediction_type")
    if prediction in (None, "flow_prediction"):
        noise = timestep / 1000
        signal = 1 - noise
    else:
        levels = log_noise(family)
        low = min(int(timestep), len(levels) - 2)
        part = timestep - low
        level = math.exp((1 - part) * levels[low] + part * levels[low + 1])
        signal = 1 / math.sqrt(1 + level**2)
        noise = signal * level
    whole = (signal * SPREAD) ** 2 + noise**2
    picture = (SPREAD**2 * signal / whole, noise**2 * MEAN / whole)
    epsilon = ((1 - signal * picture[0]) / noise, -signal * picture[1] / noise)
    if prediction == "epsilon":
        return epsilon
    if prediction == "v_prediction":
        return signal * epsilon[0] - noise * picture[0], signal * epsilon[1] - noise * picture[1]
    return epsilon[0] - picture[0], epsilon[1] - picture[1]


def drawn(scheduler: Any, family: str, steps: int) -> tuple[torch.Tensor, int]:
    """What comes of pure noise, as a pipeline would run the scheduler, and how often the denoiser was asked."""
    if family.startswith("flux") or OWN[family].config.get("use_dynamic_shifting"):
        scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).numpy(), mu=MU)
    else:
        scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn((1, 1, COUNT), generator=generator) * getattr(scheduler, "init_noise_sigma", 1.0)
    options = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    scaled = getattr(scheduler, "scale_model_input", lambda sample, timestep: sample)
    for timestep in scheduler.timesteps:
        slope, offset = best_answer(family, timestep.item())
        answer = scaled(sample, timestep) * slope + offset
        sample = scheduler.step(answer, timestep, sample, **options).prev_sample
    return sample, len(scheduler.timesteps)


@OF_DIFFUSERS
@pytest.mark.parametrize("family", OWN)
@pytest.mark.slow
def test_every_scheduler_takes_every_number_of_steps(family: str) -> None:
    """It asks the denoiser as often as progress counts on, and draws what the denoiser knows, as far as it can."""
    for name in names_of(family):
        scheduler = made(name, family)
        for steps in steps_of(name, family):
            sample, asked = drawn(scheduler, family, steps)
            assert sample.isfinite().all(), (name, steps)
            counted_as = "plms" if family == "sd1" and not name else name
            awaited = schedulers.evaluations(counted_as, num_inference_steps=steps, run=steps)
            assert asked == awaited, (name, steps)
            if steps >= 20:
                assert abs(sample.mean() - MEAN) < 0.1, (name, steps)
                assert 0.5 < sample.std() / SPREAD < 1.5, (name, steps)


@OF_DIFFUSERS
@pytest.mark.slow
def test_a_named_schedule_has_the_levels_of_its_betas() -> None:
    """Whatever the checkpoint's own scheduler says beside: what holds for SD1 at a number of steps holds for these."""
    named = [name for name in schedulers.DIFFUSION if name not in SAMPLERS and not name.startswith("dpm2")]
    # The slowest.
    named += ["dpm2_karras", "dpm2_a_trailing"]
    for name, family in itertools.product(named, AS_SD1):
        low, high = schedulers.step_limits(name, most=100)
        for steps in STEPS:
            if low <= steps <= high:
                one, other = made(name, "sd1"), made(name, family)
                one.set_timesteps(steps)
                other.set_timesteps(steps)
                assert one.timesteps.tolist() == other.timesteps.tolist(), (name, steps)
                levels = [getattr(each, "sigmas", torch.empty(0)).tolist() for each in (one, other)]
                assert levels[0] == levels[1], (name, steps)


@OF_DIFFUSERS
@pytest.mark.slow
def test_a_name_is_a_sampler_and_a_schedule() -> None:
    """Those that requests may name are those that diffusers' classes can do, and set what they say."""
    for family, samplers, named in (
        ("sd1", SAMPLERS, schedulers.DIFFUSION),
        ("sd3", FLOW_SAMPLERS, schedulers.FLOW),
    ):
        possible = []
        for sampler in samplers:
            for schedule in ("", *SCHEDULES):
                name = schedulers.scheduler_name(sampler, schedule)
                try:
                    scheduler = made(name, family)
                except EngineError:
                    continue
                assert type(scheduler).__name__ == samplers[sampler][0]
                if schedule:
                    setting, value = SCHEDULES[schedule]
                    assert scheduler.config[setting] == value
                if sampler not in ("lcm", "tcd") or not schedule:  # they take a spacing, and have their own
                    possible.append(name)
        assert sorted(possible) == sorted(named)
    assert set(schedulers.SAMPLERS) == set(SAMPLERS)
    assert set(schedulers.SCHEDULES) == set(SCHEDULES)


@pytest.mark.parametrize(
    ("family", "name"),
    [("sd1", "nonsense"), ("sd1", "ddim_karras"), ("sd3", "ddim"), ("sd3", "unipc_karras")],
)
def test_what_does_not_fit_is_refused(family: str, name: str) -> None:
    """Instead of drawing something else."""
    with pytest.raises(EngineError, match="does not fit"):
        scheduler_make(name, OWN[family], from_start=True)


def test_a_name_means_the_same_whatever_the_checkpoint_uses() -> None:
    """Its own scheduler's way of spacing sigmas, and of bounding what has no bounds, is not taken over."""
    own = EulerDiscreteScheduler(**NOISE, use_karras_sigmas=True)
    assert scheduler_make("", own, from_start=True).config.use_karras_sigmas
    assert not scheduler_make("euler", own, from_start=True).config.use_karras_sigmas
    assert scheduler_make("euler_exponential", own, from_start=True).config.use_exponential_sigmas
    assert not scheduler_make("ddim", own, from_start=True).config.clip_sample


def test_one_step_begins_at_the_highest_noise() -> None:
    """Also where the checkpoint's spacing of the timesteps would leave out most of the range."""
    for name in (
        "euler_karras",
        "heun_exponential",
        "dpmpp_2m_karras",
        "unipc_exponential",
        "euler_trailing",
    ):
        scheduler = scheduler_make(name, OWN["sdxl"], from_start=True)
        scheduler.set_timesteps(1)
        assert scheduler.sigmas[0] == pytest.approx(math.exp(log_noise("sdxl")[-1]), rel=1e-3)


def test_each_run_has_its_own_and_only_the_first_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs of one model share no state; a scheduler that takes long to make is made once."""
    own, made = EulerDiscreteScheduler(**NOISE), []
    make = DDIMScheduler.from_config
    monkeypatch.setattr(DDIMScheduler, "from_config", lambda config: (made.append(1), make(config))[1])
    one, other = (scheduler_make("ddim", own, from_start=True) for _ in range(2))
    one.set_timesteps(4)
    other.set_timesteps(7)
    assert (len(one.timesteps), len(other.timesteps), len(made)) == (4, 7, 1)
