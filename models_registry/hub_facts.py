"""What a repository of the Hub is, before anything of it is downloaded: its pipeline, family, licence and size."""

import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from models_registry.choices import DownloadProblem, Family
from models_registry.classes import MAX_CONFIG_BYTES
from models_registry.errors import DownloadFailedError
from models_registry.hub import file_fetch, repository_read
from models_registry.pipeline_facts import pipeline_facts
from models_registry.selection import INDEX, files_select, index_read, pipeline_read

# An address of the Hub's page, with whatever stands behind the repository's name, or the name alone.
ADDRESS: Final = re.compile(
    r"^(?:https?://[^/\s]+/)?(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95})"
    r"(?:/(?:tree|blob|resolve|commit)/[^\s]*)?/?(?:\?[^\s]*)?$"
)
INDEX_LIMIT_S: Final = 30
_ID: Final = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True)
class HubFacts:
    """A repository at its newest commit."""

    id: str
    name: str
    repository: str
    revision: str
    pipeline: str
    distilled: bool
    family: str
    licence: str
    gated: bool
    size_bytes: int
    files: int

    def row_values(self) -> dict[str, Any]:
        """What a row of the registry keeps of it."""
        return {key: value for key, value in asdict(self).items() if key != "files"}


def hub_facts(*, address: str) -> HubFacts:
    """Reads a repository's listing and its index. Raises DownloadFailedError with a sentence."""
    match = ADDRESS.fullmatch(address.strip())
    if match is None:
        raise DownloadFailedError(
            DownloadProblem.NOT_FOUND,
            "That is no address of the Hub, such as https://huggingface.co/org/name.",
        )
    repository = repository_read(name=match["name"])
    index = repository.files.get(INDEX)
    if index is None or index.size > MAX_CONFIG_BYTES:
        raise DownloadFailedError(
            DownloadProblem.UNSUPPORTED,
            f"{repository.name} has no usable {INDEX}: it is not in the layout of diffusers.",
        )
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / INDEX
        file_fetch(
            repository=repository, file=index, target=target, on_size=lambda size: None, limit_s=INDEX_LIMIT_S
        )
        components = index_read(target.read_text(encoding="utf-8"))
        found = pipeline_read(Path(folder))
    chosen = files_select(components, repository.files, variant="", with_checker=False)
    title = repository.name.rpartition("/")[2]
    return HubFacts(
        id=_ID.sub("-", title.lower()).strip("-")[:64],
        name=title.replace("-", " ").replace("_", " ")[:120],
        repository=repository.name,
        revision=repository.commit,
        pipeline=found["pipeline"],
        distilled=found["distilled"],
        family=pipeline_facts(pipeline=found["pipeline"], family="").family or Family.OTHER,
        licence=repository.licence or "unknown",
        gated=repository.gated,
        size_bytes=sum(file.size for file in chosen),
        files=len(chosen),
    )
