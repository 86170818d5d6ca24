"""Black Forest Labs' own names of FLUX's modules, which kohya's trainer, ai-toolkit, ComfyUI and fal write.

FLUX.1 and FLUX.2 have the same names, told apart by shapes. diffusers converts of them what `bfl_check` lets through,
and drops the rest without a word.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from imagegen_project.common.safetensors_header import quoted
from loras.key_styles import DOTTED, KOHYA, AdapterError, Module

_NAMES: Final = re.compile(
    r"(?P<prefix>lora_unet_|diffusion_model\.|base_model\.model\.)(?:"
    r"double_blocks[._](?P<double>\d{1,3})[._](?:img|txt)_(?P<within>attn[._](?:qkv|proj)|mlp[._][02]|mod[._]lin)|"
    r"single_blocks[._](?P<single>\d{1,3})[._](?P<alone>linear[12]|modulation[._]lin)|"
    r"(?P<outside>img_in|txt_in|(?:time|vector|guidance)_in[._](?:in|out)_layer|"
    r"final_layer[._](?:linear|adaLN_modulation[._]1)|"
    r"(?:single_stream_modulation|double_stream_modulation_(?:img|txt))[._]lin))"
)
FLUX2_WIDTHS: Final = (4096, 6144)
# Of the smallest FLUX.2, klein, which is as wide as FLUX.1: how many blocks of each kind it has.
_KLEIN_BLOCKS: Final = {"double": 5, "single": 20}
# How the files of trainers, and their authors' titles, call FLUX.2.
_NAMED_FLUX2: Final = re.compile(r"flux[ ._-]?2(?!\d)|klein[ ._-]?[49]b")
# How many times wider a layer's one side is than the other, in FLUX.1 and in FLUX.2.
_RATIOS: Final = {"linear1": (7, 9), "linear2": (5, 4), "mlp_0": (4, 6), "mlp_2": (4, 3)}
# A LoRA in fal's naming has all of FLUX.1's blocks, since diffusers takes none with less.
_DOUBLE: Final = tuple(
    f"{stream}_{part}"
    for stream in ("img", "txt")
    for part in ("attn.qkv", "attn.proj", "mlp.0", "mlp.2", "mod.lin")
)
_WHOLE: Final = frozenset(
    {f"base_model.model.double_blocks.{number}.{part}" for number in range(19) for part in _DOUBLE}
    | {
        f"base_model.model.single_blocks.{number}.{part}"
        for number in range(38)
        for part in ("linear1", "linear2", "modulation.lin")
    }
    | {"base_model.model.final_layer.linear"}
)
# The modules that diffusers knows in kohya's form and drops: of FLUX.1 and of FLUX.2.
_DROPPED: Final = (re.compile(r"^(?!.*_blocks)"), re.compile(r"guidance_in|adaLN|stream_modulation"))


def is_bfl(module: Module) -> bool:
    """Whether a module has such a name."""
    return _NAMES.fullmatch(module.path) is not None


def is_klein(doubles: Collection[int], *, base: str) -> bool:
    """Whether what fits FLUX.1's first double blocks and klein's, by these numbers, was made for klein.

    By what the file says of its base; where that says nothing, by having all five of klein's and no more.
    """
    blocks = range(_KLEIN_BLOCKS["double"])
    if not set(doubles) <= set(blocks):
        return False
    return bool(_NAMED_FLUX2.search(base.lower())) or set(doubles) == set(blocks)


def is_flux2(modules: Sequence[Module], *, base: str) -> bool:
    """Whether modules of such names are FLUX.2's; `base` is what their file says of the model that it is for.

    Raises AdapterError where they are not all such, or contradictory.
    """
    if not all(map(is_bfl, modules)):
        raise AdapterError("it mixes FLUX's own names of modules with others")
    signs = {sign for module in modules for sign in _signs(module)}
    if len(signs) > 1:
        raise AdapterError("its parts fit different families: flux, flux2")
    if not signs:
        matches = filter(None, (_NAMES.fullmatch(module.path) for module in modules))
        return is_klein([int(match["double"]) for match in matches if match["double"]], base=base)
    return signs == {True}


def _signs(module: Module) -> Iterator[bool]:
    """What one module says, if anything: true for FLUX.2."""
    match = _NAMES.fullmatch(module.path)
    if match is None:
        return
    layer = (match["within"] or match["alone"] or "").replace(".", "_")
    narrow, wide = sorted((module.inputs, module.outputs))
    if layer in _RATIOS and wide / narrow in _RATIOS[layer]:
        yield _RATIOS[layer].index(wide // narrow) == 1
    if layer and narrow in FLUX2_WIDTHS:
        yield True
    elif any(match[kind] and int(match[kind]) >= most for kind, most in _KLEIN_BLOCKS.items()):
        yield False
    if "mod" in layer or "vector_in" in module.path:
        yield False
    if "stream_modulation" in module.path:
        yield True


def bfl_check(modules: Sequence[Module], *, flux2: bool) -> None:
    """Raises AdapterError for a file whose weights diffusers would not put on the model, or not all of them."""
    named = [module for module in modules if is_bfl(module)]
    in_kohyas_form = named[0].style in (DOTTED, KOHYA)
    if flux2 and named[0].style == DOTTED:
        raise AdapterError("FLUX.2's names with dots and kohya's ends are not loaded by diffusers")
    whole = {module.path for module in modules} == _WHOLE and not any(module.alpha for module in modules)
    if not (flux2 or in_kohyas_form or whole):
        raise AdapterError(
            "of FLUX.1's own names with lora_A and lora_B diffusers loads only all of them at once, without alphas"
        )
    dropped = [module.path for module in named if in_kohyas_form and _DROPPED[flux2].search(module.path)]
    if dropped:
        raise AdapterError(f"it adapts {quoted(dropped[0])}, which diffusers would leave out")
