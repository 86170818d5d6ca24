"""Which scheduler a LoRA's names say."""

import pytest

from loras.distilled import scheduler_told
from models_registry.schedulers import SCHEDULERS


@pytest.mark.parametrize(
    ("name", "scheduler"),
    [
        ("sdxl_lightning_4step_lora.safetensors", "euler_trailing"),
        ("ByteDance/SDXL-Lightning", "euler_trailing"),
        ("lightning-8-steps", "euler_trailing"),
        ("Hyper-SDXL-1step-lora.safetensors", "tcd"),
        ("Hyper-SD15-8steps-CFG-lora.safetensors", "ddim_trailing"),
        ("ByteDance/Hyper-SD", "ddim_trailing"),
        ("latent-consistency/lcm-lora-sdxl", "lcm"),
        ("dmd2_sdxl_4step_lora.safetensors", "lcm"),
        ("h1t/TCD-SDXL-LoRA", "tcd"),
        # What only sounds so
        ("lightning-bolts", ""),
        ("hyperrealism", ""),
        ("hyper-detailed-4steps", ""),
        ("calcm", ""),
        ("", ""),
    ],
)
def test_a_method_is_told_by_its_authors_names(name: str, scheduler: str) -> None:
    assert scheduler_told(name) == scheduler
    assert scheduler in ("", *SCHEDULERS)


def test_the_first_name_that_says_something_counts() -> None:
    """A file's own name before its repository's; and nothing is said of a family that cannot follow."""
    assert scheduler_told("", "Hyper-SDXL-1step-lora", "ByteDance/Hyper-SD") == "tcd"
    assert scheduler_told("Hyper-SDXL-1step-lora", family="sdxl") == "tcd"
    assert scheduler_told("Hyper-FLUX.1-dev-8steps-lora", "ByteDance/Hyper-SD", family="flux") == ""
