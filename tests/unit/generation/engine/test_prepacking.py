"""Weights in the kernels' own order: the same numbers, bit for bit."""

import copy

import pytest
import torch
from torch import nn

from generation.engine import ModelRef
from generation.engine.building import host_build
from generation.engine.cpu import quick_bfloat16
from generation.engine.loader import host_read
from generation.engine.prepacking import LARGEST_BYTES, PackedConv2d, PackedLinear, prepack
from models_registry.builtin import WEIGHTS

pytestmark = pytest.mark.skipif(
    not quick_bfloat16(), reason="it is for processors that are quick at bfloat16, and this is not"
)
BF16 = torch.bfloat16


def stock(module: nn.Module) -> nn.Module:
    """The same module with PyTorch's own layers."""
    own = copy.deepcopy(module)
    for layers in own.modules():
        if isinstance(layers, nn.Sequential):
            for index, layer in enumerate(layers[:-1]):
                if getattr(layer, "then", "") == "relu":
                    assert type(layers[index + 1]) is nn.Identity
                    layers[index + 1] = nn.ReLU()
    for layer in own.modules():
        if isinstance(layer, PackedConv2d | PackedLinear):
            layer.__class__ = nn.Conv2d if isinstance(layer, PackedConv2d) else nn.Linear
    return own


@pytest.mark.slow
def test_the_built_in_model_is_packed_and_computes_the_same() -> None:
    """For whatever number of pictures and size comes after the one for which it was packed."""
    *_, pipeline = host_build(
        host_read(ModelRef("builtin", "", "", WEIGHTS), torch.device("cpu")), torch.device("cpu")
    )
    assert {type(layer) for layer in pipeline.unet.modules()} >= {PackedConv2d, PackedLinear}
    assert {"relu", "none"} == {layer.then for layer in pipeline.vae.modules() if type(layer) is PackedConv2d}
    unet, vae = stock(pipeline.unet), stock(pipeline.vae)
    random = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for rows, height, width in ((2, 32, 32), (1, 32, 32), (3, 16, 32), (8, 16, 16), (2, 40, 24)):
            latents = torch.randn(rows, 4, height, width, generator=random).to(BF16)
            text = torch.randn(rows, 32, unet.config.cross_attention_dim, generator=random).to(BF16)
            call = {"timestep": torch.tensor(500), "encoder_hidden_states": text}
            assert torch.equal(pipeline.unet(latents, **call).sample, unet(latents, **call).sample)
            assert torch.equal(pipeline.vae.decode(latents).sample, vae.decode(latents).sample)


def test_a_copy_goes_with_its_format() -> None:
    """As autoencoders are made wider for their decoding, and back."""
    layers = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Flatten(2), nn.Linear(64, 8)).to(BF16)
    prepack(layers)
    pictures = torch.randn(1, 4, 8, 8)
    with torch.inference_mode():
        layers(pictures.to(BF16))
        with torch.inference_mode(mode=False):
            layers.float().requires_grad_(requires_grad=False)
            for each in layers.parameters():
                each.data.mul_(2)
            layers.to(BF16)
        assert torch.equal(layers(pictures.to(BF16)), stock(layers)(pictures.to(BF16)))


def test_what_is_large_or_padded_otherwise_stays_as_it_is() -> None:
    """Copies of large weights take more than they bring, and the kernels know zeros alone."""
    with torch.device("meta"):
        large = nn.Linear(LARGEST_BYTES // 2048, 1024, bias=False, dtype=BF16)
        larger = nn.Linear(LARGEST_BYTES // 2048 + 1, 1024, bias=False, dtype=BF16)
        mirrored = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", dtype=BF16)
        single = nn.Conv2d(4, 4, 3)
    for layer in (large, larger, mirrored, single):
        prepack(layer)
    assert [type(layer) for layer in (large, larger, mirrored, single)] == [
        *(PackedLinear, nn.Linear, nn.Conv2d, nn.Conv2d)
    ]
