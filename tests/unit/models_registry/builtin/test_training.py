"""What training stages share, the parts of each stage, and the whole way from nothing to a model with adapters."""

import os

# Spinning threads slow every step by an order of magnitude beside a busy neighbour; read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import dataclasses
import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models_registry.builtin import train, training_adapters, training_denoiser
from models_registry.builtin.architecture import build_parts, build_vae
from models_registry.builtin.evaluate import load_pipeline
from models_registry.builtin.optimizer import Muon, orthogonalise
from models_registry.builtin.rendering import render
from models_registry.builtin.sampling import as_tensors, sample_chunk
from models_registry.builtin.scenes import Item, Scene
from models_registry.builtin.training_autoencoder import (
    CELL,
    MARGIN,
    WINDOW,
    counting,
    cut,
    decode_windows,
    near_edges,
    noisy,
    place_windows,
    recolour,
    warped,
)
from models_registry.builtin.training_denoiser import (
    SIZES,
    VelocityLoss,
    choose_layout,
    encode_pools,
    next_batch,
    object_emphasis,
)
from models_registry.builtin.training_loop import Inputs, Learner, Loss, learning_rate, train_stage

STEPS = 6


class StoppedError(Exception):
    """Raised in the middle of a stage, as a kill would come."""


def line_learner() -> Learner:
    """Return what learns to double numbers."""
    torch.manual_seed(0)
    return Learner({"line": torch.nn.Linear(1, 1)}, precision="fp32", average=0.9)


def line_loss(modules: torch.nn.ModuleDict, inputs: Inputs) -> torch.Tensor:
    return (modules["line"](inputs["x"]) - 2 * inputs["x"]).square().mean()


def run_line(folder: Path, *, steps: int) -> Learner:
    """Train the line until `steps` steps are done in all, then stop it the hard way."""
    learner = line_learner()

    def learn(_: float) -> tuple[Loss, Inputs]:
        if learner.steps == steps:
            raise StoppedError
        return line_loss, {"x": torch.full((1, 1), float(learner.steps))}

    with pytest.raises(StoppedError):
        train_stage("line", folder, learner, learn, minutes=1000, peak_rate=0.1)
    return learner


def test_a_stage_goes_on_from_its_last_checkpoint_as_if_it_had_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models_registry.builtin.training_loop.CHECKPOINT_S", -1.0)  # one after every step
    run_line(tmp_path / "broken", steps=3)
    assert json.loads((tmp_path / "broken" / "line" / "progress.json").read_text())["steps"] == 3
    resumed, whole = run_line(tmp_path / "broken", steps=STEPS), run_line(tmp_path / "whole", steps=STEPS)
    assert resumed.steps == whole.steps == STEPS
    for name, tensor in whole.averaged.items():
        torch.testing.assert_close(resumed.averaged[name], tensor, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(resumed.weights[name], whole.weights[name], rtol=1e-3, atol=1e-4)


def test_a_finished_stage_holds_its_averaged_weights_and_learns_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models_registry.builtin.training_loop.CHECKPOINT_S", -1.0)
    run_line(tmp_path, steps=STEPS)
    learner = line_learner()

    def learn(_: float) -> tuple[Loss, Inputs]:
        raise AssertionError("the time is spent")

    train_stage("line", tmp_path, learner, learn, minutes=1e-12, peak_rate=0.1)
    kept = load_file(tmp_path / "line" / "averaged.safetensors")
    assert torch.equal(learner.modules["line"].weight.detach(), kept["line.weight"])


def test_the_rate_rises_and_falls() -> None:
    rates = [
        learning_rate(1.0, step=step, share=share) for step, share in ((0, 0), (99, 0), (999, 0.5), (999, 1))
    ]
    assert rates == pytest.approx([0.01, 1, 0.51, 0.02])


def test_muon_updates_matrices_of_one_shape_as_it_would_each_alone() -> None:
    torch.manual_seed(1)
    weights = {f"layer.{index}": torch.randn(6, 10) for index in range(3)} | {"bias": torch.randn(6)}
    gradients = {name: torch.randn_like(tensor) for name, tensor in weights.items()}
    together = {name: tensor.clone() for name, tensor in weights.items()}
    rate = torch.tensor(0.1)
    Muon(together).update(together, gradients, rate)
    for name, tensor in weights.items():
        alone = {name: tensor.clone()}
        Muon(alone).update(alone, {name: gradients[name]}, rate)
        torch.testing.assert_close(together[name], alone[name])
        assert not torch.equal(together[name], tensor)


@pytest.mark.parametrize("shape", [(2, 6, 10), (2, 10, 6)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(2)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert values.min() > 0.5
    assert values.max() < 1.5


@pytest.mark.slow
def test_bf16_training_takes_nearly_the_gradients_of_fp32() -> None:
    torch.manual_seed(5)
    inputs = {
        "latents": torch.randn(2, 4, 16, 16),
        "hidden": torch.randn(2, 32, 160),
        "emphasis": torch.ones(2, 1, 16, 16),
        "shift": torch.tensor(1.5),
    }
    found = []
    for precision in ("fp32", "bf16"):
        learner = Learner({"unet": build_parts(seed=1).unet}, precision=precision, average=0.9)
        torch.manual_seed(6)
        given = inputs | {"hidden": inputs["hidden"].to(learner.dtype)}
        VelocityLoss(learner.device)(learner.working, given).backward()
        found.append(
            torch.cat(
                [
                    tensor.grad.float().flatten()
                    for tensor in learner.working.parameters()
                    if tensor.grad is not None
                ]
            )
        )
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.98


def one_shape(shape: str, size: str, radius: float) -> Scene:
    return Scene((Item(shape, "red", size, 0.5, 0.5, radius),), ("white",), "plain", "centre")


def test_small_shapes_count_as_much_as_large_ones() -> None:
    scenes = as_tensors([one_shape("square", "small", 0.11), one_shape("square", "large", 0.26)], None)
    weights = object_emphasis(scenes, 32, 32, extra=4.0)
    torch.testing.assert_close(weights.mean((1, 2, 3)), torch.ones(2))
    extra = (weights / weights.amin((1, 2, 3), keepdim=True) - 1).sum((1, 2, 3))
    assert float(extra[0]) == pytest.approx(float(extra[1]), rel=0.2)
    assert torch.equal(object_emphasis(scenes, 32, 32, extra=0.0), torch.ones(2, 1, 32, 32))


def test_disturbed_latents_stay_near_what_they_were() -> None:
    torch.manual_seed(3)
    latents = torch.randn(16, 4, 32, 32)
    for disturbed in (noisy(latents), warped(latents)):
        changes = (disturbed - latents).abs().mean((1, 2, 3))
        assert changes.min() < 0.05
        assert 0.05 < changes.max() < 1


def test_recoloured_pictures_keep_their_outlines() -> None:
    torch.manual_seed(4)
    (picture,) = render(as_tensors([one_shape("circle", "large", 0.26)], None), 64, 64)
    many = recolour(picture.expand(64, -1, -1, -1))
    same = sum(torch.equal(each, picture) for each in many)
    assert 32 < same < 60
    assert many.abs().max() <= 1


@pytest.mark.slow
def test_decoded_windows_equal_the_whole_where_they_count() -> None:
    torch.manual_seed(2)
    vae = build_vae().eval()
    scenes = sample_chunk("windows", "filled", 3).scenes
    latents, pixels = torch.randn(3, 4, 32, 32), render(scenes, 512, 512)
    left, top = place_windows(scenes)
    with torch.no_grad():
        whole, parts = vae.decode(latents).sample, decode_windows(vae, latents, left, top)
    side = WINDOW * CELL
    expected, wanted = (cut(each, left * CELL, top * CELL, side) for each in (whole, pixels))
    deep = slice(2 * MARGIN * CELL, -2 * MARGIN * CELL)  # beyond the reach of what the window cuts off
    torch.testing.assert_close(parts[..., deep, deep], expected[..., deep, deep], rtol=0, atol=1e-4)
    for index, (column, row) in enumerate(zip(left.flatten().tolist(), top.flatten().tolist(), strict=True)):
        rows, columns = (slice(start * CELL, start * CELL + side) for start in (row, column))
        assert torch.equal(wanted[index], pixels[index // left.shape[1], :, rows, columns])
    assert counting(left, top).sum((1, 2, 3)).min() >= (side - 2 * MARGIN * CELL) ** 2


def test_edges_are_found_at_outlines_only() -> None:
    pixels = torch.zeros(1, 3, 64, 64)
    pixels[:, 1, 20:40, 20:40] = 1
    edges = near_edges(pixels)[0, 0]
    assert edges[20, 20] == edges[39, 30] == edges[30, 17] == 1
    assert edges[30, 30] == edges[5, 5] == 0


@pytest.mark.slow
def test_pools_share_the_scenes_out_to_the_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = build_parts()
    sample = sample_chunk("pools", "filled", 20)
    sizes = (dataclasses.replace(SIZES[1], scenes=0.8), dataclasses.replace(SIZES[3], scenes=0.2))
    square, tall = encode_pools(
        parts.vae.requires_grad_(requires_grad=False), sample, sizes, precision="fp32"
    )
    assert square.latents.shape == (16, 4, 16, 16)
    assert tall.latents.shape == (4, 4, 40, 28)
    inputs = next_batch([tall], parts.text_encoder, random.Random(0), 0.5, dtype=torch.bfloat16, largest=3)
    assert {name: tuple(tensor.shape) for name, tensor in inputs.items()} == {
        "latents": (3, 4, 40, 28),
        "hidden": (3, 32, 160),
        "emphasis": (3, 1, 40, 28),
        "shift": (),
    }
    monkeypatch.setattr(training_denoiser, "TRIALS", 2)
    few = dataclasses.replace(square, size=dataclasses.replace(square.size, batch=1))
    assert choose_layout(parts.unet, parts.text_encoder, few, precision="fp32").count("ms per step") == 2


@pytest.mark.long
@pytest.mark.slow
def test_the_stages_lead_from_nothing_to_a_pipeline_with_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with a step or two, on a few pictures."""
    small = dataclasses.replace(SIZES[1], batch=1)
    monkeypatch.setattr(train, "SIZES", (small,))
    monkeypatch.setattr(training_adapters, "SIZES", (small,))
    out = tmp_path / "model"

    def run(name: str, *arguments: str) -> None:
        where = ["--run", str(tmp_path / name), "--out", str(out), "--adapters", str(tmp_path / "adapters")]
        few = ["--device", "cpu", "--minutes", "1e-3", "--scenes", "60", "--batch", "1", "--processes", "1"]
        train.main([*where, *few, *arguments])

    run("first")
    assert {folder.name for folder in (tmp_path / "first").iterdir()} == set(train.SHARES)
    pipeline = load_pipeline(out)
    pipeline.load_lora_weights(tmp_path / "adapters", weight_name="pastel.safetensors")
    name = "conv_in.weight"
    averaged = load_file(tmp_path / "first" / "denoiser" / "averaged.safetensors")[f"unet.{name}"]
    shipped = load_file(out / "unet" / "diffusion_pytorch_model.safetensors")[name]
    torch.testing.assert_close(shipped, averaged.half())

    run("further", "--start", str(out), "--precision", "fp32")
    later = load_file(out / "unet" / "diffusion_pytorch_model.safetensors")[name]
    # a step moves weights by about its rate, so what went on from the first is near it and random weights are not
    assert 0 < (later.float() - shipped.float()).abs().max() < 0.02
    written = "".join(path.read_text(encoding="utf-8") for path in out.rglob("*.json"))
    assert str(tmp_path) not in written
    assert "is_local" not in written
