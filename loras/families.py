"""Which family of checkpoints an adapter was made for, told by its shapes and names.

The width of what cross-attention reads is the width of the text encoders' output, and differs between the families
that have a U-Net; families with a transformer are told by its blocks.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from loras.bfl_names import FLUX2_WIDTHS, is_bfl, is_flux2, is_klein
from loras.key_styles import XLABS, AdapterError, Module

BUILTIN: Final = "builtin"
SD1: Final = "sd1"
SD2: Final = "sd2"
SDXL: Final = "sdxl"
SD3: Final = "sd3"
FLUX: Final = "flux"
FLUX2: Final = "flux2"
QWEN_IMAGE: Final = "qwen-image"
Z_IMAGE: Final = "z-image"
LUMINA2: Final = "lumina2"

_FAMILY_BY_TEXT_WIDTH: Final = {160: BUILTIN, 768: SD1, 1024: SD2, 2048: SDXL}
# The hidden width of each family's text encoders, the first and the second.
_ENCODER_WIDTHS: Final[dict[str, dict[str, int]]] = {
    BUILTIN: {"text_encoder": 160},
    SD1: {"text_encoder": 768},
    SD2: {"text_encoder": 1024},
    SDXL: {"text_encoder": 768, "text_encoder_2": 1280},
    SD3: {"text_encoder": 768, "text_encoder_2": 1280},
    FLUX: {"text_encoder": 768},
    **{family: {} for family in (FLUX2, QWEN_IMAGE, Z_IMAGE, LUMINA2)},
}
# How many modules a family's parts have that can be adapted, rounded up; of SD2 and SD3 the larger versions'.
_MAX_MODULES: Final[dict[str, dict[str, int]]] = {
    BUILTIN: {"unet": 400, "text_encoder": 100},
    SD1: {"unet": 300, "text_encoder": 80},
    SD2: {"unet": 300, "text_encoder": 150},
    SDXL: {"unet": 800, "text_encoder": 80, "text_encoder_2": 200},
    SD3: {"transformer": 600, "text_encoder": 80, "text_encoder_2": 200},
    # kohya's names begin with lora_unet_ here too.
    FLUX: {"transformer": 600, "unet": 600, "text_encoder": 80},
    FLUX2: {"transformer": 300, "unet": 300},
    QWEN_IMAGE: {"transformer": 900},
    Z_IMAGE: {"transformer": 400},
    LUMINA2: {"transformer": 400},
}
_FLUX_WIDTH: Final = 3072  # of Qwen-Image too
_FLUX_DOUBLE_BLOCKS: Final = 19
# Of transformers whose blocks are called layers.
_LAYER_WIDTHS: Final = {3840: Z_IMAGE, 2304: LUMINA2}
_ONETRAINER: Final = "lora_transformer_"
_READS: Final = (".to_q", ".to_k", ".to_v", ".attention.qkv")
_OF_FLUX2: Final = ("to_qkv_mlp_proj", ".ff.linear_", ".ff_context.linear_")
_OF_FLUX1: Final = (".ff.net.", ".ff_context.net.", ".norm1")
_OF_QWEN: Final = (".img_mlp.", ".txt_mlp.", ".img_mod.", ".txt_mod.")
_SD3_WIDTHS: Final = (1536, 2432)
_UNDECIDABLE: Final = "nothing in it tells which family of models it was made for"
# Of other transformers, whose blocks have the same names.
_FOREIGN_BLOCKS: Final = ("token_refiner",)


def family_of(modules: list[Module], *, base: str = "") -> str:
    """The family that an adapter fits; `base` is what its file says of the model that it is for.

    Raises AdapterError when it cannot be told, or parts contradict each other.
    """
    components = {module.component for module in modules}
    if "transformer" in components or any(map(is_bfl, modules)):
        if "unet" in components and "transformer" in components:
            raise AdapterError("it holds weights for a U-Net and for a transformer")
        family = _family_of_transformer(modules, base)
    elif "unet" in components:
        family = _family_of_unet([module for module in modules if module.component == "unet"])
    else:
        family = _family_of_encoders(modules)
    _check_encoders(family, modules)
    _check_number(family, modules)
    return family


def _check_number(family: str, modules: list[Module]) -> None:
    for component, number in Counter(module.component for module in modules).items():
        limit = _MAX_MODULES[family].get(component, 0)
        if number > limit:
            raise AdapterError(f"it adapts {number} modules of a {component}; {family} has {limit} at most")


def _family_of_transformer(modules: list[Module], base: str) -> str:
    blocks = [module for module in modules if module.component in {"transformer", "unet"}]
    if any(map(is_bfl, blocks)):
        return FLUX2 if is_flux2(blocks, base=base) else FLUX
    if any(module.style == XLABS for module in blocks):
        return FLUX
    if all(module.path.startswith(_ONETRAINER) for module in blocks):
        return _family_of_onetrainer(blocks)
    if any(mark in module.path for module in blocks for mark in _FOREIGN_BLOCKS):
        raise AdapterError("it was made for a transformer that is not supported")
    names = [module.path.removeprefix("transformer.").removeprefix("diffusion_model.") for module in blocks]
    if any(name.startswith(("layers.", "context_refiner.", "noise_refiner.")) for name in names):
        return _told_by(_LAYER_WIDTHS, {module.inputs for module in blocks if module.path.endswith(_READS)})
    if any(_has(name, _OF_FLUX2) for name in names):
        return FLUX2
    if any(name.startswith("transformer_blocks.") and _has(name, _OF_QWEN) for name in names):
        return QWEN_IMAGE
    if any(name.startswith("single_transformer_blocks.") for name in names):
        return FLUX
    return _family_of_attention(blocks, names, base)


def _family_of_attention(blocks: list[Module], names: list[str], base: str) -> str:
    """The family of what adapts the attention of double blocks, and nothing that one family alone has."""
    widths = {module.inputs for module in blocks if module.path.endswith((".attn.to_q", ".attn.to_k"))}
    if widths == {_FLUX_WIDTH}:
        # Attention of all three has the same names and widths; Qwen-Image has most blocks, FLUX.2's smallest fewest.
        numbers = {number for number in map(_block, names) if number >= 0}
        if max(numbers, default=0) >= _FLUX_DOUBLE_BLOCKS:
            return QWEN_IMAGE
        of_flux1 = any(_has(name, _OF_FLUX1) for name in names)
        return FLUX2 if not of_flux1 and is_klein(numbers, base=base) else FLUX
    known = dict.fromkeys(_SD3_WIDTHS, SD3) | dict.fromkeys(FLUX2_WIDTHS, FLUX2)
    return _told_by(known, widths)


def _family_of_onetrainer(blocks: list[Module]) -> str:
    """Stable Diffusion 3 has blocks of the same names, and no single ones; diffusers does not load those."""
    if any(module.path.startswith(f"{_ONETRAINER}single_") for module in blocks):
        return FLUX
    return _told_by({_FLUX_WIDTH: FLUX}, {module.inputs for module in blocks if "_attn_to_" in module.path})


def _has(name: str, marks: tuple[str, ...]) -> bool:
    return any(mark in name for mark in marks)


def _told_by(known: Mapping[int, str], widths: set[int]) -> str:
    """The family of that one width. Raises AdapterError."""
    family = known.get(next(iter(widths))) if len(widths) == 1 else None
    if family is None:
        raise AdapterError(_UNDECIDABLE)
    return family


def _block(name: str) -> int:
    """The number of the block that a module belongs to; -1 for one outside."""
    head, _, rest = name.partition("transformer_blocks.")
    number = rest.partition(".")[0]
    return int(number) if not head and number.isdecimal() and number.isascii() else -1


def _family_of_unet(modules: list[Module]) -> str:
    widths = {module.inputs for module in modules if _reads_text(module.path)}
    families = {_FAMILY_BY_TEXT_WIDTH.get(width, "") for width in widths}
    if "" in families:
        strange = ", ".join(str(width) for width in sorted(widths) if width not in _FAMILY_BY_TEXT_WIDTH)
        raise AdapterError(
            f"its cross-attention reads text of width {strange}, which no supported family has"
        )
    if len(families) > 1:
        raise AdapterError(f"its parts fit different families: {', '.join(sorted(families))}")
    if families:
        return families.pop()
    # Without cross-attention: of the U-Nets, only SDXL's stacks several transformer blocks.
    if any(_is_deep(module.path) for module in modules):
        return SDXL
    raise AdapterError(_UNDECIDABLE)


def _reads_text(path: str) -> bool:
    return path.replace(".", "_").replace("_processor", "").endswith(("attn2_to_k", "attn2_to_v"))


def _is_deep(path: str) -> bool:
    _, found, rest = path.replace(".", "_").partition("_transformer_blocks_")
    return bool(found) and rest.partition("_")[0] not in {"", "0"}


def _family_of_encoders(modules: list[Module]) -> str:
    """An adapter of text encoders alone."""
    if any(module.path.startswith("lora_te2_") for module in modules):
        return SDXL
    widths = _encoder_inputs("text_encoder", modules)
    kohya = all(module.path.startswith("lora_te_") for module in modules)
    for family in (BUILTIN, SD2) if not kohya else (BUILTIN, SD2, SD1):
        if widths == {_ENCODER_WIDTHS[family]["text_encoder"]}:
            return family
    raise AdapterError(_UNDECIDABLE)


def _encoder_inputs(component: str, modules: list[Module]) -> set[int]:
    """The widths of what attention reads there: the encoder's hidden width."""
    ends = tuple(f"{mark}{letter}_proj" for mark in "._" for letter in "qkv") + tuple(
        f".to_{letter}" for letter in "qkv"
    )
    return {
        module.inputs for module in modules if module.component == component and module.path.endswith(ends)
    }


def _check_encoders(family: str, modules: list[Module]) -> None:
    expected = _ENCODER_WIDTHS[family]
    for component in {module.component for module in modules} - {"unet", "transformer"}:
        if component not in expected:
            raise AdapterError(
                f"it fits {family}, which has no second text encoder, and holds weights for one"
            )
        if not _encoder_inputs(component, modules) <= {expected[component]}:
            raise AdapterError(f"its text encoder weights do not fit {family}, as its other parts do")
