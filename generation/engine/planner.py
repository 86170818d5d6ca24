"""How a model fits into a device's memory: a verdict from sizes alone, before any of its weights is read.

What does not fit at once may fit in turns: text encoders while the prompt is read, then the denoiser, then the
autoencoder alone. Host copies of weights never change, so whatever leaves the device is dropped there and not copied
back. What is too large even so may fit with the denoiser's weights in eight bits. On the smallest devices parts come
and go block by block, at each step anew, but for as many blocks as there is room for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

FITS, WITH_OFFLOAD, IN_FLOAT8 = "fits", "fits_with_offload", "fits_in_float8"
IN_BLOCKS, TOO_LARGE = "fits_in_blocks", "too_large"
NEEDS_LIBRARY = "needs_library"

DENOISERS: Final = ("unet", "transformer")
ENCODERS: Final = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")
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
    """How many numbers each part of a model has, and the bytes of one in the format that it runs in.

    `least` is how many of a part's have to be there at once where its blocks come one after another; without it they do
    not. Of `quantized` parts both are the bytes that their files have, since these stay as they are. `lacks` says what
    has to be installed before they can be read.
    """

    numbers: Mapping[str, int]
    item_bytes: int
    least: Mapping[str, int] = field(default_factory=dict)
    quantized: frozenset[str] = frozenset()
    lacks: str = ""

    def sizes(self, *, float8: bool = False) -> dict[str, int]:
        """The bytes of each part, with the denoiser's weights in eight bits or not."""
        return self._bytes(self.numbers, float8=float8)

    def least_sizes(self, *, float8: bool = False) -> dict[str, int]:
        """The bytes of each part that have to be there at once."""
        return self._bytes({**self.numbers, **self.least}, float8=float8)

    def _bytes(self, numbers: Mapping[str, int], *, float8: bool) -> dict[str, int]:
        sizes = {
            name: count if name in self.quantized else count * self.item_bytes
            for name, count in numbers.items()
        }
        return sizes | {FLOAT8_PART: numbers[FLOAT8_PART]} if float8 else sizes


@dataclass(frozen=True)
class Memory:
    """What a model may have of the device and of the host, in bytes; `shared` where the device is the host."""

    device: int
    host: int
    shared: bool = False


@dataclass(frozen=True)
class Plan:
    """How a model fits: one of the six words above, and why.

    `in_turns` says that its parts are on the device in turns, `in_blocks` that their blocks do so as well, `float8`
    that the denoiser's weights are stored in eight bits. `stages` are the bytes of weights that are there while it
    encodes, denoises and decodes. `room_bytes` is what the device has for weights and intermediate results, of which
    `working_bytes` stay free for the latter while it denoises, and `encoding_bytes` while it encodes.
    """

    verdict: str
    reason: str
    stages: tuple[int, int, int]
    room_bytes: int
    working_bytes: int
    in_turns: bool = False
    in_blocks: bool = False
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
    another name never. A U-Net has no such choice, since it would be slower by far, nor has what is quantized. Block by
    block comes last, with the fewest bits of these, since all of it is copied at each step.
    """
    if weights.lacks:
        return Plan(NEEDS_LIBRARY, weights.lacks, (0, 0, 0), 0, 0)
    formats = {"float8": (True,), "auto": (False, True)}.get(dtype, (False,))
    if FLOAT8_PART not in weights.numbers or FLOAT8_PART in weights.quantized:
        formats = (False,)
    plans = [_plan(weights, memory, float8=float8) for float8 in formats]
    in_blocks = _in_blocks(weights, memory, float8=formats[-1])
    return next((plan for plan in [*plans, in_blocks] if plan and plan.verdict != TOO_LARGE), plans[-1])


def _plan(weights: Weights, memory: Memory, *, float8: bool) -> Plan:
    sizes = weights.sizes(float8=float8)
    whole = sum(sizes.values())
    denoiser, encoders, rest = _grouped(sizes)
    working = 0 if memory.shared else _working(denoiser)
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


def _in_blocks(weights: Weights, memory: Memory, *, float8: bool) -> Plan | None:
    """How a model fits block by block, with as many of them there as there is room for; None where it does not."""
    sizes = weights.sizes(float8=float8)
    whole = sum(sizes.values())
    denoiser, encoders, rest = _grouped(sizes)
    least_denoiser, least_encoders, _ = _grouped(weights.least_sizes(float8=float8))
    working, room = _working(denoiser), memory.device - CONTEXT_BYTES
    encoding = min(_ENCODING_BYTES, working)
    needed = rest + max(least_denoiser + working, least_encoders + encoding)
    if not weights.least or memory.shared or needed > room or whole + PROCESS_BYTES > memory.host:
        return None
    stored = " with the denoiser's in float8" if float8 else ""
    reason = (
        f"Its weights take {_gb(whole)}{stored}, and the device has {_gb(memory.device)}: what has no room there is "
        "copied block by block at each step, which is slow."
    )
    stages = (min(rest + encoders, room - encoding), min(rest + denoiser, room - working), rest)
    return Plan(IN_BLOCKS, reason, stages, room, working, in_turns=True, in_blocks=True, float8=float8)


def _grouped(sizes: Mapping[str, int]) -> tuple[int, int, int]:
    """The bytes of the denoiser, of the text encoders and of the rest."""
    denoiser = sum(sizes.get(name, 0) for name in DENOISERS)
    encoders = sum(sizes.get(name, 0) for name in ENCODERS)
    return denoiser, encoders, sum(sizes.values()) - denoiser - encoders


def _working(denoiser: int) -> int:
    """What a step takes beside weights."""
    return int(max(min(_WORKING_BYTES, denoiser / 2), _WORKING_PART * denoiser))


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
