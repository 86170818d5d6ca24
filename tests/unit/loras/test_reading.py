"""What a LoRA file is: naming, rank, alpha, modules, family; and whether its weights are numbers."""

import io
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagegen_project.common.safetensors_header import HeaderError
from loras import families
from loras.choices import KeyStyle
from loras.finite import CHUNK_BYTES, check_finite
from loras.key_styles import DIFFUSERS, DOTTED, KOHYA, PEFT, XLABS, AdapterError
from loras.reading import AdapterFacts, read_adapter
from models_registry.choices import Family
from tests.support.lora_files import (
    Tensor,
    encoder_tensors,
    lora_bytes,
    pair,
    random_weights,
    safetensors,
    scalar,
    transformer_tensors,
    unet_tensors,
    whole_flux,
)

REPOSITORY = Path(__file__).resolve().parents[3]


def facts_of(tensors: dict[str, Tensor], metadata: dict[str, Any] | None = None) -> AdapterFacts:
    """What reading them says."""
    data = safetensors(tensors, metadata)
    return read_adapter(io.BytesIO(data), size=len(data))


def test_the_words_are_those_of_the_registry() -> None:
    """The plain modules repeat them, since they know no Django."""
    plain = {families.BUILTIN, families.SD1, families.SD2, families.SDXL, families.SD3, families.FLUX}
    plain |= {families.FLUX2, families.QWEN_IMAGE, families.Z_IMAGE, families.LUMINA2}
    # Chroma takes FLUX.1's; of the others no LoRA is told.
    assert plain == set(Family) - {Family.OTHER, Family.CHROMA, Family.SANA, Family.PIXART}
    assert {PEFT, DIFFUSERS, KOHYA, DOTTED, XLABS} == set(KeyStyle)


@pytest.mark.parametrize("family", ["builtin", "sd1", "sd2", "sdxl"])
@pytest.mark.parametrize(
    ("style", "said"),
    [("peft", PEFT), ("diffusers", DIFFUSERS), ("processor", DIFFUSERS), ("kohya", KOHYA)],
)
def test_every_naming_of_every_family_is_told(family: str, style: str, said: str) -> None:
    """By the width of what cross-attention reads; modules are called alike in all of them."""
    facts = facts_of(unet_tensors(family, style, rank=6))
    assert (facts.family, facts.key_style, facts.rank) == (family, said, 6)
    assert facts.alpha == (3 if style == "kohya" else 6)
    assert set(facts.targets) in (
        {"attn1_to_q", "attn1_to_out_0", "attn2_to_k", "attn2_to_v"},
        {"attn1_to_q", "attn1_to_out", "attn2_to_k", "attn2_to_v"},
    )
    assert facts.text_encoders == ()


@pytest.mark.parametrize(
    ("kind", "family"), [("flux", "flux"), ("flux-double", "flux"), ("flux-kohya", "flux"), ("sd3", "sd3")]
)
def test_transformers_are_told_by_their_blocks(kind: str, family: str) -> None:
    """Flux by its single blocks or its width, SD3 by its width."""
    assert facts_of(transformer_tensors(kind)).family == family


def xlabs(path: str, inputs: int, outputs: int) -> dict[str, Tensor]:
    """One module in XLabs' naming."""
    return {f"{path}.down.weight": random_weights(4, inputs), f"{path}.up.weight": random_weights(outputs, 4)}


def onetrainer(path: str, inputs: int, outputs: int) -> dict[str, Tensor]:
    """One module in OneTrainer's naming."""
    path = f"lora_transformer_{path}"
    return pair(path, inputs, outputs, style="kohya") | {f"{path}.alpha": scalar(4)}


QWEN = "transformer_blocks.40.attn.to_q"
Z_IMAGE = "layers.3.attention.to_q"


@pytest.mark.parametrize(
    ("tensors", "family", "style"),
    [
        (pair(f"transformer.{QWEN}", 3072, 64), "qwen-image", "peft"),
        (pair(f"diffusion_model.{QWEN}", 3072, 64), "qwen-image", "peft"),
        (pair("transformer.transformer_blocks.0.img_mlp.net.0.proj", 3072, 64), "qwen-image", "peft"),
        (
            pair(QWEN, 3072, 64, style="kohya") | {f"{QWEN}.alpha": scalar(4)},
            "qwen-image",
            "dotted",
        ),
        (pair(f"diffusion_model.{Z_IMAGE}", 3840, 64), "z-image", "peft"),
        (pair(f"transformer.{Z_IMAGE}", 3840, 64), "z-image", "peft"),
        (pair(f"diffusion_model.{Z_IMAGE}", 3840, 64, style="kohya"), "z-image", "dotted"),
        (pair("transformer.layers.3.attn.to_q", 2304, 64), "lumina2", "peft"),
        (
            pair("transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj", 3072, 64),
            "flux2",
            "peft",
        ),
        (pair("transformer.transformer_blocks.0.attn.to_q", 6144, 64), "flux2", "peft"),
        (pair("transformer.transformer_blocks.18.attn.to_q", 3072, 64), "flux", "peft"),
        (xlabs("double_blocks.0.processor.qkv_lora1", 3072, 9216), "flux", "xlabs"),
        (xlabs("diffusion_model.single_blocks.37.processor.proj_lora", 3072, 3072), "flux", "xlabs"),
        (onetrainer("single_transformer_blocks_0_attn_to_q", 3072, 3072), "flux", "kohya"),
        (onetrainer("transformer_blocks_0_attn_to_q", 3072, 3072), "flux", "kohya"),
        # FLUX's names by its authors
        (pair("diffusion_model.double_blocks.0.img_attn.qkv", 3072, 9216, style="kohya"), "flux", "dotted"),
        (whole_flux(), "flux", "peft"),
        (pair("diffusion_model.double_blocks.0.img_attn.qkv", 6144, 18432), "flux2", "peft"),
        (pair("base_model.model.double_blocks.0.img_attn.qkv", 4096, 12288), "flux2", "peft"),
        (pair("diffusion_model.single_blocks.19.linear1", 3072, 27648), "flux2", "peft"),
        (pair("diffusion_model.double_stream_modulation_img.lin", 3072, 18432), "flux2", "peft"),
        (pair("lora_unet_double_blocks_0_img_mlp_0", 3072, 18432, style="kohya"), "flux2", "kohya"),
        (pair("lora_unet_single_blocks_0_linear2", 24576, 6144, style="kohya"), "flux2", "kohya"),
        (pair("lora_unet_single_blocks_0_linear2", 15360, 3072, style="kohya"), "flux", "kohya"),
        (pair("lora_unet_single_blocks_20_linear2", 3072, 64, style="kohya"), "flux", "kohya"),
        (pair("lora_unet_double_blocks_0_img_mod_lin", 3072, 18432, style="kohya"), "flux", "kohya"),
    ],
    ids=lambda value: value if isinstance(value, str) else "tensors",
)
def test_newer_transformers_are_told_apart(tensors: Any, family: str, style: str) -> None:
    """Qwen-Image's attention has the names and the width of FLUX.1's: by its blocks, of which it has more."""
    facts = facts_of(tensors)
    assert (facts.family, facts.key_style) == (family, style)


KLEIN = ("transformer.transformer_blocks.{}.attn.to_q", "peft", 64), (
    "lora_unet_double_blocks_{}_img_attn_qkv",
    "kohya",
    9216,
)


@pytest.mark.parametrize(("path", "style", "outputs"), KLEIN, ids=["diffusers", "kohya"])
@pytest.mark.parametrize(
    ("blocks", "says", "family"),
    [
        ((0, 2), {"ss_base_model_version": "flux2_klein_4b"}, "flux2"),
        ((0, 2), {"modelspec.architecture": "FLUX.2-klein-4B/lora"}, "flux2"),
        ((0, 2), {"modelspec.title": "flux-2024"}, "flux"),
        ((0, 2), {}, "flux"),
        (range(5), {}, "flux2"),
        (range(6), {"modelspec.title": "klein-9b"}, "flux"),
    ],
    ids=str,
)
def test_kleins_attention_is_told_from_flux1s(
    path: str, style: str, outputs: int, blocks: Any, says: dict[str, str], family: str
) -> None:
    """Which is as wide and has the same names: by the file's own words, or by having just klein's five blocks."""
    tensors: dict[str, Tensor] = {}
    for number in blocks:
        tensors |= pair(path.format(number), 3072, outputs, style=style)
    assert facts_of(tensors, says).family == family


def test_what_flux1_alone_has_counts_more_than_the_number_of_blocks() -> None:
    block = "transformer.transformer_blocks.{}."
    tensors = pair(block.format(0) + "ff.net.0.proj", 3072, 64)
    for number in range(5):
        tensors |= pair(block.format(number) + "attn.to_q", 3072, 64)
    assert facts_of(tensors).family == "flux"


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        (pair("transformer.layers.3.attention.to_q", 999, 64), "nothing in it tells"),
        (pair(QWEN, 3072, 64, style="kohya"), "not loaded by diffusers"),
        (
            pair("transformer.transformer_blocks.0.attn.to_q", 1536, 64, style="kohya"),
            "not loaded by diffusers",
        ),
        (pair("diffusion_model.double_blocks.0.img_attn.qkv", 3072, 64), "only all of them at once"),
        (dict(list(whole_flux().items())[2:]), "only all of them at once"),
        (
            pair("diffusion_model.double_blocks.0.img_attn.qkv", 3072, 64)
            | pair("diffusion_model.double_blocks.1.img_attn.qkv", 3072, 64, style="kohya"),
            "mixes diffusers'",
        ),
        (
            pair("diffusion_model.double_blocks.0.img_attn.qkv", 6144, 18432, style="kohya"),
            "not loaded by diffusers",
        ),
        (
            pair("lora_unet_double_blocks_0_img_mlp_0", 3072, 12288, style="kohya")
            | pair("lora_unet_single_blocks_0_linear1", 3072, 27648, style="kohya"),
            "different families",
        ),
        (
            pair("lora_unet_double_blocks_0_img_attn_qkv", 3072, 64, style="kohya")
            | pair("lora_unet_img_in", 64, 3072, style="kohya"),
            "diffusers would leave out",
        ),
        (
            pair("lora_unet_double_blocks_0_img_attn_qkv", 6144, 18432, style="kohya")
            | pair("lora_unet_guidance_in_in_layer", 64, 6144, style="kohya"),
            "diffusers would leave out",
        ),
        (
            pair("diffusion_model.double_blocks.0.img_attn.qkv", 6144, 64)
            | pair("diffusion_model.transformer_blocks.1.attn.to_q", 6144, 64),
            "mixes FLUX's own names",
        ),
        (onetrainer("transformer_blocks_0_attn_to_q", 1536, 1536), "nothing in it tells"),
        (onetrainer("transformer_blocks_0_ff_net_0_proj", 3072, 64), "no known way of naming"),
        (pair("lora_transformer_x_embedder", 64, 3072, style="kohya"), "nothing in it tells"),
        (
            pair("lora_transformer_single_transformer_blocks_0_attn_to_q", 3072, 64, style="kohya"),
            "lacks alphas",
        ),
        (
            xlabs("diffusion_model.double_blocks.0.processor.qkv_lora1", 3072, 9216)
            | {"diffusion_model.double_blocks.0.processor.qkv_lora1.alpha": scalar(4)},
            "alphas beside XLabs' names",
        ),
        (xlabs("double_blocks.0.processor.qkv_lora3", 3072, 9216), "no known way of naming"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_what_diffusers_would_not_load_is_refused(tensors: Any, reason: str) -> None:
    with pytest.raises(AdapterError) as caught:
        facts_of(tensors)
    assert reason in caught.value.reason


def test_alphas_in_flux_files_are_read() -> None:
    """There diffusers takes them beside its own names."""
    tensors = transformer_tensors("flux")
    path = next(iter(tensors)).removesuffix(".lora_A.weight")
    assert facts_of(tensors | {f"{path}.alpha": scalar(2)}).family == "flux"


def test_depth_tells_sdxl_without_cross_attention() -> None:
    """No other U-Net stacks several transformer blocks."""
    path = "unet.down_blocks.2.attentions.0.transformer_blocks.7.attn1.to_q"
    assert facts_of(pair(path, 1280, 1280)).family == "sdxl"
    assert facts_of(pair(f"lora_{path}".replace(".", "_"), 1280, 1280, style="kohya")).family == "sdxl"


@pytest.mark.parametrize(
    ("tensors", "family", "encoders"),
    [
        (unet_tensors("sd1") | encoder_tensors(), "sd1", (1,)),
        (unet_tensors("sd1", "diffusers") | encoder_tensors("diffusers"), "sd1", (1,)),
        (unet_tensors("sd1") | encoder_tensors("diffusers"), "sd1", (1,)),
        (unet_tensors("sd1", "kohya") | encoder_tensors("kohya", number=0), "sd1", (1,)),
        (unet_tensors("sd2") | encoder_tensors(width=1024), "sd2", (1,)),
        (unet_tensors("builtin") | encoder_tensors(width=160), "builtin", (1,)),
        (unet_tensors("sdxl") | encoder_tensors() | encoder_tensors(number=2, width=1280), "sdxl", (1, 2)),
        (
            unet_tensors("sdxl", "kohya")
            | encoder_tensors("kohya")
            | encoder_tensors("kohya", number=2, width=1280),
            "sdxl",
            (1, 2),
        ),
        (encoder_tensors("kohya", number=0), "sd1", (1,)),
        (encoder_tensors(width=1024), "sd2", (1,)),
        (encoder_tensors("kohya", number=2, width=1280), "sdxl", (2,)),
    ],
)
def test_parts_for_text_encoders_are_told(
    tensors: dict[str, Tensor], family: str, encoders: tuple[int, ...]
) -> None:
    """The first and the second, in every way of naming."""
    facts = facts_of(tensors)
    assert (facts.family, facts.text_encoders) == (family, encoders)


def test_convolutions_are_read() -> None:
    """Their pairs have four dimensions."""
    path = "unet.down_blocks.0.resnets.0.conv1"
    conv: dict[str, Tensor] = {
        f"{path}.lora_A.weight": random_weights(8, 320, 3, 3),
        f"{path}.lora_B.weight": random_weights(320, 8, 1, 1),
    }
    facts = facts_of(unet_tensors(rank=4) | conv)
    assert facts.rank == 8
    assert "conv1" in facts.targets


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "I64"])
def test_alphas_of_every_type_are_read(dtype: str) -> None:
    """kohya's scripts write several; one of zero is one."""
    tensors = unet_tensors(style="kohya")
    for value in (16.0, 0.0):
        alphas: dict[str, Tensor] = {
            name: scalar(value, dtype) for name in tensors if name.endswith(".alpha")
        }
        assert facts_of(tensors | alphas).alpha == value


def test_a_configuration_says_the_alpha() -> None:
    """As diffusers writes it today; what is at its default is let through."""
    config = {
        "unet.r": 4,
        "unet.lora_alpha": 8,
        "unet.target_modules": ["to_q", "down_blocks.0.attentions.1.to_k"],
        "unet.rank_pattern": {"^down_blocks.0.to_q": 8},
        "unet.alpha_pattern": {},
        "unet.use_dora": False,
        "unet.bias": "none",
        "unet.init_lora_weights": "gaussian",
        "unet.lora_dropout": 0.1,
        "unet.layers_pattern": None,
        "unet.peft_type": "LORA",
    }
    import json

    assert facts_of(unet_tensors(rank=4), {"lora_adapter_metadata": json.dumps(config)}).alpha == 8


def test_a_trigger_in_the_file_is_read() -> None:
    """Where it can be stored and shown."""
    key = "modelspec.trigger_phrase"
    assert facts_of(unet_tensors(), {key: " in the style of xyz "}).trigger_words == ("in the style of xyz",)
    assert facts_of(unet_tensors(), {key: "a\x00b"}).trigger_words == ()
    assert facts_of(unet_tensors(), {key: "x" * 101}).trigger_words == ()


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    """A file with these tensors."""
    path.write_bytes(safetensors(tensors))
    return path


@pytest.mark.parametrize("style", ["peft", "kohya"])
def test_finite_weights_pass(tmp_path: Path, style: str) -> None:
    """The largest and smallest numbers too."""
    extremes = np.array([65504, -65504, 6e-8, 0.0], "<f2").tobytes()
    path = write(tmp_path / "a", unet_tensors(style=style) | {"x": ("F16", (4,), extremes)})
    check_finite(path)


BAD_NUMBERS = {
    "F16 NaN": ("F16", struct.pack("<e", float("nan"))),
    "F16 infinity": ("F16", struct.pack("<e", float("-inf"))),
    "BF16 NaN": ("BF16", b"\xc0\x7f"),
    "BF16 infinity": ("BF16", b"\x80\xff"),
    "F32 NaN": ("F32", struct.pack("<f", float("nan"))),
    "F32 signalling NaN": ("F32", b"\x01\x00\x80\x7f"),
    "F64 infinity": ("F64", struct.pack("<d", float("inf"))),
}


@pytest.mark.parametrize("name", BAD_NUMBERS)
@pytest.mark.parametrize("place", [0, 1])
def test_one_number_that_is_none_is_found(tmp_path: Path, name: str, place: int) -> None:
    """Wherever it is: in the first piece or at the very end of the last."""
    dtype, bad = BAD_NUMBERS[name]
    count = CHUNK_BYTES // len(bad) + 3
    numbers = bytearray(count * len(bad))
    at = place * (count - 1) * len(bad)
    numbers[at : at + len(bad)] = bad
    path = write(tmp_path / "a", {"fine": ("F16", (3,)), "bad": (dtype, (count,), bytes(numbers))})
    with pytest.raises(AdapterError, match=r"'bad' holds numbers that are NaN or infinite"):
        check_finite(path)


def test_looking_at_weights_needs_a_sound_file(tmp_path: Path) -> None:
    """It is checked again, since files can change."""
    path = tmp_path / "a"
    path.write_bytes(lora_bytes()[:-5])
    with pytest.raises(HeaderError, match="truncated"):
        check_finite(path)


LOOK = """
import resource, sys
from pathlib import Path
from loras.finite import check_finite
check_finite(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
check_finite(Path(sys.argv[2]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_looking_at_weights_takes_little_memory(tmp_path: Path) -> None:
    """A file of 200 MB, in pieces."""
    small, large = write(tmp_path / "small", {"a": ("F16", (8,))}), tmp_path / "large"
    header = b'{"a":{"dtype":"F32","shape":[50000000],"data_offsets":[0,200000000]}}'
    with large.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 200_000_000)
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(small), str(large)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert int(done.stdout) < 50
