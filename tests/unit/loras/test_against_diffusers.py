"""What is read here is what diffusers writes, and what is let through is what diffusers takes."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
from diffusers import FluxPipeline, StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from loras.reading import AdapterFacts, read_adapter
from models_registry.builtin.architecture import build_parts, build_pipeline
from models_registry.builtin.training_adapters import RANK, TARGETS
from tests.support.lora_files import (
    encoder_tensors,
    lora_bytes,
    pair,
    transformer_tensors,
    unet_tensors,
    whole_flux,
)
from tests.support.lora_files import safetensors as made


def read(path: Path) -> AdapterFacts:
    """What is said of a file."""
    with path.open("rb") as file:
        return read_adapter(file, size=path.stat().st_size)


@pytest.mark.parametrize("with_configuration", [False, True])
def test_what_diffusers_writes_is_read(tmp_path: Path, with_configuration: bool) -> None:  # noqa: FBT001
    """An adapter as the built-in model's are trained, and peft's whole configuration beside it."""
    parts = build_parts()
    pipeline = build_pipeline(parts)
    parts.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(TARGETS)))
    options: dict[str, Any] = {}
    if with_configuration:
        options = {"unet_lora_adapter_metadata": parts.unet.peft_config["default"].to_dict()}
    pipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(parts.unet),
        weight_name="a.safetensors",
        **options,
    )
    facts = read(tmp_path / "a.safetensors")
    assert (facts.family, facts.key_style, facts.rank) == ("builtin", "peft", RANK)
    assert facts.alpha == (2 * RANK if with_configuration else RANK)
    assert {"attn2_to_k", "conv1", "attn1_to_out_0"} <= set(facts.targets)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("style", ["peft", "diffusers", "processor", "kohya"])
def test_what_is_let_through_diffusers_takes(tmp_path: Path, style: str, family: str) -> None:
    """Every key is a LoRA's to it, and so is every alpha."""
    (tmp_path / "a.safetensors").write_bytes(lora_bytes(family, style))
    weights, alphas = StableDiffusionPipeline.lora_state_dict(
        str(tmp_path), weight_name="a.safetensors", use_safetensors=True
    )
    assert len(weights) == 8
    assert all("lora" in key for key in weights)
    assert set((alphas or {}).values()) == ({2.0} if style == "kohya" else set())


def test_text_encoders_in_kohyas_naming_diffusers_takes(tmp_path: Path) -> None:
    """The same."""
    (tmp_path / "a.safetensors").write_bytes(
        made(unet_tensors(style="kohya") | encoder_tensors("kohya", number=0))
    )
    weights, _ = StableDiffusionPipeline.lora_state_dict(
        str(tmp_path), weight_name="a.safetensors", use_safetensors=True
    )
    assert sum(key.startswith("text_encoder.") for key in weights) == 2


def test_flux_files_diffusers_takes(tmp_path: Path) -> None:
    """Also those of kohya's trainer."""
    for kind in ("flux", "flux-kohya"):
        (tmp_path / "a.safetensors").write_bytes(made(transformer_tensors(kind)))
        weights = FluxPipeline.lora_state_dict(
            str(tmp_path), weight_name="a.safetensors", use_safetensors=True
        )
        assert all(key.startswith("transformer.") for key in weights)


def test_flux_in_its_authors_names_diffusers_takes(tmp_path: Path) -> None:
    """All of a whole file in fal's form, each module of one in ComfyUI's."""
    comfy = pair("diffusion_model.double_blocks.0.img_attn.qkv", 64, 192, style="kohya")
    # Of the joined projections three become of one, and of a single block's first layer four.
    for tensors, modules in ((comfy, 3), (whole_flux(), 19 * 14 + 38 * 6 + 1)):
        (tmp_path / "a.safetensors").write_bytes(made(tensors))
        weights = FluxPipeline.lora_state_dict(
            str(tmp_path), weight_name="a.safetensors", use_safetensors=True
        )
        assert all(key.startswith("transformer.") for key in weights)
        assert len(weights) == 2 * modules


def test_the_formats_own_library_agrees() -> None:
    """About files that are made here."""
    assert len(safetensors.numpy.load(lora_bytes())) == 8
