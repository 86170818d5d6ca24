"""Weights that a library has quantized: which libraries' are read here, and why those of others are not.

Knows neither Django nor torch.
"""

import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

# The libraries that read such weights, as requirements-quantized.txt pins them.
LIBRARIES: Final[Mapping[str, str]] = {
    "bitsandbytes": "bitsandbytes==0.50.2",
    "torchao": "torchao==0.18.0",
}
# Why what others wrote is not read, though diffusers or transformers know them by name.
REFUSED: Final[Mapping[str, str]] = {
    "bfl": "it is a layout of single files",
    "fp8": "its kernels are fetched from the Hub, which is code from elsewhere",
    "gguf": "it is a layout of single files",
    "modelopt": "its library rewrites classes of diffusers and transformers before it reads such weights",
    "nunchaku_lite": "its kernels are fetched from the Hub, which is code from elsewhere",
    "quanto": "its library has had no release since March 2025",
    "sdnq": "its library is licensed as GPL-3.0-only",
}
OTHERS: Final = "it takes a library that is not part of this service"
INSTEAD: Final = (
    "take the repository with 16-bit weights, which the number format float8 stores in eight bits"
)

_FORMATS: Final = frozenset({"float16", "bfloat16", "float32"})
# Settings of bitsandbytes that name something, and what they may name.
_NAMED: Final[Mapping[str, frozenset[str]]] = {
    "bnb_4bit_compute_dtype": _FORMATS,
    "bnb_4bit_quant_storage": _FORMATS | {"uint8", "int8"},
    "bnb_4bit_quant_type": frozenset({"nf4", "fp4"}),
}


class QuantizationError(ValueError):
    """Weights that are quantized and cannot be read here; the message is a part of a sentence."""


def quantization_check(shown: str, quantized: Any) -> str:
    """The library that reads weights which a file called `shown` says are `quantized`. Raises QuantizationError."""
    method = _method(quantized)
    if method not in LIBRARIES:
        raise QuantizationError(
            f"its {shown} says that its weights are quantized ({ascii(method)[1:-1][:40]}), which is not read here, "
            f"since {REFUSED.get(method, OTHERS)}: {INSTEAD}"
        )
    for setting, known in _NAMED.items():
        if (named := quantized.get(setting)) is not None and not (isinstance(named, str) and named in known):
            raise QuantizationError(
                f"its {shown} names a {setting} that is not supported ({ascii(named)[:40]})"
            )
    return method


def library_lacks(folder: Path) -> str:
    """What has to be installed before a checkpoint's weights can be read by this Python; "" where nothing is missing.

    A sentence. Files that are no configuration say nothing.
    """
    for part, method in _parts(folder):
        if find_spec(method) is None:
            return (
                f"Its {part} is quantized by {method}, which is not installed here: "
                f"pip install {LIBRARIES[method]}."
            )
    return ""


def _parts(folder: Path) -> Iterator[tuple[str, str]]:
    """The parts that are quantized, and by which of our libraries."""
    for path in sorted(folder.glob("*/config.json")):
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        quantized = config.get("quantization_config") if isinstance(config, dict) else None
        if quantized and (method := _method(quantized)) in LIBRARIES:
            yield path.parent.name, method


def _method(quantized: Any) -> str:
    if not isinstance(quantized, dict):
        return ""
    # Older files of bitsandbytes do not name it.
    bits = quantized.get("load_in_4bit") or quantized.get("load_in_8bit")
    return str(quantized.get("quant_method") or ("bitsandbytes" if bits else ""))
