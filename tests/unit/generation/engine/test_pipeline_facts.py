"""The table of pipeline classes says what the installed classes say."""

import inspect
from typing import Any

import diffusers
import pytest
from diffusers.loaders.lora_base import LoraBaseMixin

from generation.engine.pipelines import step_callback
from models_registry.pipeline_facts import (
    EDIT,
    EMBEDDED,
    IMG2IMG,
    INPAINT,
    PIPELINES,
    TRUE_CFG,
    TXT2IMG,
)

# Kinds of their own classes: FLUX.1's fill and depth models name them in their indexes.
ONLY_INPAINT = {"StableDiffusionInpaintPipeline", "StableDiffusionXLInpaintPipeline"}
MAPPINGS = {
    IMG2IMG: "AUTO_IMAGE2IMAGE_PIPELINES_MAPPING",
    INPAINT: "AUTO_INPAINT_PIPELINES_MAPPING",
}


def call_of(name: str) -> Any:
    """The parameters of a class's call, with their defaults."""
    return inspect.signature(getattr(diffusers, name).__call__).parameters


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_fields_become_what_the_table_says(name: str) -> None:
    """By the signature: what is said to have an effect is taken, and nothing else is."""
    facts, call = PIPELINES[name], call_of(name)
    assert ("negative_prompt" in call) == facts.negative_prompt
    assert ("guidance_rescale" in call) == facts.guidance_rescale
    assert issubclass(getattr(diffusers, name), LoraBaseMixin) == facts.loras
    both = "true_cfg_scale" in call and call["guidance_scale"].default is not None
    assert both == facts.true_cfg_scale
    only = "true_cfg_scale" in call and call["guidance_scale"].default is None
    assert only == (facts.guidance == TRUE_CFG)
    if "max_sequence_length" in call:
        assert call["max_sequence_length"].default == facts.max_prompt_tokens


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_kinds_are_those_that_the_libraries_know(name: str) -> None:
    """Text alone where no picture is required; pictures where the libraries have a pipeline for them."""
    from diffusers.pipelines import auto_pipeline

    facts, call = PIPELINES[name], call_of(name)
    assert (EDIT in facts.kinds) == ("image" in call and "strength" not in call)
    assert (facts.max_images > 0) == (EDIT in facts.kinds)
    if name in ONLY_INPAINT:
        assert facts.kinds == (INPAINT,)
        return
    # Qwen's editing models make their prompts of the pictures, though the signature would do without.
    assert (TXT2IMG in facts.kinds) == ("image" not in call or not name.startswith("QwenImageEdit"))
    for kind, mapping in MAPPINGS.items():
        classes = getattr(auto_pipeline, mapping)
        found = auto_pipeline._get_task_class(classes, name, throw_error_if_not_exist=False)
        strength = found is not None and "strength" in inspect.signature(found.__call__).parameters
        if EDIT not in facts.kinds:
            assert (kind in facts.kinds) == strength, kind


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_every_class_tells_of_its_steps(name: str) -> None:
    """In one of two ways; without, nobody could follow, cancel or time it out."""
    pipeline = getattr(diffusers, name)
    given = step_callback(pipeline, lambda *arguments: {})
    assert given.keys() <= call_of(name).keys()


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_half_precision_follows_the_denoiser(name: str) -> None:
    """U-Nets were trained for float16's range, transformers need bfloat16's; only these have guidance as an input."""
    parts = inspect.signature(getattr(diffusers, name).__init__).parameters
    assert ("unet" in parts) == (PIPELINES[name].half == "float16")
    assert PIPELINES[name].guidance != EMBEDDED or "guidance_scale" in call_of(name)
