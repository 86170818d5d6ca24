"""Which files of a repository are fetched, and which never."""

import json
from pathlib import Path
from typing import Any

import pytest

from models_registry.choices import DownloadProblem
from models_registry.errors import DownloadFailedError
from models_registry.selection import INDEX, RemoteFile, files_select, index_read
from tests.support.repositories import COMPONENTS, NEEDED, write_repository

MODEL = "text_encoder/model.safetensors"
UNET = "unet/diffusion_pytorch_model"


def chosen(names: set[str], *, variant: str = "", with_checker: bool = False, **changes: Any) -> set[str]:
    """The paths that are chosen of a repository with these files."""
    index = {"_class_name": "StableDiffusionPipeline", **COMPONENTS, **changes}
    files = {name: RemoteFile(name, 1) for name in names | {INDEX}}
    selected = files_select(index_read(json.dumps(index)), files, variant=variant, with_checker=with_checker)
    assert len({file.path for file in selected}) == len(selected)
    return {file.path for file in selected}


def refused(names: set[str], **options: Any) -> str:
    """The sentence with which it is refused."""
    with pytest.raises(DownloadFailedError) as caught:
        chosen(names, **options)
    assert caught.value.problem == DownloadProblem.UNSUPPORTED
    return caught.value.detail


def test_only_what_a_pipeline_loads_is_chosen(tmp_path: Path) -> None:
    """No pickle, no code, no ONNX, no single-file checkpoint, no weights that are not used."""
    folder = write_repository(tmp_path)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert chosen(names) == NEEDED


def test_a_variant_is_preferred_part_by_part() -> None:
    """The plain file serves where a part has no file of the variant."""
    names = {MODEL, f"{UNET}.safetensors", f"{UNET}.fp16.safetensors"}
    assert chosen(names, variant="fp16") == {INDEX, MODEL, f"{UNET}.fp16.safetensors"}
    assert chosen(names) == {INDEX, MODEL, f"{UNET}.safetensors"}


@pytest.mark.parametrize(
    ("shards", "index"),
    [
        (
            (f"{UNET}-00001-of-00002.safetensors", f"{UNET}-00002-of-00002.safetensors"),
            f"{UNET}.safetensors.index.json",
        ),
        (
            (f"{UNET}.fp16-00001-of-00002.safetensors", f"{UNET}.fp16-00002-of-00002.safetensors"),
            f"{UNET}.safetensors.index.fp16.json",
        ),
        (
            (f"{UNET}-00001-of-00002.fp16.safetensors", f"{UNET}-00002-of-00002.fp16.safetensors"),
            f"{UNET}.safetensors.index.fp16.json",
        ),
    ],
    ids=["plain", "variant first", "variant last"],
)
def test_shards_come_with_their_index(shards: tuple[str, str], index: str) -> None:
    """All of them, by both ways of naming a variant; a set that lacks one is not taken."""
    variant = "fp16" if "fp16" in index else ""
    assert chosen({MODEL, *shards, index}, variant=variant) == {INDEX, MODEL, *shards, index}
    assert "incomplete" in refused({MODEL, shards[0], index}, variant=variant)
    assert "incomplete" in refused({MODEL, *shards}, variant=variant)


def test_another_variants_index_stays_away() -> None:
    """A whole file needs no index."""
    other = f"{UNET}.safetensors.index.fp16.json"
    assert other not in chosen({MODEL, f"{UNET}.safetensors", other})


def test_pickles_are_refused() -> None:
    """There is no fallback to what could run code."""
    assert "pickle" in refused({MODEL, f"{UNET}.bin"})
    assert "no weights" in refused({MODEL, "unet/config.json"})


@pytest.mark.parametrize("with_checker", [True, False])
def test_the_safety_checker_comes_when_it_is_used(with_checker: bool) -> None:  # noqa: FBT001
    """Only with the filter on; a pipeline without one has empty places in its index."""
    checker: dict[str, Any] = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    names = {MODEL, f"{UNET}.safetensors", "safety_checker/model.safetensors", "safety_checker/config.json"}
    found = chosen(names, with_checker=with_checker, **checker)
    assert ("safety_checker/model.safetensors" in found) is with_checker
    assert INDEX in chosen(
        names - {"safety_checker/model.safetensors"}, with_checker=True, safety_checker=[None, None]
    )


@pytest.mark.parametrize(
    "index",
    [
        "no json",
        "[]",
        "{}",
        json.dumps({"_class_name": ["my_pipeline", "MyPipeline"]}),
        json.dumps({"_class_name": "P", "unet": ["my_unet", "MyUNet"]}),
        json.dumps({"_class_name": "P", "unet": ["os", "system"]}),
        json.dumps({"_class_name": "P", "unet": ["diffusers", 7]}),
    ],
)
def test_code_that_comes_with_a_repository_is_refused(index: str) -> None:
    """Whatever way it is named."""
    with pytest.raises(DownloadFailedError, match="cannot be used"):
        index_read(index)


def test_no_path_leads_out_of_the_folder() -> None:
    """Names from the Hub become paths only when they are plain."""
    hostile = {
        "unet/../../etc/x.json",
        "unet/.hidden.json",
        "unet/a/b.json",
        "../unet/c.json",
        "unet/a\\b.json",
    }
    assert not chosen({MODEL, f"{UNET}.safetensors"} | hostile) & hostile
