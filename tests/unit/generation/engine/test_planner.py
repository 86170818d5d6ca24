"""What fits where: the models that people run, on the cards that people have."""

import pytest

from generation.choices import Fit
from generation.engine.blocks import blocks_of, least_of
from generation.engine.planner import (
    FITS,
    IN_BLOCKS,
    IN_FLOAT8,
    NEEDS_LIBRARY,
    TOO_LARGE,
    WITH_OFFLOAD,
    Memory,
    Weights,
    plan_make,
)

CARDS = (4, 6, 8, 12, 16, 24, 48, 80)
GIB = 1 << 30
HOST = 128 * GIB
# GB in 16 bits: denoiser, text encoders, autoencoder.
MODELS = {
    "SD 1.5": ("unet", 1.7, 0.25, 0.17),
    "SDXL": ("unet", 5.1, 1.6, 0.17),
    "Z-Image": ("transformer", 12.3, 8.0, 0.17),
    "SD3.5-large": ("transformer", 16.1, 11.2, 0.17),
    "FLUX.1": ("transformer", 23.8, 9.8, 0.17),
    "Qwen-Image": ("transformer", 40.9, 16.6, 0.25),
}
# The share of a part that has to be there at once where it comes block by block.
LEAST = {"unet": 0.1, "transformer": 0.06, "text_encoder": 0.15}
F, T, E, B, X = FITS, WITH_OFFLOAD, IN_FLOAT8, IN_BLOCKS, TOO_LARGE
TABLE = {
    #          4  6  8  12 16 24 48 80
    "SD 1.5": (F, F, F, F, F, F, F, F),
    "SDXL": (B, B, T, F, F, F, F, F),
    "Z-Image": (B, B, B, E, T, F, F, F),
    "SD3.5-large": (B, B, B, E, E, T, F, F),
    "FLUX.1": (B, B, B, B, E, E, F, F),
    "Qwen-Image": (B, B, B, B, B, E, T, F),
}


def weights(name: str) -> Weights:
    """A model's sizes, as its files' headers say them."""
    denoiser, *sizes = MODELS[name]
    counts = [int(size * 1e9 / 2) for size in sizes]  # type: ignore[operator]  # what follows the name
    numbers = dict(zip((str(denoiser), "text_encoder", "vae"), counts, strict=True))
    least = {part: int(numbers[part] * share) for part, share in LEAST.items() if part in numbers}
    return Weights(numbers, 2, least)


@pytest.mark.parametrize(
    ("name", "card", "verdict"),
    [(name, card, word) for name, row in TABLE.items() for card, word in zip(CARDS, row, strict=True)],
)
def test_every_model_on_every_card(name: str, card: int, verdict: str) -> None:
    """The word, the weights that are there in each stage, and room to work beside them."""
    memory = Memory(card * GIB, HOST)
    plan = plan_make(weights(name), memory)
    assert plan.verdict == verdict, plan.reason
    assert plan.reason.startswith("Its weights take ")
    if verdict != TOO_LARGE:
        assert plan.stages[0] + plan.encoding_bytes < memory.device
        assert plan.stages[1] + plan.working_bytes < memory.device
    assert plan.in_blocks == (verdict == IN_BLOCKS)
    assert plan.in_turns == (len(set(plan.stages)) > 1)
    assert plan.float8 == (verdict == IN_FLOAT8) or verdict in (IN_BLOCKS, TOO_LARGE)


def test_in_turns_encoders_go_before_the_denoiser_comes() -> None:
    """And nothing but the autoencoder is needed in the end."""
    plan = plan_make(weights("SD3.5-large"), Memory(24 * GIB, HOST))
    assert [round(size / 1e9, 1) for size in plan.stages] == [11.4, 16.3, 0.2]
    assert plan.reason == (
        "Its weights take 27.5 GB, and the device has 25.8 GB: "
        "text encoders (11.2 GB) and denoiser (16.1 GB) are there in turns."
    )


@pytest.mark.parametrize(
    ("name", "dtype", "card", "verdict"),
    [
        ("FLUX.1", "bfloat16", 24, IN_BLOCKS),  # eight bits are for those who did not say otherwise
        ("FLUX.1", "float8", 48, IN_FLOAT8),
        ("SDXL", "float8", 24, FITS),  # a U-Net stays as it is
        ("SDXL", "auto", 2, TOO_LARGE),
    ],
)
def test_the_rows_number_format_decides(name: str, dtype: str, card: int, verdict: str) -> None:
    assert plan_make(weights(name), Memory(card * GIB, HOST), dtype=dtype).verdict == verdict


def test_workers_and_clients_have_the_same_words() -> None:
    assert Fit.values == [FITS, WITH_OFFLOAD, IN_FLOAT8, IN_BLOCKS, TOO_LARGE, NEEDS_LIBRARY]


@pytest.mark.parametrize(
    ("dtype", "card", "verdict"),
    [("auto", 12, FITS), ("auto", 10, T), ("float8", 10, T), ("auto", 8, B), ("float32", 12, FITS)],
)
def test_what_is_quantized_counts_by_its_files(dtype: str, card: int, verdict: str) -> None:
    """FLUX.1 with denoiser and T5 in four bits: no format of the row makes them larger, and none smaller."""
    sizes = {"transformer": 6.7e9, "text_encoder_2": 3.2e9}
    numbers = {name: int(size) for name, size in sizes.items()} | {
        "text_encoder": 123_000_000,
        "vae": 84_000_000,
    }
    least = {"transformer": 300_000_000, "text_encoder_2": 400_000_000}
    quantized = Weights(numbers, 2, least, frozenset(sizes))
    plan = plan_make(quantized, Memory(card * GIB, HOST), dtype=dtype)
    assert (plan.verdict, plan.float8) == (verdict, False)
    assert quantized.sizes()["transformer"] == 6.7e9


def test_what_lacks_a_library_is_not_planned() -> None:
    """Whatever memory there is."""
    lacking = Weights({"transformer": 1}, 2, lacks="Its transformer is quantized by torchao.")
    plan = plan_make(lacking, Memory(80 * GIB, HOST))
    assert (plan.verdict, plan.reason) == (NEEDS_LIBRARY, "Its transformer is quantized by torchao.")


def test_the_host_has_to_hold_what_is_read() -> None:
    """In eight bits less; what the card could take is no help."""
    flux = weights("FLUX.1")
    assert plan_make(flux, Memory(48 * GIB, 32 * GIB)).verdict == IN_FLOAT8
    small = plan_make(flux, Memory(48 * GIB, 16 * GIB))
    assert (small.verdict, "the host's memory, which has 17.2 GB" in small.reason) == (TOO_LARGE, True)


def test_without_a_gpu_the_device_is_the_host() -> None:
    """Nothing is gained by turns there, and nothing kept free: a small container runs the small model."""
    memory = Memory(8 * GIB, 8 * GIB, shared=True)
    assert plan_make(weights("SDXL"), memory).verdict == FITS
    assert plan_make(weights("Z-Image"), memory).verdict == TOO_LARGE


def test_blocks_are_told_by_the_names_of_weights() -> None:
    """Those of a large block stand for it, where they are nearly all of it; a layer with a number is no block."""
    sizes = {f"transformer_blocks.{number}.attn.to_q.weight": 10 for number in range(20)}
    sizes |= {f"transformer_blocks.{number}.attn.to_out.0.weight": 10 for number in range(20)}
    sizes |= {"proj_out.weight": 5, "time.0.weight": 7}
    assert blocks_of(sizes) == sorted(f"transformer_blocks.{number}" for number in range(20))
    assert least_of(sizes) == 20 + 12
    deep = {
        f"up_blocks.0.attentions.0.transformer_blocks.{number}.ff.proj.weight": 10 for number in range(20)
    }
    deep |= {
        f"up_blocks.0.attentions.0.transformer_blocks.{number}.ff.net.2.weight": 9 for number in range(20)
    }
    deep |= {"up_blocks.0.attentions.0.proj_in.weight": 3}
    assert len(blocks_of(deep)) == 20
    assert least_of(deep) == 19 + 3
    assert (blocks_of({"embed.weight": 3}), least_of({"embed.weight": 3})) == ([], 3)
