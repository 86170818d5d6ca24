"""Previews on every family's autoencoder."""

import base64
import dataclasses
import io

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from generation.engine import Engine, previews
from generation.engine.pipelines import in_tiles
from generation.engine.previews import Preview, colours_fit
from tests.support.batches import BatchMaker, TinyModel

LIMIT_BYTES = 20_000


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sd3"])
def test_a_preview_is_a_small_jpeg_of_the_right_shape(
    engine: Engine, batch: BatchMaker, tiny: TinyModel, family: str
) -> None:
    """At every so many steps, from the first."""
    seen: list[Preview] = []
    order: list[str] = []
    request = dataclasses.replace(
        batch(), model=tiny(family), width=128, height=64, num_inference_steps=6, preview_every=3
    )

    def on_preview(preview: Preview) -> None:
        seen.append(preview)
        order.append("preview")

    result = engine.run(request, on_preview=on_preview, on_step=lambda step, total: order.append("step"))
    assert order[:5] == ["preview", "step", "step", "step", "preview"]
    for preview in seen:
        data = preview.jpeg_base64()
        assert len(data) <= LIMIT_BYTES
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert (image.format, image.size) == ("JPEG", (256, 128))
    without = engine.run(dataclasses.replace(request, preview_every=0))
    assert without.pictures[0].pixel_sha256 == result.pictures[0].pixel_sha256, "looking changes nothing"


def test_the_noisiest_preview_stays_small() -> None:
    """Random pixels are the worst that JPEG can get."""
    noise = np.random.default_rng(0).normal(size=(1, 4, 128, 128)).astype(np.float32)
    colours = np.eye(3, 5, dtype=np.float32)
    assert len(Preview(noise, colours).jpeg_base64()) <= LIMIT_BYTES


def test_the_map_shows_colours() -> None:
    """Where an autoencoder's latents follow colours, so does the preview."""
    vae = AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=2, latent_channels=4, scaling_factor=0.5, shift_factor=0.25
    )

    class Plain:
        """An autoencoder that keeps colours as they are, and one channel of nothing."""

        config = vae.config

        def parameters(self) -> object:
            return vae.parameters()

        def encode(self, pixels: torch.Tensor) -> object:
            small = torch.nn.functional.avg_pool2d(pixels, 8)
            padded = torch.cat([small, torch.zeros_like(small[:, :1])], dim=1)
            return type("Encoded", (), {"latents": padded})

    colours = colours_fit(Plain())
    red = (torch.tensor([1.0, -1.0, -1.0, 0.0]) - 0.25) * 0.5
    latents = red[None, :, None, None].expand(1, 4, 8, 8).numpy()
    data = Preview(np.ascontiguousarray(latents), colours).jpeg_base64()
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        pixel = image.getpixel((128, 128))
    assert isinstance(pixel, tuple)
    assert pixel[0] > 240
    assert max(pixel[1:]) < 15


@pytest.mark.slow
def test_an_autoencoder_that_is_too_narrow_in_half_precision_is_widened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As SDXL's, whose numbers overflow; afterwards it is as before."""
    vae = AutoencoderKL(block_out_channels=(32,), force_upcast=True).to(torch.float16)
    seen: list[torch.dtype] = []
    encode = vae.encode

    def spy(patches: torch.Tensor) -> object:
        seen.append(patches.dtype)
        return encode(patches)

    monkeypatch.setattr(vae, "encode", spy)
    assert np.isfinite(colours_fit(vae)).all()
    assert seen == [torch.float32]
    assert next(vae.parameters()).dtype == torch.float16


@pytest.mark.slow
def test_numbers_that_overflow_spoil_only_the_preview(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = AutoencoderKL(block_out_channels=(32,))
    with torch.no_grad():
        vae.quant_conv.weight.fill_(torch.inf)
    assert np.isfinite(colours_fit(vae)).all()


@pytest.mark.parametrize(("side", "tile"), [(1024, 512), (400, 256)])
def test_tiles_are_smaller_than_the_picture(side: int, tile: int) -> None:
    """Even where the autoencoder would only tile what is larger than its model's pictures."""
    vae = AutoencoderKL(block_out_channels=(32,), sample_size=1024)
    with in_tiles(vae, side=side):
        assert (vae.tile_sample_min_size, vae.tile_latent_min_size) == (tile, tile)
    assert (vae.tile_sample_min_size, vae.use_tiling) == (1024, False)


def test_pictures_of_a_batch_lie_side_by_side() -> None:
    """In a sheet as square as can be, the first at the top left."""
    latents = np.zeros((3, 3, 8, 16), np.float32)
    for index in range(3):
        latents[index, index] = 1
    data = Preview(latents, np.eye(3, 4, dtype=np.float32)).jpeg_base64()
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (256, 128)
        seen = [image.getpixel(place) for place in ((64, 32), (192, 32), (64, 96), (192, 96))]
    assert np.allclose(seen, np.array([*np.eye(3), np.zeros(3)]) * 255, atol=12)


def test_channels_that_hardly_differ_have_no_say() -> None:
    """Though they would fit colours best, times a large number: what a denoiser has there would hide all else."""
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=2, latent_channels=6)

    class Faint:
        """An autoencoder with the colours in three channels, roughly, and in three more, exactly and faintly."""

        config = vae.config

        def parameters(self) -> object:
            return vae.parameters()

        def encode(self, pixels: torch.Tensor) -> object:
            small = torch.nn.functional.avg_pool2d(pixels, 8)
            rough = small + 0.1 * torch.randn(small.shape, generator=torch.Generator().manual_seed(0))
            return type("Encoded", (), {"latents": torch.cat([rough, 1e-5 * small], dim=1)})

    colours = colours_fit(Faint())
    assert np.abs(colours[:, 3:6]).max() < 0.1 < np.abs(colours[:, :3]).max()


@pytest.mark.filterwarnings("ignore:.*FluxPosEmbed. is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("family", "pictures"),
    [
        ("flux", 2),
        ("qwen-image", 1),
        ("flux2-klein", 1),
        ("chroma", 1),
        ("sana", 1),
        ("z-image", 1),
        ("sd3", 1),
    ],
)
def test_the_last_preview_is_of_what_is_decoded(
    engine: Engine,
    batch: BatchMaker,
    tiny: TinyModel,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    pictures: int,
) -> None:
    """All pictures, unpacked where they are packed: what the last step predicts is where it goes."""
    model = tiny(family)
    engine.load(model)
    vae = engine.cache._entries[model.id].pipeline.vae
    decoded: list[torch.Tensor] = []
    real = vae.decode

    def decode(latents: torch.Tensor, *arguments: object, **keywords: object) -> object:
        decoded.append(latents)
        return real(latents, *arguments, **keywords)

    monkeypatch.setattr(vae, "decode", decode)
    seen: list[Preview] = []
    request = dataclasses.replace(
        batch(),
        model=model,
        width=64,
        height=128,
        num_inference_steps=2,
        preview_every=1,
        num_images=pictures,
    )
    engine.run(request, on_preview=seen.append)
    final = torch.cat(decoded).float()
    final = final[:, :, 0] if final.ndim == 5 else final
    assert len(seen) == 2
    assert np.allclose(seen[-1].latents, previews._normalised(final, vae.config).numpy(), atol=1e-3)
    assert not np.allclose(seen[0].latents, seen[-1].latents, atol=1e-3)
    assert seen[-1].jpeg_base64()
