"""The engine's benchmark beside plain diffusers, with tiny models on the CPU."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.architectures import ARCHITECTURES
from benchmarks.true_size import TINY_STEPS, similarity


@pytest.mark.slow
def test_it_draws_with_each_model_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In single precision on a CPU both draw the same, bit for bit; and its table says that there is no card."""
    from benchmarks import engine as benchmark

    path = tmp_path / "engine.json"
    found = benchmark.main(["--tiny", "--rounds", "1", "--json", str(path)])
    assert found.keys() == ARCHITECTURES.keys()
    for name, seen in found.items():
        assert len(seen.errors) >= TINY_STEPS  # PNDM takes one more
        assert not any(seen.errors), name
        assert seen.ssim == pytest.approx(1.0)
        assert len(seen.ratios) == 1
        assert len(seen.rates) == 2
        assert bool(seen.swap_s) != ARCHITECTURES[name].stays
    lines = capsys.readouterr().out.splitlines()
    assert "| true size | | no card |" in lines
    assert sum("times as fast as diffusers" in line for line in lines) == len(ARCHITECTURES)
    assert json.loads(path.read_text())["flux"]["dtype"] == "float32"
    assert path.with_suffix(".svg").exists()


def test_pictures_are_as_similar_as_they_look() -> None:
    """The same is one, a little noise takes little of it, and the negative is below nothing."""
    drawn = np.random.default_rng(7)
    pixels = np.repeat(np.repeat(drawn.integers(0, 255, (8, 8, 3), np.uint8), 8, axis=0), 8, axis=1)
    noisy = np.clip(pixels + drawn.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)
    picture, other = Image.fromarray(pixels), Image.fromarray(noisy)
    assert similarity(picture, picture) == pytest.approx(1.0)
    assert 0.5 < similarity(picture, other) < 1.0
    assert similarity(picture, Image.fromarray(255 - pixels)) < 0
