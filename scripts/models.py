"""Writes `docs/models.md` from the registry's facts about pipeline classes, or checks that it fits them.

`python -m scripts.models write` after a change of `pipeline_facts.py` or `family_facts.py` of the registry; `check`
ends with 1 if the page is out of date.
"""

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from models_registry.family_facts import FAMILY_FACTS
from models_registry.pipeline_facts import PACKED, PIPELINES, PipelineFacts, pipeline_facts
from models_registry.quantization import INSTEAD, LIBRARIES, OTHERS, REFUSED

REPOSITORY: Final = Path(__file__).resolve().parent.parent
DOCUMENT: Final = REPOSITORY / "docs" / "models.md"
SEEDS: Final = ("0002_seed_checkpoints", "0011_seed_families", "0014_seed_more_families")
# The denoisers whose steps are shared by requests; the test holds it against the engine's own list.
DRAWN_TOGETHER: Final = ("sd1", "sd2", "sdxl", "sd3", "flux", "builtin")
# The classes of which a tiny checkpoint is drawn with in tests, pixel by pixel beside the stock pipeline.
TRIED_TINY: Final = (
    *("StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline"),
    *("StableDiffusion3Pipeline", "FluxPipeline", "FluxKontextPipeline", "Flux2KleinPipeline"),
    *("QwenImagePipeline", "QwenImageEditPipeline", "QwenImageEditPlusPipeline", "ZImagePipeline"),
    *("ChromaPipeline", "SanaPipeline", "PixArtSigmaPipeline", "Lumina2Pipeline"),
    "HiDreamImagePipeline",
)
_GUIDANCE: Final = {
    "classifier_free": "two predictions, off at 1",
    "added": "two predictions, off at 0",
    "true_cfg": "two predictions, off at 1, with a negative prompt",
    "embedded": "an input of the model",
    "none": "of no effect",
}
_HEAD: Final = """# Models

What each family of models does here, and how far that was tried. Made by `python -m scripts.models write` from facts
by which requests are judged (`models_registry/pipeline_facts.py`, `models_registry/family_facts.py`), which tests hold
against the installed classes of diffusers. `GET /api/v1/models` says the same of each model that is registered, and how
it fits into each worker's memory.

Of real weights only the built-in model's are drawn with in tests. A class that was tried `tiny` is drawn with in tests
by a tiny checkpoint with random weights, in single precision on a CPU: its pictures are those of the stock pipeline,
pixel by pixel, for each of its kinds. What only real weights or a GPU can show (half precision, speed, memory) was not
tried for it. A class that was `not tried` is only known by its facts.

## Pipeline classes
"""
_REST: Final = """
Guidance is what `guidance_scale` does. Sides are multiples of the number given. Packed latents are unpacked for
previews. Classes that are drawn together share their denoiser's steps between requests of one size and set of LoRA.
Those with a step cache take `acceleration: first_block_cache`; for others diffusers has none.
Every class with text encoders and a denoiser can have them on the device in turns; the weights of denoisers that are no
U-Nets can be stored in eight bits. Classes that are not listed are refused before anything is downloaded.
A LoRA that was distilled for few steps brings its scheduler where its model's family has that: LCM, TCD, Hyper-SD and
Lightning, told by their names ([LoRA](../API_REFERENCE.md#lora)).

## Quantized weights

{quantized}
## Rows that are there from the start

Those of newer families are disabled until an operator enables them.

| model | repository | family | licence |
| --- | --- | --- | --- |
"""

_QUANTIZED: Final = """\
A part whose `config.json` has a `quantization_config` of bitsandbytes (four or eight bits) or torchao is read by that
library, where it is installed: {pins} (`requirements-quantized.txt`).
Tiny checkpoints of FLUX.1, whose denoiser and T5 were quantized by bitsandbytes (`nf4`, eight bits) and torchao (eight
and four bits, float8), draw what the stock pipeline draws, pixel by pixel, on a CPU: whole, in turns, block by block
and with a LoRA (`make test-quantized`). On a GPU none was tried, nor torchao's kinds that take one. torchao's come as
safetensors only; its pickled ones are refused like all pickles. What torchao quantized runs in bfloat16 unless its row
names another format. bitsandbytes' four bits run on CPUs with AVX-512 BF16 only where each quantized layer has a
multiple of 64 inputs and of 32 outputs. Other methods are refused, with the reason:

| method | why |
| --- | --- |
{reasons}| any other | {others} |

Instead, {instead}.
"""


def _families_of(name: str, facts: PipelineFacts) -> list[str]:
    """The families of a class's checkpoints; where rows say it, those that take it for their own."""
    if facts.family:
        return [facts.family]
    return [
        family for family in FAMILY_FACTS if pipeline_facts(pipeline="", family=family) is PIPELINES.get(name)
    ] or ["sd1"]


def _row(name: str, facts: PipelineFacts) -> str:
    families = _families_of(name, facts)
    together = all(family in DRAWN_TOGETHER for family in families)
    cells = (
        f"`{name}`",
        ", ".join(families),
        ", ".join(facts.kinds) + (f" (of up to {facts.max_images})" if facts.max_images else ""),
        _GUIDANCE[facts.guidance],
        "yes" if facts.negative_prompt else "no",
        str(facts.size_multiple),
        str(facts.max_prompt_tokens),
        str(max(len(FAMILY_FACTS[family].schedulers) for family in families) or "its own"),
        "yes" if facts.loras else "no",
        "yes" if together else "no",
        "yes" if facts.first_block_cache else "no",
        "packed" if facts.latents == PACKED else "plain",
        "tiny" if name in TRIED_TINY else "not tried",
    )
    return f"| {' | '.join(cells)} |\n"


def _quantized() -> str:
    """Which quantized weights are read, and why others are not."""
    pins = " and ".join(f"`{pin}`" for pin in LIBRARIES.values())
    reasons = "".join(f"| `{method}` | {reason} |\n" for method, reason in REFUSED.items())
    return _QUANTIZED.format(pins=pins, reasons=reasons, others=OTHERS, instead=INSTEAD)


def document() -> str:
    """The page."""
    heads = (
        *("class", "families", "kinds", "guidance", "negative prompt", "sides", "tokens", "schedulers"),
        *("LoRA", "drawn together", "step cache", "latents", "tried"),
    )
    table = "".join(_row(name, facts) for name, facts in PIPELINES.items())
    rows: list[dict[str, Any]] = [
        row for seed in SEEDS for row in import_module(f"models_registry.migrations.{seed}").CHECKPOINTS
    ]
    seeded = "".join(
        f"| `{row['id']}` | {row['repository']} | {row['family']} | {row['licence']}"
        f"{', gated' if row.get('gated') else ''} |\n"
        for row in rows
    )
    rest = _REST.format(quantized=_quantized())
    return f"{_HEAD}\n| {' | '.join(heads)} |\n{'| --- ' * len(heads)}|\n{table}{rest}{seeded}"


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="scripts.models", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("action", choices=("write", "check"))
    action = parser.parse_args(arguments).action
    fits = DOCUMENT.exists() and DOCUMENT.read_text(encoding="utf-8") == document()
    if action == "write":
        DOCUMENT.write_text(document(), encoding="utf-8")
        sys.stdout.write(f"Written: {'nothing, it fits' if fits else DOCUMENT.relative_to(REPOSITORY)}.\n")
        return 0
    if not fits:
        sys.stderr.write("docs/models.md is out of date. Run `python -m scripts.models write`.\n")
    return int(not fits)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
