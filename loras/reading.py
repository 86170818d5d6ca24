"""What a LoRA file is, read from its header alone: no torch, and of the tensors only numbers of a few bytes."""

import json
import math
import re
import struct
from collections import Counter
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from imagegen_project.common.safetensors_header import Header, TensorInfo, quoted, read_header
from loras.bfl_names import bfl_check, is_bfl
from loras.families import FLUX, FLUX2, QWEN_IMAGE, Z_IMAGE, family_of
from loras.key_styles import DOTTED, KOHYA, MAX_RANK, XLABS, AdapterError, Module, find_modules

# What diffusers hands to peft's configuration as it stands in the file, so it is checked as if it came from a client.
_CONFIG_KEY: Final = "lora_adapter_metadata"
_MAX_CONFIG_CHARACTERS: Final = 512 * 1024
_MAX_TITLE_CHARACTERS: Final = 200
_MAX_ALPHA: Final = 65536
# Descriptive, and without effect where weights are given.
_CONFIG_NOTES: Final = (
    "task_type",
    "peft_type",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "qalora_group_size",
)
_PLAIN_NAME: Final = re.compile(r"\^?[A-Za-z0-9_.]{1,128}")

# The kinds of modules that are adapted, as a path ends once its dots are underscores.
_TARGETS: Final = re.compile(
    r"(?:attn[12]?_)?(?:to_[qkv]|to_out_0|to_out|to_add_out|add_[qkv]_proj)|ff(?:_context)?_net_[02](?:_proj)?"
    r"|(?:in|out)_layers_\d|emb_layers_1|skip_connection|proj_in|proj_out|proj_mlp|conv_shortcut|conv_in|conv_out|conv[12]?|time_emb_proj"
    r"|[qkv]_proj|out_proj|fc[12]|(?:img|txt)_(?:attn_(?:qkv|proj)|mlp_[02]|mod_lin)|linear[12]|modulation_lin"
)
# Whose loaders in diffusers take alphas beside names with dots.
_WITH_ALPHAS: Final = (FLUX, QWEN_IMAGE, Z_IMAGE)
_SCALARS: Final = {"F16": "<e", "F32": "<f", "F64": "<d", "I32": "<i", "I64": "<q"}


@dataclass(frozen=True)
class AdapterFacts:
    """What an adapter is. `alpha` is the most frequent one, and the rank where the file says nothing.

    `title` is what the file calls itself, "" where it does not say.
    """

    key_style: str
    family: str
    rank: int
    alpha: float
    targets: tuple[str, ...]
    text_encoders: tuple[int, ...]
    trigger_words: tuple[str, ...]
    title: str


def read_adapter(file: BinaryIO, *, size: int) -> AdapterFacts:
    """The facts about a LoRA file of `size` bytes. Raises HeaderError or AdapterError, whose reasons are for people.

    Reads the header, and of the tensors only alphas: single numbers of 2 to 8 bytes.
    """
    header = read_header(file, size=size)
    modules = find_modules(header.tensors)
    family = family_of(modules, base=_base(header))
    if family not in _WITH_ALPHAS and any(module.alpha for module in modules if module.style != KOHYA):
        raise AdapterError("it holds alphas beside diffusers' names, which diffusers refuses")
    if any(map(is_bfl, modules)):
        bfl_check(modules, flux2=family == FLUX2)
    elif modules[0].style == DOTTED and not _converted(family, modules):
        raise AdapterError("its dotted names with kohya's ends are not loaded by diffusers for its family")
    if any(module.alpha for module in modules if module.style == XLABS):
        raise AdapterError("it holds alphas beside XLabs' names, which diffusers refuses")
    if any(module.alpha is None for module in modules if module.path.startswith("lora_transformer_")):
        raise AdapterError("it lacks alphas, which diffusers expects beside OneTrainer's names")
    rank = max(module.rank for module in modules)
    config_alpha = _check_config(header, names=len(modules))
    alphas = Counter(_alpha(file, module) for module in modules)
    found = alphas.most_common(1)[0][0]
    return AdapterFacts(
        key_style=modules[0].style,
        family=family,
        rank=rank,
        alpha=next(float(alpha) for alpha in (config_alpha, found, rank) if alpha is not None),
        targets=tuple(sorted({_target(module.path) for module in modules})),
        text_encoders=_text_encoders(modules),
        trigger_words=_trigger_words(header),
        title=_title(header),
    )


def _converted(family: str, modules: list[Module]) -> bool:
    """Whether diffusers brings dotted names with kohya's ends into its own; it knows them by one of two signs."""
    told = all(module.alpha for module in modules) or modules[0].path.startswith("diffusion_model.")
    return family in (QWEN_IMAGE, Z_IMAGE) and told


def _alpha(file: BinaryIO, module: Module) -> float | None:
    if module.alpha is None:
        return None
    value = _scalar(file, module.alpha)
    if not math.isfinite(value):
        raise AdapterError(f"the alpha of {quoted(module.path)} is not finite")
    return value


def _scalar(file: BinaryIO, tensor: TensorInfo) -> float:
    file.seek(tensor.start)
    raw = file.read(tensor.end - tensor.start)
    if tensor.dtype == "BF16":  # the upper half of a single-precision number
        raw, layout = b"\x00\x00" + raw, "<f"
    else:
        layout = _SCALARS[tensor.dtype]
    try:
        (value,) = struct.unpack(layout, raw)
    except struct.error as error:
        raise AdapterError("it is truncated") from error
    return float(value)


def _target(path: str) -> str:
    """The kind of module, alike in every way of naming, such as `attn2_to_k`."""
    plain = path.replace(".", "_").replace("_processor", "")
    found = [match for match in _TARGETS.finditer(plain) if match.end() == len(plain)]
    return found[0][0] if found else plain.rpartition("_")[2][:40] or plain[:40]


def _text_encoders(modules: list[Module]) -> tuple[int, ...]:
    components = {module.component for module in modules}
    return tuple(
        number for number, name in ((1, "text_encoder"), (2, "text_encoder_2")) if name in components
    )


def _trigger_words(header: Header) -> tuple[str, ...]:
    """What the file itself names as its trigger, where that can be stored."""
    words = header.metadata.get("modelspec.trigger_phrase", "").strip()
    return (words,) if words.isprintable() and 0 < len(words) <= 100 else ()


def _title(header: Header) -> str:
    """What the file calls itself, as far as a title goes."""
    title = header.metadata.get("modelspec.title") or header.metadata.get("ss_output_name", "")
    return title[:_MAX_TITLE_CHARACTERS]


def _base(header: Header) -> str:
    """What the file says of the model that it is for, in its trainer's words and its own title."""
    said = ("ss_base_model_version", "modelspec.architecture", "ss_sd_model_name", "modelspec.title")
    return " ".join(header.metadata.get(name, "")[:_MAX_TITLE_CHARACTERS] for name in said)


def _check_config(header: Header, *, names: int) -> float | None:
    """Checks the peft configuration that a file may carry; returns its alpha. Raises AdapterError.

    It may name as many modules as the file adapts.
    """
    text = header.metadata.get(_CONFIG_KEY)
    if text is None:
        return None
    if len(text) > _MAX_CONFIG_CHARACTERS:
        raise AdapterError("its adapter configuration is too large")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterError("its adapter configuration is not valid JSON") from error
    if not isinstance(config, dict):
        raise AdapterError("its adapter configuration is not a JSON object")
    alpha = None
    for key, value in config.items():
        _, _, option = key.rpartition(".")
        if not _is_harmless(option, value):
            raise AdapterError(f"its adapter configuration asks for {quoted(option)}, which is not supported")
        if isinstance(value, dict | list) and len(value) > names:
            raise AdapterError(f"its adapter configuration names {len(value)} modules, and it adapts {names}")
        if option == "lora_alpha":
            alpha = float(value)
    return alpha


def _is_harmless(option: str, value: Any) -> bool:
    match option:
        case "r":
            return _is_rank(value)
        case "lora_alpha":
            return _is_alpha(value)
        case "rank_pattern":
            return (
                isinstance(value, dict) and all(map(_is_name, value)) and all(map(_is_rank, value.values()))
            )
        case "alpha_pattern":
            return (
                isinstance(value, dict) and all(map(_is_name, value)) and all(map(_is_alpha, value.values()))
            )
        case "target_modules":
            # Names only: one text would be a pattern, which could be made to match for ever.
            return isinstance(value, list) and all(map(_is_name, value))
        case "init_lora_weights":
            return value in (True, False, "gaussian")
        case "bias":
            return bool(value == "none")
        case _:
            return option in _CONFIG_NOTES or value in (None, False, {}, [])


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and _PLAIN_NAME.fullmatch(value) is not None


def _is_rank(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_RANK


def _is_alpha(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _MAX_ALPHA  # false for NaN too
