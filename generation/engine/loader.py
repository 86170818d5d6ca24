"""From a folder of safetensors to tensors in host memory: the first half of the way to a pipeline on the device.

It touches only files and plain tensors, so a thread of its own can do it while a pipeline runs. The second half is
`building.py`.
"""

import errno
import hashlib
import importlib
import json
import re
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
import transformers
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers.utils import logging as transformers_logging

from generation.engine.cpu import quick_bfloat16
from generation.engine.errors import EngineModelBroken, EngineModelUnavailable
from generation.engine.float8 import FLOAT8, storable
from generation.engine.planner import FLOAT8_PART
from generation.engine.quantized import TORCHAO, TORCHAO_DTYPE, library_import, method_of, quantized_names
from generation.engine.specs import ModelRef

# A worker's standard error is its log: bars of the libraries do not belong there.
diffusers_logging.disable_progress_bar()
transformers_logging.disable_progress_bar()

# What a broken or hostile folder makes the libraries raise.
BROKEN: Final = (
    OSError,
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
    RuntimeError,
    ImportError,
    IndexError,
    SafetensorError,
)
# Of these, what says nothing about the files: a host or a device that is out of memory or out of order.
_OF_THE_HOST: Final = (torch.OutOfMemoryError, torch.AcceleratorError)
_HOST_ERRNOS: Final = (errno.ENOMEM, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE)
_NO_HOST_MEMORY: Final = "DefaultCPUAllocator"
_NO_LIBRARY: Final = "pip install"  # what the libraries advise where one is missing
# What older indexes call by a name that transformers has given up.
_RENAMED: Final = {"CLIPFeatureExtractor": "CLIPImageProcessor", "ViTFeatureExtractor": "ViTImageProcessor"}
CHECKER: Final = ("safety_checker", "feature_extractor")
_PLAIN: Final = torch.contiguous_format
_CONVOLUTION: Final = 4  # dimensions of its weights
_WEIGHTS_NAME: Final = re.compile(
    r"^(?P<stem>[^.]+?)(-\d{5}-of-\d{5})?(\.(?P<variant>[A-Za-z0-9_]+))?(-\d{5}-of-\d{5})?\.safetensors$"
)


# Says whether a checkpoint's folder may be read; raises ValueError.
FolderCheck = Callable[[Path], None]


def device_of_choice() -> torch.device:
    """The first CUDA device, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def dtype_for(
    name: str, device: torch.device, *, components: Collection[str] = (), quantized: Collection[str] = ()
) -> torch.dtype:
    """The number format that a pipeline of these components runs in, where these libraries have `quantized` some.

    `auto` is what such weights were made for: float16 with a U-Net, else bfloat16, which they need for its range. A
    card that only emulates that gets float16, and a picture that comes out as no number then fails its job. On a CPU it
    is bfloat16 where the processor multiplies that faster, else single precision, also where `float16` is asked for:
    nothing there is fast at it. What torchao quantized is for bfloat16 everywhere.
    """
    formats = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
    name = "auto" if name == "float8" else name  # which is how weights are stored, and not what they run in
    if name == "auto" and TORCHAO in quantized:
        return TORCHAO_DTYPE
    if device.type == "cpu":
        if name == "auto":
            return torch.bfloat16 if quick_bfloat16() else torch.float32
        return torch.float32 if name == "float16" else formats[name]
    if name in formats:
        return formats[name]
    ranged = "transformer" in components and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if ranged else torch.float16


def channels_last(dtype: torch.dtype) -> bool:
    """Whether convolutions in this format have channels as the innermost dimension.

    So a processor's tiles and a card's tensor cores read them in half precision; elsewhere it gains nothing.
    """
    return dtype in (torch.float16, torch.bfloat16)


@dataclass
class HostModule:
    """One part of a pipeline that holds weights, as tensors in host memory.

    Where a library has `quantized` them, they are as they lie in its files, and `metadata` is what these say of them.
    `built` is the module that was made of them, once it has left the device again, and `origins` are the places of its
    tensors.
    """

    type: Any
    config: Any
    tensors: dict[str, torch.Tensor]
    quantized: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    built: Any = None
    origins: list[tuple[dict[str, Any], str, torch.Tensor]] = field(default_factory=list)


@dataclass
class HostModel:
    """A checkpoint in host memory; `parts` are what holds no weights, such as tokenizers and the scheduler."""

    model: ModelRef
    dtype: torch.dtype
    float8: bool
    pipeline_type: Any
    modules: dict[str, HostModule]
    parts: dict[str, Any]
    options: dict[str, Any]
    weights_sha256: str
    bytes: int = field(init=False)

    @property
    def quantized(self) -> dict[str, str]:
        """The libraries that quantized its parts."""
        return {name: module.quantized for name, module in self.modules.items() if module.quantized}

    @property
    def vae_dtype(self) -> torch.dtype:
        """What the autoencoder runs in, as far as its pipeline does not widen it."""
        vae = self.modules.get("vae")
        if vae and vae.quantized:
            return self.dtype
        return next((tensor.dtype for tensor in vae.tensors.values()), self.dtype) if vae else self.dtype

    def __post_init__(self) -> None:
        self.bytes = sum(
            tensor.nbytes for module in self.modules.values() for tensor in module.tensors.values()
        )


def host_read(
    model: ModelRef,
    device: torch.device,
    *,
    with_checker: bool = False,
    float8: bool = False,
    folder_check: FolderCheck = lambda folder: None,
) -> HostModel:
    """Reads a checkpoint into host memory, in the number format that `device` will run it in.

    Safetensors only, no remote code, no network; memory is pinned where the device is a GPU. `with_checker` reads the
    safety checker too, where the checkpoint ships one. `float8` stores the denoiser's weights in eight bits.
    `folder_check` looks at the folder before any library does, and raises ValueError. Raises EngineModelUnavailable, or
    EngineModelBroken when the files are there and cannot be used.
    """
    if not (model.folder / "model_index.json").is_file():
        raise EngineModelUnavailable(f"The files of {model.id} are not on this worker.")
    try:
        folder_check(model.folder)
        return _host_read(model, device, with_checker=with_checker, float8=float8)
    except EngineModelBroken:
        raise
    except BROKEN as error:
        raise load_error(
            error, model, f"The files of {model.id} are not a pipeline that can be loaded"
        ) from error


def load_error(error: Exception, model: ModelRef, sentence: str) -> EngineModelUnavailable:
    """What an error means: only broken files may take a checkpoint out of service, for every worker there is."""
    of_the_host = (
        isinstance(error, _OF_THE_HOST)
        or (isinstance(error, OSError) and error.errno in _HOST_ERRNOS)
        or (isinstance(error, RuntimeError) and _NO_HOST_MEMORY in str(error))
        or _NO_LIBRARY in str(error)
    )
    if of_the_host:
        return EngineModelUnavailable(f"This worker could not load {model.id}: {error}")
    return EngineModelBroken(f"{sentence}: {error}")


def _host_read(model: ModelRef, device: torch.device, *, with_checker: bool, float8: bool) -> HostModel:
    index: dict[str, Any] = json.loads((model.folder / "model_index.json").read_text(encoding="utf-8"))
    pipeline_type = _pipeline_type(index["_class_name"])
    quantized = quantized_parts(model.folder, index.keys())
    for library in {*quantized.values()}:
        library_import(library)
    dtype = dtype_for(model.dtype, device, components=index.keys(), quantized=quantized.values())
    signature = pipeline_type._get_signature_keys  # noqa: SLF001 - diffusers' own way to ask for the parts
    expected, optional = signature(pipeline_type)
    modules: dict[str, HostModule] = {}
    parts: dict[str, Any] = dict.fromkeys(expected)
    digest = hashlib.sha256()
    for name in sorted(expected & index.keys()):
        folder = model.folder / name
        if name in CHECKER and not (with_checker and folder.is_dir()):
            continue
        kind = _type_of(pipeline_type, index[name])
        if kind is None:
            continue
        if issubclass(kind, torch.nn.Module):
            stored = FLOAT8 if float8 and name == FLOAT8_PART else None
            ranged = name == "vae" and _needs_range(pipeline_type, kind, folder, dtype)
            modules[name] = _module_read(
                kind,
                folder,
                torch.bfloat16 if ranged else dtype,
                model.variant,
                digest.update,
                device=device,
                stored=stored,
            )
            if ranged:
                modules[name].config = {**modules[name].config, "force_upcast": False}
        elif issubclass(kind, diffusers.SchedulerMixin):
            parts[name] = kind.from_config(kind.load_config(folder))
        else:
            parts[name] = kind.from_pretrained(folder, local_files_only=True)
    options = {key: index[key] for key in optional & index.keys()}
    if "requires_safety_checker" in optional:
        options["requires_safety_checker"] = False
    return HostModel(model, dtype, float8, pipeline_type, modules, parts, options, digest.hexdigest())


def quantized_parts(folder: Path, names: Collection[str]) -> dict[str, str]:
    """Which of a checkpoint's parts are quantized, and by which library. Raises OSError, ValueError."""
    found = {}
    for name in names:
        path = folder / name / "config.json"
        if path.is_file() and (method := method_of(json.loads(path.read_text(encoding="utf-8")))):
            found[name] = method
    return found


def _needs_range(pipeline_type: Any, kind: Any, folder: Path, dtype: torch.dtype) -> bool:
    """Whether an autoencoder is to run in bfloat16 since float16, the model's format, is too narrow for it.

    Its configuration says so, and its pipeline would widen it to single precision for each picture, which takes twice
    the memory; so it does on a card that only emulates bfloat16.
    """
    return (
        dtype == torch.float16
        and hasattr(pipeline_type, "upcast_vae")
        and kind.load_config(folder).get("force_upcast", kind is diffusers.AutoencoderKL)
        and torch.cuda.is_bf16_supported(including_emulation=False)
    )


def _pipeline_type(name: str) -> Any:
    """diffusers' class of that name. Raises EngineModelBroken."""
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)):
        raise EngineModelBroken(f"{name} is no pipeline of diffusers.")
    return kind


def _type_of(pipeline_type: Any, named: Any) -> Any:
    """The class that an entry of the index names; None for an empty one. Only the two libraries are looked into."""
    if not isinstance(named, list) or len(named) != 2 or None in named:
        return None
    library, name = named
    rooms = {"diffusers": diffusers, "transformers": transformers}
    # A pipeline's own classes, such as Stable Diffusion's safety checker, are named by their package.
    room = rooms.get(library) or importlib.import_module(f"diffusers.pipelines.{_plain(library)}")
    kind = getattr(room, _RENAMED.get(name) or name, None)
    if not isinstance(kind, type):
        raise EngineModelBroken(
            f"{pipeline_type.__name__} asks for {library}.{name}, which is not known here."
        )
    if kind.__name__ == "Qwen2VLProcessor":
        # One family has it, and it takes what transformers has for films and sounds.
        from generation.engine.processors import PictureProcessor  # noqa: PLC0415

        return PictureProcessor
    return kind


def _plain(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise EngineModelBroken(f"The index names a library {name!r}; code from elsewhere is not run.")
    return name


def _module_read(
    kind: Any,
    folder: Path,
    dtype: torch.dtype,
    variant: str,
    hash_more: Callable[[bytes], None],
    *,
    device: torch.device,
    stored: torch.dtype | None = None,
) -> HostModule:
    pin = device.type == "cuda"
    layout = torch.channels_last if channels_last(dtype) else _PLAIN
    diffusers_model = issubclass(kind, diffusers.ModelMixin)
    config = kind.load_config(folder) if diffusers_model else kind.config_class.from_pretrained(folder)
    kept = _kept_single(kind, dtype)
    paths = weights_files(folder, variant=variant)
    quantized = method_of(config)
    untouched, metadata = _quantized_read(quantized, paths)
    tensors: dict[str, torch.Tensor] = {}
    with ThreadPoolExecutor(1, thread_name_prefix="weights-hasher") as beside:
        for path in paths:
            # While it is copied, so that the disk is read once and the host's memory passed through once.
            digest = beside.submit(_digest, path)
            for key, mapped in load_file(path).items():
                wanted = torch.float32 if any(part in key.split(".") for part in kept) else dtype
                if stored and storable(kind, key, mapped):
                    wanted = stored
                if key in untouched:
                    wanted = mapped.dtype
                # A copy, so that the file is really read here and not, page by page, in the middle of a step.
                tensors[key] = torch.empty_like(
                    mapped,
                    dtype=wanted if mapped.is_floating_point() else mapped.dtype,
                    memory_format=layout if mapped.ndim == _CONVOLUTION else _PLAIN,
                    pin_memory=pin,
                ).copy_(mapped)
            hash_more(f"{folder.name}/{path.name}".encode())
            hash_more(digest.result())
    return HostModule(kind, config, tensors, quantized, metadata)


def _quantized_read(method: str, paths: list[Path]) -> tuple[set[str], dict[str, str]]:
    """Which tensors of these files are quantized weights, and what the files say of them."""
    if not method:
        return set(), {}
    names: set[str] = set()
    metadata: dict[str, str] = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            names.update(file.keys())
            metadata.update(file.metadata() or {})
    return quantized_names(names), metadata


def _digest(path: Path) -> bytes:
    """A file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _kept_single(kind: Any, dtype: torch.dtype) -> tuple[str, ...]:
    """Parts of a module that its library keeps in single precision beside that format."""
    halves = (torch.float16, torch.bfloat16)
    # transformers means float16 alone by this name.
    always = halves if issubclass(kind, diffusers.ModelMixin) else halves[:1]
    usual = getattr(kind, "_keep_in_fp32_modules", None) or () if dtype in always else ()
    strict = getattr(kind, "_keep_in_fp32_modules_strict", None) or () if dtype in halves else ()
    return (*usual, *strict)


def weights_files(folder: Path, *, variant: str) -> list[Path]:
    """The safetensors files of one part: of the variant if there are any, else the plain ones, else what is there.

    Raises EngineModelBroken when there is none.
    """
    by_variant: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        if match := _WEIGHTS_NAME.match(path.name):
            by_variant.setdefault(match["variant"] or "", []).append(path)
    if not by_variant:
        raise EngineModelBroken(f"{folder.name} has no safetensors file; pickled weights are not loaded.")
    return by_variant.get(variant) or by_variant.get("") or next(iter(by_variant.values()))
