"""How a model fits into a device's memory: a verdict from sizes alone, before any of its weights is read.

What does not fit at once may fit in turns: text encoders while the prompt is read, then the denoiser, then the
autoencoder alone. Host copies of weights never change, so whatever leaves the device is dropped there and not copied
back. What is too large even so may fit with the denoiser's weights in eight bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

FITS, WITH_OFFLOAD, IN_FLOAT8, TOO_LARGE = "fits", "fits_with_offload", "fits_in_float8", "too_large"

DENOISERS: Final = ("unet", "transformer")
ENCODERS: Final = ("text_encoder", "text_encoder_2", "text_encoder_3")
# The denoiser whose weights can be stored in eight bits.
FLOAT8_PART: Final = "transformer"
# What a driver, its kernels and their workspaces take of a GPU.
CONTEXT_BYTES: Final = 600 << 20
# What a process takes of the host beside weights.
PROCESS_BYTES: Final = 2 << 30
# A step's intermediate results at a million pixels, and a decoding in tiles: a part of the denoiser, or this much.
_WORKING_PART: Final = 0.06
_WORKING_BYTES: Final = 1536 << 20
# The same while a prompt is read.
_ENCODING_BYTES: Final = 256 << 20


@dataclass(frozen=True)
class Weights:
    """How many numbers each part of a model has, and the bytes of one in the format that it runs in."""

    numbers: Mapping[str, int]
    item_bytes: int

    def sizes(self, *, float8: bool = False) -> dict[str, int]:
        """The bytes of each part, with the denoiser's weights in eight bits or not."""
        sizes = {name: count * self.item_bytes for name, count in self.numbers.items()}
        return sizes | {FLOAT8_PART: self.numbers[FLOAT8_PART]} if float8 else sizes


@dataclass(frozen=True)
class Memory:
    """What a model may have of the device and of the host, in bytes; `shared` where the device is the host."""

    device: int
    host: int
    shared: bool = False


@dataclass(frozen=True)
class Plan:
    """How a model fits: one of the four words above, and why.

    `in_turns` says that its parts are on the device in turns, `float8` that the denoiser's weights are stored in eight
    bits. `stages` are the bytes of weights that are there while it encodes, denoises and decodes. `room_bytes` is what
    the device has for weights and intermediate results, of which `working_bytes` stay free for the latter while it
    denoises, and `encoding_bytes` while it encodes.
    """

    verdict: str
    reason: str
    stages: tuple[int, int, int]
    room_bytes: int
    working_bytes: int
    in_turns: bool = False
    float8: bool = False

    @property
    def encoding_bytes(self) -> int:
        """What stays free while text encoders read a prompt."""
        return min(_ENCODING_BYTES, self.working_bytes)

    @property
    def device_bytes(self) -> int:
        """Bytes of weights on the device, at the most."""
        return max(self.stages)


def plan_make(weights: Weights, memory: Memory, *, dtype: str = "auto") -> Plan:
    """How a model of these weights fits into this memory.

    `dtype` is the row's: `auto` takes eight bits for the denoiser where sixteen do not fit, `float8` always does,
    another name never. A U-Net has no such choice, since it would be slower by far.
    """
    plan: Plan | None = None
    for float8 in {"float8": (True,), "auto": (False, True)}.get(dtype, (False,)):
        if float8 and FLOAT8_PART not in weights.numbers:
            continue
        plan = _plan(weights, memory, float8=float8)
        if plan.verdict != TOO_LARGE:
            return plan
    return plan or _plan(weights, memory, float8=False)


def _plan(weights: Weights, memory: Memory, *, float8: bool) -> Plan:
    sizes = weights.sizes(float8=float8)
    whole = sum(sizes.values())
    denoiser = sum(sizes.get(name, 0) for name in DENOISERS)
    encoders = sum(sizes.get(name, 0) for name in ENCODERS)
    rest = whole - denoiser - encoders
    working = 0 if memory.shared else int(max(min(_WORKING_BYTES, denoiser / 2), _WORKING_PART * denoiser))
    room = memory.device - (0 if memory.shared else CONTEXT_BYTES)
    stored = " with the denoiser's in float8" if float8 else ""
    takes = f"Its weights take {_gb(whole)}{stored}, and the device has {_gb(memory.device)}"

    def plan(verdict: str, reason: str, *, in_turns: bool = False) -> Plan:
        stages = (rest + encoders, rest + denoiser, rest) if in_turns else (whole,) * 3
        word = IN_FLOAT8 if float8 and verdict != TOO_LARGE else verdict
        return Plan(word, f"{reason}.", stages, room, working, in_turns=in_turns, float8=float8)

    if not memory.shared and whole + PROCESS_BYTES > memory.host:
        host = f"they are read into the host's memory, which has {_gb(memory.host)}"
        return plan(TOO_LARGE, f"Its weights take {_gb(whole)}{stored}: {host}")
    if whole + working <= room:
        return plan(FITS, takes)
    needed = rest + max(denoiser + working, encoders + min(_ENCODING_BYTES, working))
    if not memory.shared and denoiser and encoders and needed <= room:
        turns = f"text encoders ({_gb(encoders)}) and denoiser ({_gb(denoiser)}) are there in turns"
        return plan(WITH_OFFLOAD, f"{takes}: {turns}", in_turns=True)
    if memory.shared:
        return plan(TOO_LARGE, takes)
    needs = f"in turns, too, it would need {_gb(needed + CONTEXT_BYTES)}"
    return plan(TOO_LARGE, f"{takes}: {needs}")


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
