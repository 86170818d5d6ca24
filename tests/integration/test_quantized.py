"""Repositories that came quantized, with the real libraries: from the Hub to the picture of the stock pipeline.

The libraries are optional, and each process that imports diffusers would import them as well, so that they are no part
of the environment for tests: `make test-quantized` puts them beside it.
"""

import dataclasses
import hashlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from generation.engine import (
    AdapterUse,
    Engine,
    EngineAdapterUnusable,
    EngineModelBroken,
    ModelRef,
    residency,
)
from generation.engine.planner import FITS, IN_BLOCKS, WITH_OFFLOAD
from generation.engine.quantized import quantized_names
from generation.gpu_worker.batch import model_ref
from models_registry.classes import folder_check
from models_registry.models import Checkpoint
from models_registry.quantization import library_lacks
from tests.support.batches import SIDE, TinyModel, entry_of, memory_least, memory_tight, pixels, quick
from tests.support.batches import engines as engines_made
from tests.support.hub import HubDouble
from tests.support.hub_repository import HubRepository
from tests.support.lora_files import pair, safetensors
from tests.support.model_folders import prefetch
from tests.support.quantized import LIBRARY_OF, quantized_make, stock_pixels

HOWS = [
    pytest.param(
        how,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(library) is None,
            reason=f"{library} is optional and not installed here; make test-quantized has it",
        ),
    )
    for how, library in LIBRARY_OF.items()
]
# What these libraries and those that know them warn of when they are imported.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
Quantized = Callable[[str], ModelRef]


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what is done on a CPU alone: weights in its kernels' order, and layouts that round otherwise."""
    for module in ("loader", "building"):
        monkeypatch.setattr(f"generation.engine.{module}.channels_last", lambda *_: False)
    if importlib.util.find_spec("bitsandbytes"):
        monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)


@pytest.fixture(scope="module")
def quantized(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    """Tiny checkpoints of FLUX.1, by how they are quantized; made once."""
    root = tmp_path_factory.mktemp("quantized")

    def model(how: str) -> ModelRef:
        folder = root / how
        if not folder.exists():
            quantized_make(tiny("flux").folder, folder, how)
        return ModelRef(id=how, repository=f"tiny/{how}", revision="", folder=folder, dtype="bfloat16")

    return model


def spoilt(tensor: Any) -> Any:
    """As large as it, with numbers that would show."""
    return torch.full_like(tensor, torch.nan if tensor.is_floating_point() else 0)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes weights that are not on the device no numbers."""
    drop = residency._Weights.drop

    def go(weights: Any) -> None:
        drop(weights)
        with torch.inference_mode(mode=False):
            for tensor, data in weights._host:
                tensor.data = spoilt(data)
            for held in weights._quantized:
                held.put([spoilt(each) for each in held.tensors])

    monkeypatch.setattr(residency._Weights, "drop", go)


@pytest.fixture
def engines() -> Iterator[Callable[[], Engine]]:
    """Engines that read as a worker's does."""
    with engines_made() as make:

        def engine() -> Engine:
            made = make()
            made.cache.folder_check, made.cache.lacks = folder_check, library_lacks
            return made

        yield engine


def bytes_in_files(folder: Path) -> int:
    """Of all tensors in a part's files."""
    found = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            found += path.stat().st_size - 8 - int.from_bytes(file.read(8), "little")
    return found


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("how", HOWS)
def test_it_comes_loads_and_draws_what_the_stock_pipeline_draws(
    hub_double: HubDouble, quantized: Quantized, engines: Callable[[], Engine], how: str
) -> None:
    """Its weights are those of the files, and counted so; the receipt says who quantized which part."""
    source = quantized(how).folder
    HubRepository(hub_double, f"tiny/{how}", source)
    row = Checkpoint.objects.create(
        id=f"tiny-{how}", name=how, repository=f"tiny/{how}", family="flux", licence="mit"
    )
    assert prefetch(row)
    row.refresh_from_db()
    engine, model = engines(), model_ref(row)
    if LIBRARY_OF[how] == "bitsandbytes":  # torchao's files are for bfloat16, and say so
        model = dataclasses.replace(model, dtype="bfloat16")
    result = engine.run(quick(model))
    assert result.pictures[0].pixel_sha256 == stock_pixels(
        model.folder,
        prompt="a large red circle",
        width=SIDE,
        height=SIDE,
        num_inference_steps=2,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(7)],
    )
    parts = ("transformer", "text_encoder_2")
    assert result.environment["quantized"] == dict.fromkeys(parts, LIBRARY_OF[how])
    assert result.environment[LIBRARY_OF[how]]
    assert result.environment["dtype"] == "bfloat16"
    plan = engine.plan(model)
    assert plan is not None
    assert plan.verdict == FITS
    entry = entry_of(engine, model)
    assert plan.device_bytes == entry.bytes
    assert entry.host is not None
    for name in parts:
        held = sum(tensor.nbytes for tensor in entry.host.modules[name].tensors.values())
        assert held == bytes_in_files(source / name)


@pytest.mark.parametrize("how", HOWS)
def test_in_turns_and_block_by_block_it_draws_the_same(
    quantized: Quantized, engines: Callable[[], Engine], poisoned: None, how: str
) -> None:
    """All that belongs to a weight comes and goes with it; what was warm draws the same again."""
    model = quantized(how)
    other = quick(model, prompt="a blue square")
    whole = engines()
    expected = pixels(whole, quick(model)), pixels(whole, other)
    for memory_of, verdict in ((memory_tight, WITH_OFFLOAD), (memory_least, IN_BLOCKS)):
        tight = engines()
        memory = memory_of(model, tight.device)
        tight.cache.memory = lambda memory=memory: memory  # type: ignore[misc]
        assert (tight.plan(model) or pytest.fail("no plan")).verdict == verdict
        assert (pixels(tight, quick(model)), pixels(tight, other)) == expected
        entry = entry_of(tight, model)
        assert entry.residency is not None
        assert entry.residency.away_bytes > bytes_in_files(model.folder / "transformer") // 2
        tight.cache.drop_idle()
        assert pixels(tight, quick(model)) == expected[0]


@pytest.mark.parametrize("how", HOWS)
def test_an_adapter_works_on_it_and_goes(
    quantized: Quantized, engines: Callable[[], Engine], tmp_path: Path, how: str
) -> None:
    """It is never fused, so that the weights below stay as they are; one of another width is refused."""
    model, engine = quantized(how), engines()
    before = pixels(engine, quick(model))
    layer = "single_transformer_blocks.0.attn.to_q"

    def use(width: int) -> AdapterUse:
        data = safetensors(pair(f"transformer.{layer}", width, width))
        file = tmp_path / f"{width}.safetensors"
        file.write_bytes(data)
        return AdapterUse(str(width), hashlib.sha256(data).hexdigest(), file, 1000.0)

    assert pixels(engine, quick(model, adapters=(use(32),))) != before
    assert pixels(engine, quick(model)) == before
    with pytest.raises(EngineAdapterUnusable, match="does not fit the model's weight"):
        engine.run(quick(model, adapters=(use(48),)))
    assert pixels(engine, quick(model)) == before


@pytest.mark.parametrize("how", HOWS)
def test_a_weight_that_is_not_whole_breaks_the_model(
    quantized: Quantized, engines: Callable[[], Engine], tmp_path: Path, how: str
) -> None:
    """It is said, and nothing is drawn with noise in its place."""
    model = quantized(how)
    folder = tmp_path / "holey"
    folder.mkdir()
    for path in model.folder.iterdir():
        (folder / path.name).symlink_to(path)
    for part in ("transformer", "text_encoder_2"):
        (folder / part).unlink()
        (folder / part).mkdir()
        for path in (model.folder / part).iterdir():
            (folder / part / path.name).symlink_to(path)
        file = next((folder / part).glob("*.safetensors"))
        tensors = load_file(file)
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata()
        lost = next(name for name in sorted(quantized_names(tensors)) if name.endswith((".weight", "qdata")))
        del tensors[lost]
        file.unlink()
        save_file(tensors, file, metadata=metadata)
        with pytest.raises(EngineModelBroken, match=r"lack 1 tensors|whole weight of torchao|conversion"):
            engines().load(ModelRef(id=part, repository="a/b", revision="", folder=folder))
        (folder / part / file.name).unlink()
        (folder / part / file.name).symlink_to(model.folder / part / file.name)
