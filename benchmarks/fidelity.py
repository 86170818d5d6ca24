"""How well the built-in model draws what its prompts say, through the engine: `make fidelity`, options in ARGS.

The same tables as `python -m models_registry.builtin.evaluate` prints, which draws sixteen pictures at once with the
stock pipeline and so takes part of the time. Here each picture is a request of its own, as the service draws it.
"""

import argparse
import dataclasses
import io
from collections.abc import Iterator

from PIL import Image

from imagegen_project import env

env.configure_torch_process()

from generation.engine import Batch, Engine, ModelRef  # noqa: E402
from models_registry.builtin.evaluate import Case, run  # noqa: E402


def draw_with_engine(arguments: argparse.Namespace, cases: list[Case]) -> Iterator[tuple[Case, Image.Image]]:
    """Draw cases one by one; says so when the engine runs another number format than the one asked for."""
    engine = Engine(threads=2)
    model = ModelRef(
        id="builtin",
        repository="imagegen/builtin",
        revision="",
        folder=arguments.model,
        dtype=arguments.number_format,
    )
    first = Batch(
        model=model,
        prompt="",
        negative_prompt="",
        width=arguments.size,
        height=arguments.size,
        num_inference_steps=arguments.steps,
        guidance_scale=arguments.guidance,
        seed=0,
    )
    try:
        for case in cases:
            result = engine.run(dataclasses.replace(first, prompt=case.prompt, seed=case.seed))
            used = result.environment["dtype"]
            if used != arguments.number_format:
                raise SystemExit(f"the engine runs {used} on this device, not {arguments.number_format}")
            with Image.open(io.BytesIO(result.pictures[0].data)) as picture:
                yield case, picture.convert("RGB")
    finally:
        engine.close()


if __name__ == "__main__":
    run("benchmarks.fidelity", draw_with_engine)
