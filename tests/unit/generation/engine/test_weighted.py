"""Prompts with weights, and longer ones than an encoder reads at once."""

import dataclasses

import pytest
import torch

from generation.engine import Batch, Engine, ModelRef
from generation.engine.weighted import MAX_WEIGHT, Weighted, _weighed, chunks_of, weights_read
from tests.support.batches import TinyModel
from tests.support.tiny_parts import tokenizer

LONG = ", ".join(["a large red circle on a white background"] * 20)


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a red circle", [("a red circle", 1.0)]),
        ("", [("", 1.0)]),
        ("a (red) circle", [("a ", 1.0), ("red", 1.1), (" circle", 1.0)]),
        ("a (red:1.3) circle", [("a ", 1.0), ("red", 1.3), (" circle", 1.0)]),
        ("(red : .5)", [("red ", 0.5)]),
        ("((red))", [("red", 1.21)]),
        ("[red]", [("red", 1 / 1.1)]),
        ("(a (red:2) one)", [("a ", 1.1), ("red", 2.2), (" one", 1.1)]),
        (r"a \(red\) \[one\] \\ \x", [(r"a (red) [one] \ \x", 1.0)]),
        ("(red", [("red", 1.1)]),
        ("red)] (", [("red)] ", 1.0)]),
        ("(red:blue)", [("red:blue", 1.1)]),
        ("a: 1.5 b", [("a: 1.5 b", 1.0)]),
        ("(red:9999)", [("red", MAX_WEIGHT)]),
        ("(red]", [("red]", 1.1)]),
    ],
)
def test_weights_are_read_as_they_are_written(prompt: str, parts: Weighted) -> None:
    assert [text for text, _ in weights_read(prompt)] == [text for text, _ in parts]
    assert [weight for _, weight in weights_read(prompt)] == pytest.approx([weight for _, weight in parts])


def test_deep_brackets_end() -> None:
    """However many there are."""
    assert weights_read("(" * 32_000) == [("", 1.0)]
    assert weights_read("(" * 500 + "red")[0] == ("red", MAX_WEIGHT)
    deep = weights_read("(a" * 16_000 + "(b:0)")
    assert (len(deep), deep[-1]) == (16_001, ("b", 0.0))


def test_a_long_prompt_is_read_chunk_by_chunk() -> None:
    """All of it, `BREAK` beginning another."""
    reader = tokenizer()
    words = reader(LONG, add_special_tokens=False).input_ids
    chunks = chunks_of(reader, [(LONG, 1.0)])
    assert [token for chunk in chunks for token, _ in chunk] == words
    assert {len(chunk) for chunk in chunks[:-1]} == {75}
    assert [len(chunk) for chunk in chunks_of(reader, weights_read("red BREAK (blue BREAK green:2)"))] == [
        len(reader(word, add_special_tokens=False).input_ids) for word in ("red", "blue", "green")
    ]


def test_weights_leave_the_mean() -> None:
    """Of all numbers; those of a token that counts twice are the larger ones."""
    plain = torch.rand(1, 77, 4, generator=torch.Generator().manual_seed(0))
    weighed = _weighed(plain, [(1, 1.0), (2, 2.0)])
    assert weighed.mean().item() == pytest.approx(plain.mean().item())
    ratio = weighed / plain
    assert ratio[0, 2, 0] / ratio[0, 1, 0] == pytest.approx(2)
    assert torch.equal(_weighed(plain, [(1, 1.0)]), plain)


def request(model: ModelRef, prompt: str, **changes: object) -> Batch:
    base = Batch(
        model=model,
        prompt=prompt,
        negative_prompt="blue",
        width=64,
        height=64,
        num_inference_steps=1,
        guidance_scale=4.0,
        seed=7,
        prompt_syntax="weighted",
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]  # its fields


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_pixels_follow_weights(engine: Engine, tiny: TinyModel, family: str) -> None:
    """A prompt without any draws what the plain one does, to the pixel; all of a long one is read."""
    model = tiny(family)

    def pixels(prompt: str, **changes: object) -> str:
        result = engine.run(request(model, prompt, **changes))
        assert result.warnings == []
        return result.pictures[0].pixel_sha256

    plain = pixels("a red circle", prompt_syntax="plain")
    assert pixels("a red circle") == plain
    assert pixels("a red circle", num_images=2) is not None
    assert pixels("a (red:1.0) circle") == plain
    assert pixels("a (red:1.5) circle") != plain
    assert pixels("a red circle", negative_prompt="(blue:1.5)") != plain
    assert pixels("a red circle", negative_prompt="") == pixels(
        "a red circle", negative_prompt="", prompt_syntax="plain"
    )
    assert pixels("a red circle", clip_skip=1) == pixels("a red circle", clip_skip=1, prompt_syntax="plain")
    long, longer = pixels(LONG), pixels(f"{LONG} green")
    assert long != longer, "what stands behind the 77th token counts"
