"""Which of a repository's files a checkpoint needs: safetensors, configuration, vocabulary; nothing that runs."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from models_registry.choices import DownloadProblem
from models_registry.classes import ClassRefusedError, component_check, pipeline_check, whole_check
from models_registry.errors import DownloadFailedError
from models_registry.pipeline_facts import EMBEDDED, pipeline_facts

INDEX: Final = "model_index.json"
# Libraries whose classes may appear in the index: the two that hold models, and the diffusers packages with small
# classes of their own. Anything else would be code that comes with the repository.
LIBRARIES: Final = ("diffusers", "transformers", "stable_diffusion", "deepfloyd_if", "kolors")
CHECKER: Final = "safety_checker"

_COMPONENT: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# A name with exactly one meaning on every disk; it starts with no dot.
_FILE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_TEXT: Final = (".json", ".txt", ".model", ".jinja")
_WEIGHTS: Final = (
    ".bin",
    ".ckpt",
    ".pt",
    ".pth",
    ".msgpack",
    ".h5",
    ".onnx",
    ".pb",
    ".safetensors",
    ".flashpack",
)
# Classes that load from configuration and vocabulary alone.
_WEIGHTLESS: Final = re.compile(
    r".*(Tokenizer|Scheduler|FeatureExtractor|ImageProcessor|Processor)(Fast|Pil)?"
)
# Names of weights as diffusers and transformers write them; shards count from 1, and either part may come first.
_SHARD: Final = r"-(?P<{0}>\d{{5}})-of-(?P<{0}_of>\d{{5}})"
_NAME: Final = re.compile(
    r"(?:diffusion_pytorch_model|model)"
    rf"(?:{_SHARD.format('early')})?(?:\.(?P<variant>[a-z0-9_]+?))?(?:{_SHARD.format('late')})?\.safetensors"
)
_SHARD_INDEX: Final = re.compile(
    r"(?:diffusion_pytorch_model|model)\.safetensors\.index(?:\.(?P<variant>[a-z0-9_]+))?\.json"
)


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository: bytes, and the digest that the Hub states: SHA-256 of large files, else git's SHA-1."""

    path: str
    size: int
    sha256: str = ""
    git_sha1: str = ""


def index_read(text: str) -> dict[str, tuple[str, str]]:
    """The components that a model index names: component -> (library, class). Raises DownloadFailedError."""
    try:
        index = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unsupported(f"its {INDEX} is not JSON") from error
    if not isinstance(index, dict):
        raise _unsupported(f"its {INDEX} is not a JSON object")
    components = {name: tuple(value) for name, value in index.items() if _is_component(name, value)}
    try:
        pipeline_check(index.get("_class_name"))
        whole_check(index)
        for name, (library, class_name) in components.items():
            if library not in LIBRARIES:
                raise _unsupported(f"its {name} is code of its own ({str(library)[:80]}), which is never run")
            component_check(name, library, class_name)
    except ClassRefusedError as error:
        raise _unsupported(str(error)) from error
    return components


def pipeline_read(folder: Path) -> dict[str, Any]:
    """What a checkpoint's row says of its pipeline, as far as the files in its folder tell: class, and `distilled`.

    The index has been checked. Raises OSError.
    """
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    denoiser: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError):
        denoiser = json.loads((folder / "transformer" / "config.json").read_text(encoding="utf-8"))
    pipeline = str(index["_class_name"])
    embeds = pipeline_facts(pipeline=pipeline, family="").guidance == EMBEDDED
    without = index.get("is_distilled") is True or (embeds and denoiser.get("guidance_embeds") is False)
    return {"pipeline": pipeline, "distilled": without}


def _is_component(name: str, value: Any) -> bool:
    """Whether an entry names a component; the others are the pipeline's own settings, or empty places."""
    return (
        bool(_COMPONENT.fullmatch(name)) and isinstance(value, list) and len(value) == 2 and None not in value
    )


def files_select(
    components: Mapping[str, tuple[str, str]],
    files: Mapping[str, RemoteFile],
    *,
    variant: str,
    with_checker: bool,
) -> list[RemoteFile]:
    """The files to download, the index among them; of each component the variant's weights, else the plain ones.

    Single-file checkpoints at the root, pickles, ONNX and code are never among them. Raises DownloadFailedError when
    a component has no safetensors.
    """
    chosen = [files[INDEX]]
    for name, (_, class_name) in components.items():
        if name == CHECKER and not with_checker:
            continue
        inside = _files_of(name, files)
        chosen += [
            file for base, file in inside.items() if base.endswith(_TEXT) and not _SHARD_INDEX.fullmatch(base)
        ]
        if _WEIGHTLESS.fullmatch(class_name):
            continue
        chosen += _weights(name, inside, variant)
    return chosen


def _files_of(component: str, files: Mapping[str, RemoteFile]) -> dict[str, RemoteFile]:
    """The files directly in a component's folder, by their own names."""
    found = {}
    for path, file in files.items():
        folder, _, base = path.partition("/")
        if folder == component and _FILE.fullmatch(base):
            found[base] = file
    return found


def _weights(component: str, inside: Mapping[str, RemoteFile], variant: str) -> list[RemoteFile]:
    for wanted in dict.fromkeys((variant, "")):
        if chosen := _whole_set(inside, wanted):
            return chosen
    if any(base.endswith(".safetensors") for base in inside):
        raise _unsupported(f"the safetensors files of its {component} are incomplete, or of another variant")
    if any(base.endswith(_WEIGHTS) for base in inside):
        raise _unsupported(f"it only has pickle weights for its {component}, and no safetensors")
    raise _unsupported(f"it has no weights for its {component}")


def _whole_set(inside: Mapping[str, RemoteFile], variant: str) -> list[RemoteFile]:
    """One file, or all the shards of a set and their index; nothing when the variant is not there as a whole."""
    shards: dict[tuple[int, int], RemoteFile] = {}
    for base, number, of, found in _named(inside):
        if found == variant and of == 0:
            return [inside[base]]
        if found == variant:
            shards[number, of] = inside[base]
    indices = [
        file
        for base, file in inside.items()
        if (match := _SHARD_INDEX.fullmatch(base)) and (match["variant"] or "") == variant
    ]
    for count in {of for _, of in shards}:
        if indices and all((number, count) in shards for number in range(1, count + 1)):
            return [*indices, *(shards[number, count] for number in range(1, count + 1))]
    return []


def _named(inside: Mapping[str, RemoteFile]) -> Iterator[tuple[str, int, int, str]]:
    """Weights files: name, number of the shard, number of shards (0: it is whole), variant."""
    for base in inside:
        if match := _NAME.fullmatch(base):
            number = match["early"] or match["late"] or "0"
            of = match["early_of"] or match["late_of"] or "0"
            yield base, int(number), int(of), match["variant"] or ""


def _unsupported(reason: str) -> DownloadFailedError:
    return DownloadFailedError(DownloadProblem.UNSUPPORTED, f"The repository cannot be used: {reason}.")
