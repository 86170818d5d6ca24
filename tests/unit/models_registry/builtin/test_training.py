"""What training stages share: resuming, averages and precision; and the parts of the decoder's stage."""

import os

# Spinning threads slow every step by an order of magnitude beside a busy neighbour; read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models_registry.builtin import (
    DEFAULT_STEPS,
    train,
    training_adapters,
    training_base,
    training_decoder,
    training_half,
    training_vae,
)
from models_registry.builtin import (
    latents as latent_shards,
)
from models_registry.builtin.architecture import (
    Parts,
    build_half_vae,
    build_parts,
    build_scheduler,
    build_vae,
)
from models_registry.builtin.captions import plain_caption
from models_registry.builtin.checkpoints import load_progress
from models_registry.builtin.drawing import draw_scene
from models_registry.builtin.evaluate import load_pipeline
from models_registry.builtin.generated import generate_latents, write_generated
from models_registry.builtin.latents import LatentPool, encode_scenes
from models_registry.builtin.precision import prepare_unet
from models_registry.builtin.scenes import Item, Scene, sample_scene
from models_registry.builtin.training_base import (
    item_odds,
    object_emphasis,
    scene_odds,
    velocity_loss,
)
from models_registry.builtin.training_decoder import (
    CELL,
    MARGIN,
    WINDOW,
    Example,
    decode_crops,
    near_edges,
    sample_crops,
    warp,
)
from models_registry.builtin.training_half import draw_pool, start_as_thumbnail
from models_registry.builtin.training_loop import Stage, train_stage
from models_registry.builtin.training_vae import decoder_stages, deepen, extend

STEPS = 6


class StoppedError(Exception):
    """Raised in the middle of a stage, as a kill would come."""


def line_stage(folder: Path) -> tuple[Stage, torch.nn.Linear]:
    """Return a stage that learns to double numbers, and its module."""
    torch.manual_seed(0)
    line = torch.nn.Linear(1, 1)
    stage = Stage(
        "line",
        folder,
        {"line": line},
        torch.optim.AdamW(line.parameters(), lr=0.1),
        peak_rate=0.1,
        warmup=1,
        checkpoint_every=2,
        average=0.9,
    )
    return stage, line


def run_line(folder: Path, *, steps: int) -> tuple[Stage, torch.nn.Linear]:
    """Train the line until `steps` steps are done in all, then stop it the hard way."""
    stage, line = line_stage(folder)

    def learn(step: int, _: float) -> dict[str, float]:
        if step == steps:
            raise StoppedError
        loss = (line(torch.tensor([[float(step)]])) - 2 * step).square().mean()
        loss.backward()
        return {"loss": loss.item()}

    with pytest.raises(StoppedError):
        train_stage(stage, learn, minutes=1000)
    return stage, line


def test_a_stage_goes_on_from_its_last_checkpoint_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    run_line(tmp_path / "broken", steps=3)  # its last checkpoint is at step 2
    assert load_progress(tmp_path / "broken").step == 2
    resumed, line = run_line(tmp_path / "broken", steps=STEPS)
    whole, other = run_line(tmp_path / "whole", steps=STEPS)
    assert resumed.progress.step == whole.progress.step == STEPS
    assert resumed.ema is not None
    assert whole.ema is not None
    for name, tensor in whole.ema.shadow.items():
        torch.testing.assert_close(resumed.ema.shadow[name], tensor, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(line.weight, other.weight, rtol=1e-3, atol=1e-4)


def test_a_finished_stage_holds_its_averaged_weights_and_learns_no_more(tmp_path: Path) -> None:
    run_line(tmp_path / "line", steps=STEPS)
    stage, line = line_stage(tmp_path / "line")
    assert stage.ema is not None

    def learn(_: int, __: float) -> dict[str, float]:
        raise AssertionError("the time is spent")

    train_stage(stage, learn, minutes=1e-9)
    assert torch.equal(line.weight.detach(), stage.ema.shadow["line.weight"])


@pytest.mark.slow
def test_bf16_training_takes_nearly_the_gradients_of_fp32() -> None:
    captions = ["a large red circle on a white background", "", "a small star", "blue"]
    gradients = []
    for precision in ("fp32", "bf16"):
        parts = build_parts(seed=1)
        prepare_unet(parts.unet, device="cpu", precision=precision)
        torch.manual_seed(5)
        latents = torch.randn(len(captions), 4, 16, 16)
        velocity_loss(parts, build_scheduler(), latents, captions, shift=1.5, precision=precision).backward()
        found = [
            parameter.grad.flatten() for parameter in parts.unet.parameters() if parameter.grad is not None
        ]
        gradients.append(torch.cat(found))
        assert gradients[-1].dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.98


def one_shape(shape: str, size: str, radius: float) -> Scene:
    return Scene((Item(shape, "red", size, 0.5, 0.5, radius),), ("white",), "plain", "centre")


def test_small_shapes_count_as_much_as_large_ones() -> None:
    small, large = one_shape("square", "small", 0.11), one_shape("square", "large", 0.26)
    weights = object_emphasis([small, large], 32, extra=4.0)
    assert weights.min() == 1
    extra = (weights - 1).sum((1, 2, 3))
    assert float(extra[0]) == pytest.approx(float(extra[1]), rel=0.2)
    assert torch.equal(object_emphasis([small], 32, extra=0.0), torch.ones(1, 1, 32, 32))


def test_hard_scenes_are_sampled_more_often(tmp_path: Path) -> None:
    star, disc = one_shape("star", "small", 0.11), one_shape("circle", "large", 0.26)
    described = json.dumps([asdict(scene) for scene in (star, disc)])
    latents = {"latents": torch.zeros(2, 4, 16, 16)}
    save_file(latents, tmp_path / "filled-256-0000.safetensors", metadata={"scenes": described})
    rng = random.Random(0)
    for odds, wanted in ((None, 0.5), (scene_odds, 0.8)):
        _, scenes = LatentPool(tmp_path, size=256, odds=odds).sample(rng, 2000)
        assert scenes.count(star) / len(scenes) == pytest.approx(wanted, abs=0.05)


def test_pools_hold_more_hard_scenes_where_they_are_asked_for() -> None:
    def hardness(odds: Any) -> float:
        pool = draw_pool(random.Random(3), 60, sizes=(64,), odds=odds)
        return sum(item_odds(item) for picture in pool for item in picture.scene.items)

    assert hardness(scene_odds) > 1.2 * hardness(None)


@pytest.fixture(scope="module")
def half() -> Any:
    torch.manual_seed(0)
    vae = build_half_vae()
    start_as_thumbnail(vae)
    return vae


def test_the_extended_autoencoder_draws_the_half_size_picture_enlarged(half: Any) -> None:
    vae = extend(half)
    assert [len(stage.blocks) for stage in decoder_stages(vae)] == [6, 4, 2, 1, 1]
    latents = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        small, large = half.decode(latents).sample, vae.decode(latents).sample
    enlarged = torch.nn.functional.interpolate(small, scale_factor=2)
    assert (large - enlarged).abs().mean() < 0.1 * enlarged.abs().mean()


def test_a_deepened_autoencoder_draws_nearly_what_it_drew() -> None:
    shipped = load_pipeline().vae
    scene = sample_scene(random.Random(1), held_out=False)
    pixels = torch.from_numpy(np.array(draw_scene(scene, 256))).permute(2, 0, 1)[None].float() / 127.5 - 1
    deeper = deepen(shipped)
    with torch.no_grad():
        latents = shipped.encode(pixels).latents
        torch.testing.assert_close(deeper.encode(pixels).latents, latents)
        change = (deeper.decode(latents).sample - shipped.decode(latents).sample).abs().mean()
    assert change < 0.02


def test_scenes_are_encoded_at_the_size_that_their_autoencoder_is_for(half: Any) -> None:
    rng = random.Random(0)
    scenes = [sample_scene(rng, held_out=False) for _ in range(2)]
    for vae in (half, build_vae()):
        latents = encode_scenes(vae, scenes, 256, rng=rng, device="cpu")
        assert latents.shape == (2, 4, 16, 16)


def test_warped_latents_keep_their_middle_where_nothing_moves_them() -> None:
    latents = torch.randn(2, 4, 32, 32)
    still = warp(latents, nodes=7, amount=torch.zeros(2, 1, 1, 1))
    torch.testing.assert_close(still, latents, rtol=0, atol=1e-4)
    moved = warp(latents, nodes=7, amount=torch.full((2, 1, 1, 1), 0.5))
    assert 0.05 < (moved - latents).abs().mean() < 2


@pytest.mark.slow
def test_cropped_decoding_equals_whole_decoding_where_the_crop_counts() -> None:
    torch.manual_seed(2)
    vae = build_vae().eval()
    rng = random.Random(4)
    examples = []
    for _ in range(3):
        scene = sample_scene(rng, held_out=False)
        pixels = torch.from_numpy(np.array(draw_scene(scene, 512))).permute(2, 0, 1)
        examples.append(Example(pixels, torch.randn(4, 32, 32), scene))
    crops = list(sample_crops(examples, rng))
    latents = torch.stack([example.latents for example in examples])
    with torch.no_grad():
        whole = vae.decode(latents).sample
        parts = decode_crops(vae, latents, crops)
    side = WINDOW * CELL
    for crop, part in zip(crops, parts, strict=True):
        rows, columns = (slice(start * CELL, start * CELL + side) for start in (crop.top, crop.left))
        expected = whole[crop.picture, :, rows, columns]
        assert torch.equal(crop.pixels, examples[crop.picture].pixels[:, rows, columns].float() / 127.5 - 1)
        deep = slice(2 * MARGIN * CELL, -2 * MARGIN * CELL)  # beyond the reach of what the window cuts off
        torch.testing.assert_close(part[:, deep, deep], expected[:, deep, deep], rtol=0, atol=1e-4)
        assert crop.weights.sum() >= (side - 2 * MARGIN * CELL) ** 2


def test_edges_are_found_at_outlines_only() -> None:
    pixels = torch.zeros(1, 3, 64, 64)
    pixels[:, 1, 20:40, 20:40] = 1
    edges = near_edges(pixels)[0, 0]
    assert edges[20, 20] == edges[39, 30] == edges[30, 17] == 1
    assert edges[30, 30] == edges[5, 5] == 0


@pytest.mark.slow
def test_generated_shards_hold_latents_and_the_scenes_that_they_mean(tmp_path: Path) -> None:
    """On the shipped weights, which draw training captions well enough for most of them to be kept."""
    pipeline = load_pipeline()
    parts = Parts(pipeline.tokenizer, pipeline.text_encoder, pipeline.unet, pipeline.vae)
    write_generated(parts, tmp_path, count=2, shard=2, seed=0, device="cpu", precision="bf16")
    pool = LatentPool(tmp_path, size=512, style="generated")
    assert len(pool) == 2
    for latents, scene in pool:
        assert latents.shape == (4, 32, 32)
        with torch.no_grad():
            decoded = pipeline.vae.decode(latents[None].float()).sample.clamp(-1, 1)
        drawn = np.asarray(draw_scene(scene, 512)).astype(np.float64)
        seen = ((decoded[0].permute(1, 2, 0).numpy() + 1) * 127.5).astype(np.float64)
        assert np.abs(seen - drawn).mean() < 12


@pytest.mark.slow
def test_a_model_that_draws_nothing_yet_is_told_apart(tmp_path: Path) -> None:
    parts = build_parts()
    with torch.no_grad():
        parts.vae.decoder.layers[-1].weight.zero_()  # one colour, whatever the latents
    with pytest.raises(RuntimeError, match="train it first"):
        write_generated(parts, tmp_path, count=1, shard=1, seed=0, device="cpu", precision="bf16")


@pytest.mark.long
@pytest.mark.slow
def test_the_stages_lead_from_nothing_to_a_pipeline_with_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with a step or two, and with pools of a few pictures."""
    for module, changes in {
        latent_shards: {"SHARD": 4},
        training_half: {"POOL": 8, "CROPS_PER_STEP": 2},
        training_vae: {"POOL": 8, "CROPS_PER_STEP": 2},
        training_base: {"BATCH": {256: 4, 512: 2}},
        training_decoder: {"POOL": 3},
        training_adapters: {"SCENES": {256: 4, 512: 4}, "BATCH": {256: 2, 512: 2}},
    }.items():
        for name, value in changes.items():
            monkeypatch.setattr(module, name, value)
    run, out = tmp_path / "run", tmp_path / "out"

    def stage(name: str, *arguments: str) -> None:
        train.main([name, "--run", str(run), "--minutes", "1e-3", *arguments])

    for name in ("text", "half"):
        stage(name)
    stage("latents", "--count", "4")
    stage("base", "--precision", "bf16")
    for name in ("vae", "decoder"):
        stage(name)
    stage("export", "--out", str(out / "model"))
    stage("adapters", "--model", str(out / "model"), "--out", str(out / "adapters"), "--style", "pastel")
    assert {folder.name for folder in run.iterdir() if folder.is_dir()} >= {
        "text", "half", "scenes", "base", "vae", "decoder", "pastel",
    }  # fmt: skip
    pipeline = load_pipeline(out / "model")
    pipeline.load_lora_weights(out / "adapters", weight_name="pastel.safetensors")
    averaged = load_file(run / "base" / "ema.safetensors")["unet.conv_in.weight"]
    shipped = load_file(out / "model" / "unet" / "diffusion_pytorch_model.safetensors")["conv_in.weight"]
    torch.testing.assert_close(shipped, averaged.half())

    train.main(["export", "--run", str(run), "--start", str(out / "model"), "--out", str(out / "again")])
    written = "".join(path.read_text(encoding="utf-8") for path in (out / "again").rglob("*.json"))
    assert str(tmp_path) not in written
    assert "is_local" not in written

    further = tmp_path / "further"
    for name in ("latents", "base", "decoder"):
        train.main(
            [name, "--run", str(further), "--start", str(out / "model"), "--minutes", "1e-3", "--count", "4"]
        )
    further_adapters = ["adapters", "--run", str(further), "--minutes", "1e-3", "--style", "pastel"]
    where = ["--model", str(out / "model"), "--out", str(out / "later"), "--adapters", str(out / "adapters")]
    train.main([*further_adapters, *where, "--precision", "bf16"])
    first, later = (load_file(out / name / "pastel.safetensors") for name in ("adapters", "later"))
    assert first.keys() == later.keys()
    # a step moves weights by about its rate, so what went on from the first is near it and random weights are not
    assert max((later[name].float() - first[name].float()).abs().max() for name in first) < 0.02
    assert min(load_progress(further / name).step for name in ("base", "decoder")) >= 1


@pytest.mark.slow
def test_latents_are_sampled_as_the_stock_pipeline_samples_them() -> None:
    pipeline = load_pipeline()
    parts = Parts(pipeline.tokenizer, pipeline.text_encoder, pipeline.unet, pipeline.vae)
    rng = random.Random(7)
    captions = [plain_caption(sample_scene(rng, held_out=False))]
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    expected = pipeline(
        captions, latents=noise, num_inference_steps=DEFAULT_STEPS, guidance_scale=2.0, output_type="latent"
    ).images
    found = generate_latents(parts, build_scheduler(), captions, noise)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
