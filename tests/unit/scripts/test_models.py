"""The page about models is what the facts say, and says no more than was tried."""

from generation.engine.rows import SHARED
from models_registry.pipeline_facts import PIPELINES
from scripts.models import DOCUMENT, DRAWN_TOGETHER, TRIED_TINY, document
from tests.unit.generation.engine.test_models import CLASSES

OF_FAMILIES = {
    "sd1": "StableDiffusionPipeline",
    "sd2": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
}
# The denoiser of each family that is drawn together.
DENOISERS = {
    **dict.fromkeys(("sd1", "sd2", "sdxl", "builtin"), "UNet2DConditionModel"),
    "sd3": "SD3Transformer2DModel",
    "flux": "FluxTransformer2DModel",
}


def test_the_page_fits() -> None:
    """`python -m scripts.models write` makes it."""
    assert DOCUMENT.read_text(encoding="utf-8") == document()


def test_what_was_tried_is_what_tests_draw_with() -> None:
    assert set(TRIED_TINY) == {*CLASSES.values(), *OF_FAMILIES.values()} <= PIPELINES.keys()


def test_what_is_drawn_together_is_what_the_engine_shares() -> None:
    assert DENOISERS.keys() == set(DRAWN_TOGETHER)
    assert set(DENOISERS.values()) == set(SHARED)
