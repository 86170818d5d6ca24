"""The seams of a pipeline's call: where it reads its prompts, and where it decodes."""

import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Final

import torch

# Of one model's prompts, on the device: some sixteen of the longest ones that there are.
EMBEDDINGS_BYTES: Final = 64 << 20
# Intermediate numbers of a decoding, for each pixel of the picture.
_DECODED_NUMBERS: Final = 800

_PLAIN: Final = (str, int, float, bool, type(None), torch.device, torch.dtype)


class Embeddings:
    """What text encoders made of the latest prompts, up to a number of bytes."""

    def __init__(self, *, limit_bytes: int = EMBEDDINGS_BYTES) -> None:
        self._limit = limit_bytes
        self._found: OrderedDict[Hashable, Any] = OrderedDict()
        self.bytes = 0

    def get(self, key: Hashable) -> Any:
        """What was put there under this key; None where nothing is there any more."""
        if key not in self._found:
            return None
        self._found.move_to_end(key)
        return _copied(self._found[key])

    def put(self, key: Hashable, value: Any) -> None:
        """Keeps it; what was used least recently goes."""
        self._found[key] = _copied(value)
        self.bytes += _bytes(value)
        while self.bytes > self._limit:
            _, gone = self._found.popitem(last=False)
            self.bytes -= _bytes(gone)


def _copied(value: Any) -> Any:
    """The same tensors in sequences of their own: a pipeline may add to the ones that it got."""
    if isinstance(value, list | tuple):
        return type(value)(_copied(each) for each in value)
    return value


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _bytes(value: Any) -> int:
    return sum(tensor.nbytes for tensor in _tensors(value))


def _key(value: Any) -> Hashable:
    """A value as a part of a key. Raises TypeError for what is no plain value, such as a picture."""
    if isinstance(value, list | tuple):
        return tuple(_key(each) for each in value)
    if not isinstance(value, _PLAIN):
        raise TypeError
    return type(value).__name__, value


def encode_once(
    pipeline: Any, embeddings: Embeddings, *, beside: Hashable, before: Callable[[], None]
) -> None:
    """Has a row's pipeline take what its encoders made of the same prompts, where they did so lately.

    `beside` is what the encoders depend on beside the call, such as adapters. `before` is called before they run.
    """
    inner = pipeline.encode_prompt

    @functools.wraps(inner)
    def encode_prompt(*arguments: Any, **keywords: Any) -> Any:
        try:
            key = (
                beside,
                _key(arguments),
                _key(sorted(keywords)),
                _key([keywords[name] for name in sorted(keywords)]),
            )
        except TypeError:
            before()
            return inner(*arguments, **keywords)
        found = embeddings.get(key)
        if found is None:
            before()
            found = inner(*arguments, **keywords)
            embeddings.put(key, found)
        return found

    pipeline.__dict__["encode_prompt"] = encode_prompt


class _Autoencoder:
    """Stands in a row's pipeline for its autoencoder, whose decoding somebody looks after."""

    def __init__(self, module: Any, decode: Callable[..., Any]) -> None:
        self._module = module
        self.decode = functools.partial(decode, self._decode)

    def encode(self, pixels: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        """Encodes, in the format that it runs in."""
        return self._module.encode(self._ranged(pixels), *arguments, **keywords)

    def _decode(self, latents: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        return self._module.decode(self._ranged(latents), *arguments, **keywords)

    def _ranged(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same in bfloat16 for an autoencoder of that beside a denoiser in float16."""
        narrow = tensor.dtype == torch.float16 and self._module.dtype == torch.bfloat16
        return tensor.to(torch.bfloat16) if narrow else tensor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    @property  # type: ignore[misc]  # pipelines ask of which class it is
    def __class__(self) -> Any:
        return type(self._module)


def decode_by(pipeline: Any, decode: Callable[..., Any]) -> None:
    """Has a row's pipeline decode with a function that takes the autoencoder's own one first."""
    # Past the registration of parts, whose place it takes.
    pipeline.__dict__["vae"] = _Autoencoder(pipeline.vae, decode)


def decoding_bytes(*, pixels: int, dtype: torch.dtype) -> int:
    """About what decoding so many pixels at once takes beside the weights."""
    return pixels * _DECODED_NUMBERS * int(dtype.itemsize)
