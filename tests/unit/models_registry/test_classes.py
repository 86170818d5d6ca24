"""Which classes a repository may name: a list of ours, looked at before the libraries act on a name."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from models_registry.classes import (
    MAX_CONFIG_BYTES,
    ClassRefusedError,
    component_check,
    configs_check,
    folder_check,
    pipeline_check,
)
from models_registry.errors import DownloadFailedError
from models_registry.models import Checkpoint
from models_registry.selection import index_read
from tests.support.hub_repository import HubRepository
from tests.support.model_folders import on_disk, prefetch
from tests.support.repositories import write_files

REAL = [
    ("diffusers", "UNet2DConditionModel"),
    ("diffusers", "AutoencoderKL"),
    ("diffusers", "FlowMatchEulerDiscreteScheduler"),
    ("transformers", "CLIPTextModelWithProjection"),
    ("transformers", "T5TokenizerFast"),
    ("transformers", "CLIPImageProcessor"),
    ("transformers", "CLIPFeatureExtractor"),
    ("stable_diffusion", "StableDiffusionSafetyChecker"),
]
# Real names of these libraries that would run, fetch or load something else, and nonsense.
REFUSED: list[tuple[Any, Any]] = [
    ("diffusers", "DiffusionPipeline"),
    ("diffusers", "StableDiffusionPipeline"),
    ("diffusers", "ModelMixin"),
    ("diffusers", "loaders"),
    ("transformers", "AutoTokenizer"),
    ("transformers", "AutoModel"),
    ("transformers", "AutoProcessor"),
    ("transformers", "PreTrainedModel"),
    ("transformers", "RagTokenizer"),
    ("transformers", "Trainer"),
    ("transformers", "pipeline"),
    ("transformers", "UNet2DConditionModel"),
    ("diffusers", "CLIPTextModel"),
    ("stable_diffusion", "os"),
    ("os", "system"),
    ("..", "x"),
    ("diffusers", ""),
    ("diffusers", 7),
    ("diffusers", ["AutoencoderKL"]),
    ("diffusers", "aScheduler.evil"),
    (["diffusers"], "AutoencoderKL"),
    (7, "AutoencoderKL"),
]


@pytest.mark.parametrize(("library", "name"), REAL)
def test_what_real_models_are_made_of_passes(library: str, name: str) -> None:
    component_check("part", library, name)


@pytest.mark.parametrize(("library", "name"), REFUSED, ids=str)
def test_other_names_are_refused(library: Any, name: Any) -> None:
    """With a sentence that says which, and by the index that is downloaded first."""
    with pytest.raises(ClassRefusedError, match="its part is of a kind that is not supported"):
        component_check("part", library, name)
    with pytest.raises(DownloadFailedError, match="cannot be used"):
        index_read(json.dumps({"_class_name": "StableDiffusionPipeline", "part": [library, name]}))


@pytest.mark.parametrize(
    "name", [None, 7, "", ["pipeline", "Mine"], "os.system", "Pipeline", "my_pipeline", {}]
)
def test_a_pipeline_is_a_name_alone(name: Any) -> None:
    pipeline_check("StableDiffusionPipeline")
    with pytest.raises(ClassRefusedError, match="code of its own"):
        pipeline_check(name)


HOSTILE: list[tuple[str, Any]] = [
    ("tokenizer/tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}),
    ("tokenizer/tokenizer_config.json", {"tokenizer_class": "RagTokenizer"}),
    ("tokenizer/tokenizer_config.json", {"tokenizer_class": ["CLIPTokenizer"]}),
    ("tokenizer/tokenizer_config.json", {"tokenizer_class": {}}),
    ("text_encoder/config.json", {"auto_map": {"AutoModel": "evil.Evil"}}),
    ("unet/config.json", {"auto_map": "evil"}),
    ("feature_extractor/preprocessor_config.json", {"image_processor_type": "EvilProcessor"}),
    ("feature_extractor/preprocessor_config.json", {"feature_extractor_type": 7}),
    ("transformer/config.json", {"quantization_config": {"quant_method": "sdnq"}}),
    ("transformer/config.json", {"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "x"}}),
    ("text_encoder/config.json", {"quantization_config": "torchao"}),
]


@pytest.mark.parametrize(("path", "config"), HOSTILE, ids=str)
def test_files_that_name_other_classes_are_refused(tmp_path: Path, path: str, config: Any) -> None:
    write_files(tmp_path, {path: json.dumps(config).encode()})
    with pytest.raises(ClassRefusedError, match=path):
        configs_check(tmp_path)


def test_a_file_that_is_too_large_to_be_looked_at_is_refused(tmp_path: Path) -> None:
    """It could name anything; tables of words may be larger."""
    write_files(tmp_path, {"unet/config.json": b"{}", "tokenizer/vocab.json": b"{}"})
    for path, refused in (("tokenizer/vocab.json", False), ("unet/config.json", True)):
        with (tmp_path / path).open("ab") as file:
            file.truncate(MAX_CONFIG_BYTES + 1)
        with pytest.raises(ClassRefusedError, match="larger") if refused else contextlib.nullcontext():
            configs_check(tmp_path)


@pytest.mark.parametrize("data", [b"{", b"[" * 100_000, b"\xff"])
def test_files_that_are_no_json_are_refused(tmp_path: Path, data: bytes) -> None:
    write_files(tmp_path, {"unet/config.json": data})
    with pytest.raises(ClassRefusedError, match="not JSON"):
        configs_check(tmp_path)


@pytest.mark.django_db(transaction=True)
def test_such_a_repository_is_never_put_in_place(
    row: Checkpoint, repository: HubRepository, settings: Any
) -> None:
    """It is stated on the row."""
    hostile = {"tokenizer_class": "CLIPTokenizer", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    write_files(repository.folder, {"tokenizer/tokenizer_config.json": json.dumps(hostile).encode()})
    with pytest.raises(DownloadFailedError, match="auto_map"):
        prefetch(row)
    row.refresh_from_db()
    assert (row.state, row.error_code) == ("broken", "unsupported")
    assert on_disk(row, settings) == set()


def test_an_index_that_leaves_a_part_to_its_users_is_refused(tmp_path: Path) -> None:
    """HiDream's authors do so with the fourth text encoder; a repository that has it can be used."""
    index: dict[str, Any] = {"_class_name": "HiDreamImagePipeline"}
    whole = {"text_encoder_4": ["transformers", "LlamaForCausalLM"]}
    whole |= {"tokenizer_4": ["transformers", "PreTrainedTokenizerFast"]}
    for lacking in (index, index | {"text_encoder_4": [None, None]}, index | {"text_encoder_4": 4}):
        with pytest.raises(DownloadFailedError, match="lacks its text_encoder_4"):
            index_read(json.dumps(lacking))
        (tmp_path / "model_index.json").write_text(json.dumps(lacking))
        with pytest.raises(ClassRefusedError, match="lacks its text_encoder_4"):
            folder_check(tmp_path)
    assert set(index_read(json.dumps(index | whole))) == set(whole)
