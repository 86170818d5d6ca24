"""What a step takes the finished picture to be: the latents less all the noise that the denoiser sees in them.

One rule for each way in which schedulers write noisy latents; each is told from the scheduler's own class.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch

OnPrediction = Callable[[torch.Tensor], None]


def steps_watch(scheduler: Any, on_prediction: OnPrediction, *, every: int) -> None:
    """Has a scheduler's steps tell what they predict: the first, and each of so many steps behind it.

    Whoever hears of it may fail, and no step does for that.
    """
    inner, calls = scheduler.step, itertools.count()

    @functools.wraps(inner)  # pipelines look at what it takes
    def step(model_output: Any, timestep: Any, sample: Any, *arguments: Any, **keywords: Any) -> Any:
        if next(calls) % every == 0:
            with contextlib.suppress(Exception):
                on_prediction(predicted(scheduler, model_output, timestep, sample))
        return inner(model_output, timestep, sample, *arguments, **keywords)

    scheduler.step = step


def predicted(scheduler: Any, output: torch.Tensor, timestep: Any, sample: torch.Tensor) -> torch.Tensor:
    """The latents that a denoiser's output means, in the scale of finished ones."""
    if hasattr(scheduler, "convert_model_output"):
        if scheduler.step_index is None:
            scheduler._init_step_index(timestep)  # noqa: SLF001 - as its step begins
        converted: torch.Tensor = scheduler.convert_model_output(output, sample=sample).float()
        usual = "dpmsolver++" if scheduler.config.get("predict_x0", True) else "dpmsolver"
        if scheduler.config.get("algorithm_type", usual).endswith("++"):
            return converted
        return _of("epsilon", converted, sample.float(), _signal(scheduler, float(timestep)))
    moment = float(timestep)
    output, sample = output.float(), sample.float()
    if type(scheduler).__name__.startswith("FlowMatch"):
        return sample - moment / scheduler.config.num_train_timesteps * output
    signal = _signal(scheduler, moment)
    if hasattr(scheduler, "sigmas"):  # its latents are the picture with noise beside it, and not in its place
        sample = sample * signal**0.5
    return _of(scheduler.config.prediction_type, output, sample, signal)


def _signal(scheduler: Any, moment: float) -> float:
    """How much of the variance is the picture's, at a moment between the steps that it was trained at."""
    levels = scheduler.alphas_cumprod
    below = min(int(moment), len(levels) - 1)
    if moment == below:
        return float(levels[below])
    # As schedulers go from noise to time: by the logarithm of noise over signal.
    noise = (((1 - levels) / levels) ** 0.5).log()
    part = moment - below
    ratio = float((noise[below] * (1 - part) + noise[min(below + 1, len(levels) - 1)] * part).exp())
    return 1 / (1 + ratio**2)


def _of(kind: str, output: torch.Tensor, sample: torch.Tensor, signal: float) -> torch.Tensor:
    if kind == "epsilon":
        return (sample - (1 - signal) ** 0.5 * output) / signal**0.5
    if kind == "v_prediction":
        return signal**0.5 * sample - (1 - signal) ** 0.5 * output
    return output
