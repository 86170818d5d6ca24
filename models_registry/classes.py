"""The classes that a repository's files may name, looked at before any library acts on the names.

A closed list: a name that is in it does what its library says it does. What is not in it may be sound as well, and is
one line here once somebody needs it. Knows neither Django nor torch.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from models_registry.pipeline_facts import PIPELINES
from models_registry.quantization import QuantizationError, quantization_check

MAX_CONFIG_BYTES: Final = 8 << 20
PAIR: Final = 2  # a component's library and class

_SCHEDULER: Final = re.compile(r"[A-Z][A-Za-z0-9]{2,60}Scheduler")
_PIPELINE: Final = re.compile(r"[A-Z][A-Za-z0-9]{2,60}Pipeline")
_MODELS: Final = frozenset(
    {
        # Denoisers
        *("UNet2DConditionModel", "Kandinsky3UNet", "SD3Transformer2DModel", "FluxTransformer2DModel"),
        *("Flux2Transformer2DModel", "ChromaTransformer2DModel", "PixArtTransformer2DModel"),
        *("Transformer2DModel", "HunyuanDiT2DModel", "AuraFlowTransformer2DModel", "LuminaNextDiT2DModel"),
        *("Lumina2Transformer2DModel", "SanaTransformer2DModel", "CogView3PlusTransformer2DModel"),
        *("CogView4Transformer2DModel", "QwenImageTransformer2DModel", "ZImageTransformer2DModel"),
        *("OvisImageTransformer2DModel", "PRXTransformer2DModel", "PriorTransformer", "StableCascadeUNet"),
        "HiDreamImageTransformer2DModel",
        # Autoencoders
        *("AutoencoderKL", "AutoencoderTiny", "AsymmetricAutoencoderKL", "ConsistencyDecoderVAE", "VQModel"),
        *("AutoencoderDC", "AutoencoderKLQwenImage", "AutoencoderKLFlux2"),
    }
)
_TOKENIZERS: Final = frozenset(
    {
        *(
            f"{name}{speed}"
            for name in ("CLIPTokenizer", "T5Tokenizer", "BertTokenizer", "GemmaTokenizer")
            for speed in ("", "Fast")
        ),
        *(
            f"{name}{speed}"
            for name in ("LlamaTokenizer", "Qwen2Tokenizer", "MT5Tokenizer")
            for speed in ("", "Fast")
        ),
        *("PreTrainedTokenizerFast", "TokenizersBackend"),
    }
)
_PROCESSORS: Final = frozenset(
    {
        *(
            f"{name}{kind}"
            for name in (
                *("CLIPImageProcessor", "SiglipImageProcessor", "ViTImageProcessor"),
                *("Qwen2VLImageProcessor", "PixtralImageProcessor"),
            )
            for kind in ("", "Fast", "Pil")
        ),
        *("CLIPFeatureExtractor", "ViTFeatureExtractor", "Qwen2VLProcessor", "PixtralProcessor"),
    }
)
_ENCODERS: Final = frozenset(
    {
        *("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPVisionModelWithProjection", "CLIPVisionModel"),
        *("T5EncoderModel", "MT5EncoderModel", "UMT5EncoderModel", "BertModel", "SiglipVisionModel"),
        *("GemmaModel", "Gemma2Model", "LlamaForCausalLM", "GlmModel", "Qwen2_5_VLForConditionalGeneration"),
        *("Qwen3Model", "Qwen3ForCausalLM", "Mistral3ForConditionalGeneration"),
    }
)
_OWN: Final[Mapping[str, frozenset[str]]] = {
    "stable_diffusion": frozenset({"StableDiffusionSafetyChecker"}),
    "deepfloyd_if": frozenset({"IFSafetyChecker", "IFWatermarker"}),
    "kolors": frozenset({"ChatGLMModel", "ChatGLMTokenizer"}),
}
# Which settings of a component's files name a class that is made, and what it may be.
_NAMING: Final[Mapping[str, frozenset[str]]] = {
    "tokenizer_class": _TOKENIZERS | _OWN["kolors"],
    "image_processor_type": _PROCESSORS,
    "feature_extractor_type": _PROCESSORS,
}
# What an index has to name where some leave it for their users to bring: HiDream's fourth text encoder is a Llama,
# whose own repository asks for its licence to be accepted.
_EXPECTED: Final[Mapping[str, tuple[str, ...]]] = {
    "HiDreamImagePipeline": ("text_encoder_4", "tokenizer_4"),
}
# Settings that have code beside the weights imported.
_CODE: Final = ("auto_map", "custom_pipelines")


class ClassRefusedError(ValueError):
    """A file names a class that is not in the list, or is no such file; the message is a part of a sentence."""


def component_check(name: str, library: Any, class_name: Any) -> None:
    """Whether one component of an index may be of this class. Raises ClassRefusedError."""
    if not (
        isinstance(library, str) and isinstance(class_name, str) and class_name in _of(library, class_name)
    ):
        raise ClassRefusedError(
            f"its {name} is of a kind that is not supported ({_short(library)}.{_short(class_name)})"
        )


def _of(library: str, class_name: str) -> frozenset[str]:
    """What may be used of a library."""
    if library == "diffusers":
        return _MODELS | ({class_name} if _SCHEDULER.fullmatch(class_name) else set())
    if library == "transformers":
        return _ENCODERS | _TOKENIZERS | _PROCESSORS
    return _OWN.get(library, frozenset())


def pipeline_check(class_name: Any) -> None:
    """Whether an index may name this pipeline. Raises ClassRefusedError."""
    if not isinstance(class_name, str) or not _PIPELINE.fullmatch(class_name):
        raise ClassRefusedError("its pipeline is code of its own, which is never run")
    if class_name not in PIPELINES:
        raise ClassRefusedError(f"its pipeline is of a class that is not supported ({class_name})")


def whole_check(index: Mapping[str, Any]) -> None:
    """Whether an index names all that its pipeline cannot do without. Raises ClassRefusedError."""
    for name in _EXPECTED.get(str(index.get("_class_name")), ()):
        named = index.get(name)
        if not isinstance(named, list) or None in named:
            raise ClassRefusedError(f"it lacks its {name}; a repository that has it as well can be used")


def folder_check(folder: Path) -> None:
    """Whether a checkpoint's folder names nothing but listed classes. Raises ClassRefusedError, OSError."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ClassRefusedError("its model_index.json is not JSON") from error
    if not isinstance(index, dict):
        raise ClassRefusedError("its model_index.json is not a JSON object")
    pipeline_check(index.get("_class_name"))
    whole_check(index)
    for name, value in index.items():
        if isinstance(value, list) and len(value) == PAIR and None not in value:
            component_check(name[:80], *value)
    configs_check(folder)


def configs_check(folder: Path) -> None:
    """Whether the JSON files of a checkpoint's components name nothing but listed classes. Raises ClassRefusedError."""
    for path in sorted(folder.glob("*/*.json")):
        if path.name in {"tokenizer.json", "vocab.json"}:
            continue  # tables of words, which name no classes
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ClassRefusedError(f"its {path.parent.name}/{path.name} is larger than any configuration")
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ClassRefusedError(f"its {path.parent.name}/{path.name} is not JSON") from error
        if isinstance(config, dict):
            _config_check(f"{path.parent.name}/{path.name}", config)


def _config_check(shown: str, config: Mapping[str, Any]) -> None:
    for setting in _CODE:
        if config.get(setting):
            raise ClassRefusedError(f"its {shown} asks for code of its own ({setting}), which is never run")
    if quantized := config.get("quantization_config"):
        try:
            quantization_check(shown, quantized)
        except QuantizationError as error:
            raise ClassRefusedError(str(error)) from error
    for setting, known in _NAMING.items():
        if (named := config.get(setting)) is not None and not (isinstance(named, str) and named in known):
            raise ClassRefusedError(f"its {shown} names a {setting} that is not supported ({_short(named)})")


def _short(value: Any) -> str:
    return ascii(value)[:80].strip("'\"")
