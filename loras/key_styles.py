"""How the tensors of a LoRA file are named, and which files are no LoRA at all.

Some ways of naming are in use, and diffusers loads all of these: its own of today (`unet.<module>.lora_A.weight`), its
own of the past (`unet.<module>.lora.down.weight` and the names of attention processors), and that of kohya's trainer
(`lora_unet_<module>.lora_down.weight` with `.alpha`), which A1111's tools write too. Of transformers there are also
ComfyUI's (`diffusion_model.<module>`), and dotted names with kohya's ends (`<module>.lora_down.weight`); of FLUX.1
those of XLabs (`double_blocks.<number>.processor.qkv_lora1.down.weight`) and of OneTrainer, which are kohya's with
`lora_transformer_<module>`. FLUX's modules have names of their authors' beside those of diffusers (bfl_names.py).
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from imagegen_project.common.safetensors_header import TensorInfo, quoted

MAX_RANK: Final = 1024
# The longest real ones have 62 characters and 9 dots behind the component's name, kohya's and the old ones a few more.
MAX_NAME_CHARACTERS: Final = 128
MAX_NAME_DOTS: Final = 14
PEFT: Final = "peft"
DIFFUSERS: Final = "diffusers"
KOHYA: Final = "kohya"
DOTTED: Final = "dotted"
XLABS: Final = "xlabs"

FLOATS: Final = ("F16", "BF16", "F32", "F64")
# kohya's scripts write alphas as numbers of any type.
_ALPHA_DTYPES: Final = (*FLOATS, "I32", "I64")

# Names become patterns in peft, so nothing but plain ones is let through.
_PEFT: Final = re.compile(r"(?P<module>[A-Za-z0-9_.]+)\.lora_(?P<part>[AB])\.weight")
_DIFFUSERS: Final = re.compile(
    r"(?P<module>[A-Za-z0-9_.]+?)(?:\.lora|_lora|\.lora_linear_layer)\.(?P<part>down|up)\.weight"
)
_KOHYA: Final = re.compile(
    r"(?P<module>lora_(?:unet|te|te1|te2)_[A-Za-z0-9_]+)\.(?:lora_(?P<part>down|up)\.weight|alpha)"
)
# The modules of FLUX.1 that diffusers knows by these names; of the blocks only attention.
_ONETRAINER: Final = re.compile(
    r"(?P<module>lora_transformer_(?:(?:single_)?transformer_blocks_\d{1,3}_attn_"
    r"(?:to_[qkv]|to_out_0|to_add_out|add_[qkv]_proj)|context_embedder|norm_out_linear|proj_out|x_embedder|"
    r"time_text_embed_(?:guidance|text|timestep)_embedder_linear_[12]))"
    r"\.(?:lora_(?P<part>down|up)\.weight|alpha)"
)
_XLABS: Final = re.compile(
    r"(?P<module>(?:diffusion_model\.)?(?:double_blocks\.\d{1,3}\.processor\.(?:qkv|proj)_lora[12]|"
    r"single_blocks\.\d{1,3}\.processor\.(?:qkv|proj)_lora))\.(?P<part>down|up)\.weight"
)
# Of transformers alone: their modules' own names, with or without the part that they belong to.
_DOTTED: Final = re.compile(
    r"(?P<module>(?:(?:transformer\.|diffusion_model\.)?(?:transformer_blocks|layers)\.|"
    r"diffusion_model\.(?:double|single)_blocks\.)[A-Za-z0-9_.]+)"
    r"\.lora_(?P<part>down|up)\.weight"
)
_TRANSFORMER_ALPHA: Final = re.compile(
    r"(?P<module>(?:transformer\.|diffusion_model\.|transformer_blocks\.|layers\.)[A-Za-z0-9_.]+)\.alpha"
)

_COMPONENTS: Final = ("unet", "transformer", "text_encoder", "text_encoder_2")
_KOHYA_COMPONENTS: Final = {
    "unet": "unet",
    "te": "text_encoder",
    "te1": "text_encoder",
    "te2": "text_encoder_2",
    "transformer": "transformer",
}

# Marks of what is often taken for a LoRA file; the first that is found names it.
_FOREIGN: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"\.hada_[wt]\d"), "a LoHa (LyCORIS) adapter; only LoRA is supported"),
    (re.compile(r"\.lokr_[wt]\d"), "a LoKr (LyCORIS) adapter; only LoRA is supported"),
    (re.compile(r"\.oft_|oft_blocks"), "an OFT adapter; only LoRA is supported"),
    (
        re.compile(r"dora_scale|lora_magnitude_vector"),
        "a DoRA adapter, whose magnitudes diffusers would drop; only LoRA is supported",
    ),
    (re.compile(r"\.lora_mid\."), "a LoCon adapter in Tucker form; only plain LoRA is supported"),
    (re.compile(r"\.diff(_b)?$"), "a file of whole weight differences; only LoRA is supported"),
    (re.compile(r"^bundle_emb\."), "a LoRA bundled with textual inversions, which diffusers does not load"),
    (re.compile(r"^(emb_params|string_to_param|clip_[lg])$"), "a textual inversion, not a LoRA"),
    (re.compile(r"lora_controlnet|^control_(model|lora)"), "a ControlNet, not a LoRA"),
    (
        re.compile(r"^base_model\.model\.(?!(double|single)_blocks\.|final_layer\.|\w+_in\.)"),
        "a raw PEFT export; save it with diffusers' save_lora_weights",
    ),
    (re.compile(r"^lora_unet_joint_blocks_"), "an SD3 LoRA in kohya's naming, which diffusers does not load"),
    (re.compile(r"^(model\.diffusion_model|first_stage_model|cond_stage_model)\."), "a whole checkpoint"),
)


class AdapterError(Exception):
    """The file is no adapter that can be used; `reason` says why, as the rest of a sentence about the file."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Module:
    """One adapted module: what belongs to it in the file. `path` is its name in the file's own naming."""

    component: str
    path: str
    style: str
    down: TensorInfo
    up: TensorInfo
    alpha: TensorInfo | None

    @property
    def rank(self) -> int:
        """The inner width of the pair."""
        return self.down.shape[0]

    @property
    def inputs(self) -> int:
        """How wide what goes in is."""
        return self.down.shape[1]

    @property
    def outputs(self) -> int:
        """How wide what comes out is."""
        return self.up.shape[0]


def find_modules(tensors: Mapping[str, TensorInfo]) -> list[Module]:
    """The adapted modules of a file, each checked for itself. Raises AdapterError."""
    _refuse_foreign(tensors)
    groups: dict[str, dict[str, TensorInfo]] = {}
    styles: dict[str, set[str]] = {}
    for name, tensor in tensors.items():
        path, style, part = _split(name)
        if part in groups.setdefault(path, {}):
            raise AdapterError(f"it holds {quoted(path)} twice, in two ways of naming")
        groups[path][part] = tensor
        if style:
            styles.setdefault(path, set()).add(style)
    if not styles:
        raise AdapterError("it holds no LoRA weights at all")
    modules = [_module(path, parts, styles.get(path, set())) for path, parts in groups.items()]
    _check_one_style(modules)
    return modules


def _refuse_foreign(names: Iterable[str]) -> None:
    found = Counter[str]()
    for name in names:
        for pattern, what in _FOREIGN:
            if pattern.search(name):
                found[what] += 1
                break
    if found:
        raise AdapterError(f"it is {found.most_common(1)[0][0]}")


def _split(name: str) -> tuple[str, str, str]:
    """A tensor's module, way of naming and part (down, up, alpha)."""
    # peft looks for every name in every module, and makes patterns of them.
    if len(name) > MAX_NAME_CHARACTERS or name.count(".") > MAX_NAME_DOTS:
        raise AdapterError(f"it holds {quoted(name)}, a longer name than any module has")
    if match := _KOHYA.fullmatch(name) or _ONETRAINER.fullmatch(name):
        return match["module"], KOHYA, match["part"] or "alpha"
    if match := _XLABS.fullmatch(name):
        return match["module"], XLABS, match["part"]
    if match := _PEFT.fullmatch(name):
        return match["module"], PEFT, {"A": "down", "B": "up"}[match["part"]]
    if match := _DIFFUSERS.fullmatch(name):
        return match["module"], DIFFUSERS, match["part"]
    if match := _DOTTED.fullmatch(name):
        return match["module"], DOTTED, match["part"]
    if match := _TRANSFORMER_ALPHA.fullmatch(name):
        return match["module"], "", "alpha"
    if "lora" in name:
        raise AdapterError(f"it holds {quoted(name)}, which belongs to no known way of naming LoRA weights")
    raise AdapterError(f"it holds {quoted(name)}, which is no LoRA weight")


def _component(path: str, style: str) -> str:
    if style == KOHYA:
        return _KOHYA_COMPONENTS[path.split("_", 2)[1]]
    component = path.partition(".")[0]
    if style in (DOTTED, XLABS) or component in ("diffusion_model", "base_model"):
        return "transformer"
    if component not in _COMPONENTS:
        known = ", ".join(_COMPONENTS)
        raise AdapterError(f"{quoted(path)} does not begin with the part it belongs to ({known})")
    return component


def _module(path: str, parts: dict[str, TensorInfo], styles: set[str]) -> Module:
    if len(styles) > 1:
        raise AdapterError(f"{quoted(path)} is named in two ways at once")
    missing = {"down", "up"} - set(parts)
    if missing:
        raise AdapterError(f"{quoted(path)} lacks its {' and '.join(sorted(missing))} weights")
    style = next(iter(styles))
    module = Module(_component(path, style), path, style, parts["down"], parts["up"], parts.get("alpha"))
    _check_pair(module)
    if module.alpha and (module.alpha.dtype not in _ALPHA_DTYPES or module.alpha.shape not in {(), (1,)}):
        raise AdapterError(f"the alpha of {quoted(path)} is not one number")
    return module


def _check_pair(module: Module) -> None:
    """Linear pairs are (rank, in) and (out, rank); of convolutions only the first looks around."""
    shown, down, up = quoted(module.path), module.down, module.up
    for tensor in (down, up):
        if tensor.dtype not in FLOATS:
            raise AdapterError(
                f"the weights of {shown} are {tensor.dtype}; {', '.join(FLOATS)} are supported"
            )
    if len(down.shape) not in (2, 4) or len(down.shape) != len(up.shape):
        raise AdapterError(f"the weights of {shown} have {len(down.shape)} and {len(up.shape)} dimensions")
    if not 1 <= module.rank <= MAX_RANK:
        raise AdapterError(f"{shown} has rank {module.rank}; 1 to {MAX_RANK} make sense")
    if up.shape[1] != module.rank:
        raise AdapterError(f"the weights of {shown} have two ranks, {module.rank} and {up.shape[1]}")
    if 0 in down.shape + up.shape or up.shape[2:] not in {(), (1, 1)}:
        raise AdapterError(f"the weights of {shown} have impossible shapes")


def _check_one_style(modules: list[Module]) -> None:
    """diffusers tells kohya's naming by all keys, and its own two apart by a component's first key."""
    styles: dict[str, set[str]] = {}
    for module in modules:
        styles.setdefault(module.component, set()).add(module.style)
    used = set().union(*styles.values())
    if KOHYA in used and len(used) > 1:
        raise AdapterError("it mixes kohya's and diffusers' way of naming")
    if any(len(names) > 1 for names in styles.values()):
        raise AdapterError("it mixes diffusers' old and present way of naming")
