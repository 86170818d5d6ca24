"""In which number formats a model's parts run where its own is half precision."""

import dataclasses
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from generation.engine import Batch, Engine
from tests.support.batches import SIDE, TinyModel, quick
from tests.support.pictures import encoded

PICTURE = encoded(Image.effect_noise((SIDE, SIDE), 80).convert("RGB"))
INPUTS: dict[str, dict[str, Any]] = {
    "txt2img": {},
    "img2img": {"image": PICTURE, "strength": 0.5},
    "inpaint": {"image": PICTURE, "strength": 1.0, "mask": encoded(Image.new("L", (SIDE, SIDE), 255))},
}


def numbers(engine: Engine, batch: Batch) -> Any:
    """A picture's pixels."""
    with Image.open(io.BytesIO(engine.run(batch).pictures[0].data)) as image:
        return np.asarray(image.convert("RGB"), np.float32)


@pytest.mark.filterwarnings("ignore:.*`upcast_vae` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("family", "has_bfloat16", "decodes_in"),
    [
        ("sdxl", True, torch.bfloat16),
        ("sdxl", False, torch.float32),
        # Its autoencoder is sound in float16.
        ("sd1", True, torch.float16),
    ],
)
def test_pictures_are_decoded_in_a_format_that_is_wide_enough(
    engine: Engine,
    tiny: TinyModel,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    family: str,
    has_bfloat16: bool,  # noqa: FBT001
    decodes_in: torch.dtype,
) -> None:
    """Of every kind; nearly what single precision draws."""
    expected = {
        kind: numbers(engine, quick(tiny(family), kind=kind, **inputs)) for kind, inputs in INPUTS.items()
    }
    # As on a GPU.
    for module in ("loader", "sizes"):
        monkeypatch.setattr(f"generation.engine.{module}.dtype_for", lambda *_, **__: torch.float16)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    folder = tmp_path / family
    shutil.copytree(tiny(family).folder, folder)
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"force_upcast": True}))
    model = dataclasses.replace(tiny(family), id=f"{family}-half", folder=folder)
    half = Engine(threads=1)
    try:
        half.load(model)
        vae, seen = half.cache._entries[model.id].pipeline.vae, set()
        vae.decoder.register_forward_pre_hook(lambda module, inputs: seen.add(inputs[0].dtype))
        for kind, inputs in INPUTS.items():
            drawn = numbers(half, quick(model, kind=kind, **inputs))
            assert np.abs(drawn - expected[kind]).mean() < 24, kind
        told = half.run(quick(model)).environment
    finally:
        half.close()
    assert seen == {decodes_in}
    assert (told["dtype"], told["vae_dtype"]) == (
        "float16",
        "bfloat16" if decodes_in == torch.bfloat16 else "float16",
    )
