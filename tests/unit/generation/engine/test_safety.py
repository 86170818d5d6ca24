"""The safety filter with a real classifier, tiny and random: what counts is what happens with its answer."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from generation.engine import Engine, EngineError, EngineUnsafe, SafetySettings
from generation.engine.safety import SafetyFilter
from tests.support.batches import BatchMaker, TinyModel, quick

ALWAYS, NEVER = 1e-9, 1.5


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image classifier that knows two labels."""
    folder: Path = tmp_path_factory.mktemp("classifier")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ViTForImageClassification(
            ViTConfig(
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                image_size=32,
                patch_size=16,
                id2label={0: "normal", 1: "NSFW"},
                label2id={"normal": 0, "NSFW": 1},
            )
        )
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture
def batch(tiny: TinyModel) -> BatchMaker:
    """A request to a tiny model: whoever drew a picture, it is looked at."""
    return functools.partial(quick, model=tiny("sd1"))


def guarded(mode: str, classifier: Path | None, **changes: Any) -> Engine:
    """An engine with a filter."""
    return Engine(threads=1, safety=SafetySettings(mode=mode, classifier=classifier, **changes))


def test_off_looks_at_nothing(batch: BatchMaker) -> None:
    """And says so."""
    assert Engine(threads=1).run(batch()).safety == "not_checked"


@pytest.mark.parametrize(("threshold", "word"), [(NEVER, "passed"), (ALWAYS, "flagged")])
def test_flag_says_what_it_saw(batch: BatchMaker, classifier: Path, threshold: float, word: str) -> None:
    """The picture is there in either case."""
    result = guarded("flag", classifier, threshold=threshold).run(batch())
    assert (result.safety, len(result.pictures)) == (word, 1)


def test_block_gives_nothing_away(batch: BatchMaker, classifier: Path) -> None:
    """All pictures blocked is a failure of its own kind."""
    with pytest.raises(EngineUnsafe, match="every picture"):
        guarded("block", classifier, threshold=ALWAYS).run(batch())
    assert guarded("block", classifier, threshold=NEVER).run(batch()).safety == "passed"


def test_block_keeps_the_others(batch: BatchMaker, classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under their own numbers and seeds, with a word about the one that is missing."""
    monkeypatch.setattr(SafetyFilter, "unsafe", lambda self, images, pipeline: [True, False])
    result = guarded("block", classifier).run(batch(num_images=2))
    assert [(picture.index, picture.seed) for picture in result.pictures] == [(1, 8)]
    assert result.safety == "blocked"
    assert "picture 0" in result.warnings[0]["reason"]


def test_block_without_anything_to_look_with_fails_closed(batch: BatchMaker) -> None:
    """A filter that cannot look must not let pictures through; one that only flags says that it did not look."""
    with pytest.raises(EngineUnsafe, match="SAFETY_MODEL"):
        guarded("block", None).run(batch())
    assert guarded("flag", None).run(batch()).safety == "not_checked"


def test_a_classifier_that_is_broken_or_knows_no_such_label_is_named(
    batch: BatchMaker, classifier: Path, tmp_path: Path
) -> None:
    """Instead of passing everything."""
    with pytest.raises(EngineError, match="none of the unsafe labels"):
        guarded("flag", classifier, labels=("gore",)).run(batch())
    with pytest.raises(EngineError, match="cannot be loaded"):
        guarded("flag", tmp_path).run(batch())


@pytest.mark.slow
def test_a_checkpoint_s_own_checker_is_asked(
    batch: BatchMaker, tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one ships with it, as Stable Diffusion 1.x does; without a filter it is not even read."""
    import json
    import shutil

    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    folder = tmp_path / "checked"
    shutil.copytree(tiny("sd1").folder, folder)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=16))
    checker.concept_embeds_weights.fill_(10.0)  # so that nothing is near any concept
    checker.save_pretrained(folder / "safety_checker")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder / "feature_extractor"
    )
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    model = dataclasses.replace(tiny("sd1"), folder=folder)
    request = batch(model=model)
    assert guarded("flag", None).run(request).safety == "passed"
    checker.concept_embeds_weights.fill_(-10.0)  # and now everything is
    checker.save_pretrained(folder / "safety_checker")
    flagging, silent = guarded("flag", None), Engine(threads=1)
    flagged = flagging.run(request)
    assert flagged.safety == "flagged"
    assert flagged.pictures[0].data == silent.run(request).pictures[0].data, "told, and not blacked out"
    with pytest.raises(EngineUnsafe):
        guarded("block", None).run(request)
    plain = Engine(threads=1)
    assert plain.run(request).safety == "not_checked"
    with plain.cache.borrow(model, while_waiting=lambda: None) as entry:
        assert entry.pipeline.safety_checker is None
