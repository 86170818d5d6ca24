"""Repositories with quantized weights: read by their libraries, and refused where these cannot be had."""

import json
from pathlib import Path
from typing import Any

import pytest

from models_registry import downloads, quantization
from models_registry.choices import DiskState
from models_registry.errors import DownloadFailedError
from models_registry.models import Checkpoint
from models_registry.quantization import (
    LIBRARIES,
    REFUSED,
    QuantizationError,
    library_lacks,
    quantization_check,
)
from models_registry.services import checkpoint_request_download
from tests.support.hub_repository import HubRepository
from tests.support.model_folders import prefetch
from tests.support.repositories import write_files

ROOT = Path(__file__).resolve().parents[3]
FOUR_BITS: dict[str, Any] = {
    "load_in_4bit": True,
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_type": "nf4",
}


def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Lets Python find these packages and no other."""
    for module in (quantization, downloads):
        monkeypatch.setattr(module, "find_spec", lambda name: name if name in names else None)


def quantized_write(folder: Path, part: str, how: Any) -> None:
    path = folder / part / "config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    write_files(folder, {f"{part}/config.json": json.dumps(config | {"quantization_config": how}).encode()})


@pytest.mark.parametrize(
    ("how", "library"),
    [
        (FOUR_BITS | {"quant_method": "bitsandbytes"}, "bitsandbytes"),
        (FOUR_BITS, "bitsandbytes"),  # as it was written before it had a name
        ({"load_in_8bit": True, "bnb_4bit_compute_dtype": None}, "bitsandbytes"),
        (
            {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}},
            "torchao",
        ),
    ],
    ids=str,
)
def test_what_two_libraries_wrote_can_be_read(how: Any, library: str) -> None:
    assert quantization_check("transformer/config.json", how) == library


@pytest.mark.parametrize("method", [*REFUSED, "gptq", "", None, 7, ["torchao"], {"x": 1}, "x" * 1000])
def test_what_others_wrote_is_refused_by_name_with_the_reason(method: Any) -> None:
    with pytest.raises(QuantizationError) as raised:
        quantization_check("transformer/config.json", {"quant_method": method, "bits": 4})
    said = str(raised.value)
    assert said.startswith("its transformer/config.json says that its weights are quantized (")
    assert said.endswith(quantization.INSTEAD)
    assert REFUSED.get(str(method), quantization.OTHERS) in said
    assert len(said) < 400


@pytest.mark.parametrize("how", ["torchao", 7, [1], True])
def test_a_setting_that_is_no_object_is_refused(how: Any) -> None:
    with pytest.raises(QuantizationError, match="quantized"):
        quantization_check("transformer/config.json", how)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("bnb_4bit_compute_dtype", "load"),
        ("bnb_4bit_quant_storage", ["uint8"]),
        ("bnb_4bit_quant_type", "hub"),
    ],
)
def test_a_setting_that_names_something_else_is_refused(setting: str, value: Any) -> None:
    """Libraries look such names up in torch."""
    with pytest.raises(QuantizationError, match=setting):
        quantization_check("transformer/config.json", FOUR_BITS | {setting: value})


def test_the_pins_are_those_of_the_requirements() -> None:
    lines = (ROOT / "requirements-quantized.txt").read_text().splitlines()
    pins = {line.partition("  #")[0] for line in lines if not line.startswith("#")}
    assert pins == set(LIBRARIES.values())


def test_what_is_lacking_is_named_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, "torchao")
    write_files(tmp_path, {"vae/config.json": b"{", "unet/config.json": b"[]"})
    assert library_lacks(tmp_path) == ""
    quantized_write(tmp_path, "transformer", {"quant_method": "torchao"})
    assert library_lacks(tmp_path) == ""
    quantized_write(tmp_path, "text_encoder", FOUR_BITS)
    assert library_lacks(tmp_path) == (
        "Its text_encoder is quantized by bitsandbytes, which is not installed here: "
        f"pip install {LIBRARIES['bitsandbytes']}."
    )


def weights_fetched(repository: HubRepository) -> bool:
    return any(request.path.endswith(".safetensors") for request in repository.requests())


@pytest.mark.django_db(transaction=True)
def test_a_method_that_nobody_reads_is_refused_for_good(row: Checkpoint, repository: HubRepository) -> None:
    """In words that say what to do instead, before any weights are fetched."""
    quantized_write(repository.folder, "unet", {"quant_method": "quanto"})
    with pytest.raises(DownloadFailedError, match=r"quantized \(quanto\).*16-bit weights"):
        prefetch(row)
    assert not weights_fetched(repository)
    row.refresh_from_db()
    assert (row.state, row.error_code) == (DiskState.BROKEN, "unsupported")


@pytest.mark.django_db(transaction=True)
def test_a_missing_library_is_said_before_weights_are_fetched(
    row: Checkpoint, repository: HubRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to install; once it is there, they can be asked for again."""
    quantized_write(repository.folder, "unet", FOUR_BITS)
    installed(monkeypatch, "torch")
    with pytest.raises(DownloadFailedError, match="pip install bitsandbytes=="):
        prefetch(row)
    assert not weights_fetched(repository)
    row.refresh_from_db()
    assert (row.state, row.error_code) == (DiskState.BROKEN, "unusable")
    assert checkpoint_request_download(checkpoint=row)
    installed(monkeypatch, "torch", "bitsandbytes")
    assert prefetch(row)


@pytest.mark.django_db(transaction=True)
def test_who_does_not_draw_fetches_for_those_who_do(
    row: Checkpoint, repository: HubRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task worker without torch cannot know what GPU workers have."""
    quantized_write(repository.folder, "unet", FOUR_BITS)
    installed(monkeypatch)
    assert prefetch(row)
